"""The flags that commands share. Each is text: the one parser of values is kbuild.settings."""

from pathlib import Path
from typing import Annotated

import typer

_BUILD, _SOURCE, _GO, _OUTPUT = "Build", "Source", "Go", "Output"

_VERSION_HELP = "v1.23.0, or 1.23 for its newest patch release"
Version = Annotated[str | None, typer.Option("--version", metavar="V", help=f"{_VERSION_HELP}.")]
Versions = Annotated[
    list[str] | None,
    typer.Option("--version", metavar="V", help=f"{_VERSION_HELP}; repeatable."),
]
CaYears = Annotated[
    str | None,
    typer.Option("--ca-years", metavar="N", help="Lifetime of the CAs, years of 365 days, 1-292."),
]
LeafYears = Annotated[
    str | None,
    typer.Option("--leaf-years", metavar="N", help="Lifetime of all others, up to --ca-years."),
]
Arch = Annotated[
    list[str] | None,
    typer.Option(
        "--arch",
        metavar="ARCH",
        help="amd64, arm64, arm, ppc64le or s390x; repeatable. Default: amd64.",
    ),
]
Source = Annotated[
    str | None,
    typer.Option(
        "--source",
        metavar="SOURCE",
        rich_help_panel=_SOURCE,
        help="Git URL, local repository, or archive (file or URL). Default: upstream's GitHub.",
    ),
]
Commit = Annotated[
    str | None,
    typer.Option(
        "--commit",
        metavar="HEX",
        rich_help_panel=_SOURCE,
        help="The commit that the tag must stand for.",
    ),
]
SourceSha256 = Annotated[
    str | None,
    typer.Option(
        "--source-sha256",
        metavar="HEX",
        rich_help_panel=_SOURCE,
        help="The sha256 that the source archive must have.",
    ),
]
VerifyAgainst = Annotated[
    str | None,
    typer.Option(
        "--verify-against",
        metavar="URL",
        rich_help_panel=_SOURCE,
        help="A git source; each file of the archive that is compiled must be as it is there.",
    ),
]
StallTimeout = Annotated[
    str | None,
    typer.Option(
        "--stall-timeout",
        metavar="SECONDS",
        help="Seconds without progress before a transfer is tried again, 1-3600. Default: 60.",
    ),
]
Builder = Annotated[
    str | None,
    typer.Option(
        "--builder",
        metavar="auto|docker|local",
        rich_help_panel=_GO,
        help="auto takes docker when an engine answers, else local. Default: auto.",
    ),
]
Image = Annotated[
    str | None,
    typer.Option(
        "--image",
        metavar="REF@DIGEST",
        rich_help_panel=_GO,
        help="Build in this image; it must be named by its digest. Default: golang:<pin>.",
    ),
]
GolangRepository = Annotated[
    str | None,
    typer.Option(
        "--golang-repository",
        metavar="NAME",
        rich_help_panel=_GO,
        help="A mirror of the golang image. Default: golang.",
    ),
]
GoVersion = Annotated[
    str | None,
    typer.Option(
        "--go-version",
        metavar="V",
        rich_help_panel=_GO,
        help="Build with this Go instead of the one that the tag pins.",
    ),
]
GoRoot = Annotated[
    str | None,
    typer.Option(
        "--go-root",
        metavar="DIR",
        rich_help_panel=_GO,
        help="A Go for the local builder. Default: go on PATH, else downloaded.",
    ),
]
GoSite = Annotated[
    str | None,
    typer.Option(
        "--go-site",
        metavar="URL",
        rich_help_panel=_GO,
        help="Where the local builder downloads Go. Default: https://go.dev/dl.",
    ),
]
Lock = Annotated[
    str | None,
    typer.Option(
        "--lock",
        metavar="FILE",
        rich_help_panel=_GO,
        help="Your own image digests, used before the shipped ones.",
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        metavar="DIR",
        rich_help_panel=_OUTPUT,
        help="Default: dist/<version>. Of several versions each has a folder in it.",
    ),
]
Force = Annotated[
    bool | None,
    typer.Option("--force", rich_help_panel=_OUTPUT, help="Replace an earlier release there."),
]
BuildDate = Annotated[
    str | None,
    typer.Option(
        "--build-date",
        metavar="RFC3339",
        rich_help_panel=_OUTPUT,
        help="The clock of the build. Default: SOURCE_DATE_EPOCH, else now.",
    ),
]
TreeState = Annotated[
    str | None,
    typer.Option(
        "--tree-state",
        metavar="dirty|clean|archive",
        rich_help_panel=_OUTPUT,
        help="The gitTreeState that the binary reports. Default: dirty.",
    ),
]
Stock = Annotated[
    bool | None,
    typer.Option(
        "--stock",
        rich_help_panel=_BUILD,
        help="Build the tag unpatched; it must be byte for byte the publisher's.",
    ),
]
AgainstStock = Annotated[
    bool | None,
    typer.Option(
        "--against-stock",
        rich_help_panel=_BUILD,
        help="Build the unpatched one too: only functions that hold lifetimes may differ.",
    ),
]
Independent = Annotated[
    bool | None,
    typer.Option(
        "--independent",
        rich_help_panel=_BUILD,
        help="Compile the stock kubeadm of --against-stock with an empty Go build cache.",
    ),
]
ReleaseSite = Annotated[
    str | None,
    typer.Option(
        "--release-site",
        metavar="URL",
        rich_help_panel=_BUILD,
        help="Where --stock finds the publisher's. Default: https://dl.k8s.io/release.",
    ),
]
Layout = Annotated[
    str | None,
    typer.Option(
        "--layout",
        metavar="flat|tree",
        rich_help_panel=_OUTPUT,
        help="tree: <version>/bin/linux/<arch>/kubeadm, as upstream's site. Default: flat.",
    ),
]
Package = Annotated[
    list[str] | None,
    typer.Option(
        "--package",
        metavar="deb|rpm",
        rich_help_panel=_OUTPUT,
        help="Make packages of each binary too; repeatable.",
    ),
]
ReleaseFolder = Annotated[
    Path, typer.Argument(metavar="DIR", readable=False, help="A release, or a folder of several.")
]
TrustConfig = Annotated[
    Path | None,
    typer.Option(
        "--trust-config",
        metavar="FILE",
        readable=False,
        help="Sigstore's ClientTrustConfig. Default: the public instance's.",
    ),
]
DryRun = Annotated[
    bool | None, typer.Option("--dry-run", help="Tell what would be done, and do nothing.")
]
Json = Annotated[bool | None, typer.Option("--json", help="One JSON document on standard output.")]
Verbose = Annotated[bool | None, typer.Option("--verbose", "-v", help="Show every detail.")]
Quiet = Annotated[bool | None, typer.Option("--quiet", "-q", help="Show no progress.")]
Config = Annotated[
    str | None,
    typer.Option(
        "--config", metavar="FILE", help="Settings file. Default: kbuild.toml, if it is there."
    ),
]
CacheDir = Annotated[
    str | None,
    typer.Option(
        "--cache-dir", metavar="DIR", help="Sources, Go, its build cache. Default: ~/.cache/kbuild."
    ),
]
CacheLimit = Annotated[
    str | None,
    typer.Option(
        "--cache-limit",
        metavar="SIZE",
        help="Remove the least recently used from the cache above this size, and separately from"
        " the engine's Go caches; 0: no limit. Default: 5GB.",
    ),
]
