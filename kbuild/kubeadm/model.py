"""The values that flow from a request to a release.

Each stage takes the value that the stage before it makes, so nothing unproven can be released.
Years are years of 365 days, as kubeadm counts them. Every time is UTC.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from packaging.version import Version

DAYS_A_YEAR = 365
MAX_YEARS = 292  # time.Duration holds 292.47 years; duration365d * 293 does not compile
STOCK_CA_YEARS, STOCK_LEAF_YEARS = 10, 1

Builder = Literal["docker", "local"]
BuilderChoice = Literal["auto", "docker", "local"]
TreeState = Literal["dirty", "clean", "archive"]
Layout = Literal["flat", "tree"]
PackageKind = Literal["deb", "rpm"]
# What a kubeadm does with stock's default lifetimes where a cluster's configuration stores them.
StoredDefaults = Literal["override", "keep"]
# A PKI whose CAs kubeadm makes too, or one whose CAs are three years old; or a fresh one by a
# configuration that stores stock's default lifetimes, or others that somebody has chosen.
Case = Literal["fresh-ca", "old-ca", "stored-defaults", "stored-values"]
CASES: tuple[Case, ...] = get_args(Case)
Moment = Literal["issued", "renewed"]
CertificateKind = Literal["ca", "leaf", "kubeconfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetimes:
    """The lifetimes asked for, in years of 365 days."""

    ca_years: int
    leaf_years: int

    @property
    def ca(self) -> timedelta:
        """Return the lifetime of a CA."""
        return timedelta(days=DAYS_A_YEAR * self.ca_years)

    @property
    def leaf(self) -> timedelta:
        """Return the lifetime of a leaf, kubeconfigs' client certificates included."""
        return timedelta(days=DAYS_A_YEAR * self.leaf_years)

    def expected(self, case: Case, stored_defaults: StoredDefaults) -> "Lifetimes":
        """Return what a kubeadm of these lifetimes must issue in a case of the proof."""
        if case == "stored-values" or (case, stored_defaults) == ("stored-defaults", "keep"):
            return self.stored(case)
        return self

    def stored(self, case: Case) -> "Lifetimes":
        """Return what the configuration stores in a case that has one.

        Chosen values are neither stock's nor those asked for.
        """
        if case == "stored-defaults":
            return Lifetimes(ca_years=STOCK_CA_YEARS, leaf_years=STOCK_LEAF_YEARS)
        asked = (self.ca_years, self.leaf_years)
        leaf, ca, *_ = (years for years in range(2, STOCK_CA_YEARS) if years not in asked)
        return Lifetimes(ca_years=ca, leaf_years=leaf)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRequest:
    """Where the Kubernetes source is, and what it must be."""

    address: str
    commit: str | None
    sha256: str | None
    verify_against: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GoRequest:
    """Which Go builds, and where it comes from; ``version`` overrides the pin of the tree."""

    builder: BuilderChoice
    image: str | None
    repository: str
    version: str | None
    root: Path | None
    site: str
    lock: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputRequest:
    """Where the release is written, and in which form."""

    folder: Path | None
    layout: Layout
    packages: tuple[PackageKind, ...]
    force: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """Everything the user asked for, with every default filled in.

    ``version`` is as typed (``v1.23.0``, ``1.23``); the tag it stands for is found by the source
    stage. ``build_date`` is in whole seconds, UTC; where it is None it is the moment when the
    compile begins.
    """

    version: str
    lifetimes: Lifetimes
    arches: tuple[str, ...]
    source: SourceRequest
    go: GoRequest
    output: OutputRequest
    build_date: datetime | None
    tree_state: TreeState
    stored_defaults: StoredDefaults
    stock: bool
    against_stock: bool
    independent: bool
    release_site: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """What a build writes into the binary besides the tag and the commit.

    ``build_date`` is the only time in a build: whole seconds, UTC.
    """

    build_date: datetime
    tree_state: TreeState


@dataclass(frozen=True, slots=True, kw_only=True)
class Tag:
    """A version as the source names it; ``commit`` is None where only a whole tree can tell."""

    name: str
    commit: str | None

    @property
    def version(self) -> Version:
        """Return the tag as a version that sorts as Kubernetes sorts."""
        return Version(self.name)


# How it is known that a tree is of its commit: every object that was read has the id that the
# commit gives it; or it is an archive that only says so itself; or it is an archive, and each file
# of it that is compiled was compared with the commit in a git repository.
CommitProof = Literal["git-object", "archive-claim", "compared"]


class SourceFile(NamedTuple):
    """A file of a tree: its mode as git has it, and its content. A link's is its target."""

    mode: int
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTree:
    """A Kubernetes tree: ``path`` holds what kbuild reads and patches.

    ``files`` are all that the compiler reads, where ``path`` does not hold that too; what is in
    both counts as it is in ``path``. ``sha256`` is that of the archive, if it is one, and
    ``sha256_demanded`` tells whether the user demanded it.
    """

    path: Path
    tag: str
    commit: str
    origin: str
    commit_proof: CommitProof = "archive-claim"
    sha256: str | None = None
    sha256_demanded: bool = False
    files: Mapping[str, SourceFile] = field(default_factory=dict, repr=False)

    @property
    def commit_verified(self) -> bool:
        """Return whether more than the archive itself says that these files are of the commit."""
        return self.commit_proof != "archive-claim"

    @property
    def version(self) -> Version:
        """Return the tag as a version."""
        return Version(self.tag)


@dataclass(frozen=True, slots=True, kw_only=True)
class GoPin:
    """The Go version a tree asks for (``1.15.5``, without ``go``) and the files that say so."""

    version: str
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolchain:
    """The one Go that builds: an image by digest, or a GOROOT on this machine.

    ``go_version`` is what ``go version`` must print (``1.15.5``); it differs from the pin only
    when the user overrode it.
    """

    builder: Builder
    pin: GoPin
    go_version: str
    image: str | None = None
    go_root: Path | None = None

    @property
    def overridden(self) -> bool:
        """Return whether the user asked for another Go than the tree does."""
        return Version(self.go_version) != Version(self.pin.version)


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedPatch:
    """A patch as applied: ``sha256`` is of the rendered text."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchedTree:
    """A source tree whose own text now computes to the lifetimes asked for.

    ``stored_defaults`` is None where configurations of its version store no lifetimes. ``note`` is
    what users of such a kubeadm must know, or empty.
    """

    source: SourceTree
    toolchain: Toolchain
    lifetimes: Lifetimes
    patches: tuple[AppliedPatch, ...]
    diff: str
    stored_defaults: StoredDefaults | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """The publisher's own binary of a tag: where it is, and what it says of itself.

    ``signer`` is whose signature of it was verified. Where it is None, nothing but a checksum from
    the same site vouches for it.
    """

    url: str
    sha256: str
    version: dict[str, str]
    signer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StockDifference:
    """What in a binary is other than in the one built alike from the unpatched tree.

    ``functions`` are the symbols whose code differs. ``moved`` tells that the linker has put
    something elsewhere; then the data was compared only where code leads to it.
    """

    stock_sha256: str
    functions: tuple[str, ...]
    moved: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Binary:
    """A compiled kubeadm that nothing has been proven of yet.

    ``compiled`` is when its compile began and ended, of a binary that an earlier run has kept.
    """

    path: Path
    arch: str
    sha256: str
    tree: PatchedTree
    stamp: Stamp
    command: tuple[str, ...]
    compiled: tuple[datetime, datetime] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedCertificate:
    """One certificate as read back.

    ``moment`` is ``issued`` or ``renewed``, ``kind`` is ``ca``, ``leaf`` or ``kubeconfig``;
    ``path`` is relative to /etc/kubernetes.
    """

    case: Case
    moment: Moment
    kind: CertificateKind
    path: str
    subject: str
    not_before: datetime
    not_after: datetime
    years: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What was seen of one binary.

    ``ran`` tells how it was run: ``native``, ``qemu`` or None when only the static checks ran.
    ``version`` holds the fields of ``kubeadm version -o json``. ``published`` is the publisher's
    binary, byte for byte the same. ``stored_defaults`` is what it did with those, None where no
    configuration stored any.
    """

    path: Path
    arch: str
    sha256: str
    ran: str | None
    where: str
    version: dict[str, str] = field(default_factory=dict)
    certificates: tuple[IssuedCertificate, ...] = ()
    stored_defaults: StoredDefaults | None = None
    against_stock: StockDifference | None = None
    published: Published | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenBinary:
    """A binary and its proof: only this can be published, and only the proof makes it."""

    binary: Binary
    proof: Proof


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenBuild:
    """The proven binaries of one tag, an architecture each.

    ``unchanged`` tells that an earlier run compiled them from the same inputs.
    """

    binaries: tuple[ProvenBinary, ...]
    unchanged: bool
