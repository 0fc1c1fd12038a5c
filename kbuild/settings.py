"""The settings of each command, each declared once: its parser, default, help and flag.

What a setting is used for is in the command that has it. kbuild.base.settings says how a setting
becomes a flag, a key of kbuild.toml and a variable of the environment, and which of them wins.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal, TypeVar, get_args

from platformdirs import user_cache_path, user_config_path

from kbuild.base.arches import ARCHES
from kbuild.base.errors import BadSetting, LeafOutlivesCA
from kbuild.base.sandbox import host_arch
from kbuild.base.settings import (
    CommandSettings,
    example,
    flag,
    key,
    option,
    options,
    resolve,
)
from kbuild.base.values import (
    EPOCH,
    Age,
    address,
    address_or_path,
    age,
    hexadecimal,
    moment,
    one_of,
    path,
    size,
    switch,
    text,
    whole_number,
)
from kbuild.config.model import Purpose
from kbuild.kubeadm.model import (
    MAX_YEARS,
    STOCK_CA_YEARS,
    STOCK_LEAF_YEARS,
    Builder,
    BuilderChoice,
    BuildRequest,
    BundleRequest,
    GoRequest,
    Layout,
    Lifetimes,
    OutputRequest,
    PackageKind,
    SourceRequest,
    StoredDefaults,
    TreeState,
    Wanted,
)

UPSTREAM = "https://github.com/kubernetes/kubernetes.git"
GOLANG = "golang"
GO_SITE = "https://go.dev/dl"
RELEASE_SITE = "https://dl.k8s.io/release"
MAX_STALL = 3600
MAX_PARALLEL = 200
MAX_HOSTS = 100_000
BUILDERS: tuple[BuilderChoice, ...] = get_args(BuilderChoice)
TREE_STATES: tuple[TreeState, ...] = get_args(TreeState)
STORED_DEFAULTS: tuple[StoredDefaults, ...] = get_args(StoredDefaults)
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
PACKAGES: tuple[PackageKind, ...] = get_args(PackageKind)
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
StoredValues = Literal["keep", "change"]  # what becomes of lifetimes that a cluster stores
STORED_VALUES: tuple[StoredValues, ...] = get_args(StoredValues)

# The bundle has them, or they need a network.
_NOT_WITH_BUNDLE = ("source", "verify_against", "go_root", "go_site", "stock")
_LIFETIMES = ("ca_years", "leaf_years")
_REQUIRED = "Required."
_WISHED_YEARS = 100  # in the plans of `kbuild advise`, where nothing is asked for
# The headings of --help, in this order below.
COMMON = "Common options"
_BUILD, _SOURCE, _GO, _OUTPUT = "Build", "Source", "Go", "Output"
_HOSTS = "Hosts"
PANELS = (None, _HOSTS, _BUILD, _SOURCE, _GO, _OUTPUT, COMMON)

_years = whole_number(
    "years",
    MAX_YEARS,
    f"a year has 365 days; Go's time.Duration ends at {MAX_YEARS} years",
)
_seconds = whole_number("seconds", MAX_STALL, "60 is the default")
_arch = one_of(ARCHES, {names.machine: arch for arch, names in ARCHES.items()})
_stored_defaults = one_of(STORED_DEFAULTS)
_digits_of_sha256 = hexadecimal(least=64, most=64)


def _sha256(name: str, value: object) -> str:
    """Parse a SHA-256; the prefix ``sha256:``, as images and releases have it, is removed."""
    digits = value.strip().removeprefix("sha256:") if isinstance(value, str) else value
    found: str = _digits_of_sha256(name, digits)
    return found


def _without(origin: str, name: str, other: str) -> str:
    """Return what to do about a setting that excludes another one."""
    if origin == flag(name):
        return f"leave out {other} or {origin}"
    file, _, _ = origin.partition(": ")
    if file == origin:
        return f"leave out {other}, or unset {origin}"
    return f"leave out {other}, remove {key(name)} from {file}, or give another file with --config"


def _go_site() -> Any:  # noqa: ANN401  # as option()
    return option(
        address,
        "Site from which the local builder downloads Go.",
        default=GO_SITE,
        metavar="URL",
        panel=_GO,
    )


def _image() -> Any:  # noqa: ANN401  # as option()
    return option(
        address,
        "Build in this image, named by its digest. Default: golang:<pin>.",
        metavar="REF@DIGEST",
        panel=_GO,
        example=f"golang@sha256:{'0' * 64}",
    )


def _force() -> Any:  # noqa: ANN401  # as option()
    return option(
        switch,
        "Replace what an earlier run wrote to the output directory, if nothing in it was changed.",
        default=False,
        panel=_OUTPUT,
        own=True,
    )


def _limit(name: str, value: object) -> int:
    if (isinstance(value, str) and value.strip() == "0") or (type(value) is int and value == 0):
        return 0
    return size(name, value, "write it like 500MB or 5GB, or 0 for no limit")


@dataclass(frozen=True, kw_only=True)
class Common(CommandSettings):
    """What every command has."""

    json: bool = option(
        switch, "Print one JSON document on standard output.", default=False, panel=COMMON
    )
    verbose: bool = option(switch, "Show details.", default=False, short="-v", panel=COMMON)
    quiet: bool = option(switch, "Show no progress.", default=False, short="-q", panel=COMMON)


@dataclass(frozen=True, kw_only=True)
class Cached(Common):
    """What every command has that uses the cache."""

    cache_dir: Path = option(
        path,
        "Directory for sources, Go toolchains and build caches.",
        default=user_cache_path("kbuild"),
        metavar="DIR",
        panel=COMMON,
    )


@dataclass(frozen=True, kw_only=True)
class Limited(Cached):
    """What every command has that keeps the cache below a limit."""

    cache_limit: int = option(
        _limit,
        "Remove the least recently used entries above this size, in the cache and separately in the"
        " Go caches of the engine. 0: no limit.",
        default=5 * 1000**3,
        default_text="5GB",
        metavar="SIZE",
        panel=COMMON,
    )


@dataclass(frozen=True, kw_only=True)
class Networked(Common):
    """What every command has that transfers something."""

    stall_timeout: int = option(
        _seconds,
        f"Retry a transfer after this many seconds without progress, 1 to {MAX_STALL}.",
        default=60,
        metavar="SECONDS",
        panel=COMMON,
    )


@dataclass(frozen=True, kw_only=True)
class Sourced(Cached, Networked):
    """Where Kubernetes comes from."""

    source: str = option(
        address_or_path,
        "Git URL, local repository, or source archive (file or URL).",
        default=UPSTREAM,
        metavar="SOURCE",
        panel=_SOURCE,
    )


@dataclass(frozen=True, kw_only=True)
class Images(Common):
    """Which golang images are used."""

    golang_repository: str = option(
        address,
        "Repository of the golang image, for example a mirror.",
        default=GOLANG,
        metavar="NAME",
        panel=_GO,
    )
    lock: Path = option(
        path,
        "File with your own image digests, which are used before the shipped ones.",
        default=user_config_path("kbuild") / "golang-images.lock",
        metavar="FILE",
        panel=_GO,
    )


@dataclass(frozen=True, kw_only=True)
class Target(Common):
    """The kubeadm that is asked for."""

    version: tuple[str, ...] | None = option(
        text,
        "Kubernetes version: v1.23.0, 1.23 for its newest patch release, stable for the newest"
        " release, or latest, which may be a pre-release.",
        metavar="V",
        repeatable=True,
        example=["v1.23.0"],
    )
    ca_years: int | None = option(
        _years,
        f"Lifetime of CA certificates, in years of 365 days, 1 to {MAX_YEARS}.",
        metavar="N",
        example=100,
    )
    leaf_years: int | None = option(
        _years,
        "Lifetime of non-CA certificates, at most that of the CAs.",
        metavar="N",
        example=100,
    )

    def lifetimes(self) -> Lifetimes:
        """Return the lifetimes asked for; raises MissingSetting, LeafOutlivesCA or BadSetting."""
        ca_years, leaf_years = self.required(*_LIFETIMES)
        if leaf_years > ca_years:
            raise LeafOutlivesCA(ca_years=ca_years, leaf_years=leaf_years)
        return Lifetimes(ca_years=ca_years, leaf_years=leaf_years)


@dataclass(frozen=True, kw_only=True)
class RebuildSettings(Sourced, Images, Limited):
    """Settings of ``kbuild rebuild``: where the inputs of a build are found."""

    command: ClassVar[str] = "rebuild"

    verify_against: str | None = option(
        address_or_path,
        "Compare every compiled file of a source archive with this Git source.",
        metavar="URL",
        panel=_SOURCE,
        example=UPSTREAM,
    )
    builder: BuilderChoice = option(
        one_of(BUILDERS),
        "auto uses Docker if an engine answers, otherwise the local builder.",
        default="auto",
        metavar="|".join(BUILDERS),
        panel=_GO,
    )
    image: str | None = _image()
    go_root: Path | None = option(
        path,
        "GOROOT for the local builder. Default: go on PATH, otherwise a download.",
        metavar="DIR",
        panel=_GO,
        example="/usr/local/go",
    )
    go_site: str = _go_site()
    release_site: str = option(
        address,
        "Site of the official binaries, for stock builds.",
        default=RELEASE_SITE,
        metavar="URL",
        panel=_BUILD,
    )


@dataclass(frozen=True, kw_only=True)
class Demanding(Sourced):
    """What source and Go must be, of builds and of bundles for them."""

    commit: str | None = option(
        hexadecimal(least=7, most=40),
        "Commit that the tag must refer to, 7 to 40 hexadecimal digits.",
        metavar="HEX",
        panel=_SOURCE,
        example="0123456789abcdef0123456789abcdef01234567",
    )
    source_sha256: str | None = option(
        _sha256,
        "SHA-256 that the source archive must have.",
        metavar="HEX",
        panel=_SOURCE,
        example="0" * 64,
    )
    go_version: str | None = option(
        text,
        "Go version to build with. Default: the one that the tag pins.",
        metavar="V",
        panel=_GO,
        example="1.21.6",
    )

    def _demand_one(self, versions: Sequence[str], reason: str, hint: str) -> None:
        """Raise BadSetting for what only one version can be, if there are several."""
        for name in ("commit", "source_sha256"):
            if len(versions) > 1 and (value := getattr(self, name)) is not None:
                raise BadSetting(name=self.origin(name), value=value, reason=reason, hint=hint)


@dataclass(frozen=True, kw_only=True)
class Settings(Target, Demanding, RebuildSettings):
    """Settings of ``kbuild kubeadm``."""

    command: ClassVar[str] = "kubeadm"
    needed: ClassVar[Mapping[str, str]] = {
        "version": _REQUIRED,
        **dict.fromkeys(_LIFETIMES, "Required without --stock."),
    }

    arch: tuple[str, ...] = option(
        _arch,
        f"Target architecture: {', '.join(ARCHES)}.",
        default=("amd64",),
        metavar="ARCH",
        repeatable=True,
    )
    dry_run: bool = option(switch, "Show what would be built, and build nothing.", default=False)
    bundle: Path | None = option(
        path,
        "Build from this file of kbuild bundle, without a network.",
        metavar="FILE",
        panel=_SOURCE,
        example="kubernetes.tar",
        own=True,
    )
    bundle_sha256: str | None = option(
        _sha256,
        "SHA-256 that the bundle must have.",
        metavar="HEX",
        panel=_SOURCE,
        example="0" * 64,
    )
    output: Path | None = option(
        path,
        "Output directory. With several versions, one subdirectory each. Default: dist/<version>.",
        metavar="DIR",
        panel=_OUTPUT,
        example="dist/release",
    )
    force: bool = option(
        switch, "Replace an earlier release in the output directory.", default=False, panel=_OUTPUT
    )
    build_date: datetime | None = option(
        moment,
        "Build timestamp. Default: SOURCE_DATE_EPOCH, otherwise now.",
        metavar="RFC3339",
        panel=_OUTPUT,
        example="2026-01-31T12:00:00Z",
    )
    tree_state: TreeState | None = option(
        one_of(TREE_STATES),
        "gitTreeState that the binary reports. Default: dirty; clean for a stock build.",
        metavar="|".join(TREE_STATES),
        panel=_OUTPUT,
        example="dirty",
    )
    stored_defaults: StoredDefaults | None = option(
        _stored_defaults,
        "From v1.31 on, lifetimes stored in a cluster win over those compiled in. override: not if"
        " they are stock's defaults. keep: always, as in stock. No effect before v1.31."
        " Default: override; keep for a stock build.",
        metavar="|".join(STORED_DEFAULTS),
        panel=_BUILD,
        example="override",
    )
    layout: Layout = option(
        one_of(LAYOUTS),
        "tree makes <version>/bin/linux/<arch>/kubeadm, like the official site.",
        default="flat",
        metavar="|".join(LAYOUTS),
        panel=_OUTPUT,
    )
    package: tuple[PackageKind, ...] = option(
        one_of(PACKAGES),
        "Also make packages of each binary.",
        default=(),
        example=list(PACKAGES),
        metavar="|".join(PACKAGES),
        repeatable=True,
        panel=_OUTPUT,
    )
    stock: bool = option(
        switch,
        "Build the tag unpatched. The result must be identical to the official binary.",
        default=False,
        panel=_BUILD,
    )
    against_stock: bool = option(
        switch,
        "Also build the tag unpatched. Only functions that hold lifetimes may differ.",
        default=False,
        panel=_BUILD,
    )
    independent: bool = option(
        switch,
        "Compile the unpatched kubeadm of against-stock with an empty Go build cache.",
        default=False,
        panel=_BUILD,
    )
    require_proof: bool = option(
        switch,
        "Fail if a binary cannot run on this machine, instead of checking only its file.",
        default=False,
        panel=_BUILD,
    )

    def lifetimes(self) -> Lifetimes:
        """Return the lifetimes asked for; raises MissingSetting, LeafOutlivesCA or BadSetting."""
        if not self.stock:
            return super().lifetimes()
        self._check_stock()
        return Lifetimes(ca_years=STOCK_CA_YEARS, leaf_years=STOCK_LEAF_YEARS)

    def requests(self, environment: Mapping[str, str]) -> tuple[BuildRequest, ...]:
        """Return a build request a version; SOURCE_DATE_EPOCH is the clock if no date is given.

        Raises MissingSetting, LeafOutlivesCA or BadSetting.
        """
        [versions, *_] = self.required("version", *(() if self.stock else _LIFETIMES))
        if self.independent and not self.against_stock:
            raise BadSetting(
                name=self.origin("independent"),
                value=self.independent,
                reason="it only has a meaning with --against-stock",
                hint="give --against-stock too",
            )
        self._check_bundle()
        self._demand_one(
            versions,
            "it applies to one version, but several are asked for",
            "build each version separately",
        )
        return tuple(self._request(version, environment) for version in versions)

    def _check_bundle(self) -> None:
        """Raise BadSetting for what a build from a bundle cannot have: other inputs."""
        if self.bundle is None:
            if self.bundle_sha256 is not None:
                raise BadSetting(
                    name=self.origin("bundle_sha256"),
                    value=self.bundle_sha256,
                    reason="there is no bundle",
                    hint="give --bundle FILE too",
                )
            return
        others = [name for name in _NOT_WITH_BUNDLE if name in self.given and getattr(self, name)]
        for name in others:
            raise BadSetting(
                name=self.origin(name),
                value=getattr(self, name),
                reason="a build from a bundle takes source and Go from it",
                hint=_without(self.origin(name), name, "--bundle"),
            )

    def _check_stock(self) -> None:
        overridden = ("stored_defaults",) if self.stored_defaults == "override" else ()
        for name in ("ca_years", "leaf_years", "against_stock", *overridden):
            if getattr(self, name):
                raise BadSetting(
                    name=self.origin(name),
                    value=getattr(self, name),
                    reason="a stock build is not patched",
                    hint=f"leave out --stock or {flag(name)}",
                )
        if len(self.arch) > 1:
            raise BadSetting(
                name=self.origin("arch"),
                value=",".join(self.arch),
                reason="each official binary has its own build date",
                hint="build each architecture separately with --stock",
            )

    def _request(self, version: str, environment: Mapping[str, str]) -> BuildRequest:
        return BuildRequest(
            version=version,
            lifetimes=self.lifetimes(),
            arches=self.arch,
            source=SourceRequest(
                address=self.source,
                commit=self.commit,
                sha256=self.source_sha256,
                verify_against=self.verify_against,
            ),
            go=GoRequest(
                builder=self.builder,
                image=self.image,
                repository=self.golang_repository,
                version=self.go_version,
                root=self.go_root,
                site=self.go_site,
                lock=self.lock,
            ),
            output=OutputRequest(
                folder=self.output, layout=self.layout, packages=self.package, force=self.force
            ),
            build_date=self.build_date or _clock(environment),
            tree_state=self.tree_state or ("clean" if self.stock else "dirty"),
            stored_defaults=self.stored_defaults or ("keep" if self.stock else "override"),
            stock=self.stock,
            against_stock=self.against_stock,
            independent=self.independent,
            require_proof=self.require_proof,
            release_site=self.release_site,
        )


@dataclass(frozen=True, kw_only=True)
class BundleSettings(Demanding, Images, Limited):
    """Settings of ``kbuild bundle``."""

    command: ClassVar[str] = "bundle"
    needed: ClassVar[Mapping[str, str]] = {"version": _REQUIRED, "output": _REQUIRED}

    version: tuple[str, ...] | None = option(
        text,
        "Kubernetes version, as for kbuild kubeadm.",
        metavar="V",
        repeatable=True,
        example=["v1.23.0"],
    )
    arch: tuple[str, ...] = option(
        _arch,
        "Architecture of the machines that will build. All of them can build for every other."
        " Default: that of this machine.",
        default=(),
        metavar="ARCH",
        repeatable=True,
        example=["amd64"],
        own=True,
    )
    builder: tuple[Builder, ...] = option(
        one_of(get_args(Builder)),
        "Builder to put Go into the bundle for: an archive for local, the golang image for docker.",
        default=("local",),
        metavar="|".join(get_args(Builder)),
        repeatable=True,
        example=["docker"],
        panel=_GO,
        own=True,
    )
    image: str | None = _image()
    go_root: Path | None = option(
        path,
        "GOROOT to put into the bundle. Default: a download.",
        metavar="DIR",
        panel=_GO,
        example="/usr/local/go",
    )
    go_site: str = _go_site()
    wheels: Path | None = option(
        path,
        "Directory with the wheels of kbuild and of what it needs, to put into the bundle.",
        metavar="DIR",
        example="wheels",
        own=True,
    )
    output: Path | None = option(
        path,
        "File to write.",
        metavar="FILE.tar",
        panel=_OUTPUT,
        example="kubernetes.tar",
        own=True,
    )
    force: bool = option(
        switch, "Replace an earlier bundle.", default=False, panel=_OUTPUT, own=True
    )

    def request(self, environment: Mapping[str, str]) -> BundleRequest:
        """Return what the bundle is asked to have; SOURCE_DATE_EPOCH is the time it records.

        Raises MissingSetting or BadSetting.
        """
        versions, output = self.required("version", "output")
        self._check_go_root()
        self._demand_one(versions, "it is for one version only", "make a bundle for each")
        source = SourceRequest(
            address=self.source, commit=self.commit, sha256=self.source_sha256, verify_against=None
        )
        return BundleRequest(
            wanted=tuple(Wanted(version=version, source=source) for version in versions),
            arches=tuple(dict.fromkeys(self.arch)) or (host_arch(),),
            builders=self.builder,
            go=GoRequest(
                builder="auto",
                image=self.image,
                repository=self.golang_repository,
                version=self.go_version,
                root=self.go_root,
                site=self.go_site,
                lock=self.lock,
            ),
            wheels=self.wheels,
            output=output,
            force=self.force,
            created=_clock(environment),
        )

    def _check_go_root(self) -> None:
        """Raise BadSetting for a GOROOT that cannot be in the bundle, or is of no use there."""
        if self.go_root is None:
            return
        mine, origin = host_arch(), self.origin("go_root")
        others = ", ".join(arch for arch in self.arch if arch != mine)
        if "local" not in self.builder:
            reason = "the docker builder takes Go from the golang image"
            hint = f"{_without(origin, 'go_root', '--builder docker')}, or give --builder local too"
        elif others:
            reason = f"a GOROOT is for machines like this one, {mine}, and not for {others}"
            hint = f"leave out --go-root, or make a bundle for {others} on such a machine"
        else:
            return
        raise BadSetting(name=origin, value=self.go_root, reason=reason, hint=hint)


@dataclass(frozen=True, kw_only=True)
class VerifySettings(Target, Cached):
    """Settings of ``kbuild verify``."""

    command: ClassVar[str] = "verify"

    version: tuple[str, ...] | None = option(
        text,
        "Version that the binary must report, such as v1.23.0.",
        metavar="V",
        repeatable=True,
        single=True,
        example=["v1.23.0"],
    )
    stored_defaults: StoredDefaults | None = option(
        _stored_defaults,
        "Require that stock's default lifetimes, stored in a cluster, are overridden or kept. No"
        " effect before v1.31. Default: either is right.",
        metavar="|".join(STORED_DEFAULTS),
        example="override",
    )


@dataclass(frozen=True, kw_only=True)
class OneRelease(Target):
    """What every command has that is about one release of Kubernetes."""

    version: tuple[str, ...] | None = option(
        text,
        "Kubernetes version, such as v1.23.0.",
        metavar="V",
        repeatable=True,
        single=True,
        example=["v1.23.0"],
    )


@dataclass(frozen=True, kw_only=True)
class ConfigSettings(OneRelease):
    """Settings of ``kbuild config``."""

    command: ClassVar[str] = "config"
    needed: ClassVar[Mapping[str, str]] = dict.fromkeys(("version", *_LIFETIMES), _REQUIRED)

    for_: Purpose = option(
        one_of(PURPOSES),
        "new: files for kubeadm init. living: changes to the configuration of a cluster.",
        default="new",
        metavar="|".join(PURPOSES),
    )
    kubeadm_config: Path | None = option(
        path,
        "With --for living: the stored ClusterConfiguration. It is only read.",
        metavar="FILE",
        example="stored-kubeadm-config.yaml",
    )
    kubelet_config: Path | None = option(
        path,
        "With --for living: the stored KubeletConfiguration. It is only read.",
        metavar="FILE",
        example="stored-kubelet-config.yaml",
    )
    output: Path | None = option(
        path,
        "Output directory. Default: dist/config-<version>.",
        metavar="DIR",
        panel=_OUTPUT,
        example="dist/config",
        own=True,
    )
    force: bool = _force()

    def check_stored(self) -> None:
        """Raise BadSetting for stored files of a cluster that is yet to be made."""
        for name in ("kubeadm_config", "kubelet_config"):
            if self.for_ == "new" and getattr(self, name) is not None:
                raise BadSetting(
                    name=self.origin(name),
                    value=getattr(self, name),
                    reason="a new cluster has stored nothing",
                    hint="add --for living",
                )


@dataclass(frozen=True, kw_only=True)
class Signed(Networked):
    """Which sigstore is asked."""

    trust_config: Path | None = option(
        path,
        "Sigstore ClientTrustConfig file. Default: that of the public instance.",
        metavar="FILE",
        example="trust-config.json",
        trust=True,
    )


@dataclass(frozen=True, kw_only=True)
class CheckSettings(Signed):
    """Settings of ``kbuild check``: what a release must be.

    What is also a setting of a build is demanded only where the user names it for this command: a
    release of another version is not wrong because the next build has another one.
    """

    command: ClassVar[str] = "check"

    key: Path | None = option(
        path,
        "Require a signature by this public key. The file must not be in DIR.",
        metavar="FILE",
        example="cosign.pub",
        trust=True,
    )
    identity: str | None = option(
        text,
        "Require a keyless signature by this identity.",
        metavar="WHO",
        example="releases@example.org",
        trust=True,
    )
    issuer: str | None = option(
        text,
        "OIDC issuer of that identity.",
        metavar="URL",
        example="https://accounts.example.org",
        trust=True,
    )
    version: str | None = option(
        text, "Require this version.", metavar="V", example="v1.23.0", own=True
    )
    arch: tuple[str, ...] = option(
        _arch,
        "Require this architecture. Others may be there too.",
        default=(),
        example=["amd64"],
        metavar="ARCH",
        repeatable=True,
        own=True,
    )
    ca_years: int | None = option(
        _years,
        "Require exactly this lifetime of CA certificates.",
        metavar="N",
        example=100,
        own=True,
    )
    leaf_years: int | None = option(
        _years,
        "Require exactly this lifetime of non-CA certificates.",
        metavar="N",
        example=100,
        own=True,
    )


@dataclass(frozen=True, kw_only=True)
class Deadline(Common):
    """What every command has that can fail before certificates expire; ages are in seconds."""

    fail_before: Age | None = option(
        age,
        "Fail if a certificate expires within this time or has expired: 12h, 90d, 8w or 2y.",
        metavar="AGE",
        example="90d",
    )


@dataclass(frozen=True, kw_only=True)
class OnNodes(Common):
    """What every command has that connects to nodes."""

    hosts: tuple[str, ...] = option(
        text,
        "Hosts, separated by commas, as ssh knows them.",
        default=(),
        example=["node1,node2"],
        metavar="HOSTS",
        repeatable=True,
        panel=_HOSTS,
    )
    inventory: Path | None = option(
        path,
        "Inventory of Ansible (INI, YAML, JSON of `ansible-inventory --list`, or a directory), or"
        " of pyinfra (*.py, which is run).",
        metavar="FILE",
        example="hosts.ini",
        panel=_HOSTS,
        trust=True,
    )
    limit: tuple[str, ...] = option(
        text,
        "Only hosts whose name or group matches this pattern, as for Ansible: all:!node3.",
        default=(),
        example=["node*"],
        metavar="PATTERN",
        repeatable=True,
        panel=_HOSTS,
    )
    user: str | None = option(
        text,
        "User to connect as. Default: as ssh does.",
        metavar="NAME",
        example="root",
        panel=_HOSTS,
    )
    sudo: bool = option(
        switch,
        "Become root with sudo. If it asks for a password, give that in the environment variable"
        " SUDO_PASSWORD, or see --ask-sudo-password.",
        default=False,
        panel=_HOSTS,
    )
    ask_sudo_password: bool = option(
        switch,
        "Become root with sudo, and ask here for its password, once for all hosts.",
        default=False,
        panel=_HOSTS,
    )
    ssh_config: Path | None = option(
        path,
        "Configuration file of ssh. Default: ~/.ssh/config.",
        metavar="FILE",
        example="ssh_config",
        panel=_HOSTS,
        trust=True,
    )
    known_hosts: Path | None = option(
        path,
        "File with the keys of the hosts. Default: ~/.ssh/known_hosts.",
        metavar="FILE",
        example="known_hosts",
        panel=_HOSTS,
        trust=True,
    )
    parallel: int = option(
        whole_number("hosts", MAX_PARALLEL, "10 is the default"),
        "How many hosts are worked on at a time.",
        default=10,
        metavar="N",
        panel=_HOSTS,
    )
    path: str | None = option(
        text,
        "Where kubeadm is on the nodes. Default: as their PATH says.",
        metavar="PATH",
        example="/usr/bin/kubeadm",
    )


@dataclass(frozen=True, kw_only=True)
class ChangesNodes(OnNodes):
    """What every command has that changes nodes."""

    dry_run: bool = option(switch, "Show what would be done, and change nothing.", default=False)
    yes: bool = option(switch, "Do not ask before nodes are changed.", default=False, short="-y")
    take_over: bool = option(
        switch, "Remove the lock of another run that has not ended in order.", default=False
    )


@dataclass(frozen=True, kw_only=True)
class ReplacesKubeadm(ChangesNodes):
    """What every command has that may change several nodes at a time."""

    max_fail: int = option(
        whole_number("hosts", MAX_HOSTS, "0 is the default", least=0),
        "Go on until more hosts than this have failed.",
        default=0,
        metavar="N",
    )


@dataclass(frozen=True, kw_only=True)
class NodesInstallSettings(ReplacesKubeadm):
    """Settings of ``kbuild nodes install``."""

    command: ClassVar[str] = "nodes install"

    hold: bool = option(
        switch, "Hold the package that owns kubeadm, so that apt keeps yours.", default=False
    )
    key: Path | None = option(
        path,
        "Require that the release is signed by this public key.",
        metavar="FILE",
        example="cosign.pub",
        trust=True,
    )


@dataclass(frozen=True, kw_only=True)
class NodesRollbackSettings(ReplacesKubeadm):
    """Settings of ``kbuild nodes rollback``."""

    command: ClassVar[str] = "nodes rollback"

    to: str | None = option(
        text,
        "Backup to bring back: its name or its sha256, or how one of them begins."
        " Default: the newest that differs from what is there.",
        metavar="BACKUP",
        example="20260131T120000Z-0123456789ab",
    )
    list: bool = option(switch, "Show the backups, and change nothing.", default=False)


@dataclass(frozen=True, kw_only=True)
class NodesCheckSettings(OnNodes, Deadline):
    """Settings of ``kbuild nodes check``."""

    command: ClassVar[str] = "nodes check"

    release: tuple[Path, ...] = option(
        path,
        "Release, or directory of releases, whose kubeadm is recognised on nodes, with the"
        " lifetimes that it issues.",
        default=(),
        metavar="DIR",
        repeatable=True,
        example=["dist/v1.23.0"],
    )
    html: Path | None = option(
        path,
        "Also write a page for browsers, as `kbuild certs` does, of all hosts.",
        metavar="FILE",
        panel=_OUTPUT,
        example="nodes.html",
    )
    prometheus: Path | None = option(
        path,
        "Also write metrics for node_exporter's textfile collector, as `kbuild certs` does.",
        metavar="FILE",
        panel=_OUTPUT,
        example="/var/lib/node_exporter/textfile_collector/kbuild_nodes.prom",
    )


@dataclass(frozen=True, kw_only=True)
class RestartsControlPlanes(ChangesNodes):
    """What both commands have that restart control planes one after the other."""

    no_drain: bool = option(
        switch,
        "Do not reject new connections while etcd and the API server restart.",
        default=False,
    )


@dataclass(frozen=True, kw_only=True)
class NodesRenewSettings(RestartsControlPlanes):
    """Settings of ``kbuild nodes renew``."""

    command: ClassVar[str] = "nodes renew"

    kubeconfig_for: tuple[str, ...] = option(
        text,
        "Copy admin.conf to ~USER/.kube/config on the control planes, and keep the old one.",
        default=(),
        example=["root"],
        metavar="USER",
        repeatable=True,
    )
    stored_values: StoredValues | None = option(
        one_of(STORED_VALUES),
        "If the cluster stores shorter lifetimes than kubeadm was built for (since v1.31): renew"
        " for what is stored, or change it first. Default: refuse.",
        metavar="|".join(STORED_VALUES),
        example="change",
    )
    allow_shorter: bool = option(
        switch, "Renew even if certificates then end earlier than now.", default=False
    )


@dataclass(frozen=True, kw_only=True)
class NodesUndoSettings(RestartsControlPlanes):
    """Settings of ``kbuild nodes undo``."""

    command: ClassVar[str] = "nodes undo"

    to: str | None = option(
        text,
        "Backup to bring back: its name, or how it begins. Default: that of the last renewal.",
        metavar="BACKUP",
        example="20260131T120000Z-renew",
    )
    list: bool = option(switch, "Show the backups, and change nothing.", default=False)


@dataclass(frozen=True, kw_only=True)
class SignSettings(Signed):
    """Settings of ``kbuild sign``."""

    command: ClassVar[str] = "sign"

    key: Path | None = option(
        path,
        "Private key, PEM or cosign's own format. Its password is read from COSIGN_PASSWORD.",
        metavar="FILE",
        example="cosign.key",
    )
    keyless: bool = option(
        switch,
        "Sign with the OIDC identity of this CI job, which needs `id-token: write`.",
        default=False,
    )
    force: bool = option(
        switch, "Replace the signatures of another signer.", default=False, own=True
    )


@dataclass(frozen=True, kw_only=True)
class ExportSettings(Common):
    """Settings of ``kbuild export``."""

    command: ClassVar[str] = "export"
    needed: ClassVar[Mapping[str, str]] = {"base_url": _REQUIRED}

    base_url: str | None = option(
        address,
        "URL of the release directory, or with the layout tree of its parent.",
        metavar="URL",
        example="https://mirror.example.org/kubeadm/v1.23.0",
    )


@dataclass(frozen=True, kw_only=True)
class VersionsSettings(Sourced):
    """Settings of ``kbuild versions``."""

    command: ClassVar[str] = "versions"

    pre_releases: bool = option(
        switch, "Also list alphas, betas and release candidates.", default=False
    )
    since: str | None = option(
        text, "List only this version and later ones.", metavar="V", example="1.24"
    )
    newest: bool = option(switch, "List only the newest tag of each minor version.", default=False)


@dataclass(frozen=True, kw_only=True)
class PinsListSettings(Images):
    """Settings of ``kbuild pins list``."""

    command: ClassVar[str] = "pins list"


@dataclass(frozen=True, kw_only=True)
class PinsCheckSettings(Images, Networked):
    """Settings of ``kbuild pins check``."""

    command: ClassVar[str] = "pins check"


@dataclass(frozen=True, kw_only=True)
class PinsUpdateSettings(Images, Networked):
    """Settings of ``kbuild pins update``."""

    command: ClassVar[str] = "pins update"

    dry_run: bool = option(switch, "Print the difference, and write nothing.", default=False)


@dataclass(frozen=True, kw_only=True)
class CacheSettings(Limited):
    """Settings of ``kbuild cache``."""

    command: ClassVar[str] = "cache"


@dataclass(frozen=True, kw_only=True)
class CachePruneSettings(Cached):
    """Settings of ``kbuild cache prune``; ages are in seconds, sizes in bytes."""

    command: ClassVar[str] = "cache prune"

    older_than: float | None = option(
        age,
        "Remove what was not used for this long: 12h, 30d or 8w. Default: 30d if no size is given.",
        metavar="AGE",
        example="30d",
    )
    max_size: int | None = option(
        size,
        "Then remove the oldest until no more than this is left: 500MB or 5GB.",
        metavar="SIZE",
        example="5GB",
    )


@dataclass(frozen=True, kw_only=True)
class CacheClearSettings(Cached):
    """Settings of ``kbuild cache clear``."""

    command: ClassVar[str] = "cache clear"


@dataclass(frozen=True, kw_only=True)
class AdviseSettings(OneRelease):
    """Settings of ``kbuild advise``."""

    command: ClassVar[str] = "advise"
    needed: ClassVar[Mapping[str, str]] = {"version": _REQUIRED}

    ca_years: int | None = option(
        _years,
        f"Lifetime of CA certificates that you want, in years of 365 days, 1 to {MAX_YEARS}."
        f" Default: {_WISHED_YEARS}, or --leaf-years if that is more.",
        metavar="N",
        example=100,
    )
    leaf_years: int | None = option(
        _years,
        "Lifetime of non-CA certificates that you want, at most that of the CAs."
        f" Default: {_WISHED_YEARS}, or --ca-years if that is less.",
        metavar="N",
        example=100,
    )
    living: bool = option(
        switch, "Advise on a cluster that exists. A PATH implies it.", default=False
    )

    def wished(self) -> Lifetimes:
        """Return the lifetimes asked for, 100 years where nothing is; raises LeafOutlivesCA."""
        ca_years = self.ca_years or max(_WISHED_YEARS, self.leaf_years or 0)
        leaf_years = self.leaf_years or min(_WISHED_YEARS, ca_years)
        if leaf_years > ca_years:
            raise LeafOutlivesCA(ca_years=ca_years, leaf_years=leaf_years)
        return Lifetimes(ca_years=ca_years, leaf_years=leaf_years)


@dataclass(frozen=True, kw_only=True)
class ConfigFileSettings(Common):
    """Settings of ``kbuild config-file``."""

    command: ClassVar[str] = "config-file"


@dataclass(frozen=True, kw_only=True)
class CertsSettings(Deadline):
    """Settings of ``kbuild certs``."""

    command: ClassVar[str] = "certs"

    exclude: tuple[str, ...] = option(
        text,
        "Pass over files and directories with such names, or with such paths if it has a slash.",
        default=(),
        metavar="PATTERN",
        repeatable=True,
        example=["*.old", "*/pki.bak"],
    )
    timeline: bool = option(
        switch, "Show the time left as bars on a time line instead of the table.", default=False
    )
    html: Path | None = option(
        path,
        "Also write a page for browsers, with the time line, the findings and all details.",
        metavar="FILE",
        panel=_OUTPUT,
        example="certificates.html",
    )
    prometheus: Path | None = option(
        path,
        "Also write metrics for node_exporter's textfile collector, which reads *.prom.",
        metavar="FILE",
        panel=_OUTPUT,
        example="/var/lib/node_exporter/textfile_collector/kbuild_certs.prom",
    )
    ics: Path | None = option(
        path,
        "Also write a calendar that reminds 90, 30 and 7 days before certificates expire.",
        metavar="FILE",
        panel=_OUTPUT,
        example="certificates.ics",
    )


def _profile(name: str, value: object) -> tuple[str, str]:
    return _assignment(name, value, "NAME=PROFILE", "server=www, for server-csr.json")


def _signer(name: str, value: object) -> tuple[str, str]:
    return _assignment(name, value, "NAME=CA", "server=etcd-ca, for server-csr.json")


def _ca_key(name: str, value: object) -> tuple[str, str]:
    if not re.match(r"[^=:]+=pkcs11:", text(name, value)):
        reason = "it must be CA=URI, with a PKCS#11 URI"
        hint = "for example ca=pkcs11:token=ca;object=ca"
        raise BadSetting(name=name, value="…", reason=reason, hint=hint)  # a PIN may be in it
    return _assignment(name, value, "CA=URI", "")


def _use(name: str, value: object) -> tuple[str, str]:
    return _assignment(name, value, "USE=NAME", "apiserver=kubernetes")


def _assignment(name: str, value: object, form: str, example: str) -> tuple[str, str]:
    left, _, right = text(name, value).partition("=")
    if not (left and right):
        reason, hint = f"it must be {form}", f"for example {example}"
        raise BadSetting(name=name, value=value, reason=reason, hint=hint)
    return left, right


@dataclass(frozen=True, kw_only=True)
class InDirectory(Common):
    """What every command of ``kbuild pki`` has."""

    dir: Path = option(
        path,
        "Directory with pki.toml, or with ca-config.json and the *-csr.json files of cfssl.",
        default=Path(),
        metavar="DIR",
    )


@dataclass(frozen=True, kw_only=True)
class PkiInitSettings(InDirectory):
    """Settings of ``kbuild pki init``."""

    command: ClassVar[str] = "pki init"


def _ca_keys() -> Any:  # noqa: ANN401  # as option
    return option(
        _ca_key,
        "PKCS#11 URI of the key of a CA that is on a token. Default: key-uri of pki.toml.",
        default=(),
        metavar="CA=URI",
        repeatable=True,
        example=["ca=pkcs11:token=ca;object=ca"],
    )


@dataclass(frozen=True, kw_only=True)
class PkiImportSettings(InDirectory):
    """Settings of ``kbuild pki import``."""

    command: ClassVar[str] = "pki import"

    without: tuple[str, ...] = option(
        text,
        "Leave out the certificate NAME.",
        default=(),
        metavar="NAME",
        repeatable=True,
        example=["harbor"],
    )
    ca_key: tuple[tuple[str, str], ...] = _ca_keys()
    dry_run: bool = option(switch, "Print the files, and write nothing.", default=False)


@dataclass(frozen=True, kw_only=True)
class Planned(InDirectory):
    """What every command has that makes a plan."""

    profile: tuple[tuple[str, str], ...] = option(
        _profile,
        "Profile of ca-config.json for NAME-csr.json. Default: the one with its name, or the only"
        " one.",
        default=(),
        metavar="NAME=PROFILE",
        repeatable=True,
        example=["server=www"],
    )
    signer: tuple[tuple[str, str], ...] = option(
        _signer,
        "CA that signs NAME-csr.json, if there are several. Default: the one that signed NAME.pem.",
        default=(),
        metavar="NAME=CA",
        repeatable=True,
        example=["server=etcd-ca"],
    )
    ca_key: tuple[tuple[str, str], ...] = _ca_keys()
    pkcs11_module: Path | None = option(
        path,
        "PKCS#11 module of the token. Default: module-path of the URI.",
        metavar="FILE",
        example="/usr/lib/softhsm/libsofthsm2.so",
        trust=True,
    )


@dataclass(frozen=True, kw_only=True)
class Issuing(Planned):
    """What every command has that issues certificates."""

    cap: bool = option(
        switch,
        "Let a certificate end with its CA if it would end later. Default: refuse it.",
        default=False,
    )


@dataclass(frozen=True, kw_only=True)
class PkiPlanSettings(Issuing):
    """Settings of ``kbuild pki plan``."""

    command: ClassVar[str] = "pki plan"

    node_list: Path | None = option(
        path,
        "Also tell what the certificates lack of the nodes in this output of"
        " `kubectl get nodes -o json`.",
        metavar="FILE",
        example="nodes.json",
    )


@dataclass(frozen=True, kw_only=True)
class NewCas(Issuing):
    """What every command has that makes keys of CAs."""

    encrypt_ca_keys: bool = option(
        switch,
        "Encrypt new keys of CAs with the password in CFSSL_CA_PK_PASSWORD. Default: as pki.toml"
        " says, else not; rotate-ca encrypts one that replaces an encrypted one.",
        default=False,
    )


@dataclass(frozen=True, kw_only=True)
class PkiIssueSettings(NewCas):
    """Settings of ``kbuild pki issue``."""

    command: ClassVar[str] = "pki issue"


@dataclass(frozen=True, kw_only=True)
class PkiRenewSettings(Issuing):
    """Settings of ``kbuild pki renew``; ages are in seconds."""

    command: ClassVar[str] = "pki renew"

    before: float | None = option(
        age,
        "Renew only what ends within this time: 30d, 8w or 1y.",
        metavar="AGE",
        example="90d",
    )
    new_keys: bool = option(switch, "Make new keys too. Default: the same keys.", default=False)


@dataclass(frozen=True, kw_only=True)
class PkiAddHostSettings(Issuing):
    """Settings of ``kbuild pki add-host``."""

    command: ClassVar[str] = "pki add-host"

    role: tuple[str, ...] = option(
        one_of(("control-plane", "etcd", "worker", "vip")),
        "Role of a new node in pki.toml: control-plane, etcd, worker, or vip for an address of the"
        " API server that is no node. Default: control-plane.",
        default=(),
        metavar="ROLE",
        repeatable=True,
        example=["control-plane"],
    )
    certificate: tuple[str, ...] = option(
        text,
        "With the files of cfssl: the certificates that must hold it. Default: those of servers.",
        default=(),
        metavar="NAME",
        repeatable=True,
        example=["kubernetes"],
    )


@dataclass(frozen=True, kw_only=True)
class PkiRemoveHostSettings(Issuing):
    """Settings of ``kbuild pki remove-host``."""

    command: ClassVar[str] = "pki remove-host"

    certificate: tuple[str, ...] = option(
        text,
        "With the files of cfssl: the certificates that must not hold it any more. Default: all.",
        default=(),
        metavar="NAME",
        repeatable=True,
        example=["kubernetes"],
    )


@dataclass(frozen=True, kw_only=True)
class PkiExtendCaSettings(Planned):
    """Settings of ``kbuild pki extend-ca``."""

    command: ClassVar[str] = "pki extend-ca"


@dataclass(frozen=True, kw_only=True)
class PkiRotateCaSettings(NewCas):
    """Settings of ``kbuild pki rotate-ca``."""

    command: ClassVar[str] = "pki rotate-ca"

    step: Literal["begin", "leaves", "end", "back"] | None = option(
        one_of(("begin", "leaves", "end", "back")),
        "Step to make: begin (trust a new CA too), leaves (issue all with it), end (trust it"
        " alone), back (undo the last step). Default: show where the rotation is.",
        metavar="STEP",
        example="begin",
    )
    new_keys: bool = option(
        switch, "In the step leaves, make new keys too. Default: the same keys.", default=False
    )
    new_ca_key: tuple[tuple[str, str], ...] = option(
        _ca_key,
        "In the step begin, PKCS#11 URI of the key of the new CA, which must be there. Default: a"
        " new key in a file.",
        default=(),
        metavar="CA=URI",
        repeatable=True,
        example=["ca=pkcs11:token=ca;object=ca-2"],
    )


@dataclass(frozen=True, kw_only=True)
class PkiCheckSettings(Planned, Deadline):
    """Settings of ``kbuild pki check``."""

    command: ClassVar[str] = "pki check"


def _absolute(name: str, value: object) -> PurePosixPath:
    found = PurePosixPath(text(name, value))
    if not found.is_absolute():
        reason, hint = "it must be an absolute path", "for example /etc/kubernetes/pki"
        raise BadSetting(name=name, value=value, reason=reason, hint=hint)
    return found


@dataclass(frozen=True, kw_only=True)
class PkiComponentsSettings(Planned):
    """Settings of ``kbuild pki components``."""

    command: ClassVar[str] = "pki components"
    needed: ClassVar[Mapping[str, str]] = {"version": _REQUIRED}

    version: tuple[str, ...] | None = option(
        text,
        "Kubernetes version, such as v1.23.0.",
        metavar="V",
        repeatable=True,
        single=True,
        example=["v1.23.0"],
    )
    use: tuple[tuple[str, str], ...] = option(
        _use,
        "Which certificate serves for what, such as apiserver=kubernetes. Default: as their names"
        " and subjects tell.",
        default=(),
        metavar="USE=NAME",
        repeatable=True,
        example=["apiserver=kubernetes"],
    )
    signing_years: int | None = option(
        _years,
        "Lifetime of what kube-controller-manager signs, in years of 365 days. Default: leaf-years"
        " of pki.toml.",
        metavar="N",
        example=100,
    )
    on_node: PurePosixPath | None = option(
        _absolute,
        "Directory of the files on nodes. Default: /etc/kubernetes/pki, or /etc/kubernetes with the"
        " layout kubeadm.",
        metavar="DIR",
        example="/etc/kubernetes/pki",
    )
    output: Path | None = option(
        path,
        "Output directory. Default: dist/components-<version>.",
        metavar="DIR",
        panel=_OUTPUT,
        example="dist/components",
        own=True,
    )
    force: bool = _force()


C = TypeVar("C", bound=Common)

KINDS: tuple[type[Common], ...] = (
    *(
        Settings,
        BundleSettings,
        VerifySettings,
        CheckSettings,
        SignSettings,
        RebuildSettings,
        ExportSettings,
    ),
    *(CertsSettings, VersionsSettings, PinsListSettings, PinsCheckSettings, PinsUpdateSettings),
    *(NodesInstallSettings, NodesRollbackSettings, NodesCheckSettings),
    *(NodesRenewSettings, NodesUndoSettings),
    *(CacheSettings, CachePruneSettings, CacheClearSettings, ConfigFileSettings, ConfigSettings),
    AdviseSettings,
    *(PkiInitSettings, PkiImportSettings),
    *(PkiPlanSettings, PkiIssueSettings, PkiRenewSettings),
    *(PkiAddHostSettings, PkiRemoveHostSettings),
    *(PkiExtendCaSettings, PkiRotateCaSettings, PkiCheckSettings),
    PkiComponentsSettings,
)


def read_settings(
    kind: type[C], flags: Mapping[str, object], environment: Mapping[str, str], file: Path | None
) -> C:
    """Resolve the settings of a command, as ``resolve`` does."""
    return resolve(kind, KINDS, flags, environment, file)


def example_file() -> str:
    """Return a kbuild.toml with every setting of every command, commented out."""
    return example(KINDS)


def names() -> tuple[str, ...]:
    """Return the names of all settings, as in kbuild.toml."""
    return tuple({key(name): None for kind in KINDS for name in options(kind)})


def _clock(environment: Mapping[str, str]) -> datetime | None:
    epoch = environment.get("SOURCE_DATE_EPOCH")
    if epoch is None:
        return None
    try:
        moment = datetime.fromtimestamp(int(epoch), UTC)
    except (ValueError, OverflowError, OSError):
        moment = EPOCH - timedelta(days=1)
    if moment < EPOCH:
        raise BadSetting(
            name="SOURCE_DATE_EPOCH",
            value=epoch,
            reason="it must be seconds since 1970",
            hint="unset it, or give the time with --build-date",
        )
    return moment
