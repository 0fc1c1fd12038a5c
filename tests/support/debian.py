"""Real input from Debian's archive: upstream's Kubernetes source, and Go.

    python -m tests.support.debian kubernetes [FOLDER]
    python -m tests.support.debian golang 1.15 [FOLDER]

prints the path of what it got. apt runs with a configuration of its own, so this needs no root and
changes nothing on the machine. The mirror is the one that the machine itself uses; apt checks every
file against Debian's signed sums. FOLDER (default ``$DEMO_CACHE``, else ``.build``) keeps it all.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
KUBERNETES_SUITE = "bookworm"
KUBERNETES_ORIG = "kubernetes_*really1.20.2.orig.tar.gz"
GO_SUITES = {"1.15": "bullseye", "1.19": "bookworm"}
# What Go needs at run time. Debian's packages also bring `api` and `test`, which only build Go.
GO_PARTS = ("VERSION", "bin", "pkg", "src", "misc")

# The hooks that a machine's own apt.conf may hold (clean-up, index updates) have no business here,
# and without root there is no user to switch to.
APT_CONF = """\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
Dir::Etc::sourcelist "{here}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::trusted "/dev/null";
Dir::Etc::trustedparts "/dev/null";
Dir::State "{here}/state";
Dir::State::status "{here}/state/status";
Dir::Cache "{here}/cache";
"""


class DebianError(Exception):
    """Debian's archive could not give what was asked."""


def default_cache() -> Path:
    """Return the folder that keeps downloads between runs."""
    return Path(os.environ.get("DEMO_CACHE", ".build")).resolve()


def kubernetes(cache: Path) -> Path:
    """Return upstream's source archive of v1.20.2, as Debian's source package carries it."""

    def make(new: Path) -> None:
        apt = Apt(cache, KUBERNETES_SUITE)
        apt.run("source", "--download-only", "--tar-only", "kubernetes", cwd=new)

    found = list(once(cache / "kubernetes", make).glob(KUBERNETES_ORIG))
    if len(found) != 1:
        msg = f"Debian {KUBERNETES_SUITE} has another kubernetes than {KUBERNETES_ORIG}"
        raise DebianError(msg)
    return found[0]


def golang(cache: Path, minor: str) -> Path:
    """Return a GOROOT that stands alone."""

    def make(new: Path) -> None:
        names = (f"golang-{minor}-go", f"golang-{minor}-src")
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            root = unpack(cache, GO_SUITES[minor], names, Path(scratch))
            for part in GO_PARTS:
                _copy(root / f"usr/lib/go-{minor}" / part, new / part)

    return once(cache / f"go-{minor}", make)


def unpack(cache: Path, suite: str, names: Iterable[str], root: Path) -> Path:
    """Unpack binary packages over one another into ``root``, running none of their scripts."""
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        debs = Path(folder)
        Apt(cache, suite).run("download", *names, cwd=debs)
        for deb in sorted(debs.glob("*.deb")):
            _run(("dpkg", "-x", str(deb), str(root)))
    return root


def unpack_with_dependencies(cache: Path, suite: str, names: Iterable[str], root: Path) -> Path:
    """Unpack binary packages and all that they depend on into ``root``, running no script."""
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        debs = Path(folder)
        (debs / "partial").mkdir()
        options = ("--yes", "--download-only", "--no-install-recommends")
        place = ("--option", f"Dir::Cache::archives={debs}")
        Apt(cache, suite).run("install", *options, *place, *names, cwd=debs)
        for deb in sorted(debs.glob("*.deb")):
            _run(("dpkg", "-x", str(deb), str(root)))
    return root


class Apt:
    """One suite of Debian's main archive, with indexes as fresh as the mirror's."""

    def __init__(self, cache: Path, suite: str) -> None:
        here = cache / f"apt-{suite}"
        for folder in ("state/lists/partial", "cache/archives/partial"):
            (here / folder).mkdir(parents=True, exist_ok=True)
        (here / "state/status").touch()
        address = f"[signed-by={KEYRING}] {mirror()} {suite} main"
        (here / "sources.list").write_text(f"deb {address}\ndeb-src {address}\n")
        self.conf = here / "apt.conf"
        self.conf.write_text(APT_CONF.format(here=here))
        self.run("update", "--error-on=any", cwd=here)

    def run(self, *args: str, cwd: Path) -> None:
        """Run apt-get there."""
        _run(("apt-get", "--quiet=2", "-c", str(self.conf), *args), cwd=cwd)


def mirror() -> str:
    """Return the address of the Debian archive that this machine uses.

    Raises DebianError when it uses none.
    """
    if not KEYRING.is_file() or shutil.which("apt-get") is None:
        msg = f"this needs Debian: apt-get and {KEYRING} (package debian-archive-keyring)"
        raise DebianError(msg)
    # A machine that never ran `apt-get update` knows the origin of none of its archives.
    known = [uri for origin, uri in _archives() if origin == "Debian"]
    named = [uri for release, uri in _archives("--no-release-info") if release == _codename()]
    if not known + named:
        msg = "none of this machine's apt sources is Debian's main archive"
        raise DebianError(msg)
    return (known + named)[0]


def _archives(option: str = "") -> list[tuple[str, str]]:
    what = "$(RELEASE)" if option else "$(ORIGIN)"
    form = f"{what}|$(REPO_URI)|$(RELEASE)|$(COMPONENT)"
    options = (option,) if option else ()
    rows = _run(("apt-get", "indextargets", *options, "--format", form)).splitlines()
    cells = [row.split("|") for row in rows]
    return [(c[0], c[1]) for c in cells if c[3] == "main" and not c[2].endswith("-security")]


def _codename() -> str:
    for line in Path("/etc/os-release").read_text().splitlines():
        name, _, value = line.partition("=")
        if name == "VERSION_CODENAME":
            return value.strip('"')
    return ""


def once(made: Path, make: Callable[[Path], None]) -> Path:
    """Make a folder beside its place and move it there, so that a killed run can be repeated."""
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        new = made.with_name(f"{made.name}.new")
        if new.exists():
            shutil.rmtree(new)
        new.mkdir()
        make(new)
        new.rename(made)
    return made


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        # Links lead out to /usr/share; what they lead to belongs into a GOROOT that stands alone.
        shutil.copytree(source, target)
    else:
        shutil.copy2(source, target)


def _run(command: tuple[str, ...], cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(
            command, cwd=cwd, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
    except subprocess.CalledProcessError as error:
        msg = f"`{' '.join(command)}` failed:\n{error.stderr or error.stdout}"
        raise DebianError(msg) from error
    return done.stdout


def main() -> None:
    """Run as a script."""
    parser = argparse.ArgumentParser(prog="tests.support.debian")
    commands = parser.add_subparsers(dest="what", required=True)
    source = commands.add_parser("kubernetes")
    go = commands.add_parser("golang")
    go.add_argument("minor", choices=sorted(GO_SUITES))
    for command in (source, go):
        command.add_argument("folder", nargs="?", type=Path, default=default_cache())
    args = parser.parse_args()
    cache = args.folder.resolve()
    try:
        path = kubernetes(cache) if args.what == "kubernetes" else golang(cache, args.minor)
    except DebianError as error:
        sys.exit(str(error))
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
