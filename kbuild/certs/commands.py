"""The commands that a finding suggests, each ready to be typed into a shell.

``der`` are the paths of files that are DER. OpenSSL reads them without being told since 3.0 only,
and never writes them so by itself.
"""

import re
import shlex
from collections.abc import Collection, Iterable

from kbuild.certs.paths import folder_of, name_of, split_extension

ETC_KUBERNETES = "/etc/kubernetes"
PKI = f"{ETC_KUBERNETES}/pki"
RENEW_ALL = "kubeadm certs renew all"
# What kubeadm does not read from the files: the names of the API server, and its address.
_SAVE_CONFIG = (
    "kubectl -n kube-system get configmap kubeadm-config"
    " -o 'jsonpath={.data.ClusterConfiguration}' > kubeadm.yaml"
)
REQUESTS = (
    f"{_SAVE_CONFIG} && kubeadm certs generate-csr --config kubeadm.yaml"
    ' --cert-dir "$HOME/csr" --kubeconfig-dir "$HOME/csr"'
)
LONG = 36500  # days
_PLAIN = re.compile(r"[\w@.:/-]+")


def quote(path: str) -> str:
    """Quote a path for a shell; one with control characters as bash does, on one line."""
    if path.startswith("-"):
        path = f"./{path}"
    if path.isprintable():
        return shlex.quote(path)
    escaped = "".join(
        f"\\x{byte:02x}" if byte < 0x20 or byte > 0x7E or byte in b"\\'" else chr(byte)  # noqa: PLR2004  # printable ASCII
        for byte in path.encode("utf-8", "surrogateescape")
    )
    return f"$'{escaped}'"


def cert_dir(path: str) -> str:
    """Return kubeadm's --cert-dir for one of its files, such as /etc/kubernetes/pki."""
    folder = folder_of(path)
    return folder_of(folder) if name_of(folder) == "etcd" else folder


def config(ca_years: int, leaf_years: int) -> str:
    """Return the command that prints configuration for lifetimes, of a node with a kubelet."""
    return (
        "kbuild config --version \"$(kubelet --version | cut -d' ' -f2)\""
        f" --ca-years {ca_years} --leaf-years {leaf_years} --for living"
    )


def advise(folder: str) -> str:
    """Return the command that tells the steps for a cluster of kubeadm; it has /etc/kubernetes."""
    return f'kbuild advise --version "$(kubeadm version -o short)" {quote(folder)}'


def show(path: str, der: Collection[str]) -> str:
    """Return the command that prints all of a certificate."""
    return f"openssl x509 -in {quote(path)}{_form('in', path, der)} -noout -text"


def show_pkcs7(path: str, der: Collection[str]) -> str:
    """Return the command that prints the certificates of a PKCS#7 file, whose label may be CMS."""
    form = "DER" if path in der else "PEM"
    return (
        f"openssl cms -cmsout -in {quote(path)} -inform {form} -outform DER"
        " | openssl pkcs7 -inform DER -print_certs -text -noout"
    )


def show_all(path: str) -> str:
    """Return the command that prints the certificates of a PEM file with several."""
    return f"openssl crl2pkcs7 -nocrl -certfile {quote(path)} | openssl pkcs7 -print_certs -text"


def renew(path: str, name: str) -> str:
    """Return the command of kubeadm that renews one of its files, empty if it cannot be told to."""
    if name.endswith(".conf"):  # kubeadm has no option for where these are
        is_usual = path == f"{ETC_KUBERNETES}/{name}"
        return f"kubeadm certs renew {name}" if is_usual else ""
    folder = cert_dir(path)
    option = "" if folder == PKI else f" --cert-dir {quote(folder)}"
    return f"kubeadm certs renew {name}{option}"


def renew_all(files: Iterable[tuple[str, str]]) -> str:
    """Return the command that renews files of kubeadm, given as for ``renew``, empty if it cannot.

    Elsewhere than in /etc/kubernetes each is named. With --cert-dir, ``renew all`` would also take
    the kubeconfigs of /etc/kubernetes, and sign them by the CA of that other folder. Source:
    newKubeconfigReadWriter in cmd/kubeadm/app/phases/certs/renewal (v1.33.0).
    """
    able = [(path, name) for path, name in files if renew(path, name)]
    folder = next((cert_dir(path) for path, name in able if not name.endswith(".conf")), PKI)
    if not able or folder == PKI:
        return RENEW_ALL if able else ""
    names = " ".join(name for path, name in able if cert_dir(path) == folder)
    return f'for each in {names}; do kubeadm certs renew "$each" --cert-dir {quote(folder)}; done'


def make_again(path: str) -> str:
    """Return the command after which kubelet makes its serving certificate again.

    It makes one only if both files are absent, and does not start with one of the two. They leave
    the directory, where the old certificate would be a finding. Source: CanReadCertAndKey in
    staging/src/k8s.io/client-go/util/cert/io.go (v1.20.2).
    """
    key = f"{split_extension(path)[0]}.key"
    return f"mv --backup=numbered {quote(path)} {quote(key)} /root/ && systemctl restart kubelet"


def lengthen(path: str, key: str, der: Collection[str]) -> str:
    """Return the command that signs a CA anew with the key that it has, into a file beside it."""
    return (
        f"openssl x509 -in {quote(path)}{_form('in', path, der)}"
        f" -signkey {quote(key)}{_form('key', key, der)} -days {LONG}"
        f" -out {quote(_new(path))}{_form('out', path, der)}"
    )


def compare(path: str, key: str, der: Collection[str]) -> str:
    """Return the commands that print the same digest if a key belongs to a certificate."""
    return (
        f"openssl x509 -in {quote(path)}{_form('in', path, der)} -noout -pubkey | openssl sha256;"
        f" {show_key(key, der)} | openssl sha256"
    )


def show_key(key: str, der: Collection[str]) -> str:
    """Return the command that prints the public half of a private key."""
    return f"openssl pkey -in {quote(key)}{_form('in', key, der)} -pubout"


def request(path: str, key: str, der: Collection[str]) -> str:
    """Return the command that makes a request for a certificate like this one, with its names."""
    return (
        f"openssl x509 -x509toreq -copy_extensions copyall -in {quote(path)}"
        f"{_form('in', path, der)} -signkey {quote(key)}{_form('key', key, der)}"
        f" -out {quote(_request(path))}"
    )


def sign(path: str, ca: str, ca_key: str, days: int, der: Collection[str]) -> str:
    """Return the command that signs what ``request`` made, into a new file."""
    return (
        f"openssl x509 -req -in {quote(_request(path))} -CA {quote(ca)}{_form('CA', ca, der)}"
        f" -CAkey {quote(ca_key)}{_form('CAkey', ca_key, der)}"
        f" -copy_extensions copyall -days {days}"
        f" -out {quote(_new(path))}{_form('out', path, der)}"
    )


def new_key(path: str) -> tuple[str, str]:
    """Return the command that makes a private key for a certificate, and where it writes it."""
    new = f"{split_extension(path)[0]}-new.key"
    curve = "-algorithm EC -pkeyopt ec_paramgen_curve:P-256"
    return f"(umask 077 && openssl genpkey {curve} -out {quote(new)})", new


def new_cas() -> str:
    """Return the command with which kubeadm makes new CAs, with new keys, beside those in use."""
    return 'kubeadm init phase certs ca --cert-dir "$HOME/new-pki"'


def new_ca(path: str, der: Collection[str]) -> str:
    """Return the command that makes a CA with a new key, for a CA that kubeadm did not make."""
    root = split_extension(path)[0]
    return (
        f"openssl req -x509 -newkey rsa:2048 -noenc -keyout {quote(f'{root}-new.key')}"
        f" -out {quote(_new(path))}{_form('out', path, der)} -days {LONG} -subj"
        f' "$(openssl x509 -in {quote(path)}{_form("in", path, der)} -noout -subject'
        " -nameopt compat"
        " | sed 's/^subject= *//')\""
    )


def take_over(old: str, new: str, *, is_whole: bool, owner: str = "") -> str:
    """Return the command that puts the user of a kubeconfig into an older one.

    ``is_whole`` tells that nothing else is in the older one, so that a copy loses nothing.
    ``owner`` is whom the copy must be given, ``user:group``: cp makes a file of who runs it, with
    mode 0600, as the older one has become the backup.
    """
    if is_whole:
        copy = f"cp --backup=numbered {quote(new)} {quote(old)}"
        return f"{copy} && chown {quote(owner)} {quote(old)}" if owner else copy
    return (
        f"(umask 077 && KUBECONFIG={quote(new)}:{quote(old)} kubectl config view --flatten"
        f" > {quote(f'{old}.new')})"
    )


def new_user(common_name: str, organizations: Iterable[str]) -> str:
    """Return the command with which kubeadm (v1.22 and later) makes a kubeconfig for a user."""
    orgs = "".join(f" --org {quote(each)}" for each in organizations)
    return (
        f"{_SAVE_CONFIG} && kubeadm kubeconfig user --config kubeadm.yaml"
        f" --client-name {quote(common_name)}{orgs}"
    )


def trust(kubeconfig: str, cluster: str, ca: str) -> str:
    """Return the command that embeds a CA in a kubeconfig."""
    return (
        f"kubectl config --kubeconfig={quote(kubeconfig)} set-cluster {quote(cluster)}"
        f" --certificate-authority={quote(ca)} --embed-certs=true"
    )


def look_into(kubeconfig: str) -> str:
    """Return the command that shows a kubeconfig without the keys that it embeds."""
    return f"kubectl config view --kubeconfig={quote(kubeconfig)}"


def show_embedded(kubeconfig: str, cluster: str) -> str:
    """Return the command that prints the CA that a kubeconfig embeds for a cluster."""
    if not _PLAIN.fullmatch(cluster):  # JSONPath has no quoting that all versions agree on
        return look_into(kubeconfig)
    data = f'{{.clusters[?(@.name=="{cluster}")].cluster.certificate-authority-data}}'
    return (
        f"kubectl config view --raw --kubeconfig={quote(kubeconfig)} -o {quote(f'jsonpath={data}')}"
        " | base64 -d | openssl x509 -noout -text"
    )


def _form(option: str, path: str, der: Collection[str]) -> str:
    return f" -{option}form DER" if path in der else ""


def _new(path: str) -> str:
    root, extension = split_extension(path)
    return f"{root}-new{extension}"


def _request(path: str) -> str:
    return f"{path}.csr"
