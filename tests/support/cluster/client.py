"""A client of the cluster, run in its network: it polls an API server, or reads a certificate.

    python client.py poll ADMIN_CONF ADDRESS   until its standard input ends
    python client.py not-after HOST PORT

Both print one JSON document.
"""

import base64
import http.client
import json
import select
import socket
import ssl
import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509

PERIOD = 0.05  # seconds: 20 times a second
PATIENCE = 15  # seconds for one request
# It is in etcd: an API server that answers this one is whole.
QUESTION = "/api/v1/namespaces/kube-system/configmaps/kubeadm-config"
NAME = "balancer"  # in the API server's certificates


def poll(admin: Path, address: str) -> dict[str, Any]:
    """Ask again and again, each time on a new connection, while earlier requests still wait."""
    context = _context(yaml.safe_load(admin.read_text()))
    asked: list[Future[tuple[float, str]]] = []
    with ThreadPoolExecutor(PATIENCE * 20) as pool:
        due = time.monotonic()
        while not select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
            asked.append(pool.submit(_ask, address, context))
            due += PERIOD
    results = [each.result() for each in asked]
    errors = [error for _, error in results if error]
    slowest = max((seconds for seconds, error in results if not error), default=0.0)
    return {"total": len(results), "failed": len(errors), "slowest": slowest, "errors": errors}


def _ask(address: str, context: ssl.SSLContext) -> tuple[float, str]:
    began = time.monotonic()
    try:
        connection = _Connection(address, 6443, context=context, timeout=PATIENCE)
        try:
            connection.request("GET", QUESTION)
            answer = connection.getresponse()
            said = answer.read()
        finally:
            connection.close()
    except (OSError, http.client.HTTPException) as error:
        return time.monotonic() - began, f"{time.strftime('%H:%M:%S')} {error!r}"
    took = time.monotonic() - began
    if answer.status == 200:
        return took, ""
    return took, f"{time.strftime('%H:%M:%S')} {answer.status}: {said[:300]!r}"


class _Connection(http.client.HTTPSConnection):
    def connect(self) -> None:
        plain = socket.create_connection((self.host, self.port), self.timeout)
        self.sock = self._context.wrap_socket(plain, server_hostname=NAME)  # type: ignore[attr-defined]


def _context(config: dict[str, Any]) -> ssl.SSLContext:
    """Return a context with the CA and the client certificate of a kubeconfig."""
    authority = config["clusters"][0]["cluster"]["certificate-authority-data"]
    user = config["users"][0]["user"]
    context = ssl.create_default_context(cadata=base64.b64decode(authority).decode())
    with tempfile.NamedTemporaryFile() as file:
        for key in ("client-certificate-data", "client-key-data"):
            file.write(base64.b64decode(user[key]))
        file.flush()
        context.load_cert_chain(file.name)
    return context


def not_after(host: str, port: int) -> str:
    """Return the end of the certificate that is served, without a client certificate of ours."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection((host, port), PATIENCE) as plain,
        context.wrap_socket(plain) as connection,
    ):
        served = connection.getpeercert(binary_form=True)
    assert served is not None
    return x509.load_der_x509_certificate(served).not_valid_after_utc.isoformat()


def main() -> None:
    """Run as a script."""
    what, first, second = sys.argv[1:]
    result = poll(Path(first), second) if what == "poll" else not_after(first, int(second))
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
