"""Get manifests and blobs of an image from its registry, by their digests.

An engine cannot give them: most keep no manifests, and layers only unpacked. Sources: the OCI
distribution specification, v1.1 ("Pulling manifests", "Pulling blobs"), and Docker's registry v2
specification ("Token authentication").
"""

import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from kbuild.base import network
from kbuild.base.errors import ImageNotFound, RegistryUnreachable
from kbuild.base.files import BROKEN, sha256
from kbuild.base.logins import Login, login_for
from kbuild.base.network import DownloadFailed
from kbuild.base.progress import Progress

_HUB, _HUB_HOST = "docker.io", "registry-1.docker.io"
_LOOPBACK = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?", re.ASCII)
_PARAMETER = re.compile(r'(\w+)="([^"]*)"')
_UNAUTHORIZED, _REDIRECTS = 401, range(300, 400)
_REFUSED = re.compile(r"HTTP 40[0-4] ")
_TOKEN = re.compile(r"[!-~]+", re.ASCII)
_LONGEST = 200  # characters of an address in a message
_ACCEPT = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)


class Repository:
    """The repository of an image (``golang``, ``registry.example.com/mirrors/golang``).

    Its methods raise ImageNotFound, RegistryUnreachable, BadLoginFile or CredentialHelperFailed.
    """

    def __init__(self, name: str, progress: Progress) -> None:
        self._name, self._progress = name, progress
        self._host, self._path = _parted(name)
        host = _HUB_HOST if self._host == _HUB else self._host
        self._base = f"{'http' if _LOOPBACK.fullmatch(host) else 'https'}://{host}/v2/"
        self._challenge: str | None = None
        self._login: Login | None = None

    def manifest(self, digest: str, target: Path, limit: int) -> None:
        """Download the manifest or the index of this digest, of at most ``limit`` bytes."""
        self._get(f"manifests/{digest}", digest, target, limit)

    def blob(self, digest: str, target: Path, limit: int = network.LARGEST) -> None:
        """Download the blob of this digest, of at most ``limit`` bytes."""
        self._get(f"blobs/{digest}", digest, target, limit)

    def _get(self, path: str, digest: str, target: Path, limit: int) -> None:
        image = f"{self._name}@{digest}"
        url = f"{self._base}{self._path}/{path}"
        try:
            if self._challenge is None:
                self._challenge = self._first_challenge(image)
            self._download(url, image, target, limit)
        except DownloadFailed as error:
            if _REFUSED.match(str(error)):
                raise self._refused(image, str(error)) from error
            raise RegistryUnreachable(image=image, details=str(error)) from error
        if (actual := f"sha256:{sha256(target)}") != digest:
            details = f"it sends {actual} instead"
            raise ImageNotFound(image=image, details=details)

    def _download(self, url: str, image: str, target: Path, limit: int) -> None:
        def once() -> None:
            headers = {"Accept": _ACCEPT, **self._authorization(image)}
            network.download(url, target, f"download {self._name}", self._progress, limit, headers)

        try:
            once()
        except DownloadFailed as error:
            if self._challenge or not str(error).startswith(f"HTTP {_UNAUTHORIZED} "):
                raise
            # Some registries answer /v2/ to everybody, and demand a login for some repositories.
            self._challenge = _challenge_of(self._ask(url))
            if not self._challenge:
                raise
            once()

    def _first_challenge(self, image: str) -> str:
        answer = self._ask(self._base)
        if answer.status in _REDIRECTS:
            place = answer.headers.get("Location", "")[:_LONGEST]
            details = f"it redirects {self._base} to {place!r}; name the registry that is there"
            raise RegistryUnreachable(image=image, details=details)
        return _challenge_of(answer)

    def _ask(self, url: str) -> network.Answer:
        """Ask without a login. Only the registry itself may say to whom the login is sent."""
        return network.ask(url, self._progress, {"Accept": _ACCEPT}, follow=False)

    def _authorization(self, image: str) -> dict[str, str]:
        """Return the header that the registry asks for; tokens end soon, so each is used once."""
        scheme, _, rest = (self._challenge or "").partition(" ")
        if scheme.lower() not in ("basic", "bearer"):
            return {}
        self._login = login_for(self._host)
        if scheme.lower() == "basic":
            return self._basic()
        return {"Authorization": f"Bearer {self._token(image, dict(_PARAMETER.findall(rest)))}"}

    def _token(self, image: str, asked: Mapping[str, str]) -> str:
        realm = asked.get("realm", "")
        try:
            place = urlsplit(realm)
        except ValueError as error:
            details = f"it asks for a token of {realm[:_LONGEST]!r}, which is not an address"
            raise RegistryUnreachable(image=image, details=details) from error
        if place.scheme != "https" and not _LOOPBACK.fullmatch(place.netloc):
            details = "it asks for a token of an address that is not https"
            raise RegistryUnreachable(image=image, details=details)
        scope = {"scope": f"repository:{self._path}:pull"}
        service = {"service": asked["service"]} if "service" in asked else {}
        url = f"{realm}{'&' if place.query else '?'}{urlencode(service | scope)}"
        answer = network.ask(url, self._progress, self._basic())
        try:
            found = json.loads(answer.body)
            return _TOKEN.fullmatch(found.get("token") or found["access_token"])[0]  # type: ignore[index]
        except BROKEN as error:
            raise self._refused(image, f"it gives no token (HTTP {answer.status})") from error

    def _basic(self) -> dict[str, str]:
        if self._login is None or self._login.is_token:
            return {}
        text = f"{self._login.user}:{self._login.password}"
        return {"Authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}

    def _refused(self, image: str, details: str) -> ImageNotFound:
        if self._login is not None and self._login.is_token:
            details += (
                f"; docker has only an identity token for {self._host}, which kbuild does not use:"
                " log in with a user and a password or an access token"
            )
        return ImageNotFound(image=image, details=details)


def _challenge_of(answer: network.Answer) -> str:
    return answer.headers.get("WWW-Authenticate", "") if answer.status == _UNAUTHORIZED else ""


def _parted(name: str) -> tuple[str, str]:
    """Return host and path of a repository, as Docker does (distribution/reference)."""
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return first, rest if first != _HUB or "/" in rest else f"library/{rest}"
    return _HUB, name if slash else f"library/{name}"
