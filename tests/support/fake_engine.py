"""A container engine of a few answers, on a real Unix socket."""

import contextlib
import json
import shutil
import socketserver
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

Answer = tuple[int, Any]


@dataclass
class FakeEngine:
    """What is answered to ``METHOD /path`` without the version in front, and what was asked.

    ``sent`` is the body of each request that had one.

    Of several answers each is given once, the last one for ever. A list is sent as a stream of
    events; one that ends with None breaks off there, without an end, and a float is a pause of so
    many seconds.
    """

    answers: dict[str, list[Answer]]
    address: str = ""
    asked: list[str] = field(default_factory=list)
    sent: dict[str, list[bytes]] = field(default_factory=dict)

    def answer(self, request: str) -> Answer:
        self.asked.append(request)
        answers = self.answers.get(request, [(404, {"message": f"page not found: {request}"})])
        return answers.pop(0) if len(answers) > 1 else answers[0]


@contextlib.contextmanager
def fake_engine(answers: dict[str, list[Answer]], api: str = "1.41") -> Iterator[FakeEngine]:
    """Serve an engine that speaks API ``api``; it refuses any other version, as real ones do."""
    engine = FakeEngine({"GET /version": [(200, {"ApiVersion": api, "Arch": "amd64"})], **answers})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            request = f"{self.command} {self._plain_path()}"
            if body := self._body():
                engine.sent.setdefault(request, []).append(body)
            self._answer(*engine.answer(request))

        do_POST = do_PUT = do_DELETE = do_GET

        def _body(self) -> bytes:
            if self.headers["Transfer-Encoding"] != "chunked":
                return self.rfile.read(int(self.headers["Content-Length"] or 0))
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)

        def _plain_path(self) -> str:
            first, _, rest = self.path.removeprefix("/").partition("/")
            spoken = first == f"v{api}"
            return (f"/{rest}" if spoken else self.path).partition("?")[0]

        def _answer(self, status: int, body: Any) -> None:
            if isinstance(body, list):
                self._stream(body)
                return
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _stream(self, events: list[Any]) -> None:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for event in events:
                if event is None:
                    self.wfile.write(b"40\r\nhalf a chunk")
                    self.close_connection = True
                    return
                if isinstance(event, float):
                    time.sleep(event)
                    continue
                data = json.dumps(event).encode()
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.write(b"0\r\n\r\n")

        def log_message(self, *_: object) -> None:
            pass

    # Not below pytest's folder: a socket's path may have 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="kbuild-engine-"))
    path = folder / "engine.sock"

    class Server(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True

    with Server(str(path), Handler) as server:
        engine.address = f"unix://{path}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield engine
        finally:
            server.shutdown()
            thread.join()
            shutil.rmtree(folder)
