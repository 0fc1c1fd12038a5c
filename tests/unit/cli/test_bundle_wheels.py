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
from types import ModuleType

import pytest

from kbuild.base import sandbox
from kbuild.base.errors import KbuildError
from kbuild.kubeadm.bundle import container, document, wheels
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
    write_wheel(folder, "rich", tags=LONG, version="1!2.0")


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


@pytest.mark.slow
def test_pip_installs_kbuild_from_a_bundle(unpacked: Path, tmp_path: Path) -> None:
    assert len(list(unpacked.iterdir())) == 4
    done = install(tmp_path)
    assert done.returncode == 0, done.stderr
    there = {each.name for each in (tmp_path / "there").glob("*.py")}
    assert there == {"kbuild.py", "typer.py", "rich.py"}


@pytest.mark.slow
def test_pip_refuses_a_wheel_that_was_changed(unpacked: Path, tmp_path: Path) -> None:
    write_wheel(unpacked, "typer", "rich", "evil")
    done = install(tmp_path)
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr


@pytest.mark.slow
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


def _spoiled(old: bytes, new: bytes) -> Callable[[Path], None]:
    """Return what changes bytes of a wheel, whose METADATA is its last member."""

    def spoil(folder: Path) -> None:
        path = folder / "more-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("more-1.0.dist-info/METADATA", "Metadata-Version: 2.1\n" * 9)
        data = path.read_bytes()
        assert old in data
        path.write_bytes(data.replace(old, new))

    return spoil


def _spoiled_data(folder: Path) -> None:
    _spoiled(b"PK", b"PK")(folder)
    path = folder / "more-1.0-py3-none-any.whl"
    data = bytearray(path.read_bytes())
    data[30 + len("more-1.0.dist-info/METADATA")] = 0xFF  # the first byte of the deflated data
    path.write_bytes(data)


def _too_many(folder: Path) -> None:
    for number in range(500):
        (folder / f"more{number}-1.0-py3-none-any.whl").touch()


def _named(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).touch()


def _of_method(number: int) -> Callable[[Path], None]:
    local, central = b"PK\x03\x04\x14\0\0\0", b"PK\x01\x02\x14\x03\x14\0\0\0"
    method = number.to_bytes(2, "little")

    def spoil(folder: Path) -> None:
        _spoiled(local + b"\x08\0", local + method)(folder)
        path = folder / "more-1.0-py3-none-any.whl"
        data = path.read_bytes()
        assert central + b"\x08\0" in data
        path.write_bytes(data.replace(central + b"\x08\0", central + method))

    return spoil


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
    "an encrypted wheel": (
        _spoiled(b"\x14\x03\x14\0\0\0", b"\x14\x03\x14\0\x01\0"),
        "more-1.0-py3-none-any.whl is not a wheel: ",
    ),
    "an unknown compression": (_of_method(77), "compressed by method 77"),
    "a version of zip that is too new": (
        _spoiled(b"\x14\x03\x14\0", b"\x14\x03\xfe\0"),
        "is not a wheel: zip file version",
    ),
    "damaged data": (_spoiled_data, "is not a wheel: Error -3 while decompressing"),
    "many files": (_too_many, "it has more than 500 files"),
    "a tag that is not ASCII": (_named("more-1.0-py3-none-\u00e4ny.whl"), "of the name 'more-1.0"),
    "a line end": (_named("more-1.0-py3-none-any\nx.whl"), "of the name 'more-1.0-py3-none-any\\n"),
    "a long name": (_named(f"more-1.0-py3-none-{'x' * 190}.whl"), "of the name 'more-1.0-py3"),
    "no metadata": (lambda w: write_wheel(w, "more", metadata="\n"), "it has no 'name'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wheels_that_cannot_be_installed_make_no_bundle(
    case: str, inputs: tuple[str | Path, ...], tmp_path: Path
) -> None:
    spoil, words = WRONG[case]
    write_wheels(tmp_path / "w")
    spoil(tmp_path / "w")
    absent = ("--source", tmp_path / "no-source")  # nothing is fetched before
    done = bundle(tmp_path, (*inputs, *absent))
    assert "error[wheels-unusable]" in done.stderr
    assert words in done.stderr
    assert not (tmp_path / "b.tar").exists()


def test_a_wheel_that_no_bundle_can_have_is_told(
    inputs: tuple[str | Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wheels(tmp_path / "w")
    monkeypatch.setattr(wheels, "MAX_MEMBER", 100)
    done = bundle(tmp_path, inputs)
    assert "error[wheels-unusable]" in done.stderr
    assert "it is larger than 100 bytes" in done.stderr


@pytest.mark.parametrize(
    ("limit", "where", "words"),
    [
        ("MAX_MEMBERS", document, "its number of members cannot be '6'"),
        ("MAX_MEMBER", container, "bytes, and at most 3 are read"),
        ("MAX_DOCUMENT", container, "bundle.json has "),
    ],
)
def test_a_bundle_that_nobody_could_read_is_not_written(
    limit: str,
    where: ModuleType,
    words: str,
    inputs: tuple[str | Path, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_wheels(tmp_path / "w")
    monkeypatch.setattr(where, limit, 3)
    done = bundle(tmp_path, inputs)
    assert "error[bundle-not-readable]" in done.stderr
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
