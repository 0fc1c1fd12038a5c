"""The commands that a finding suggests, each ready to be typed into a shell."""

import os
import shlex

from kbuild.certs.model import Certificate
from kbuild.certs.paths import folder_of, name_of, split_extension
from kbuild.certs.roles import known_file

ETC_KUBERNETES = "/etc/kubernetes"
PKI = f"{ETC_KUBERNETES}/pki"
RENEW_ALL = "kubeadm certs renew all"
REQUESTS = 'kubeadm certs generate-csr --cert-dir "$HOME/csr" --kubeconfig-dir "$HOME/csr"'
_LONG = 36500  # days
# Of clusters of kubeadm, which is where the kubelet is a program that can be asked.
CONFIG = (
    "kbuild config --version \"$(kubelet --version | cut -d' ' -f2)\""
    " --ca-years 100 --leaf-years 100 --for living"
)


def quote(path: str) -> str:
    """Quote a path for a shell; one with control characters as bash does, on one line."""
    if path.startswith("-"):
        path = f"./{path}"
    if path.isprintable():
        return shlex.quote(path)
    escaped = "".join(
        f"\\x{byte:02x}" if byte < 0x20 or byte > 0x7E or byte in b"\\'" else chr(byte)  # noqa: PLR2004  # printable ASCII
        for byte in os.fsencode(path)
    )
    return f"$'{escaped}'"


def cert_dir(path: str) -> str:
    """Return kubeadm's --cert-dir for one of its files, such as /etc/kubernetes/pki."""
    folder = folder_of(path)
    return folder_of(folder) if name_of(folder) == "etcd" else folder


def issue_again(certificate: Certificate) -> str:
    """Return the next command for a certificate that should end later."""
    path = certificate.path
    if certificate.is_ca:
        return lengthen(certificate)
    file = known_file(path)
    if file and file.renew and (renewal := _renewal(path, file.renew)):
        return renewal
    if certificate.role.startswith("kubelet, server") and certificate.chain != "verified":
        old = f"{quote(path)} {quote(f'{path}.old')}"
        return f"mv {old} && systemctl restart kubelet"
    if certificate.role.startswith("kubelet, "):
        return "journalctl -u kubelet -n 50"
    if certificate.place.startswith("users["):
        return _user(certificate)
    return request(certificate)


def lengthen(ca: Certificate) -> str:
    """Return the command that signs a CA anew with the key that it has, into a file beside it."""
    key = ca.private_key
    if ca.chain != "self-signed" or key is None:
        return f"openssl x509 -in {quote(ca.path)} -noout -text"
    root, extension = split_extension(ca.path)
    new = quote(f"{root}-new{extension}")
    return f"openssl x509 -in {quote(ca.path)} -signkey {quote(key.path)} -days {_LONG} -out {new}"


def request(certificate: Certificate) -> str:
    """Return the command that makes a request for a certificate like this one."""
    key = certificate.private_key
    if key is None or certificate.place:
        return f"openssl x509 -in {quote(certificate.path)} -noout -text"
    return (
        f"openssl x509 -x509toreq -in {quote(certificate.path)} -signkey {quote(key.path)}"
        f" -out {quote(f'{certificate.path}.csr')}"
    )


def _renewal(path: str, name: str) -> str:
    if name.endswith(".conf"):  # kubeadm has no option for where these are
        is_usual = path == f"{ETC_KUBERNETES}/{name}"
        return f"kubeadm certs renew {name}" if is_usual else ""
    folder = cert_dir(path)
    option = "" if folder == PKI else f" --cert-dir {quote(folder)}"
    return f"kubeadm certs renew {name}{option}"


def _user(certificate: Certificate) -> str:
    names = dict(part.split("=", 1) for part in certificate.subject.split(",") if "=" in part)
    organization = f" --org {quote(names['O'])}" if "O" in names else ""
    return f"kubeadm kubeconfig user --client-name {quote(names.get('CN', ''))}{organization}"
