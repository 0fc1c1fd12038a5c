"""What is asked of the ports of control planes: certificates, health, and the quorum of etcd."""

import contextlib
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kbuild.nodes.connection import CallFailed, Connection, ConnectionFailed, PortClosed
from kbuild.nodes.model import Call, Proof
from kbuild.nodes.renew.facts import ControlPlane
from kbuild.nodes.renew.health import Prover, demand_all, leader_last, unhealthy
from kbuild.nodes.renew.manifest import Manifest
from kbuild.nodes.served import NotServed, get, served_certificate
from tests.support import authority
from tests.unit.nodes.test_renew_plan import control_plane

Answers = dict[str, tuple[int, bytes]]
METRICS = b"""\
etcd_server_has_leader 1
etcd_network_active_peers{Local="a",Remote="b"} 1
etcd_network_active_peers{Local="a",Remote="c"} 1
"""
HEALTHY: Answers = {
    "/readyz": (200, b"ok"),
    "/health": (200, b'{"health":"true"}'),
    "/healthz": (200, b"ok"),
    "/metrics": (200, METRICS),
}


class Local:
    """A connection to this machine, whose functions print what they are told to."""

    def __init__(self, printed: Mapping[str, str] | None = None) -> None:
        self.host = SimpleNamespace(name="n1")
        self._printed = printed or {}

    def call(self, function: Call) -> str:
        return self._printed[function.function]

    def open_port(self, address: str, port: int, timeout: float) -> object:
        import socket

        try:
            return socket.create_connection((address, port), timeout)
        except OSError as error:
            raise PortClosed(str(error)) from error


def local(printed: Mapping[str, str] | None = None) -> Connection:
    return cast("Connection", Local(printed))


@contextlib.contextmanager
def serving(answers: Answers, issued: authority.Issued | None, folder: Path) -> Iterator[int]:
    """Serve answers on a port, with TLS if there is a certificate."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.get(self.path, (404, b"not found"))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    if issued:
        issued.write(folder / "served.crt")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "served.crt", folder / "served.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def issued() -> authority.Issued:
    return authority.issue("kube-apiserver", years=1)


def pod(name: str, port: int, scheme: str, path: str) -> Manifest:
    flags = f"--advertise-address=127.0.0.1, --secure-port={port}"
    probe = f"{{host: 127.0.0.1, port: {port}, scheme: {scheme}, path: {path}}}"
    return Manifest(
        content=f"""\
metadata:
  name: {name}
spec:
  containers:
  - command: [{name}, {flags}]
    livenessProbe: {{httpGet: {probe}}}
""".encode()
    )


def plane_of(tls: int, plain: int) -> ControlPlane:
    manifests = {
        "etcd": pod("etcd", plain, "HTTP", "/health"),
        "kube-apiserver": pod("kube-apiserver", tls, "HTTPS", "/livez"),
        "kube-scheduler": pod("kube-scheduler", tls, "HTTPS", "/healthz"),
    }
    return replace(control_plane(), manifests=manifests)


def test_a_certificate_and_an_answer_are_read(tmp_path: Path, issued: authority.Issued) -> None:
    with serving(HEALTHY, issued, tmp_path) as port:
        assert served_certificate(local(), "127.0.0.1", port).der == issued.der
        assert get(local(), "https", "127.0.0.1", port, "/readyz") == (200, b"ok")
        with pytest.raises(NotServed, match="gives no answer"):
            get(local(), "http", "127.0.0.1", port, "/readyz")
    with pytest.raises(NotServed, match="refused"):
        served_certificate(local(), "127.0.0.1", port)


@pytest.mark.parametrize(
    ("path", "answer", "reason"),
    [
        ("/readyz", (500, b"[-]etcd failed\nreadyz check failed"), "500: readyz check failed"),
        ("/readyz", (401, b""), "401"),
        ("/healthz", (500, b"internal"), "kube-scheduler is not healthy: 500"),
        ("/health", (503, b'{"health":"false"}'), "etcd is not healthy"),
        ("/health", (200, b'{"health":"false"}'), "etcd is not healthy"),
        ("/health", (200, b"[]"), "etcd is not healthy"),
        ("/metrics", (200, METRICS.replace(b"leader 1", b"leader 0")), "no leader"),
        ("/metrics", (200, METRICS.replace(b'Remote="c"', b'Remote="b"')), "knows 2 members"),
        ("/metrics", (200, METRICS + b'etcd_network_active_peers{Remote="d"} 1\n'), "knows 4"),
    ],
)
def test_what_is_not_healthy_is_named(
    tmp_path: Path, issued: authority.Issued, path: str, answer: tuple[int, bytes], reason: str
) -> None:
    answers = {**HEALTHY, path: answer}
    with (
        serving(answers, issued, tmp_path) as tls,
        serving(answers, None, tmp_path) as plain,
        pytest.raises(NotServed, match=reason),
    ):
        demand_all(plane_of(tls, plain), 3, local())


def test_healthy_control_planes_are_not_refused(tmp_path: Path, issued: authority.Issued) -> None:
    with serving(HEALTHY, issued, tmp_path) as tls, serving(HEALTHY, None, tmp_path) as plain:
        planes = [replace_name(plane_of(tls, plain), name) for name in ("n1", "n2", "n3")]
        connections = {each.name: local() for each in planes}
        assert unhealthy(planes, connections, 0) == []
        refused = unhealthy(planes[:2], connections, 0)
        assert [each.host for each in refused] == ["n1", "n2"]
        assert "2 control planes are named" in refused[0].reason


def replace_name(plane: ControlPlane, name: str) -> ControlPlane:
    return replace(plane, facts=replace(plane.facts, host=replace(plane.facts.host, name=name)))


def prover(plane: ControlPlane, connection: Connection) -> Prover:
    return Prover(planes={"n1": plane}, connections={"n1": connection}, patience=0)


def test_the_served_certificate_is_that_of_the_file(
    tmp_path: Path, issued: authority.Issued
) -> None:
    import base64

    def printed(each: authority.Issued) -> dict[str, str]:
        content = base64.b64encode(each.pem).decode()
        return {"certificates": f"certificate=pki/apiserver.crt 1 {content}\n"}

    with serving(HEALTHY, issued, tmp_path) as tls:
        plane, proof = plane_of(tls, tls), Proof(kind="serves", arguments=("kube-apiserver",))
        same = local(printed(issued))
        prover(plane, same)(same, proof)
        other = local(printed(authority.issue("kube-apiserver", years=2)))
        with pytest.raises(CallFailed, match="still serves a certificate") as caught:
            prover(plane, other)(other, proof)
        what = "kube-apiserver does not serve its new certificate after 0 seconds: "
        assert str(caught.value).startswith(what)
        dates = Proof(kind="dates", arguments=("pki/apiserver.crt",))
        with pytest.raises(CallFailed, match="was expected"):
            prover(plane, same)(same, dates)
        year = issued_lifetime(issued)
        prover(replace(plane, lifetime=year), same)(same, dates)


def test_a_lost_connection_is_no_sign_of_a_sick_component(
    tmp_path: Path, issued: authority.Issued
) -> None:
    class Cut(Local):
        def open_port(self, address: str, port: int, timeout: float) -> object:
            message = f"{address}:{port}: cut after {timeout} s"
            raise ConnectionFailed(message)

    cut = cast("Connection", Cut())
    with serving(HEALTHY, issued, tmp_path) as tls:
        one = prover(plane_of(tls, tls), cut)
        with pytest.raises(ConnectionFailed):
            one(cut, Proof(kind="healthy", arguments=("kube-apiserver",)))
        # Which connection it is must be said if it may be another.
        with pytest.raises(CallFailed, match=r"n1: .*cut"):
            one(cut, Proof(kind="cluster", arguments=("n1",)))


def issued_lifetime(issued: authority.Issued) -> Any:
    from datetime import UTC, datetime

    return issued.certificate.not_valid_after_utc - datetime.now(UTC)


def test_the_leader_of_etcd_is_the_last(tmp_path: Path, issued: authority.Issued) -> None:
    leading = {**HEALTHY, "/metrics": (200, METRICS + b"etcd_server_is_leader 1\n")}
    following = {**HEALTHY, "/metrics": (200, METRICS + b"etcd_server_is_leader 0\n")}
    with (
        serving(leading, issued, tmp_path) as tls,
        serving(leading, None, tmp_path) as leader,
        serving(following, None, tmp_path) as follower,
    ):
        first = replace_name(plane_of(tls, leader), "n1")
        others = [replace_name(plane_of(tls, follower), name) for name in ("n2", "n3")]
        planes = [first, *others]
        connections = {each.name: local() for each in planes}
        assert [each.name for each in leader_last(planes, connections)] == ["n2", "n3", "n1"]
        left = [*others, replace(first, drained="6443")]
        assert [each.name for each in leader_last(left, connections)] == ["n1", "n2", "n3"]
    # None of them answers any more.
    assert [each.name for each in leader_last(planes, connections)] == ["n1", "n2", "n3"]
