"""`kbuild bundle --builder docker`, and what a build makes of the image in such a bundle."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kbuild.base import network
from kbuild.kubeadm.bundle import read
from kbuild.kubeadm.model import ImageLayout
from kbuild.kubeadm.toolchain import layout
from tests.support.command import Done, run_here
from tests.support.fake_engine import FakeEngine, fake_engine
from tests.support.fake_go import DATE
from tests.support.registry import Image, Registry, make_image, registry_of
from tests.support.repositories import make_repository

YEARS = ("--ca-years", "100", "--leaf-years", "10", "--build-date", DATE)
PINNED = "1.15.5"  # by the tree


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("upstream") / "kubernetes"
    make_repository(folder, ("v1.20.2",))
    return folder


@pytest.fixture(scope="module")
def image() -> Image:
    return make_image("amd64", "arm64")


@pytest.fixture(scope="module")
def registry(image: Image) -> Iterator[Registry]:
    with registry_of(image.blobs) as served:
        yield served


@pytest.fixture(scope="module")
def name(image: Image, registry: Registry) -> str:
    return f"{registry.address}/golang@{image.digest}"


@pytest.fixture(scope="module")
def made(source: Path, name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a bundle with an image for amd64; no engine was needed to make it."""
    home = tmp_path_factory.mktemp("connected")
    done = bundle(home, source, name)
    assert done.returncode == 0, done.stderr
    return home / "b.tar"


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    with fake_engine({}) as served:
        monkeypatch.setenv("DOCKER_HOST", served.address)
        yield served


def bundle(home: Path, source: Path, image: str, *more: str | Path) -> Done:
    return run_here(
        *("bundle", "--version", "v1.20.2", "--source", source, "--builder", "docker"),
        *("--image", image, "--arch", "amd64", "--output", "b.tar", *more),
        cwd=home,
        HOME=str(home),
        SOURCE_DATE_EPOCH="1767355200",
        DOCKER_HOST="unix:///nonexistent/engine.sock",
    )


def build(home: Path, *more: str | Path) -> Done:
    words = ("kubeadm", "--version", "v1.20.2", *YEARS, "--output", "out", "--dry-run", *more)
    return run_here(*words, cwd=home, HOME=str(home))


def error_of(done: Done) -> str:
    assert done.returncode != 0
    return done.stderr.rpartition("error[")[2].partition("]")[0]


def parts(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the document of a bundle, and its members."""
    with tarfile.open(path) as tar:
        files = {each.name: tar.extractfile(each).read() for each in tar}  # type: ignore[union-attr]
    return json.loads(files.pop("bundle.json")), files


def write(path: Path, about: dict[str, Any], files: dict[str, bytes]) -> None:
    """Write a bundle with these members, and list their sums."""
    about["members"] = {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in files.items()
    }
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in {"bundle.json": json.dumps(about).encode(), **files}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


# --- making it ---------------------------------------------------------------------------------


def test_a_bundle_has_the_image_of_the_pin_for_each_machine(
    source: Path, image: Image, registry: Registry, tmp_path: Path
) -> None:
    repository = f"{registry.address}/golang"
    (tmp_path / "lock").write_text(f"{repository}\t{PINNED}\t{image.digest}\n")
    done = run_here(
        *("bundle", "--version", "v1.20.2", "--source", source, "--builder", "docker"),
        *("--arch", "amd64", "--arch", "arm64", "--golang-repository", repository),
        *("--lock", "lock", "--output", "b.tar", "--json"),
        cwd=tmp_path,
        HOME=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["go"] == []
    assert found["images"] == [
        {"go_version": PINNED, "arch": arch, "image": f"{repository}@{image.digest}"}
        for arch in ("amd64", "arm64")
    ]
    about, files = parts(tmp_path / "b.tar")
    assert about["images"] == found["images"]
    blobs = {f"blobs/sha256/{digest[7:]}": content for digest, content in image.blobs.items()}
    assert {name: files[name] for name in files if name != "source"} == blobs


def test_an_image_for_other_machines_only_makes_no_bundle(
    source: Path, name: str, tmp_path: Path
) -> None:
    done = bundle(tmp_path, source, name, "--arch", "s390x")
    assert error_of(done) == "image-unusable"
    assert "it has no image for linux/s390x" in done.stderr
    assert [each.name for each in tmp_path.iterdir()] == [".cache"]


def test_a_registry_without_the_image_makes_no_bundle(
    source: Path, registry: Registry, tmp_path: Path
) -> None:
    done = bundle(tmp_path, source, f"{registry.address}/golang@sha256:{'0' * 64}")
    assert error_of(done) == "image-not-found"


def test_the_terminal_names_the_image(source: Path, name: str, tmp_path: Path) -> None:
    assert f"Go {PINNED} for amd64 in {name}\n" in bundle(tmp_path, source, name).stdout


# --- building from it --------------------------------------------------------------------------


@pytest.mark.parametrize("builder", ["docker", "auto"])
def test_the_image_of_a_bundle_is_the_builder(
    builder: str, made: Path, name: str, engine: FakeEngine, tmp_path: Path
) -> None:
    done = build(tmp_path, "--bundle", made, "--builder", builder, "--image", name, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["builder"], found["go"], found["not_examined"]) == ("docker", PINNED, [])
    assert set(engine.asked) == {"GET /version"}


def test_a_pin_of_the_user_demands_the_image(
    made: Path, image: Image, name: str, engine: FakeEngine, tmp_path: Path
) -> None:
    (tmp_path / "lock").write_text(f"golang\t{PINNED}\t{image.digest}\n")
    done = build(tmp_path, "--bundle", made, "--lock", "lock")
    assert done.returncode == 0, done.stderr
    other = f"golang@sha256:{'1' * 64}"
    done = build(tmp_path, "--bundle", made, "--lock", "lock", "--image", other)
    assert error_of(done) == "image-not-in-bundle"
    assert name in done.stderr
    assert "GET /version" in engine.asked


def test_the_pin_that_ships_with_kbuild_demands_another_image(
    made: Path, name: str, engine: FakeEngine, tmp_path: Path
) -> None:
    done = build(tmp_path, "--bundle", made)
    assert error_of(done) == "image-not-in-bundle"
    assert name in done.stderr
    assert engine.asked


def test_a_bundle_may_not_choose_an_image_that_nobody_pins(
    source: Path, name: str, engine: FakeEngine, tmp_path: Path
) -> None:
    assert bundle(tmp_path, source, name, "--go-version", "1.99.9").returncode == 0
    done = build(tmp_path, "--bundle", "b.tar")
    assert error_of(done) == "image-not-pinned"
    assert name in done.stderr
    assert build(tmp_path, "--bundle", "b.tar", "--image", name).returncode == 0
    assert engine.asked


def test_an_engine_of_another_architecture_has_no_image(
    made: Path, name: str, engine: FakeEngine, tmp_path: Path
) -> None:
    engine.answers["GET /version"] = [(200, {"ApiVersion": "1.41", "Arch": "arm64"})]
    done = build(tmp_path, "--bundle", made, "--image", name)
    assert error_of(done) == "image-not-in-bundle"
    assert "for arm64" in done.stderr


def test_without_an_engine_the_image_is_of_no_use(
    made: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    assert error_of(build(tmp_path, "--bundle", made, "--image", name)) == "engine-missing"


def test_the_local_builder_finds_no_go(made: Path, tmp_path: Path) -> None:
    assert error_of(build(tmp_path, "--bundle", made, "--builder", "local")) == "no-go-in-bundle"


# --- hostile bundles ---------------------------------------------------------------------------

Edit = Callable[[dict[str, Any], dict[str, bytes], Image], None]


def _renamed(about: dict[str, Any], image: str) -> None:
    about["images"][0]["image"] = image


def _without(part: str) -> Edit:
    def edit(_: dict[str, Any], files: dict[str, bytes], image: Image) -> None:
        del files[f"blobs/sha256/{image.blob('amd64', part)[7:]}"]

    return edit


def _changed(_: dict[str, Any], files: dict[str, bytes], image: Image) -> None:
    files[f"blobs/sha256/{image.blob('amd64', 'layer')[7:]}"] = b"evil"


def _evil(about: dict[str, Any], files: dict[str, bytes], image: Image) -> None:
    """Have a whole image of another digest, under the digest that is demanded."""
    other = make_image("amd64", config={"evil": True})
    files |= {f"blobs/sha256/{digest[7:]}": content for digest, content in other.blobs.items()}
    del files[f"blobs/sha256/{image.digest[7:]}"]
    about["images"][0]["image"] = f"golang@{image.digest}"


def _mislabelled(about: dict[str, Any], files: dict[str, bytes], image: Image) -> None:
    """Have only the manifest for another architecture, under a digest that is demanded."""
    for digest, content in image.blobs.items():
        files[f"blobs/sha256/{digest[7:]}"] = content
    about["images"][0]["image"] = f"golang@{image.blob('arm64', 'manifest')}"


HOSTILE: dict[str, tuple[Edit, str]] = {
    "changed blob": (_changed, "its sha256 of a blob cannot be"),
    "other image": (_evil, "it lacks sha256:"),
    "no layer": (_without("layer"), "it lacks sha256:"),
    "no manifest": (_without("manifest"), "it lacks sha256:"),
    "no config": (_without("config"), "it lacks sha256:"),
    "another architecture": (_mislabelled, "it is not for linux/amd64"),
    "an image twice": (
        lambda about, *_: about["images"].append(about["images"][0]),
        f"its list of images cannot be '2 for Go {PINNED} and amd64'",
    ),
    "many images": (
        lambda about, *_: about["images"].extend(about["images"] * 200),
        "its number of images cannot be '201'",
    ),
    "no architecture": (lambda about, *_: about["images"][0].update(arch="sparc"), "cannot be"),
    "a way out": (lambda _, files, __: files.update({"blobs/sha256/../x": b""}), "cannot be"),
    "another folder": (lambda _, files, __: files.update({"etc/passwd": b""}), "cannot be"),
    "a blob of no sum": (lambda _, files, __: files.update({"blobs/sha256/a": b""}), "cannot be"),
    "an option": (lambda about, *_: _renamed(about, f"--x@sha256:{'0' * 64}"), "cannot be"),
    "a name of two lines": (
        lambda about, *_: _renamed(about, f"a\nb@sha256:{'0' * 64}"),
        "cannot be",
    ),
    "a tag": (lambda about, *_: _renamed(about, "golang:1.15.5"), "cannot be"),
    "no name": (lambda about, *_: about["images"][0].pop("image"), "it has no 'image'"),
    "no list": (lambda about, *_: about.update(images=3), "not of the right type"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_bundle_whose_image_is_not_as_it_says_is_refused(
    case: str, made: Path, image: Image, engine: FakeEngine, tmp_path: Path
) -> None:
    edit, words = HOSTILE[case]
    about, files = parts(made)
    edit(about, files, image)
    write(tmp_path / "b.tar", about, files)
    demanded = about["images"][0]["image"] if case == "another architecture" else image.digest
    done = build(tmp_path, "--bundle", "b.tar", "--image", f"golang@{demanded.rpartition('@')[2]}")
    assert error_of(done) == "broken-bundle", done.stderr
    assert words in done.stderr
    assert set(engine.asked) <= {"GET /version"}


def test_only_the_image_that_is_used_is_read(
    made: Path,
    image: Image,
    name: str,
    engine: FakeEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    about, files = parts(made)
    mine = about["images"][0]
    absent = mine["image"].replace(image.digest, f"sha256:{'3' * 64}")
    about["images"] = [mine | {"image": absent, "go_version": f"1.2.{n}"} for n in range(9)]
    about["images"] += [mine | {"arch": "arm64"}, mine]
    write(tmp_path / "b.tar", about, files)
    seen = []

    def reading(wanted: str, arch: str, get: Callable[[layout.Blob], Path]) -> ImageLayout:
        seen.append((wanted, arch))
        return layout.read_layout(wanted, arch, get)

    monkeypatch.setattr(read, "read_layout", reading)
    assert build(tmp_path, "--bundle", "b.tar", "--image", name).returncode == 0
    assert set(seen) == {(mine["image"], "amd64")}
    seen.clear()
    other = f"golang@sha256:{'4' * 64}"
    done = build(tmp_path, "--bundle", "b.tar", "--image", other)
    assert error_of(done) == "image-not-in-bundle"
    assert seen == []
    assert engine.asked


def test_a_blob_that_was_changed_in_place_is_damaged(
    made: Path, name: str, engine: FakeEngine, tmp_path: Path
) -> None:
    data = made.read_bytes()
    assert data.count(b"the layer for amd64") == 1
    (tmp_path / "b.tar").write_bytes(data.replace(b"the layer for", b"tha layer for"))
    done = build(tmp_path, "--bundle", "b.tar", "--image", name)
    assert error_of(done) == "bundle-damaged"
    assert engine.asked == []


def test_a_document_that_is_too_large_is_not_read(
    made: Path, name: str, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "MAX_DOCUMENT", 100)
    done = build(tmp_path, "--bundle", made, "--image", name)
    assert error_of(done) == "broken-bundle"
    assert set(engine.asked) == {"GET /version"}
    assert "larger than 100 bytes" in done.stderr


def test_a_layer_that_is_too_large_is_not_unpacked(
    made: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kbuild.kubeadm.bundle.container.MAX_MEMBER", 15)
    done = build(tmp_path, "--bundle", made, "--image", name)
    assert error_of(done) == "bundle-too-large"


def test_nothing_is_downloaded_for_a_build(
    made: Path,
    name: str,
    engine: FakeEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(network, "download", None)
    monkeypatch.setattr(network, "ask", None)
    assert build(tmp_path, "--bundle", made, "--image", name).returncode == 0
    assert engine.asked
