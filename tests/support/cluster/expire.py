"""Make the certificates of a control plane expired: the same ones, signed anew with another end."""

import base64
import io
import re
import tarfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization

from kbuild.x509.api import quiet
from tests.support.cluster.cluster import Node

KUBELET = "/var/lib/kubelet/pki/kubelet-client-current.pem"  # a link
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n", re.DOTALL)
DATA = re.compile(rb"(client-certificate-data: )(\S+)")


def expire(node: Node, ago: timedelta = timedelta(days=5)) -> None:
    """Make all leaf certificates of a control plane end in the past, and restart what reads them.

    kubelet cannot start any more then, and containers are started again without it.
    """
    _end(node, node, ago)
    names = " ".join(f"--filter name=k8s_{each}_" for each in COMPONENTS)
    node.ssh(f"systemctl restart kubelet; docker ps -q {names} | xargs docker restart -t 1")


def expire_worker(worker: Node, control_plane: Node, ago: timedelta = timedelta(days=5)) -> None:
    """Make the client certificate of a worker's kubelet end in the past, and restart kubelet."""
    _end(worker, control_plane, ago)
    worker.ssh("systemctl restart kubelet")


def _end(node: Node, control_plane: Node, ago: timedelta) -> None:
    """Sign the certificates of a node again, with the CAs of a control plane.

    Those of an etcd that is not of kubeadm stay as they are.
    """
    cas = _files(control_plane)
    names = (f"/etc/kubernetes/pki/{each}" for each in ("ca", "front-proxy-ca", "etcd/ca"))
    authorities = [
        _authority(cas[f"{name}.crt"], cas[f"{name}.key"]) for name in names if f"{name}.key" in cas
    ]

    def again(pem: bytes) -> bytes:
        return _again(x509.load_pem_x509_certificate(pem), authorities, datetime.now(UTC) - ago)

    _give(node, dict(_changed(_files(node), again)))


def _files(node: Node) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(_fetched(node))) as archive:
        return {
            each.name: archive.extractfile(each).read()  # type: ignore[union-attr]
            for each in archive.getmembers()
            if each.isfile()
        }


Authority = tuple[x509.Certificate, object]


def _authority(certificate: bytes, key: bytes) -> Authority:
    loaded = serialization.load_pem_private_key(key, None)
    with quiet():  # kubeadm v1.20 gave CAs the serial number 0
        return x509.load_pem_x509_certificate(certificate), loaded


def _again(old: x509.Certificate, authorities: list[Authority], end: datetime) -> bytes:
    for authority, key in authorities:
        try:
            old.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature):  # of another CA
            continue
        builder = x509.CertificateBuilder(
            issuer_name=authority.subject,
            subject_name=old.subject,
            public_key=old.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=end - timedelta(days=365),
            not_valid_after=end,
            extensions=list(old.extensions),
        )
        signed = builder.sign(key, hashes.SHA256())  # type: ignore[arg-type]
        return signed.public_bytes(serialization.Encoding.PEM)
    return old.public_bytes(serialization.Encoding.PEM)


def _changed(
    files: dict[str, bytes], again: Callable[[bytes], bytes]
) -> Iterator[tuple[str, bytes]]:
    for name, content in files.items():
        if name.endswith("ca.crt"):
            continue
        if name.endswith((".crt", ".pem")):
            yield name, PEM.sub(lambda match: again(match[0]), content, count=1)
        elif name.endswith(".conf") and DATA.search(content):
            yield (
                name,
                DATA.sub(
                    lambda match: match[1] + base64.b64encode(again(base64.b64decode(match[2]))),
                    content,
                ),
            )


def _fetched(node: Node) -> bytes:
    return base64.b64decode(
        node.ssh(f"tar -cP /etc/kubernetes $(readlink {KUBELET}) | base64 -w 0")
    )


def _give(node: Node, files: dict[str, bytes]) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(content), 0o600, int(time.time())
            archive.addfile(entry, io.BytesIO(content))
    node.ssh("base64 -d | tar -xP", stdin=base64.b64encode(stream.getvalue()).decode())
