"""Small trees of our own making, laid out as Kubernetes was in the era of a tag.

They hold the lines that kbuild reads or patches, at the places and in the spelling of that era,
and the look-alikes that it must leave alone; the rest is not Kubernetes' code.
"""

from pathlib import Path

from packaging.version import Version

from tests.support import era_texts as texts

CERT = "staging/src/k8s.io/client-go/util/cert/cert.go"
PKI_HELPERS = "cmd/kubeadm/app/util/pkiutil/pki_helpers.go"
CONSTANTS = "cmd/kubeadm/app/constants/constants.go"
DEFAULTS = "cmd/kubeadm/app/apis/kubeadm/v1beta4/defaults.go"
SCHEME = "cmd/kubeadm/app/apis/kubeadm/scheme/scheme.go"
TEST_HELPERS = "test/utils/pki_helpers.go"
CLIENT_GO = "vendor/k8s.io/client-go"

# A tag of each layout, the first and last minor of each among them.
TAGS = (
    "v1.13.0", "v1.14.10", "v1.15.0", "v1.16.15", "v1.20.2", "v1.21.14",
    "v1.26.1", "v1.29.0", "v1.30.14", "v1.31.0", "v1.33.3", "v1.37.0",
)  # fmt: skip

# The Go that some tag of each minor was built with.
GO = {
    13: "1.11.5", 14: "1.12.12", 15: "1.12.12", 16: "1.13.15", 17: "1.13.15", 18: "1.13.15",
    19: "1.15.2", 20: "1.15.5", 21: "1.16.9", 22: "1.16.8", 23: "1.17.3", 24: "1.18.1",
    25: "1.19.1", 26: "1.19.5", 27: "1.20.3", 28: "1.20.7", 29: "1.21.5", 30: "1.22.2",
    31: "1.22.8", 32: "1.23.3", 33: "1.24.4", 34: "1.24.6", 35: "1.25.5", 36: "1.26.2",
    37: "1.26.6",
}  # fmt: skip


def make_tree(folder: Path, tag: str) -> None:
    """Write a tree of the tag's era into ``folder``, which may exist."""
    minor = Version(tag).minor
    files = {
        "cmd/kubeadm/kubeadm.go": texts.KUBEADM,
        CERT: _cert(minor),
        PKI_HELPERS: _pki_helpers(minor),
        CONSTANTS: _constants(minor),
        **_versions(minor),
        **_pins(minor),
    }
    if minor >= 15:
        files[TEST_HELPERS] = texts.TEST_DECOY
        files["go.mod"] = f"module k8s.io/kubernetes\n\ngo {_go_line(minor)}\n"
    if minor >= 31:
        files[DEFAULTS] = texts.DEFAULTS_GO
        files[SCHEME] = texts.SCHEME_GO
    if minor >= 30:
        modules = "\t.\n\t./staging/src/k8s.io/client-go\n"
        files["go.work"] = f"go {_go_line(minor)}\n\nuse (\n{modules})\n"
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    if minor < 30:
        (folder / CLIENT_GO).parent.mkdir(parents=True, exist_ok=True)
        (folder / CLIENT_GO).symlink_to("../../staging/src/k8s.io/client-go")


def go_pin(tag: str) -> str:
    """Return the Go version that the tree of a tag pins."""
    return _go(Version(tag).minor)


def _go(minor: int) -> str:
    return GO.get(minor, GO[max(GO)])


def _cert(minor: int) -> str:
    if minor < 14:
        year = "const (\n\trsaKeySize   = 2048\n\tduration365d = time.Hour * 24 * 365\n)\n"
        return texts.CERT_GO.format(year=year, birth="now.UTC()", leaf=texts.LEAF_CLIENT_GO)
    birth = "now.UTC()" if minor < 28 else "cfg.Birth(now)"
    return texts.CERT_GO.format(year=f"const {texts.YEAR}\n", birth=birth, leaf="")


def _pki_helpers(minor: int) -> str:
    if minor < 14:
        return texts.PKI_GO.format(consts="", ca=texts.CALL_CLIENT_GO, leaf=texts.CALL_LEAF)
    if minor == 14:
        consts = f"\nconst (\n\trsaKeySize             = 2048\n\t{texts.YEAR14}\n)\n"
        return texts.PKI_GO.format(consts=consts, ca=texts.CALL_CLIENT_GO, leaf=texts.LEAF_14)
    if minor < 31:
        add = "notAfter := time.Now().Add(kubeadmconstants.CertificateValidity).UTC()"
        leaf = texts.LEAF.format(add=add)
        return texts.PKI_GO.format(consts="", ca=texts.CALL_CLIENT_GO, leaf=leaf)
    add = "notAfter := notBefore.Add(kubeadmconstants.CertificateValidityPeriod)"
    return texts.PKI_GO.format(consts="", ca=texts.CA_OWN, leaf=texts.LEAF.format(add=add))


def _constants(minor: int) -> str:
    lines = ['ManifestsSubDirName = "manifests"']
    if minor >= 28:
        lines.append("CertificateBackdate = time.Minute * 5")
    if 15 <= minor < 31:
        lines.append("CertificateValidity = time.Hour * 24 * 365")
    if minor >= 31:
        lines.append("CertificateValidityPeriod = time.Hour * 24 * 365")
        lines.append("CACertificateValidityPeriod = time.Hour * 24 * 365 * 10")
    lines.append("DefaultCertTokenDuration = 2 * time.Hour")
    consts = "\n\n".join(f"\t// This is {line.split()[0]}.\n\t{line}" for line in lines)
    return f'package constants\n\nimport "time"\n\nconst (\n{consts}\n)\n'


def _versions(minor: int) -> dict[str, str]:
    folder = "staging/src/k8s.io/component-base/version" if minor >= 16 else "pkg/version"
    return {
        "hack/lib/version.sh": texts.VERSION_SH,
        "hack/lib/.gitattributes": "version.sh export-subst\n",
        f"{folder}/base.go": texts.BASE_GO.format(commit="%H" if minor >= 30 else "%h"),
        f"{folder}/.gitattributes": "base.go export-subst\n",
    }


def _pins(minor: int) -> dict[str, str]:
    go = _go(minor)
    cross = f"v{go}-1" if minor < 21 else f"v1.{minor}.0-go{go}-bullseye.0"
    pins = {"build/build-image/cross/VERSION": f"{cross}\n"}
    if minor >= 15:
        pins["build/dependencies.yaml"] = _dependencies(minor, go)
    if minor >= 26:
        pins[".go-version"] = f"{go}\n"
    return pins


def _dependencies(minor: int, go: str) -> str:
    entries = [("cni", "0.8.7")]
    if minor >= 17:
        entries.append(("golang" if minor < 19 else "golang: upstream version", go))
    if minor >= 23:
        entries.append(("golang: 1.<major>", ".".join(go.split(".")[:2])))
        entries.append(("golang: etcd release version", "1.16.15"))
    lines = [f'  - name: "{name}"\n    version: {version}\n' for name, version in entries]
    return "dependencies:\n" + "".join(lines)


def _go_line(minor: int) -> str:
    parts = _go(minor).split(".")
    return ".".join([*parts[:2], "0"] if minor >= 30 else parts[:2])
