"""What a source with credentials leaves in the cache: none of them."""

import base64
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from kbuild.base.workspace import open_workspace
from kbuild.kubeadm.source.fetch import fetch, resolve
from tests.support.http import served
from tests.support.recorder import Recorder
from tests.support.repositories import git, make_repository
from tests.unit.kubeadm.source.conftest import RequestFor

SECRET = "hunter2-correct-horse"


@contextmanager
def git_over_http(folder: Path) -> Iterator[str]:
    """Serve the repositories in a folder to who knows the secret, and give host and port."""
    expected = "Basic " + base64.b64encode(f"user:{SECRET}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers.get("Authorization") != expected:
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="git"')
                self.end_headers()
                return
            path, _, query = self.path.partition("?")
            environment = {
                "GIT_PROJECT_ROOT": str(folder),
                "GIT_HTTP_EXPORT_ALL": "1",
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": "safe.directory",
                "GIT_CONFIG_VALUE_0": "*",
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "REMOTE_USER": "user",
            }
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            done = subprocess.run(
                ["git", "http-backend"],
                env=environment,
                input=body,
                capture_output=True,
                check=True,
            )
            headers, _, content = done.stdout.partition(b"\r\n\r\n")
            self.send_response(200)
            for line in headers.decode().splitlines():
                self.send_header(*line.split(": ", 1))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def kept(cache: Path) -> Iterator[str]:
    """Yield the name and the content of all that is in a cache."""
    for path in cache.rglob("*"):
        yield str(path.relative_to(cache))
        if path.is_file():
            yield path.read_text(errors="replace")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["git", "archive"])
def test_no_credential_of_a_source_is_kept_or_told(
    kind: str, tmp_path: Path, request_for: RequestFor
) -> None:
    upstream, recorder = tmp_path / "upstream/kubernetes", Recorder()
    make_repository(upstream, ("v1.20.2",))
    git(upstream, "archive", "--output", str(tmp_path / "upstream/k.tar.gz"), "v1.20.2")
    with git_over_http(tmp_path / "upstream") as host, served(tmp_path / "upstream") as http:
        source = (
            f"http://user:{SECRET}@{host}/kubernetes/.git"
            if kind == "git"
            else f"{http.replace('//', f'//user:{SECRET}@')}/k.tar.gz?token={SECRET}"
        )
        with open_workspace(tmp_path / "cache") as workspace:
            request = request_for(source)
            tree = fetch(request, resolve(request, workspace, recorder), workspace, recorder)
            found = list(kept(tmp_path / "cache"))
    assert tree.tag == "v1.20.2"
    assert SECRET not in str([tree, recorder.said, recorder.details, recorder.advances])
    name = "archive.tar" if kind == "archive" else "HEAD"
    assert any(each.endswith(name) for each in found)  # else this tests nothing
    assert not any(SECRET in text for text in found)
    assert tree.files
