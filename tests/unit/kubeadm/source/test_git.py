import contextlib
import os
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from kbuild.base.addresses import shown
from kbuild.base.errors import BadSetting, BrokenSource, NotKubernetes, SourceUnreachable
from kbuild.base.workspace import Workspace, open_workspace
from kbuild.kubeadm.model import Tag
from kbuild.kubeadm.source.errors import CommitMismatch, TagNotFound
from kbuild.kubeadm.source.fetch import fetch, list_tags, resolve
from kbuild.kubeadm.source.store import fetch_tag
from tests.support import servers
from tests.support.hostile_servers import answer, hostile_server
from tests.support.recorder import Recorder
from tests.support.repositories import git, make_repository
from tests.support.trees import files_of
from tests.unit.kubeadm.source.conftest import RequestFor

TAGS = ("v1.20.1", "v1.20.2", "v1.23.0-rc.0")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("upstream") / "kubernetes"
    commits = make_repository(folder, TAGS)
    git(folder, "tag", "not-a-version")
    git(folder, "tag", "v1.20.3-lightweight", "HEAD")
    return folder, commits


@pytest.fixture(scope="module")
def address(repository: tuple[Path, dict[str, str]]) -> Iterator[str]:
    with servers.running_git(repository[0].parent) as server:
        yield f"{server}/kubernetes"


@pytest.mark.slow
def test_the_versions_of_a_source_are_listed_with_their_commits(
    address: str, repository: tuple[Path, dict[str, str]], workspace: Workspace, recorder: Recorder
) -> None:
    found = list_tags(address, workspace, recorder)
    assert {tag.name: tag.commit for tag in found} == repository[1]
    assert [tag.name for tag in found] == list(TAGS)


@pytest.mark.parametrize("way", ["server", "folder"])
def test_a_tag_is_fetched_as_it_is(
    way: str,
    address: str,
    repository: tuple[Path, dict[str, str]],
    workspace: Workspace,
    recorder: Recorder,
    request_for: RequestFor,
) -> None:
    folder, commits = repository
    request = request_for(address if way == "server" else folder, "1.20")
    tag = resolve(request, workspace, recorder)
    tree = fetch(request, tag, workspace, recorder)
    assert (tree.tag, tree.commit) == ("v1.20.2", commits["v1.20.2"])
    assert (tree.path / "vendor/k8s.io/client-go").is_symlink()
    # A checkout does not fill in what `git archive` would.
    assert "$Format:" in (tree.path / "hack/lib/version.sh").read_text()
    names = git(folder, "ls-tree", "-r", "--name-only", "v1.20.2").splitlines()
    unused = ("test/", "staging/src/k8s.io/component-base/", "hack/lib/.gitattributes")
    expected = [name for name in names if not name.startswith(unused)]
    assert sorted(files_of(tree)) == sorted(expected)


@contextlib.contextmanager
def web_server(folder: Path, status: bytes, times: int) -> Iterator[str]:
    """Serve a repository over HTTP, after so many answers with another status."""
    git(folder, "update-server-info")
    left = [status] * times

    class Server(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if left:
                self.wfile.write(b"HTTP/1.1 " + left.pop() + b"\r\nContent-Length: 0\r\n\r\n")
            else:
                super().do_GET()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, directory=folder / ".git"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.slow
def test_a_second_run_fetches_nothing(
    address: str, tmp_path: Path, recorder: Recorder, request_for: RequestFor
) -> None:
    for _ in range(2):
        with open_workspace(tmp_path / "cache") as workspace:
            request = request_for(address)
            fetch(request, resolve(request, workspace, recorder), workspace, recorder)
    assert recorder.said == ["v1.20.2 is in the cache already"]


@pytest.mark.slow
def test_a_file_that_is_lost_from_the_cache_is_fetched_again(
    address: str, tmp_path: Path, recorder: Recorder, request_for: RequestFor
) -> None:
    request = request_for(address)
    with open_workspace(tmp_path / "cache") as workspace:
        tag = resolve(request, workspace, recorder)
        fetch(request, tag, workspace, recorder)
    [store] = (tmp_path / "cache/v1/git").iterdir()
    blob = git(store, "rev-parse", "v1.20.2:cmd/kubeadm/kubeadm.go")
    for pack in store.glob("objects/pack/*.pack"):
        loose = tmp_path / pack.name
        shutil.move(pack, loose)
        with loose.open("rb") as file:
            subprocess.run(["git", "unpack-objects", "-q"], cwd=store, stdin=file, check=True)
    for index in store.glob("objects/pack/*"):
        index.unlink()
    (store / "objects" / blob[:2] / blob[2:]).unlink()
    with open_workspace(tmp_path / "cache") as workspace:
        tree = fetch(request, tag, workspace, recorder)
        assert "cmd/kubeadm/kubeadm.go" in files_of(tree)
    assert recorder.said == []


@pytest.mark.slow
def test_what_a_killed_git_left_does_not_matter(
    address: str, tmp_path: Path, recorder: Recorder, request_for: RequestFor
) -> None:
    request = request_for(address)
    with open_workspace(tmp_path / "cache") as workspace:
        fetch(request, resolve(request, workspace, recorder), workspace, recorder)
    [store] = (tmp_path / "cache/v1/git").iterdir()
    (store / "shallow.lock").touch()
    (store / "refs/tags/v1.20.1.lock").touch()
    (store / "objects/pack/tmp_pack_x").write_text("half")
    other = request_for(address, "v1.20.1")
    with open_workspace(tmp_path / "cache") as workspace:
        tree = fetch(other, resolve(other, workspace, recorder), workspace, recorder)
        assert tree.tag == "v1.20.1"
    assert not list(store.rglob("*.lock"))
    assert not list(store.rglob("tmp_*"))


def test_a_missing_tag_is_told_with_the_nearest(
    address: str, workspace: Workspace, recorder: Recorder, request_for: RequestFor
) -> None:
    with pytest.raises(TagNotFound) as caught:
        resolve(request_for(address, "v1.20.4"), workspace, recorder)
    assert "the nearest is v1.20." in caught.value.hint


def test_another_commit_than_demanded_is_refused(
    address: str,
    repository: tuple[Path, dict[str, str]],
    workspace: Workspace,
    recorder: Recorder,
    request_for: RequestFor,
) -> None:
    right = repository[1]["v1.20.2"]
    for commit in (right, right[:7]):
        resolve(request_for(address, commit=commit), workspace, recorder)
    with pytest.raises(CommitMismatch, match=right):
        resolve(request_for(address, commit="0" * 40), workspace, recorder)


def test_an_unreachable_source_is_tried_again_and_then_told(
    workspace: Workspace, recorder: Recorder, request_for: RequestFor
) -> None:
    request = request_for(f"git://127.0.0.1:{servers.free_port()}/kubernetes")
    with pytest.raises(SourceUnreachable) as caught:
        resolve(request, workspace, recorder)
    assert "Connection refused" in caught.value.details
    assert len(recorder.said) == 3


@pytest.mark.slow
def test_a_server_that_is_overloaded_is_asked_again(
    repository: tuple[Path, dict[str, str]],
    workspace: Workspace,
    recorder: Recorder,
    request_for: RequestFor,
) -> None:
    folder, commits = repository
    with web_server(folder, b"502 Bad Gateway", 1) as address:
        assert resolve(request_for(address), workspace, recorder).commit == commits["v1.20.2"]
    assert recorder.said == ["network error, trying again in 0 s"]


@pytest.mark.slow
@pytest.mark.parametrize("status", ["502 Bad Gateway", "504 Gateway Time-out", "407 Who are you"])
def test_a_proxy_that_gives_no_connection_is_no_damaged_repository(
    status: str,
    workspace: Workspace,
    recorder: Recorder,
    request_for: RequestFor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head = f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode()
    with hostile_server(answer(head)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.address)
        with pytest.raises(SourceUnreachable) as caught:
            resolve(request_for("https://git.invalid/kubernetes.git"), workspace, recorder)
    assert status[:3] in caught.value.details
    assert len(recorder.said) == (0 if status.startswith("407") else 3)  # nobody's retry helps


def test_what_is_no_repository_is_not_tried_again(
    tmp_path: Path, workspace: Workspace, recorder: Recorder, request_for: RequestFor
) -> None:
    (tmp_path / "plain").mkdir()
    with pytest.raises(BrokenSource) as caught:
        resolve(request_for(tmp_path / "plain"), workspace, recorder)
    assert "does not appear to be a git repository" in caught.value.details
    assert recorder.said == []


@pytest.mark.parametrize("name", ["absent", "kubernetes-1.20.2"])
def test_a_path_that_is_not_there_is_told(
    name: str, tmp_path: Path, workspace: Workspace, recorder: Recorder, request_for: RequestFor
) -> None:
    with pytest.raises(NotKubernetes, match="no such file or directory"):
        resolve(request_for(tmp_path / name), workspace, recorder)


def test_a_checksum_is_not_for_git(
    address: str, workspace: Workspace, recorder: Recorder, request_for: RequestFor
) -> None:
    with pytest.raises(BadSetting, match="source-sha256"):
        resolve(request_for(address, source_sha256="0" * 64), workspace, recorder)


def test_a_server_that_hangs_up_is_a_network_error(
    workspace: Workspace, recorder: Recorder, request_for: RequestFor
) -> None:
    class HangUp(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1)

    with socketserver.TCPServer(("127.0.0.1", 0), HangUp) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            request = request_for(f"git://127.0.0.1:{server.server_address[1]}/x")
            with pytest.raises(SourceUnreachable):
                resolve(request, workspace, recorder)
        finally:
            server.shutdown()
            thread.join()
    assert len(recorder.said) == 3


def test_a_repository_of_something_else_is_refused(
    tmp_path: Path, workspace: Workspace, recorder: Recorder, request_for: RequestFor
) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "README").write_text("not Kubernetes")
    git(folder, "add", "-A")
    git(folder, "commit", "--quiet", "-m", "x")
    git(folder, "tag", "v1.20.2")
    request = request_for(folder)
    with pytest.raises(NotKubernetes, match="cmd/kubeadm"):
        fetch(request, resolve(request, workspace, recorder), workspace, recorder)


def test_a_hooks_environment_does_not_lead_astray(
    address: str,
    workspace: Workspace,
    recorder: Recorder,
    request_for: RequestFor,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere"))
    request = request_for(address)
    tree = fetch(request, resolve(request, workspace, recorder), workspace, recorder)
    assert (tree.path / "cmd/kubeadm").is_dir()
    assert not (tmp_path / "elsewhere").exists()


def test_credentials_are_never_shown() -> None:
    assert shown("https://me:secret@host/x.git") == "https://host/x.git"
    assert shown("git@host:x.git") == "git@host:x.git"


FETCH = """
import sys
from pathlib import Path
from kbuild.kubeadm.model import Tag
from kbuild.kubeadm.source.store import fetch_tag
from kbuild.base.workspace import open_workspace
sys.path.insert(0, ".")
from tests.support.recorder import Recorder
from tests.support.trees import files_of
with open_workspace(Path(sys.argv[1])) as workspace:
    tree = fetch_tag(sys.argv[2], Tag(name="v1.20.2", commit=sys.argv[3]),
                     workspace.work / "tree", workspace, Recorder())
    print(len(files_of(tree)))
"""


@pytest.mark.slow
def test_two_runs_may_fetch_at_once(
    address: str, repository: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    command = [sys.executable, "-c", FETCH, str(tmp_path), address, repository[1]["v1.20.2"]]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    counts = {run.communicate()[0] for run in runs}
    assert [run.returncode for run in runs] == [0, 0, 0]
    assert len(counts) == 1


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Handle SIGINT as Python does, also where a shell started the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_git_too(tmp_path: Path, recorder: Recorder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        tag = Tag(name="v1.20.2", commit="0" * 40)
        with open_workspace(tmp_path) as workspace, pytest.raises(KeyboardInterrupt):
            fetch_tag(
                f"git://127.0.0.1:{port}/x", tag, workspace.work / "tree", workspace, recorder
            )
        timer.join()
        client, _ = server.accept()
        client.settimeout(10)
        while client.recv(4096):  # the request, then the end that a dead client leaves
            pass
        client.close()
