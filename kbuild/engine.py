"""The container engine: reach it, pull by digest, and turn what it says into errors of ours.

Only this module imports the docker SDK, and only when something is asked of an engine.
"""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from kbuild.errors import (
    DiskFull,
    EngineDown,
    EngineFailed,
    EngineForbidden,
    EngineMissing,
    EngineTooOld,
    ImageNotFound,
    KbuildError,
    RegistryUnreachable,
)
from kbuild.network import NetworkError, on_network_errors
from kbuild.progress import Progress

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container as DockerContainer

    Client: TypeAlias = DockerClient
    Container: TypeAlias = DockerContainer

NEEDED_API = (1, 41)  # Docker 20.10
_PROBE_SECONDS = 5
_PATIENCE_SECONDS = 600
_UNREACHABLE = re.compile(
    r"connection refused|no such host|timeout|i/o timed out|temporary failure|tls handshake"
    r"|network is unreachable|server misbehaving|unexpected eof|50[0-9] ",
    re.IGNORECASE,
)
_ABSENT = re.compile(
    r"manifest unknown|not found|no such image|pull access denied|invalid reference"
)


def connect() -> "Client":
    """Return a client of the engine that DOCKER_HOST, the docker context or a socket names.

    Raises EngineMissing, EngineForbidden, EngineDown or EngineTooOld.
    """
    from docker import DockerClient  # slow to import

    address, options = _address()
    with _reaching(address):
        client = DockerClient(base_url=address, timeout=_PROBE_SECONDS, **options)
        version = client.version()
    api = str(version["ApiVersion"])
    if tuple(int(part) for part in api.split(".")) < NEEDED_API:
        raise EngineTooOld(actual=api, needed=".".join(map(str, NEEDED_API)))
    client.api.timeout = _PATIENCE_SECONDS
    return client


def why_unavailable() -> str | None:
    """Return why no engine can be used, or None when one answers."""
    try:
        connect().close()
    except KbuildError as error:
        return error.happened
    return None


def arch(client: "Client") -> str:
    """Return the engine's architecture in Go's words."""
    return str(client.version()["Arch"])


@contextlib.contextmanager
def translate(image: str) -> Iterator[None]:
    """Turn the SDK's errors into ours; ``image`` is what the block works with.

    Raises ImageNotFound, RegistryUnreachable, DiskFull or EngineFailed.
    """
    from docker.errors import DockerException
    from docker.errors import ImageNotFound as NoImage
    from requests import RequestException

    try:
        yield
    except NoImage as error:
        raise ImageNotFound(image=image, details=str(error)) from error
    except (DockerException, RequestException) as error:
        raise _failure(image, str(error)) from error


def pull(client: "Client", image: str, progress: Progress) -> None:
    """Bring an image here, by its digest; nothing is done when the engine has it.

    Raises ImageNotFound, RegistryUnreachable, DiskFull or EngineFailed.
    """
    from docker.errors import ImageNotFound as NoImage

    with translate(image):
        try:
            client.images.get(image)
        except NoImage:
            progress.say(f"pulling {image}")
        else:
            return

    def once() -> None:
        try:
            with translate(image):
                _pull(client, image, progress)
        except RegistryUnreachable as error:
            raise NetworkError(error.details) from error

    try:
        on_network_errors(once, progress)
    except NetworkError as error:
        raise RegistryUnreachable(image=image, details=str(error)) from error


def registry_digest(client: "Client", reference: str) -> str:
    """Return the digest that a registry gives for a tag now: ``sha256:…``.

    Raises ImageNotFound, RegistryUnreachable or EngineFailed.
    """
    with translate(reference):
        return str(client.images.get_registry_data(reference).id)


def _pull(client: "Client", image: str, progress: Progress) -> None:
    layers: dict[str, tuple[int, int]] = {}
    for event in client.api.pull(image, stream=True, decode=True):
        if "error" in event:
            raise _failure(image, str(event["error"]))
        sizes = event.get("progressDetail") or {}
        if event.get("status") == "Downloading" and sizes.get("total"):
            layers[event["id"]] = (sizes["current"], sizes["total"])
            done, total = (sum(column) for column in zip(*layers.values(), strict=True))
            progress.advance("pull", done, total)


def _failure(image: str, words: str) -> KbuildError:
    if "no space left on device" in words.lower():
        return DiskFull(path="the container engine")
    if _ABSENT.search(words.lower()):
        return ImageNotFound(image=image, details=words)
    if _UNREACHABLE.search(words):
        return RegistryUnreachable(image=image, details=words)
    return EngineFailed(reason=words)


def _address() -> tuple[str, Mapping[str, Any]]:
    from docker.context import ContextAPI
    from docker.utils import kwargs_from_env

    if os.environ.get("DOCKER_HOST"):
        options = kwargs_from_env()
        return str(options.pop("base_url")), options
    context = ContextAPI.get_current_context()
    if context.name != "default":
        return str(context.Host), {"tls": context.TLSConfig}
    return f"unix://{_socket()}", {}


def _socket() -> Path:
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR", "/run/user/0"))
    known = (
        Path("/var/run/docker.sock"),
        runtime / "docker.sock",
        runtime / "podman/podman.sock",
        Path("/run/podman/podman.sock"),
    )
    return next((path for path in known if path.exists()), known[0])


@contextlib.contextmanager
def _reaching(address: str) -> Iterator[None]:
    from docker.errors import DockerException
    from requests import RequestException

    try:
        yield
    except (DockerException, RequestException, OSError, ValueError) as error:
        words = repr(error)
        if "FileNotFoundError" in words or "No such file" in words:
            raise EngineMissing(address=address, details=str(error)) from error
        if "PermissionError" in words or "Permission denied" in words:
            raise EngineForbidden(address=address, details=str(error)) from error
        raise EngineDown(address=address, details=str(error)) from error
