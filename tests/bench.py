"""What kbuild costs, beside the recipe that people follow and beside the compiler: ``make bench``.

The recipe is ``git clone --depth 1`` and ``make all WHAT=cmd/kubeadm`` after an edit. Both sides
build v1.20.2 with the same Go from the same git server on loopback, with an empty Go cache each,
one after the other in the same run, so that only their ratio counts: a bare time says little on a
noisy machine. kbuild also proves what it built, which the recipe does not.

Prints a table, writes ``bench/latest.json``, and says which limits are passed.
"""

import contextlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa

from tests.e2e.repository import add_tag, write_tagged_repository
from tests.support import debian, servers
from tests.support.authority import issue

GO = "1.15.15"  # of Debian; v1.20.2 itself pins 1.15.5
VERSION, NEXT_VERSION = "v1.20.2", "v1.20.9"
CERT = "staging/src/k8s.io/client-go/util/cert/cert.go"
FETCHES, STARTS = 3, 15
CERTIFICATES, FEW, KUBELETS = 10_000, 500, 1_000
KBUILD = Path(sys.executable).with_name("kbuild")
LATEST = Path("bench/latest.json")
FETCH = """
import sys, time
from pathlib import Path
from kbuild.kubeadm.model import Tag
from kbuild.settings import Settings
from kbuild.kubeadm.source.fetch import fetch, resolve
from kbuild.base.workspace import open_workspace
from tests.support.recorder import Recorder
source, version, cache = sys.argv[1:]
settings = Settings(version=(version,), ca_years=1, leaf_years=1, source=source)
[request] = settings.requests({})
with open_workspace(Path(cache)) as workspace:
    began = time.monotonic()
    fetch(request, resolve(request, workspace, Recorder()), workspace, Recorder())
    print(time.monotonic() - began)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One comparison; ``limit`` is what the ratio may be, None where there is none."""

    what: str
    unit: str
    kbuild: float
    beside: str
    other: float
    limit: float | None = None

    @property
    def ratio(self) -> float:
        return self.kbuild / self.other

    @property
    def is_good(self) -> bool:
        return self.limit is None or self.ratio <= self.limit


class Bench:
    """One run: a git server, a Go, and a folder that goes at the end."""

    def __init__(self, source: str, go_root: Path, folder: Path) -> None:
        self.source, self.go_root, self.folder = source, go_root, folder

    def fetches(self) -> Iterator[Figure]:
        """Compare the source stage with a shallow clone: seconds, bytes, requests."""
        clone, cache = self.folder / "clone", self.folder / "fetch"
        # A disk makes files far slower just after it removed many, as they do who clone again.
        clones: list[float] = []
        for disk in ("idle", "busy"):
            clones.clear()
            cold = []
            for _ in range(FETCHES):
                if disk == "busy":
                    shutil.rmtree(clone)
                clones.append(timed(self._clone(fresh(clone))))
                cold.append(self._fetch(VERSION, fresh(cache)))
            yield Figure(
                what=f"fetch, cold, {disk} disk",
                unit="s",
                kbuild=min(cold),
                beside="git clone --depth 1",
                other=min(clones),
                limit=1 / 6,
            )
        [store] = (cache / "v1/git").iterdir()
        yield Figure(
            what="fetched",
            unit="MB",
            kbuild=size(store),
            beside="git clone --depth 1",
            other=size(clone / ".git"),
            limit=1 / 3,
        )
        for what, version, folder, most in (
            ("requests, cold", VERSION, self.folder / "fetch-traced", 16),
            ("requests, the next tag", NEXT_VERSION, cache, 4),
        ):
            trace = self.folder / f"trace-{version}"
            self._fetch(version, folder, GIT_TRACE_PACKET=str(trace))
            count = len(re.findall("> command=", trace.read_text()))
            yield Figure(what=what, unit="", kbuild=count, beside="at most", other=most, limit=1)
        yield Figure(
            what="fetch, again",
            unit="s",
            kbuild=self._fetch(VERSION, cache),
            beside="git clone --depth 1",
            other=min(clones),
        )

    def builds(self) -> Iterator[Figure]:
        """Compare whole runs with the recipe, and with the compiler alone."""
        tree = self.folder / "recipe"
        recipe = [
            timed(self._clone(tree)) + timed(self._edit(tree, 100)) + self._make(tree),
            min(timed(self._edit(tree, years)) + self._make(tree) for years in (50, 40)),
            min(self._make(tree) for _ in range(2)),
        ]
        first = self._kbuild(100)
        others = min(self._kbuild(years) for years in (50, 40))
        same = min(self._kbuild(years) for years in (50, 40))
        for what, ours, theirs in zip(
            ("cold", "other lifetimes", "nothing changed"),
            (first, others, same),
            recipe,
            strict=True,
        ):
            yield Figure(
                what=f"{what}, proof included",
                unit="s",
                kbuild=ours,
                beside="clone and make all" if what == "cold" else "make all again",
                other=theirs,
            )
        beside = "kbuild, cold"
        yield Figure(
            what="other lifetimes", unit="s", kbuild=others, beside=beside, other=first, limit=0.15
        )
        yield Figure(
            what="nothing changed", unit="s", kbuild=same, beside=beside, other=first, limit=0.06
        )
        yield Figure(
            what="cold, proof included",
            unit="s",
            kbuild=first,
            beside="go build alone, whole tree",
            other=self._go_build(tree),
            limit=0.90,
        )

    def certificates(self) -> Iterator[Figure]:
        """Compare `kbuild certs` on one processor with openssl, which reads a file a process."""
        folder = self.folder / "certificates"
        few = write_certificates(folder)
        yield Figure(
            what=f"certs, {CERTIFICATES:,} with keys",
            unit="s",
            kbuild=min(
                timed(on_one_processor(KBUILD, "certs", folder, "--json")) for _ in range(2)
            ),
            beside="at most",
            other=5,
            limit=1,
        )
        loop = 'for file in "$0"/*.crt; do openssl x509 -in "$file" -noout -enddate; done'
        yield Figure(
            what=f"certs, {FEW}",
            unit="s",
            kbuild=timed(on_one_processor(KBUILD, "certs", few, "--json")),
            beside="openssl x509 in a loop",
            other=timed(on_one_processor("sh", "-c", loop, few)),
        )

    def kubelets(self) -> Iterator[Figure]:
        """Compare `kbuild pki issue` with cfssl, which makes a certificate a process."""
        loop = (
            "cfssl gencert -initca ca-csr.json | cfssljson -bare ca\n"
            "for file in kubelet-*-csr.json; do cfssl gencert -ca=ca.pem -ca-key=ca-key.pem"
            " -config=ca-config.json -profile=kubelet $file"
            " | cfssljson -bare ${file%-csr.json}; done"
        )
        for algorithm, bits, rounds in (("rsa", 2048, 1), ("ecdsa", 256, 3)):
            ours, theirs = [], []
            for number in range(rounds):  # in turn, because a machine is not always as fast
                mine, other = (
                    write_requests(self.folder / f"{whose}-{algorithm}-{number}", algorithm, bits)
                    for whose in ("kbuild", "cfssl")
                )
                ours.append(timed((KBUILD, "pki", "issue", "--quiet", "--dir", mine)))
                theirs.append(timed(("sh", "-ec", loop), folder=other))
                demand_as_many(mine, other)
            yield Figure(
                what=f"pki, {KUBELETS:,} kubelets, {algorithm.upper()} {bits}",
                unit="s",
                kbuild=min(ours),
                beside="cfssl in a loop",
                other=min(theirs),
                limit=1,
            )

    def starts(self) -> Iterator[Figure]:
        """Compare the start with that of a program that only imports typer."""
        bare = best([sys.executable, "-c", "import typer"])
        for flag in ("--help", "--version"):
            yield Figure(
                what=f"kbuild {flag}",
                unit="s",
                kbuild=best([KBUILD, flag]),
                beside="import typer",
                other=bare,
                limit=1.5,
            )

    def _clone(self, folder: Path) -> list[str | Path]:
        quiet = ("git", "-c", "advice.detachedHead=false", "clone", "--quiet")
        return [*quiet, "--depth", "1", "--branch", VERSION, self.source, folder]

    def _edit(self, tree: Path, years: int) -> list[str | Path]:
        return ["sed", "-Ei", rf"s/(duration365d \* )[0-9]+\)/\1{years})/", tree / CERT]

    def _make(self, tree: Path) -> float:
        words = ("make", "-C", tree, "all", "WHAT=cmd/kubeadm")
        return timed(words, self._go_environment("recipe"))

    def _go_build(self, tree: Path) -> float:
        """Return the seconds of `go build` with upstream's flags and an empty cache."""
        package = self.folder / "go/src/k8s.io/kubernetes"
        package.parent.mkdir(parents=True)
        tree.rename(package)
        shutil.rmtree(package / "_output")
        environment = {
            **self._go_environment("bare"),
            "GOPATH": str(self.folder / "go"),
            "GO111MODULE": "off",
            "CGO_ENABLED": "0",
        }
        flags = ("-installsuffix=static", "-tags=selinux,notest", "-ldflags=-s -w -buildid=")
        output = f"-o={self.folder / 'kubeadm'}"
        return timed(("go", "build", output, *flags, "./cmd/kubeadm"), environment, package)

    def _go_environment(self, name: str) -> dict[str, str]:
        home = self.folder / f"home-{name}"
        home.mkdir(exist_ok=True)
        return {"PATH": f"{self.go_root}/bin:{os.environ['PATH']}", "HOME": str(home)}

    def _fetch(self, version: str, cache: Path, **environment: str) -> float:
        done = subprocess.run(
            (sys.executable, "-c", FETCH, self.source, version, cache),
            env=os.environ | environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        return float(done.stdout)

    def _kbuild(self, years: int) -> float:
        return timed(
            (
                *(KBUILD, "kubeadm", "--version", VERSION, "--source", self.source, "--quiet"),
                *("--ca-years", str(years), "--leaf-years", str(years), "--force"),
                *("--builder", "local", "--go-root", self.go_root, "--go-version", GO),
                *("--cache-dir", self.folder / "cache", "--output", self.folder / "out"),
            )
        )


def write_certificates(folder: Path) -> Path:
    """Write certificates of 8 CAs with their keys into directories, and return one of these."""
    keys = [rsa.generate_private_key(65537, 2048) for _ in range(64)]  # as kubeadm's
    authorities = [issue(f"ca{n}", ca=True, years=10, key=keys[n]) for n in range(8)]
    for number in range(CERTIFICATES):
        place = folder / str(number // FEW)
        place.mkdir(parents=True, exist_ok=True)
        authority, key = authorities[number % 8], keys[number % 64]
        leaf = issue(f"system:node:n{number}", authority, key=key, organization="system:nodes")
        leaf.write(place / f"n{number}.crt", place / f"n{number}.key")
    for number, authority in enumerate(authorities):
        authority.write(folder / f"ca{number}.crt")
    return folder / "0"


def write_requests(folder: Path, algorithm: str, bits: int) -> Path:
    """Write the files of cfssl for the certificates of many kubelets, and return the directory."""
    folder.mkdir()
    key = {"algo": algorithm, "size": bits}
    usages = ["signing", "key encipherment", "server auth", "client auth"]
    signing = {
        "default": {"expiry": "43800h"},
        "profiles": {"kubelet": {"expiry": "43800h", "usages": usages}},
    }
    (folder / "ca-config.json").write_text(json.dumps({"signing": signing}))
    authority = {"CN": "kubernetes", "key": key, "ca": {"expiry": "87600h"}}
    (folder / "ca-csr.json").write_text(json.dumps(authority))
    for number in range(KUBELETS):
        name, address = f"n{number}", f"10.0.{number // 256}.{number % 256}"
        subject = {"CN": f"system:node:{name}", "names": [{"O": "system:nodes"}]}
        request = {**subject, "hosts": [name, address], "key": key}
        (folder / f"kubelet-{name}-csr.json").write_text(json.dumps(request))
    return folder


def demand_as_many(*folders: Path) -> None:
    """Check that each side has issued all; cfssl in a pipe fails in silence."""
    for folder in folders:
        count = len([path for path in folder.glob("kubelet-*.pem") if path.stat().st_size])
        if count != 2 * KUBELETS:  # with the keys
            sys.exit(f"{folder} has {count} files of kubelets, not {2 * KUBELETS}")


def on_one_processor(*command: str | Path) -> tuple[str | Path, ...]:
    """Return a command that may use the first processor only."""
    return ("taskset", "--cpu-list", "0", *command)


def fresh(folder: Path) -> Path:
    """Make a name free without removing anything, and return it."""
    if folder.exists():
        folder.rename(Path(tempfile.mkdtemp(dir=folder.parent)) / folder.name)
    return folder


def timed(
    command: list[str | Path] | tuple[str | Path, ...],
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> float:
    """Return the seconds that a command takes."""
    began = time.monotonic()
    subprocess.run(command, env=environment, cwd=folder, check=True, capture_output=True)
    return time.monotonic() - began


def best(command: list[str | Path]) -> float:
    """Return the seconds of a command at its fastest."""
    return min(timed(command) for _ in range(STARTS))


def size(repository: Path) -> float:
    """Return the MB of all objects in a repository."""
    files = (path for path in repository.glob("objects/**/*") if path.is_file())
    return sum(path.stat().st_size for path in files) / 1e6


@contextlib.contextmanager
def prepared() -> Iterator[Bench]:
    """Get Go and Kubernetes, and serve v1.20.2 and a tag that differs in a line."""
    needed = ("git", "make", "rsync", "cfssl", "cfssljson")
    if missing := [name for name in needed if shutil.which(name) is None]:
        sys.exit(f"the recipes need {', '.join(missing)}: apt-get install make rsync golang-cfssl")
    archive = debian.kubernetes(debian.default_cache())
    go_root = debian.golang(debian.default_cache(), "1.15")
    with tempfile.TemporaryDirectory(prefix="kbuild-bench-") as name:
        folder = Path(name)
        (folder / "scratch").mkdir()
        repository = folder / "served/kubernetes.git"
        repository.parent.mkdir()
        write_tagged_repository(archive, VERSION, repository, folder / "scratch")
        add_tag(repository, NEXT_VERSION, "cmd/kubeadm/kubeadm.go", "// a line more")
        with servers.running_git(repository.parent) as address:
            yield Bench(f"{address}/kubernetes.git", go_root, folder)


def machine() -> str:
    """Return what the figures were measured on."""
    text = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.+)", text)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    name = model[1] if model else platform.machine()
    return f"{name}, {os.cpu_count()} processors, {memory:.0f} GiB"


def row(figure: Figure) -> str:
    """Return a figure as a line of the table in docs/reference.md."""
    digits = {"s": 2, "MB": 1}.get(figure.unit, 0)
    ours, theirs = (f"{v:.{digits}f} {figure.unit}".strip() for v in (figure.kbuild, figure.other))
    limit = "" if figure.limit is None else f"{figure.limit:.2f}"
    cells = (figure.what, ours, f"{figure.beside}: {theirs}", f"{figure.ratio:.2f}", limit)
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure, print, write, and say which limits are passed."""
    print("| what | kbuild | beside | ratio | limit |\n| --- | --- | --- | --- | --- |", flush=True)
    figures = []
    with prepared() as bench:
        for part in (
            *(bench.starts, bench.certificates, bench.kubelets),
            *(bench.fetches, bench.builds),
        ):
            for figure in part():
                figures.append(figure)
                print(row(figure), flush=True)
    date = datetime.now(UTC).date().isoformat()
    print(f"\n{machine()}; {date}")
    document = {
        "date": date,
        "machine": machine(),
        "figures": [{**asdict(f), "ratio": f.ratio, "is_good": f.is_good} for f in figures],
    }
    LATEST.parent.mkdir(exist_ok=True)
    LATEST.write_text(json.dumps(document, indent=2) + "\n")
    bad = [figure.what for figure in figures if not figure.is_good]
    if bad:
        print(f"past its limit: {', '.join(bad)}", file=sys.stderr)


if __name__ == "__main__":
    main()
