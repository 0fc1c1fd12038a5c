"""The values that flow from a request to a release.

Each stage takes the value that the stage before it makes, so nothing unproven can be released.
Years are years of 365 days, as kubeadm counts them. Every time is UTC.
"""

from collections.abc import Callable, Mapping
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
    """The requested lifetimes, in years of 365 days."""

    ca_years: int
    leaf_years: int

    @property
    def ca(self) -> timedelta:
        """Return the lifetime of a CA."""
        return timedelta(days=DAYS_A_YEAR * self.ca_years)

    @property
    def leaf(self) -> timedelta:
        """Return the lifetime of a leaf certificate, also of those in kubeconfigs."""
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
class Tag:
    """A tag of the source; ``commit`` is None if only the complete tree can tell it."""

    name: str
    commit: str | None

    @property
    def version(self) -> Version:
        """Return the tag as a version, which sorts like Kubernetes versions."""
        return Version(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundled:
    """The source in an unpacked bundle: a git store with the objects of the tags, or an archive.

    ``sha256`` is that of the bundle, ``demanded`` tells whether the user required it.
    """

    sha256: str
    demanded: bool
    tags: tuple[Tag, ...]
    store: Path | None
    archive: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRequest:
    """Where the Kubernetes source is, and what it must contain.

    With ``bundled``, it is read from there, and ``address`` is where the bundle has it from.
    """

    address: str
    commit: str | None
    sha256: str | None
    verify_against: str | None
    bundled: Bundled | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A version of a source.

    ``version`` is as the user typed it (``v1.23.0``, ``1.23``); the source stage finds its tag.
    """

    version: str
    source: SourceRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLayout:
    """An image for one architecture, with a file for each of its blobs by digest.

    The digest in ``image`` (``golang@sha256:…``) leads to all others: to that of its ``manifest``,
    which may be the same, and from there to that of its configuration and of its layers.
    """

    image: str
    arch: str
    manifest: str
    media_type: str
    config: str
    layers: tuple[str, ...]
    blobs: Mapping[str, Path] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """An image in a bundle, for one architecture. Nobody has compared it with a pin yet.

    ``read`` reads the documents that its digest leads to.
    """

    image: str
    arch: str
    read: Callable[[], ImageLayout] = field(repr=False)

    @property
    def digest(self) -> str:
        """Return the digest in its name."""
        return self.image.rpartition("@")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class GoRequest:
    """Which Go to build with, and where to get it; ``version`` overrides the pin of the tree.

    With ``archives``, by Go version, nothing is downloaded and no other Go is looked for. With
    ``stored_images``, no image is pulled.
    """

    builder: BuilderChoice
    image: str | None
    repository: str
    version: str | None
    root: Path | None
    site: str
    lock: Path
    archives: Mapping[str, Path] | None = None
    stored_images: tuple[StoredImage, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputRequest:
    """Where the release is written, and in which form."""

    folder: Path | None
    layout: Layout
    packages: tuple[PackageKind, ...]
    force: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest(Wanted):
    """Everything that the user requested, with every default filled in.

    ``build_date`` is UTC in whole seconds; None is the time at which the compile begins.
    """

    lifetimes: Lifetimes
    arches: tuple[str, ...]
    go: GoRequest
    output: OutputRequest
    build_date: datetime | None
    tree_state: TreeState
    stored_defaults: StoredDefaults
    stock: bool
    against_stock: bool
    independent: bool
    require_proof: bool
    release_site: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleRequest:
    """What a bundle is asked to have, all versions of one source.

    ``arches`` are those of the machines that will build from it, with one of the ``builders``; the
    GOROOT in ``go`` is for this machine. ``wheels`` is a directory with those of kbuild.
    ``created`` is the time that is recorded; None is now.
    """

    wanted: tuple[Wanted, ...]
    arches: tuple[str, ...]
    builders: tuple[Builder, ...]
    go: GoRequest
    wheels: Path | None
    output: Path
    force: bool
    created: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """What a build writes into the binary besides the tag and the commit.

    ``build_date`` is the only time in a build: whole seconds, UTC.
    """

    build_date: datetime
    tree_state: TreeState


# How kbuild knows that a tree belongs to its commit. git-object: every object has the id by which
# the commit refers to it. archive-claim: an archive names the commit, and nothing was verified.
# compared: each compiled file of an archive was compared with the commit in a git repository.
CommitProof = Literal["git-object", "archive-claim", "compared"]


class SourceFile(NamedTuple):
    """A file of a tree: its git mode and its content; the content of a link is its target."""

    mode: int
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTree:
    """A Kubernetes tree.

    ``path`` holds the files that kbuild reads and patches. ``files`` holds all files that the
    compiler reads; a file in ``path`` replaces the one in ``files``. ``sha256`` is the checksum of
    an archive, and ``sha256_demanded`` is True if the user required it. ``bundle`` is the sha256 of
    the bundle that it was read from; ``bundle_demanded`` and ``commit_demanded`` are True if the
    user required this bundle and this commit.
    """

    path: Path
    tag: str
    commit: str
    origin: str
    commit_proof: CommitProof = "archive-claim"
    sha256: str | None = None
    sha256_demanded: bool = False
    bundle: str | None = None
    bundle_demanded: bool = False
    commit_demanded: bool = False
    files: Mapping[str, SourceFile] = field(default_factory=dict, repr=False)

    @property
    def commit_verified(self) -> bool:
        """Return whether it was verified that these files belong to the commit."""
        return self.commit_proof != "archive-claim"

    @property
    def version(self) -> Version:
        """Return the tag as a version."""
        return Version(self.tag)


@dataclass(frozen=True, slots=True, kw_only=True)
class GoPin:
    """The Go version that a tree pins (``1.15.5``, without ``go``) and the files that name it."""

    version: str
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolchain:
    """The Go to build with: an image by digest, or a GOROOT on this machine.

    ``go_version`` is what ``go version`` must print (``1.15.5``). It differs from the pin only if
    the user has overridden it. An image from a bundle has a ``layout``; once it is loaded,
    ``image_id`` is its id, because an engine knows only what it has pulled by the digest in
    ``image``.
    """

    builder: Builder
    pin: GoPin
    go_version: str
    image: str | None = None
    go_root: Path | None = None
    layout: ImageLayout | None = field(default=None, repr=False)
    image_id: str | None = None

    @property
    def overridden(self) -> bool:
        """Return whether the user chose another Go than the tree pins."""
        return Version(self.go_version) != Version(self.pin.version)


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedPatch:
    """An applied patch; ``sha256`` is the checksum of the rendered text."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchedTree:
    """A source tree whose code computes the requested lifetimes.

    ``stored_defaults`` is None if configurations of its version store no lifetimes. ``note`` is
    what users of this kubeadm must know, or empty.
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
    """The official binary of a tag: its URL, and the version that it reports.

    ``signer`` is the verified signer. If it is None, the only evidence is a checksum from the same
    site.
    """

    url: str
    sha256: str
    version: dict[str, str]
    signer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StockDifference:
    """The difference between a binary and one built the same way from the unpatched tree.

    ``functions`` are the symbols whose code differs. ``moved`` is True if the linker has moved
    something; then data was compared only where code refers to it.
    """

    stock_sha256: str
    functions: tuple[str, ...]
    moved: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Binary:
    """A compiled kubeadm that is not proven yet.

    For a kept binary of an earlier run, ``compiled`` is when its compile began and ended.
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
    """One certificate that kubeadm wrote.

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
    """The result of proving one binary.

    ``ran`` is how it ran: ``native``, ``qemu``, or None if only the static checks ran. ``version``
    holds the fields of ``kubeadm version -o json``. ``published`` is the official binary, which is
    identical. ``stored_defaults`` is what it did with stored defaults, None if no configuration
    stored any.
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
    """The proven binaries of one tag, one for each architecture.

    ``unchanged`` is True if an earlier run compiled them from the same inputs.
    """

    binaries: tuple[ProvenBinary, ...]
    unchanged: bool
