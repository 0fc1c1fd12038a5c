import gzip
import hashlib
import io
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from kbuild.base.errors import KbuildError, NotKubernetes, SourceUnreachable
from kbuild.base.workspace import Workspace, open_workspace
from kbuild.kubeadm.model import SourceTree
from kbuild.kubeadm.source.archive import is_archive
from kbuild.kubeadm.source.errors import (
    BrokenArchive,
    CommitMismatch,
    SourceChecksumMismatch,
    UnsafeArchive,
    WrongArchiveVersion,
)
from kbuild.kubeadm.source.fetch import fetch, list_tags, resolve
from tests.support.eras import make_tree
from tests.support.recorder import Recorder
from tests.support.trees import files_of
from tests.unit.kubeadm.source.conftest import RequestFor

COMMIT = "faecb196815e248d3ecfb03c680a4507229c2a56"
Obtain = Callable[..., SourceTree]


def write_tree(folder: Path, tag: str, commit: str = COMMIT) -> None:
    """Write a tree as `git archive` leaves it: with its export-subst lines filled in."""
    make_tree(folder, tag)
    script = folder / "hack/lib/version.sh"
    lines = f"    KUBE_GIT_COMMIT='{commit}'\n    if [[ 'tag: {tag}' =~ tag: ]]; then\n"
    script.write_text(lines)


def pack(folder: Path, path: Path, prefix: str, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        tar.add(folder, prefix)
    return path


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    write_tree(tmp_path / "tree", "v1.20.2")
    return pack(tmp_path / "tree", tmp_path / "k.tar.gz", "kubernetes-1.20.2")


@pytest.fixture
def obtain(workspace: Workspace, recorder: Recorder, request_for: RequestFor) -> Obtain:
    def run(source: str | Path, version: str = "v1.20.2", **changes: object) -> SourceTree:
        request = request_for(source, version, **changes)
        return fetch(request, resolve(request, workspace, recorder), workspace, recorder)

    return run


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v1.20.2", "1.20.2", "1.20"])
def test_an_archive_knows_what_it_is(version: str, archive: Path, obtain: Obtain) -> None:
    tree = obtain(archive, version)
    assert (tree.tag, tree.commit) == ("v1.20.2", COMMIT)
    assert tree.sha256 == hashlib.sha256(archive.read_bytes()).hexdigest()
    assert "cmd/kubeadm/kubeadm.go" in files_of(tree)
    assert (tree.path / "vendor/k8s.io/client-go").is_symlink()


def test_what_an_earlier_run_left_in_the_cache_is_not_used(
    archive: Path, tmp_path: Path, request_for: RequestFor
) -> None:
    request, trees = request_for(archive), []
    for _ in range(2):
        with open_workspace(tmp_path / "other") as workspace:
            tag = resolve(request, workspace, Recorder())
            trees.append(files_of(fetch(request, tag, workspace, Recorder())))
            kept = [path for path in (tmp_path / "other").rglob("*") if path.is_file()]
            kept = [path for path in kept if path.name != "CACHEDIR.TAG"]
            assert all("work" in path.parts or "locks" in path.parts for path in kept)
    assert trees[0] == trees[1]


@pytest.mark.slow
@pytest.mark.parametrize("prefix", [".", "kubernetes", "kubernetes-1.20.2/"])
@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz", "w"])
def test_with_or_without_a_top_folder(
    prefix: str, mode: str, tmp_path: Path, obtain: Obtain
) -> None:
    write_tree(tmp_path / "tree", "v1.20.2")
    path = pack(tmp_path / "tree", tmp_path / "source", prefix, mode)
    assert (obtain(path).path / "cmd/kubeadm").is_dir()


def test_an_archive_offers_one_tag(archive: Path, workspace: Workspace, recorder: Recorder) -> None:
    [tag] = list_tags(str(archive), workspace, recorder)
    assert (tag.name, tag.commit) == ("v1.20.2", COMMIT)


@pytest.mark.parametrize("version", ["v1.20.3", "1.21", "v1.20.2-rc.0"])
def test_another_version_is_refused(version: str, archive: Path, obtain: Obtain) -> None:
    with pytest.raises(WrongArchiveVersion, match=r"contains v1\.20\.2"):
        obtain(archive, version)


def test_the_checksum_demanded_is_checked(archive: Path, obtain: Obtain) -> None:
    with pytest.raises(SourceChecksumMismatch, match="0000"):
        obtain(archive, source_sha256="0" * 64)


def test_the_right_checksum_is_accepted(archive: Path, obtain: Obtain) -> None:
    right = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert obtain(archive, source_sha256=right).sha256 == right


def test_the_commit_demanded_is_checked(archive: Path, obtain: Obtain) -> None:
    with pytest.raises(CommitMismatch, match=COMMIT):
        obtain(archive, commit="0123456")


@pytest.mark.parametrize("keep", [0, 10, 100, 2000])
def test_a_truncated_archive_is_refused(keep: int, archive: Path, obtain: Obtain) -> None:
    archive.write_bytes(archive.read_bytes()[:keep])
    with pytest.raises(BrokenArchive):
        obtain(archive)


@pytest.mark.parametrize("cut", [1, 8, 40, 400])
def test_an_archive_cut_near_its_end_is_refused(cut: int, archive: Path, obtain: Obtain) -> None:
    archive.write_bytes(archive.read_bytes()[:-cut])
    with pytest.raises(BrokenArchive):
        obtain(archive)


@pytest.mark.parametrize(
    "content", [b"plain text\n", gzip.compress(b"plain text\n" * 100)], ids=["plain", "gzip"]
)
def test_what_is_no_archive_is_refused(content: bytes, tmp_path: Path, obtain: Obtain) -> None:
    path = tmp_path / "x.tar.gz"
    path.write_bytes(content)
    with pytest.raises(BrokenArchive):
        obtain(path)


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.slow
@pytest.mark.parametrize(
    "evil",
    [
        member("../evil"),
        member("kubernetes/../../evil"),
        member("/tmp/kbuild-evil"),
        member("kubernetes/link", tarfile.SYMTYPE, "../../evil"),
        member("kubernetes/link", tarfile.SYMTYPE, "/etc/passwd"),
        member("kubernetes/link", tarfile.LNKTYPE, "../../../etc/passwd"),
        member("kubernetes/null", tarfile.CHRTYPE),
        member("kubernetes/pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda info: f"{info.name} {info.linkname}",
)
def test_a_member_that_leaves_the_folder_is_refused(
    evil: tarfile.TarInfo, tmp_path: Path, obtain: Obtain
) -> None:
    write_tree(tmp_path / "tree", "v1.20.2")
    path = tmp_path / "evil.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(tmp_path / "tree", "kubernetes")
        tar.addfile(evil, io.BytesIO())
    before = set(tmp_path.rglob("evil*"))
    with pytest.raises(UnsafeArchive, match=evil.name.removeprefix("/")):
        obtain(path)
    assert set(tmp_path.rglob("evil*")) == before
    assert not Path("/tmp/kbuild-evil").exists()


def test_a_tree_that_git_archive_did_not_make_is_refused(tmp_path: Path, obtain: Obtain) -> None:
    make_tree(tmp_path / "tree", "v1.20.2")
    path = pack(tmp_path / "tree", tmp_path / "x.tar.gz", "kubernetes")
    with pytest.raises(NotKubernetes, match="does not contain the commit and tag"):
        obtain(path)


def test_an_archive_of_something_else_is_refused(tmp_path: Path, obtain: Obtain) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/README").write_text("x")
    with pytest.raises(NotKubernetes):
        obtain(pack(tmp_path / "tree", tmp_path / "x.tar.gz", "other"))


class Handler(BaseHTTPRequestHandler):
    content = b""
    answers: list[int] = []  # noqa: RUF012  # set by each test

    def do_GET(self) -> None:
        code = self.answers.pop(0) if self.answers else 200
        self.send_response(code if code != 1 else 200)
        body = self.content if code in (1, 200) else b""
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if code == 1 else body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def site(archive: Path) -> Iterator[str]:
    Handler.content = archive.read_bytes()
    Handler.answers = []
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("answers", [[], [503], [500, 502, 429], [1, 200]])
def test_an_archive_may_come_by_http_and_a_server_may_stumble(
    answers: list[int], site: str, obtain: Obtain, recorder: Recorder
) -> None:
    Handler.answers = [*answers]
    tree = obtain(f"{site}/v1.20.2.tar.gz?download=1")
    assert tree.tag == "v1.20.2"
    assert len(recorder.said) == sum(code != 200 for code in answers)
    steps = list(dict.fromkeys(step for step, _, _ in recorder.advances))
    assert steps[:2] == ["download", "decompress the source"]
    assert steps[-1] == "read the files of kubeadm"


@pytest.mark.parametrize(("answers", "tries"), [([404], 0), ([403], 0), ([503] * 4, 3)])
def test_a_server_that_refuses_is_not_asked_again(
    answers: list[int], tries: int, site: str, obtain: Obtain, recorder: Recorder
) -> None:
    Handler.answers = [*answers]
    with pytest.raises(SourceUnreachable) as caught:
        obtain(f"{site}/v1.20.2.tar.gz")
    assert f"HTTP {answers[0]}" in caught.value.details
    assert len(recorder.said) == tries


def test_credentials_do_not_show(site: str, obtain: Obtain) -> None:
    Handler.answers = [404]
    with pytest.raises(KbuildError) as caught:
        obtain(f"{site.replace('http://', 'http://me:secret@')}/v1.20.2.tar.gz")
    shown = f"{caught.value.happened} {caught.value.hint} {caught.value.details}"
    assert "secret" not in shown


def test_what_counts_as_an_archive(archive: Path, tmp_path: Path) -> None:
    assert is_archive(str(archive))
    assert is_archive("https://host/k.tar.xz?x=1")
    assert not is_archive("https://host/kubernetes.git")
    assert not is_archive(str(tmp_path))
    assert not is_archive("git@host:kubernetes.tar.gz")
