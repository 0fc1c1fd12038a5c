import re
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbuild.base.errors import ImageNotFound, NotWritable
from kbuild.kubeadm.toolchain import images
from kbuild.kubeadm.toolchain.errors import BadPinsFile, ImageWithoutDigest
from kbuild.kubeadm.toolchain.images import (
    Pin,
    image_for,
    load_lock,
    lock_text,
    shipped_pins,
    write_lock,
)
from kbuild.kubeadm.toolchain.pin import go_name, is_go_version
from tests.support.fake_engine import Answer, fake_engine
from tests.support.recorder import Recorder
from tests.unit.kubeadm.toolchain.conftest import RequestFor

DIGEST = "sha256:" + "ab" * 32
OTHER = "sha256:" + "cd" * 32
MIRROR = "127.0.0.1:5000/library/golang"


def tag(name: str, digest: str = DIGEST) -> dict[str, list[Answer]]:
    path = f"GET /distribution/{name}/json"
    return {path: [(200, {"Descriptor": {"digest": digest}, "Platforms": []})]}


def pin(go_version: str, digest: str = DIGEST, repository: str = "golang") -> Pin:
    return Pin(repository=repository, go_version=go_version, digest=digest, origin="lock")


@pytest.fixture(autouse=True)
def _no_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")


# --- shipped -----------------------------------------------------------------------------------


def test_shipped_pins_are_whole_and_each_there_once() -> None:
    pins = shipped_pins()
    assert len(pins) > 150
    assert len({each.go_version for each in pins}) == len(pins)
    for each in pins:
        assert is_go_version(each.go_version)
        assert go_name(each.go_version) == each.go_version
        assert re.fullmatch("sha256:[0-9a-f]{64}", each.digest)
        assert (each.repository, each.origin) == ("golang", "shipped")


@pytest.mark.parametrize("repository", ["golang", MIRROR])
def test_a_shipped_digest_serves_every_mirror(
    request_for: RequestFor, recorder: Recorder, repository: str
) -> None:
    shipped = {each.go_version: each.digest for each in shipped_pins()}
    image = image_for("1.20.7", request_for(golang_repository=repository), recorder)
    assert image == f"{repository}@{shipped['1.20.7']}"


# --- demanded by the user ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["golang", "golang:1.15.5", MIRROR])
def test_an_image_of_the_user_wins(request_for: RequestFor, recorder: Recorder, name: str) -> None:
    request = request_for(image=f"{name}@{DIGEST}")
    write_lock(request.lock, [pin("1.20.7", OTHER)])
    assert image_for("1.20.7", request, recorder) == f"{name}@{DIGEST}"


@pytest.mark.parametrize(
    "image",
    [
        "golang",
        "golang:1.20.7",
        "golang@sha256:abc",
        f"golang@{DIGEST}0",
        f"golang@{DIGEST.upper()}",
        f"golang@sha512:{'ab' * 32}",
        f"@{DIGEST}",
        DIGEST,
        f"golang@{DIGEST}\n",
        "",
    ],
)
def test_an_image_without_a_digest(request_for: RequestFor, recorder: Recorder, image: str) -> None:
    with pytest.raises(ImageWithoutDigest):
        image_for("1.20.7", request_for(image=image), recorder)


# --- the lock file -----------------------------------------------------------------------------


def test_the_lock_file_wins_over_what_is_shipped(
    request_for: RequestFor, recorder: Recorder
) -> None:
    request = request_for()
    write_lock(request.lock, [pin("1.20.7")])
    assert image_for("1.20.7", request, recorder) == f"golang@{DIGEST}"


def test_a_pin_of_another_repository_does_not_count(
    request_for: RequestFor, recorder: Recorder
) -> None:
    request = request_for()
    write_lock(request.lock, [pin("1.20.7", repository=MIRROR)])
    assert image_for("1.20.7", request, recorder) != f"golang@{DIGEST}"


@pytest.mark.parametrize(("written", "asked"), [("1.20.0", "1.20"), ("1.21", "1.21.0")])
def test_either_spelling_of_a_release_pins_it(
    request_for: RequestFor, recorder: Recorder, written: str, asked: str
) -> None:
    request = request_for()
    request.lock.write_text(f"golang\t{written}\t{DIGEST}\n")
    assert image_for(asked, request, recorder) == f"golang@{DIGEST}"


def test_no_lock_file_has_no_pins(tmp_path: Path) -> None:
    assert load_lock(tmp_path / "none") == ()


@pytest.mark.parametrize(
    "line",
    [
        "golang",
        f"golang 1.20.7 {DIGEST}",
        f"golang\t1.20.7\t{DIGEST}\tmore",
        f"golang\tlatest\t{DIGEST}",
        "golang\t1.20.7\tsha256:abc",
        f"\t1.20.7\t{DIGEST}",
        f"golang\t1.20.7\t{DIGEST} ",
        f"golang\t1.19.0\t{OTHER}",
    ],
)
def test_a_broken_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "lock"
    path.write_text(f"# pins\ngolang\t1.19\t{DIGEST}\n\n{line}\n")
    with pytest.raises(BadPinsFile, match="lock cannot be used: line 4"):
        load_lock(path)


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
def test_a_lock_file_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "lock"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(BadPinsFile):
        load_lock(path)


def test_a_lock_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotWritable), images.locked(tmp_path / "file/folder/lock"):
        pass


names = st.builds(
    "1.{}.{}".format, st.integers(0, 40), st.integers(0, 20)
).map(go_name)  # fmt: skip
digests = st.text("0123456789abcdef", min_size=64, max_size=64).map("sha256:{}".format)
pins = st.builds(
    pin, names, digests, st.sampled_from(["golang", MIRROR, "docker.io/library/golang"])
)


@pytest.mark.slow
@given(st.lists(pins, unique_by=lambda each: (each.repository, each.go_version)))
def test_what_is_written_is_read(written: list[Pin]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "lock"
        write_lock(path, written)
        read = load_lock(path)
        assert sorted(map(repr, read)) == sorted(map(repr, written))
        assert lock_text(list(read)) == path.read_text()
        assert list(Path(folder).iterdir()) == [path]


def test_a_later_pin_replaces_an_earlier_one(tmp_path: Path) -> None:
    write_lock(tmp_path / "lock", [pin("1.19", OTHER), pin("1.19", DIGEST)])
    assert load_lock(tmp_path / "lock") == (pin("1.19", DIGEST),)


# --- resolved from the tag ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("go_version", "name"),
    [("1.40.7", "1.40.7"), ("1.10", "1.10.0"), ("1.40.0", "1.40.0"), ("1.40rc1", "1.40rc1")],
)
def test_a_version_without_a_pin_is_resolved_once(
    request_for: RequestFor,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    go_version: str,
    name: str,
) -> None:
    # The tag must be the release's own: 1.10 would move on with 1.10.1.
    request = request_for(lock=tmp_path / "new/folder/lock")
    with fake_engine(tag(f"golang:{name}")) as engine:
        monkeypatch.setenv("DOCKER_HOST", engine.address)
        assert image_for(go_version, request, recorder) == f"golang@{DIGEST}"
        asked = len(engine.asked)
        assert image_for(go_version, request, recorder) == f"golang@{DIGEST}"
        assert len(engine.asked) == asked
    assert load_lock(request.lock) == (pin(go_version),)
    assert len(recorder.said) == 1
    assert str(request.lock) in recorder.said[0]


def test_a_new_pin_leaves_the_others(
    request_for: RequestFor, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_for(golang_repository=MIRROR)
    write_lock(request.lock, [pin("1.40.1", OTHER)])
    with fake_engine(tag(f"{MIRROR}:1.40.7")) as engine:
        monkeypatch.setenv("DOCKER_HOST", engine.address)
        image_for("1.40.7", request, recorder)
    assert set(load_lock(request.lock)) == {
        pin("1.40.1", OTHER),
        pin("1.40.7", repository=MIRROR),
    }


def test_a_tag_that_does_not_exist_pins_nothing(
    request_for: RequestFor, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_for()
    answers: dict[str, list[Answer]] = {
        "GET /distribution/golang:1.40.7/json": [(404, {"message": "manifest unknown"})]
    }
    with fake_engine(answers) as engine:
        monkeypatch.setenv("DOCKER_HOST", engine.address)
        with pytest.raises(ImageNotFound, match=r"golang:1\.40\.7"):
            image_for("1.40.7", request, recorder)
    assert not request.lock.exists()


def test_two_runs_at_once_agree(request_for: RequestFor, monkeypatch: pytest.MonkeyPatch) -> None:
    # The tag moves between the two: what was pinned first is what both build in.
    answers = tag("golang:1.40.7")
    (path,) = answers
    answers[path] += tag("golang:1.40.7", OTHER)[path]
    request, found = request_for(), []
    with fake_engine(answers) as engine:
        monkeypatch.setenv("DOCKER_HOST", engine.address)

        def run() -> None:
            found.append(image_for("1.40.7", request, Recorder()))

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [f"golang@{DIGEST}"] * 4
