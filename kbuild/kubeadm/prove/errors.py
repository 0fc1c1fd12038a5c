"""What a proof can find wrong with a binary, or why there can be none."""

from pathlib import Path

from kbuild.base.errors import ProofError


class WrongLifetime(ProofError):
    """A certificate ends at another time than asked."""

    path: str
    case: str
    moment: str
    years: int
    actual: str
    expected: str

    what = "{path} ({case}, {moment}) ends {actual}, asked for {years} years: {expected}"
    todo = "this kubeadm does not issue what was asked; do not use it"


class WrongVersion(ProofError):
    """The binary reports another version, commit or platform than expected."""

    name: str
    actual: object
    expected: object

    what = "kubeadm reports {name} {actual!r}, expected {expected!r}"
    todo = "this is not the binary that was asked for; do not use it"


class WrongBinary(ProofError):
    """The file is not a static Linux executable for the right architecture."""

    path: Path | str
    reason: str

    what = "{path} is not a static Linux kubeadm: {reason}"
    todo = "give a kubeadm for Linux; in a release it is the file kubeadm-linux-<arch>"


class MissingCertificate(ProofError):
    """kubeadm did not write a certificate that it should."""

    path: str
    case: str
    moment: str

    what = "kubeadm wrote no {path} ({case}, {moment})"
    todo = "kbuild does not know its layout, or it failed part way; do not use it"


class KubeadmFailed(ProofError):
    """kubeadm itself failed while it was being proven."""

    command: str
    code: int | str

    what = "`{command}` failed with exit code {code}"
    todo = "its last output is below"


class NotRenewed(ProofError):
    """A certificate is the same after a renewal as before."""

    path: str
    case: str

    what = "{path} ({case}) was not renewed"
    todo = "this kubeadm's renewal does not work; do not use it"


class CannotRun(ProofError):
    """The binary cannot be run here at all."""

    path: Path | str
    reason: str

    what = "{path} cannot be run here: {reason}"
    todo = "run this on a machine of its own architecture, or install qemu-user-static"


class StockDiffers(ProofError):
    """A patched binary differs from the stock one where no lifetime is."""

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
    todo = "see below how they differ; the same Go and build date give the same bytes"


class PublisherFailed(ProofError):
    """The publisher's site did not answer, or its files do not fit each other."""

    url: str
    reason: str

    what = "{url} cannot be used: {reason}"
    todo = "check the network, or name another site with --release-site"
