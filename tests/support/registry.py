"""A registry on loopback that serves what it is given, and images to give it."""

import base64
import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

OCI = "application/vnd.oci.image"
USER, PASSWORD, TOKEN = "user", "pass:word", "a-token"
BASIC = f"Basic {base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@dataclass
class Image:
    """The blobs of an image by digest; ``digest`` is that of its index, or of its only manifest."""

    digest: str
    blobs: dict[str, bytes]
    parts: dict[str, dict[str, str]] = field(default_factory=dict)

    def blob(self, arch: str, part: str) -> str:
        """Return the digest of the manifest, config or layer for an architecture."""
        return self.parts[arch][part]


def descriptor(content: bytes, kind: str, **more: Any) -> dict[str, Any]:
    about = {"mediaType": f"{OCI}.{kind}", "digest": digest_of(content), "size": len(content)}
    return about | more


def make_image(
    *arches: str,
    index: bool = True,
    config: Mapping[str, Any] | None = None,
    manifest: Mapping[str, Any] | None = None,
    platform: Mapping[str, str] | None = None,
) -> Image:
    """Make an image with a layer for each architecture; the mappings replace what documents say."""
    image = Image("", {})
    listed = []
    for arch in arches:
        layer = f"the layer for {arch}".encode()
        about = {"os": "linux", "architecture": arch, "rootfs": {"diff_ids": [digest_of(layer)]}}
        made = json.dumps(about | dict(config or {})).encode()
        names = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": f"{OCI}.manifest.v1+json",
                "config": descriptor(made, "config.v1+json"),
                "layers": [descriptor(layer, "layer.v1.tar+gzip")],
            }
            | dict(manifest or {})
        ).encode()
        where = {"os": "linux", "architecture": arch} | dict(platform or {})
        listed.append(descriptor(names, "manifest.v1+json", platform=where))
        parts = {"manifest": names, "config": made, "layer": layer}
        image.blobs |= {digest_of(content): content for content in parts.values()}
        image.parts[arch] = {part: digest_of(content) for part, content in parts.items()}
    if index:
        unknown = {"platform": {"os": "unknown", "architecture": "unknown"}}
        content = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": f"{OCI}.index.v1+json",
                "manifests": [listed[0] | unknown, *listed],
            }
        ).encode()
        image.blobs[digest_of(content)] = content
        image.digest = digest_of(content)
    else:
        image.digest = listed[0]["digest"]
    return image


@dataclass
class Registry:
    """What a registry serves, how it asks who one is (bearer or basic), and what it was asked.

    With ``is_open_at_first`` it asks nobody at ``/v2/``. ``redirects`` are by path, or by the path
    before a digest.
    """

    blobs: dict[str, bytes]
    address: str = ""
    demands: str = ""
    realm: str = ""
    elsewhere: str = ""
    is_open_at_first: bool = False
    redirects: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    authorized: list[str | None] = field(default_factory=list)

    @property
    def challenge(self) -> str:
        if self.demands == "basic":
            return 'Basic realm="registry"'
        realm = self.realm or f"http://{self.address}/token"
        return f'Bearer realm="{realm}",service="the registry"'

    def is_welcome(self, path: str, authorization: str | None) -> bool:
        if self.is_open_at_first and path == "/v2/":
            return True
        wanted = {"": None, "basic": BASIC, "bearer": f"Bearer {TOKEN}"}[self.demands]
        return wanted in (None, authorization)

    def answer(self, path: str, authorization: str | None) -> tuple[int, dict[str, str], bytes]:
        self.asked.append(path)
        self.authorized.append(authorization)
        if path.startswith("/token?"):
            return 200, {}, json.dumps({"token": TOKEN}).encode()
        for start, place in self.redirects.items():
            if path in (start, start + path.rpartition("/")[2]):
                return 302, {"Location": place}, b""
        if not self.is_welcome(path, authorization):
            return 401, {"WWW-Authenticate": self.challenge}, b"{}"
        digest = path.rpartition("/")[2]
        if self.elsewhere and "/blobs/" in path:
            return 307, {"Location": f"{self.elsewhere}/{digest}"}, b""
        if path == "/v2/":
            return 200, {}, b"{}"
        return (200, {}, self.blobs[digest]) if digest in self.blobs else (404, {}, b"{}")


@contextlib.contextmanager
def registry_of(blobs: dict[str, bytes]) -> Iterator[Registry]:
    """Serve blobs as manifests and as blobs of every repository, while the block runs."""
    registry = Registry(blobs)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = registry.answer(self.path, self.headers["Authorization"])
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        registry.address = f"127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield registry
        finally:
            server.shutdown()
            thread.join()
