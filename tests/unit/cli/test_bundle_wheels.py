"""`kbuild bundle --wheels`: kbuild itself in a bundle, for a host that has only Python."""

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from kbuild.base import sandbox
from kbuild.base.errors import KbuildError
from kbuild.kubeadm.bundle.container import Container, Listed
from kbuild.kubeadm.bundle.errors import UnsafeBundle
from kbuild.kubeadm.bundle.wheels import made_for
from kbuild.nodes.errors import NodesExtraMissing
from kbuild.pki.errors import Pkcs11ExtraMissing
from tests.support.command import Done, run_here
from tests.support.fake_go import write_go_root
from tests.support.repositories import make_repository

pytestmark = pytest.mark.skipif(
    not sandbox.is_available(), reason="a GOROOT is asked in the sandbox for its version"
)

LONG = "-py3-none-" + ".".join(("any", *(f"manylinux_2_{n}_x86_64" for n in range(10, 16))))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[str | Path, ...]:
    folder = tmp_path_factory.mktemp("upstream")
    make_repository(folder / "kubernetes", ("v1.20.2",))
    go_root = write_go_root(folder / "go")
    return ("--version", "v1.20.2", "--source", folder / "kubernetes", "--go-root", go_root)


def write_wheel(
    folder: Path,
    name: str,
    *needs: str,
    version: str = "1.0",
    tags: str = "-py3-none-any",
    metadata: str | None = None,
) -> Path:
    """Write a wheel that pip installs."""
    folder.mkdir(exist_ok=True)
    path, info = folder / f"{name}-{version}{tags}.whl", f"{name}-{version}.dist-info"
    about = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {need}" for need in needs)]
    files = {
        f"{name}.py": f"version = {version!r}\n",
        f"{info}/METADATA": metadata or "\n".join(("Metadata-Version: 2.1", *about, "")),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in files.items():
            archive.writestr(file, content)
        record = "".join(f"{file},,\n" for file in (*files, f"{info}/RECORD"))
        archive.writestr(f"{info}/RECORD", record)
    return path


def write_wheels(folder: Path) -> None:
    write_wheel(folder, "kbuild", "typer >=1", 'colorama; sys_platform == "win32"')
    write_wheel(folder, "typer", "rich")
    write_wheel(folder, "rich", tags=LONG)


def bundle(home: Path, inputs: tuple[str | Path, ...], *more: str | Path) -> Done:
    words = ("bundle", *inputs, "--wheels", "w", "--output", "b.tar", *more)
    return run_here(*words, cwd=home, HOME=str(home), SOURCE_DATE_EPOCH="1767355200")


def install(home: Path) -> subprocess.CompletedProcess[str]:
    """Install from an unpacked bundle, in another directory and with an index that is there."""
    return subprocess.run(
        (sys.executable, "-m", "pip", "install", "--quiet", "--target", "there", "--no-cache-dir",
         "--disable-pip-version-check", "--root-user-action", "ignore",
         "-r", "unpacked/wheels/requirements.txt"),
        cwd=home, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture
def unpacked(inputs: tuple[str | Path, ...], tmp_path: Path) -> Path:
    """Give the wheels of a bundle, unpacked as the documentation says."""
    write_wheels(tmp_path / "w")
    done = bundle(tmp_path, inputs, "--json")
    assert done.returncode == 0, done.stderr
    names = json.loads(done.stdout)["wheels"]
    assert names == sorted(each.name for each in (tmp_path / "w").iterdir())
    assert max(map(len, names)) > tarfile.LENGTH_NAME
    (tmp_path / "unpacked").mkdir()
    subprocess.run(("tar", "-xf", "../b.tar", "wheels"), cwd=tmp_path / "unpacked", check=True)
    return tmp_path / "unpacked/wheels"


def test_pip_installs_kbuild_from_a_bundle(unpacked: Path, tmp_path: Path) -> None:
    assert len(list(unpacked.iterdir())) == 4
    done = install(tmp_path)
    assert done.returncode == 0, done.stderr
    there = {each.name for each in (tmp_path / "there").glob("*.py")}
    assert there == {"kbuild.py", "typer.py", "rich.py"}


def test_pip_refuses_a_wheel_that_was_changed(unpacked: Path, tmp_path: Path) -> None:
    write_wheel(unpacked, "typer", "rich", "evil")
    done = install(tmp_path)
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr


def test_a_bundle_with_wheels_is_one_to_build_from(
    unpacked: Path, inputs: tuple[str | Path, ...], tmp_path: Path
) -> None:
    years = ("--ca-years", "9", "--leaf-years", "1", "--builder", "local")
    done = run_here(
        *("kubeadm", "--version", "v1.20.2", *years, "--bundle", "b.tar", "--dry-run"),
        cwd=tmp_path,
        HOME=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    first = (tmp_path / "b.tar").read_bytes()
    assert bundle(tmp_path, inputs, "--force").returncode == 0
    assert (tmp_path / "b.tar").read_bytes() == first
    assert unpacked.is_dir()


def test_the_terminal_counts_the_wheels(inputs: tuple[str | Path, ...], tmp_path: Path) -> None:
    write_wheels(tmp_path / "w")
    assert "kbuild: 3 wheels for Python 3\n" in bundle(tmp_path, inputs).stdout


def _empty(folder: Path) -> None:
    for each in folder.iterdir():
        each.unlink()


def _old_typer(folder: Path) -> None:
    next(folder.glob("typer-*")).unlink()
    write_wheel(folder, "typer", version="0.9")


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "no directory": (shutil.rmtree, "No such file or directory"),
    "nothing": (_empty, "no wheel of kbuild"),
    "no kbuild": (lambda w: next(w.glob("kbuild-*")).unlink(), "it has no wheel of kbuild"),
    "no typer": (lambda w: next(w.glob("typer-*")).unlink(), "kbuild needs typer>=1, which is not"),
    "no rich": (lambda w: next(w.glob("rich-*")).unlink(), "typer needs rich, which is not there"),
    "an old typer": (_old_typer, "kbuild needs typer>=1"),
    "two versions": (lambda w: write_wheel(w, "rich", version="2.0"), "several versions of rich"),
    "a source archive": (lambda w: (w / "typer-1.0.tar.gz").touch(), "typer-1.0.tar.gz is not a"),
    "no zip": (lambda w: (w / "more-1.0-py3-none-any.whl").write_text("x"), "is not a wheel"),
    "a directory": (lambda w: (w / "more-1.0-py3-none-any.whl").mkdir(), "it is a directory"),
    "another name": (
        lambda w: write_wheel(w, "more", metadata="Metadata-Version: 2.1\nName: b\nVersion: 1.0\n"),
        "its metadata is that of another package",
    ),
    "no metadata": (lambda w: write_wheel(w, "more", metadata="\n"), "it has no 'name'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wheels_that_cannot_be_installed_make_no_bundle(
    case: str, inputs: tuple[str | Path, ...], tmp_path: Path
) -> None:
    spoil, words = WRONG[case]
    write_wheels(tmp_path / "w")
    spoil(tmp_path / "w")
    done = bundle(tmp_path, inputs)
    assert "error[wheels-unusable]" in done.stderr
    assert words in done.stderr
    assert not (tmp_path / "b.tar").exists()


def members(path: Path, *names: str) -> dict[str, Path]:
    """Read a bundle of empty members with these names, as GNU tar writes it."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name in ("bundle.json", *names):
            tar.addfile(tarfile.TarInfo(name))
    listed = {name: Listed(size=0, sha256=hashlib.sha256().hexdigest()) for name in names}
    with path.open("rb") as file:
        found = Container(path, file, lambda _: None)
        assert found.document() == b""
        return found.unpack(listed, path.parent)


def test_a_long_name_is_read_as_tar_writes_it(tmp_path: Path) -> None:
    names = ("source", f"wheels/{'x' * 150}", "wheels/short")
    assert list(members(tmp_path / "b.tar", *names)) == list(names)


@pytest.mark.parametrize(
    "name",
    ["../" * 50 + "x", "wheels/../" + "x" * 100, "wheels/" + "x" * 202, "wheels/" + "x" * 900],
)
def test_a_long_name_that_no_wheel_has_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnsafeBundle):
        members(tmp_path / "b.tar", name)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (("py3-none-any", "py2.py3-none-any"), "Python 3"),
        (("cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64",), "Python 3.11 on x86_64"),
        (("cp39-abi3-manylinux_2_34_aarch64", "py3-none-any"), "Python 3 on aarch64"),
        (("cp311-cp311-linux_x86_64", "cp312-cp312-musllinux_1_2_x86_64"),
         "Python 3.11, 3.12 on x86_64"),
    ],
)  # fmt: skip
def test_the_python_of_wheels_is_told(tags: tuple[str, ...], expected: str) -> None:
    assert made_for(f"a-1.0-{each}.whl" for each in tags) == expected


@pytest.mark.parametrize(
    ("error", "extra"),
    [(NodesExtraMissing(library="x"), "nodes"), (Pkcs11ExtraMissing(library="x"), "pkcs11")],
)
def test_a_missing_extra_is_told_with_the_way_without_a_network(
    error: KbuildError, extra: str
) -> None:
    assert f"a bundle with the wheels of '.[{extra}]' (docs/mirrors.md)" in error.hint
