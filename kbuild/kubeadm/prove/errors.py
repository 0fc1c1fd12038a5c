"""Errors of the proof: what is wrong with a binary, or why it cannot be proven."""

from pathlib import Path

from kbuild.base.errors import ProofError
from kbuild.base.words import counted


class WrongLifetime(ProofError):
    """A certificate does not expire when it should; the times are RFC 3339 in UTC."""

    path: str
    case: str
    moment: str
    years: int
    actual: str
    expected: str

    what = "{path} ({case}, {moment}) expires at {actual}, not at {expected} after {years}"
    todo = "this kubeadm does not issue the requested lifetimes; do not use it"

    def __init__(
        self, *, path: str, case: str, moment: str, years: int, actual: str, expected: str
    ) -> None:
        lifetime = counted(years, "year")
        fields = {"path": path, "case": case, "moment": moment, "years": lifetime}
        times = {"actual": actual, "expected": expected}
        self._fill("", {**fields, **{n: t.replace("+00:00", "Z") for n, t in times.items()}})


class WrongVersion(ProofError):
    """The binary reports another version, commit or platform than expected."""

    name: str
    actual: object
    expected: object

    what = "kubeadm reports {name} {actual!r}, expected {expected!r}"
    todo = "this is not the requested binary; do not use it"


class WrongBinary(ProofError):
    """The file is not a static Linux executable for the right architecture."""

    path: Path | str
    reason: str

    what = "{path} is not a static Linux kubeadm: {reason}"
    todo = "give a kubeadm for Linux; in a release it is the file kubeadm-linux-<arch>"


class MissingCertificate(ProofError):
    """kubeadm did not write a certificate."""

    path: str
    case: str
    moment: str

    what = "kubeadm wrote no {path} ({case}, {moment})"
    todo = "kubeadm failed, or kbuild does not know its layout; do not use it"


class KubeadmFailed(ProofError):
    """kubeadm failed during the proof."""

    command: str
    code: int | str

    what = "`{command}` failed with exit code {code}"
    todo = "its last output is below"


class NotRenewed(ProofError):
    """A certificate is the same before and after a renewal."""

    path: str
    case: str

    what = "{path} ({case}) was not renewed"
    todo = "this kubeadm's renewal does not work; do not use it"


class CannotRun(ProofError):
    """The binary cannot run on this machine."""

    path: Path | str
    reason: str

    what = "{path} cannot be run here: {reason}"
    todo = "use a machine with the same architecture, or install qemu-user-static"


class OverrideNotVisible(ProofError):
    """Whether stored defaults are overridden cannot be seen with stock's lifetimes."""

    ca_years: int
    leaf_years: int

    what = (
        "whether this kubeadm overrides stored defaults cannot be told: with --ca-years {ca_years}"
        " and --leaf-years {leaf_years}, the requested lifetimes are stock's own"
    )
    todo = "leave --stored-defaults out, or give the lifetimes that the kubeadm was built with"


class StockDiffers(ProofError):
    """A function that does not hold a lifetime differs from the stock binary."""

    arch: str
    symbols: str

    what = "kubeadm for {arch} differs from the stock one in {symbols}"
    todo = "the patch does not explain this difference; do not use it"


class NotAsPublished(ProofError):
    """A stock binary is not identical to the official binary."""

    url: str
    actual: str
    expected: str

    what = "this stock kubeadm has sha256 {actual}; the official binary {url} has {expected}"
    todo = "the differences are below; the same Go and build date give the same bytes"


class PublisherFailed(ProofError):
    """The official binary cannot be downloaded, or its checksum or signature is wrong."""

    url: str
    reason: str

    what = "{url} cannot be used: {reason}"
    todo = "check the network, or name another site with --release-site"
