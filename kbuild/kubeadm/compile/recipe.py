"""How upstream builds kubeadm in the era of a tag: the ``go build`` line and its environment.

Both builders lay the build out alike (``GOROOT``, ``GOPATH`` and the tree at the same places), so
the same Go gives the same bytes in a container and outside.
"""

import shlex
from dataclasses import dataclass
from importlib import resources
from pathlib import PurePosixPath

from packaging.specifiers import SpecifierSet

from kbuild.base.eras import eras_of, read_eras
from kbuild.base.sandbox import Limits
from kbuild.base.values import rfc3339
from kbuild.kubeadm.model import PatchedTree, SourceTree, Stamp

GOROOT = PurePosixPath("/usr/local/go")
# Where upstream's release builds lie (KUBE_ROOT and KUBE_GOPATH in hack/lib/init.sh, golang.sh and
# build/common.sh): up to v1.28 the paths, or the flags that name them, are in the binary.
KUBE_ROOT = PurePosixPath("/go/src/k8s.io/kubernetes")
GOPATH = KUBE_ROOT / "_output/dockerized/go"
TREE = GOPATH / "src/k8s.io/kubernetes"
CACHE = PurePosixPath("/cache/go")
OUT = PurePosixPath("/out/bin")
PACKAGE = "./cmd/kubeadm"
COUNT_MARK = "kbuild: packages"
DAMAGED_MARK = "kbuild: damaged"
PURPOSE = "the compiler"
_GIB = 1 << 30
# Go keeps each output in its build cache under the sha256 of its content (<sha256>-d), but compares
# only the size when it uses one (GetFile in cmd/go/internal/cache/cache.go, v1.15 to v1.26). So the
# content is compared here, and damaged outputs are removed. sha256sum takes five times as long as
# openssl, which most images have; not all have find. The index (<id>-a) needs no check: Go compares
# the id in it, and an output either exists or does not. Another compiler may be writing to the same
# cache, so a file that seems damaged is read a second time.
_CHECK_CACHE = rf"""
if command -v openssl >/dev/null; then tool='openssl dgst -sha256 -r'; else tool=sha256sum; fi
for name in ${{tool%% *}} comm sort; do
  command -v $name >/dev/null || {{ echo "the program $name is missing" >&2; exit 1; }}
done
for file in {CACHE}/??/*-[ad]; do
  if [ -L "$file" ] || {{ [ -e "$file" ] && [ ! -f "$file" ] && [ ! -d "$file" ]; }}; then
    echo "{DAMAGED_MARK} $file"
    rm -f "$file"
  fi
done
find_damaged() {{
  : >/tmp/outputs
  for digit in 0 1 2 3 4 5 6 7 8 9 a b c d e f; do # all at once would be too many arguments
    set -- {CACHE}/$digit?/*-d
    if [ -e "$1" ]; then
      for file; do if [ -f "$file" ]; then echo "$file"; fi; done >>/tmp/outputs
      {{ $tool "$@" 2>/dev/null || true; }} | while read -r sum file; do
        if [ "$sum-d" = "${{file##*/}}" ]; then echo "${{file#\*}}"; fi
      done
    fi
  done | sort >/tmp/good
  sort /tmp/outputs | comm -23 - /tmp/good
}}
find_damaged >/tmp/damaged
if [ -s /tmp/damaged ]; then
  sleep 2
  find_damaged | comm -12 - /tmp/damaged | while read -r file; do
    echo "{DAMAGED_MARK} $file"
    rm -f "$file"
  done
fi
rm -f /tmp/outputs /tmp/good /tmp/damaged
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to build an era; recipes.toml explains the fields."""

    versions: SpecifierSet
    read: list[str]
    mode: str
    trim: str
    all: bool
    link: list[str]
    tags: list[str]
    stamp: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class GoCommand:
    """The command to run in the directory of the tree: arguments of ``go``, and the environment.

    ``packages`` is the number of packages for the progress, if it is known: counting them takes
    about a second of processor time.
    """

    arguments: tuple[str, ...]
    environment: dict[str, str]
    packages: int | None = None

    @property
    def script(self) -> str:
        """Return a POSIX shell script.

        It removes damaged outputs from Go's build cache, prints the Go version and the number of
        packages, and builds.
        """
        build = " ".join(shlex.quote(argument) for argument in self.arguments)
        flags = " ".join(shlex.quote(a) for a in self.arguments if a.startswith(("-mod", "-tags")))
        counting = f"$(go list -deps {flags} {PACKAGE} 2>/dev/null | wc -l)"
        return (
            f"cd {TREE}\n"
            f"{_CHECK_CACHE}"
            "go version\n"
            f'{{ count={self.packages or counting}; echo "{COUNT_MARK} $count"; }} &\n'
            f"go {build}\n"
            "wait\n"
        )


def compile_limits(memory: int, processors: int) -> Limits:
    """Return the limits of a compile on a machine with this memory (bytes) and these processors.

    Go runs one compiler for each processor, each with a few more threads than processors.
    """
    return Limits(
        processes=256 + 16 * processors + 2 * processors**2,
        memory=memory,
        disk=4 * _GIB,
        printed=_GIB // 16,
        seconds=4 * 3600,
    )


def recipes() -> tuple[Recipe, ...]:
    """Return the shipped recipes, oldest first."""
    text = resources.files("kbuild.kubeadm.compile").joinpath("recipes.toml").read_text()
    return read_eras(text, "recipe", Recipe)


def recipe_for(tree: SourceTree) -> Recipe:
    """Return the recipe that fits the version of the tree, and whether it has a go.work.

    A tree that is newer than all recipes gets the newest one.
    """
    known, workspace = recipes(), (tree.path / "go.work").exists()
    fits = (r for r in eras_of(known, tree.version) if (r.mode == "workspace") == workspace)
    return next(fits, known[-1])


def go_command(patched: PatchedTree, arch: str, stamp: Stamp) -> GoCommand:
    """Return the command that builds kubeadm for one architecture."""
    recipe = recipe_for(patched.source)
    arguments = ["build", "-v", f"-o={OUT / f'kubeadm-{arch}'}", "-installsuffix=static"]
    everywhere = "all=" if recipe.all else ""
    if recipe.trim == "build":
        arguments.append("-trimpath")
    else:
        # Since Go 1.18 the flags are in the binary, so they must have the same spaces as
        # upstream's.
        trim = f"{everywhere}-trimpath={TREE if recipe.all else KUBE_ROOT}"
        arguments += [f"-gcflags={f'{trim} ' if recipe.all else f' {trim}'}", f"-asmflags={trim}"]
    if recipe.mode == "module":
        arguments.append("-mod=vendor")
    stamps = stamp_flags(recipe, patched.source, stamp)
    link = [*stamps, "", *recipe.link] if recipe.all else [*recipe.link, *stamps]
    arguments.append(f"-ldflags={everywhere}{' '.join(link)}")
    if recipe.tags:
        arguments.append(f"-tags={','.join(recipe.tags)}")
    arguments.append(PACKAGE)
    return GoCommand(arguments=tuple(arguments), environment=_environment(recipe, arch))


def stamp_fields(source: SourceTree, stamp: Stamp) -> dict[str, str]:
    """Return the version fields that the binary must report.

    ``gitVersion`` is the tag itself, never ``-dirty``: to kubeadm a dirty version is older than
    its own release (cmd/kubeadm/app/util/version.go).
    """
    version = source.version
    return {
        "buildDate": rfc3339(stamp.build_date),
        "gitCommit": source.commit,
        "gitTreeState": stamp.tree_state,
        "gitVersion": source.tag,
        "gitMajor": str(version.major),
        "gitMinor": str(version.minor),
    }


def stamp_flags(recipe: Recipe, source: SourceTree, stamp: Stamp) -> list[str]:
    """Return the linker's -X flags in the order of hack/lib/version.sh."""
    fields = stamp_fields(source, stamp).items()
    return [f"-X '{package}.{key}={value}'" for key, value in fields for package in recipe.stamp]


def _environment(recipe: Recipe, arch: str) -> dict[str, str]:
    mode = {"gopath": "off", "module": "on", "workspace": ""}[recipe.mode]
    return {
        "PATH": f"{GOROOT}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/tmp",
        "LC_ALL": "C",
        "GOROOT": str(GOROOT),
        "GOPATH": str(GOPATH),
        "GOCACHE": str(CACHE),
        "GO111MODULE": mode,
        "GOPROXY": "off",
        "GOSUMDB": "off",
        "GOFLAGS": "",
        "GOENV": "off",
        "GOTOOLCHAIN": "local",
        "GOTELEMETRY": "off",
        "CGO_ENABLED": "0",
        "GOOS": "linux",
        "GOARCH": arch,
    }
