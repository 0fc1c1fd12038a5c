"""Inventories as `kbuild certs` makes them, without any file."""

from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from kbuild.certs.model import Certificate, Finding, Inventory, Owner, PrivateKey

READ_AT = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
ROOT = Owner(user="root", group="root", mode=0o644)
SECRET = Owner(user="root", group="root", mode=0o600)
PKI = "/etc/kubernetes/pki"
# What a certificate may hold: markup, quotes, an escape sequence, marks that reorder, a line end.
HOSTILE = (
    "</style></title><script>alert(1)</script><img src=//x.test/a onerror=alert(2)>\"'`&amp;"
    "{{7*7}}\x1b[2J\u202ereversed\u2066\x00\r\nBEGIN:VEVENT\\n;,\\ \udcff"
)


def certificate(
    path: str = f"{PKI}/apiserver.crt", *, days: float = 364, **other: Any
) -> Certificate:
    """Return a certificate that ends so many days after READ_AT, negative if it has expired."""
    facts: dict[str, Any] = {
        "path": path,
        "place": "",
        "role": "API server, server",
        "subject": "CN=kube-apiserver",
        "issuer": "CN=kubernetes",
        "serial": "1092",
        "fingerprint": sha256(f"{path}{days}{other}".encode(errors="replace")).hexdigest(),
        "not_before": READ_AT - timedelta(days=1),
        "not_after": READ_AT + timedelta(days=days),
        "is_ca": False,
        "key": "RSA 2048",
        "names": ("kubernetes", "10.96.0.1"),
        "usages": ("server auth",),
        "chain": "verified",
        "issued_by": f"{PKI}/ca.crt",
        "owner": ROOT,
        "private_key": PrivateKey(
            path=path.replace(".crt", ".key"), owner=SECRET, fits=True, encrypted=False
        ),
    }
    return Certificate(**(facts | other))


def in_kubeconfig(
    user: str = "kubernetes-admin", *, days: float = 364, **other: Any
) -> Certificate:
    """Return the certificate that admin.conf embeds."""
    path = other.pop("path", "/etc/kubernetes/admin.conf")
    return certificate(
        path,
        days=days,
        **{
            "place": f"users[{user}].client-certificate-data",
            "role": "administrator, client",
            "subject": f"O=kubeadm:cluster-admins,CN={user}",
            **other,
        },
    )


def finding(path: str = f"{PKI}/apiserver.crt", **other: Any) -> Finding:
    """Return a finding, by default that a certificate has expired."""
    facts: dict[str, Any] = {
        "severity": "critical",
        "kind": "expired",
        "path": path,
        "place": "",
        "reason": "it expired 12 days ago",
        "command": "kubeadm certs renew apiserver",
    }
    return Finding(**(facts | other))


def inventory(*certificates: Certificate, findings: tuple[Finding, ...] = ()) -> Inventory:
    """Return an inventory of these certificates, the first to expire first."""
    by_end = sorted(certificates, key=lambda c: c.not_after)
    return Inventory(
        read_at=READ_AT,
        paths=("/etc/kubernetes", "/var/lib/kubelet/pki"),
        certificates=tuple(by_end),
        findings=findings,
    )


def control_plane() -> Inventory:
    """Return what a control plane of kubeadm looks like whose owner has lengthened its CAs."""
    leaf = {"days": 364.2}
    return inventory(
        certificate(f"{PKI}/apiserver.crt", days=-12.5),
        certificate(
            f"{PKI}/apiserver-etcd-client.crt",
            **leaf,
            role="API server, client of etcd",
            subject="O=system:masters,CN=kube-apiserver-etcd-client",
            issuer="CN=etcd-ca",
        ),
        certificate(
            f"{PKI}/apiserver-kubelet-client.crt", **leaf, role="API server, client of kubelet"
        ),
        certificate(f"{PKI}/etcd/server.crt", days=29.5, role="etcd, server", issuer="CN=etcd-ca"),
        certificate(f"{PKI}/front-proxy-client.crt", days=6.5, role="front proxy, client"),
        certificate(
            f"{PKI}/ca.crt", days=36499.5, role="cluster CA", is_ca=True, chain="self-signed"
        ),
        certificate(
            f"{PKI}/etcd/ca.crt", days=3649.5, role="etcd CA", is_ca=True, chain="self-signed"
        ),
        certificate(
            "/var/lib/kubelet/pki/kubelet.crt",
            days=200,
            role="kubelet, server",
            subject="CN=node1@1764158400",
            chain="unknown-issuer",
            issued_by=None,
            private_key=None,
        ),
        in_kubeconfig(),
        in_kubeconfig(
            "system:kube-scheduler",
            path="/etc/kubernetes/scheduler.conf",
            not_before=READ_AT + timedelta(days=20),
        ),
        findings=(
            finding(),
            finding(
                f"{PKI}/front-proxy-client.crt",
                severity="warning",
                kind="expires-soon",
                reason="it expires in 6 days",
                command="kubeadm certs renew front-proxy-client",
            ),
            finding(
                f"{PKI}/etcd/server.crt",
                severity="warning",
                kind="expires-soon",
                reason="it expires in 29 days",
                command="kubeadm certs renew etcd-server",
            ),
            finding(
                "/var/lib/kubelet/pki/kubelet.crt",
                severity="info",
                kind="self-signed-serving",
                reason="kubelet's serving certificate is signed by kubelet itself, so clients"
                " cannot verify it",
                command="kbuild config --version v1.33.3 --ca-years 100 --for living",
            ),
        ),
    )


def hostile() -> Inventory:
    """Return an inventory whose every text is hostile."""
    bad = certificate(
        f"/pki/{HOSTILE}",
        place=HOSTILE,
        role=HOSTILE,
        subject=HOSTILE,
        issuer=HOSTILE,
        key=HOSTILE,
        names=(HOSTILE,),
        issued_by=HOSTILE,
    )
    found = finding(f"/pki/{HOSTILE}", place=HOSTILE, reason=HOSTILE, command=HOSTILE)
    return inventory(bad, findings=(found,))
