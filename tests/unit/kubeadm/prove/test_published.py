import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kbuild.base import network
from kbuild.base.workspace import Workspace
from kbuild.kubeadm.model import Proof, ProvenBinary, Published
from kbuild.kubeadm.prove import published as module
from kbuild.kubeadm.prove.errors import CannotRun, KubeadmFailed, NotAsPublished, PublisherFailed
from kbuild.kubeadm.prove.published import as_published, build_date_of, find_published
from tests.support.goelf import FUNCTIONS, write_go_elf
from tests.support.http import served
from tests.support.recorder import Recorder
from tests.support.releases import TAG, make_binaries, make_request

KUBEADM = b"a kubeadm"
DIGEST = hashlib.sha256(KUBEADM).hexdigest()
VERSION = {"gitVersion": "v1.20.2", "buildDate": "2021-01-13T13:25:59Z"}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    folder = tmp_path / "site"
    (folder / "v1.20.2/bin/linux/amd64").mkdir(parents=True)
    with served(folder) as address:
        yield folder / "v1.20.2/bin/linux/amd64", address


def find(address: str, workspace: Workspace) -> Published:
    request = make_request(release_site=address, stock=True, arch=("amd64",))
    return find_published(TAG, request, workspace, Recorder())


def serve(folder: Path, sum_text: str = DIGEST, binary: bytes = KUBEADM) -> None:
    (folder / "kubeadm").write_bytes(binary)
    (folder / "kubeadm.sha256").write_text(sum_text)


@pytest.mark.parametrize("form", [DIGEST, f"{DIGEST}\n", f"{DIGEST}  kubeadm\n"], ids=len)
def test_the_publishers_is_taken_with_its_sum(
    site: tuple[Path, str], workspace: Workspace, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "read_version", lambda *_: VERSION)
    serve(site[0], form)
    found = find(f"{site[1]}/", workspace)
    assert found.url == f"{site[1]}/v1.20.2/bin/linux/amd64/kubeadm"
    assert (found.sha256, found.version) == (DIGEST, VERSION)
    assert build_date_of(found) == datetime(2021, 1, 13, 13, 25, 59, tzinfo=UTC)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["", "hello", "0" * 64, DIGEST[:-1], f"{DIGEST}0", "<html>"])
def test_a_sum_that_is_none_or_another_is_refused(
    site: tuple[Path, str], workspace: Workspace, text: str
) -> None:
    serve(site[0], text)
    with pytest.raises(PublisherFailed, match="sha256"):
        find(site[1], workspace)


@pytest.mark.parametrize("absent", ["kubeadm", "kubeadm.sha256"])
def test_a_site_that_has_it_not_is_told(
    site: tuple[Path, str], workspace: Workspace, absent: str
) -> None:
    serve(site[0])
    (site[0] / absent).unlink()
    with pytest.raises(PublisherFailed, match="404"):
        find(site[1], workspace)


def test_a_site_that_does_not_answer_is_told(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "FIRST_WAIT", 0)
    with pytest.raises(PublisherFailed):
        find("http://127.0.0.1:9", workspace)


def test_a_publishers_that_does_not_run_is_told(
    site: tuple[Path, str], workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise KubeadmFailed(command="kubeadm version", code=1)

    monkeypatch.setattr(module, "read_version", fail)
    serve(site[0])
    with pytest.raises(PublisherFailed, match="kubeadm version"):
        find(site[1], workspace)


def test_a_build_date_that_nobody_could_ask_for_must_be_given(
    site: tuple[Path, str], workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "read_version", lambda *_: None)
    serve(site[0])
    with pytest.raises(CannotRun, match="--build-date"):
        build_date_of(find(site[1], workspace))


def test_only_the_same_bytes_are_as_published(workspace: Workspace, tmp_path: Path) -> None:
    published = Published(url="http://x", sha256=DIGEST, version=VERSION)
    ours = write_go_elf(tmp_path / "x")
    proof = Proof(path=ours, arch="amd64", sha256=DIGEST, ran="native", where="", version=VERSION)
    [binary, _] = make_binaries(workspace.work)
    proven = ProvenBinary(binary=binary, proof=proof)
    assert as_published(proven, published, workspace).proof.published == published
    other = Published(url="http://x", sha256="0" * 64, version={**VERSION, "goVersion": "go1.15.5"})
    theirs = workspace.work / "published/kubeadm"
    theirs.parent.mkdir()
    changed = {**FUNCTIONS, "main.main": bytes(16)}
    for functions, words in ((changed, "1 functions differ: main.main"), (FUNCTIONS, "the same")):
        write_go_elf(theirs, functions, rodata=bytes(80))
        with pytest.raises(NotAsPublished) as caught:
            as_published(proven, other, workspace)
        first, second = caught.value.details.splitlines()
        assert first == "goVersion: None here, go1.15.5 there"
        assert words in second
