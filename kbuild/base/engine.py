"""The container engine: reach it, pull images by digest, and translate its errors.

This module imports the docker SDK only when it is needed.
"""

import contextlib
import os
import re
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from kbuild.base import network
from kbuild.base.errors import (
    DiskFull,
    EngineDown,
    EngineFailed,
    EngineForbidden,
    EngineMissing,
    EngineTooOld,
    ImageNotFound,
    KbuildError,
    RegistryUnreachable,
    WrongImageLoaded,
)
from kbuild.base.network import LEAST, NetworkError, on_network_errors, watched, why, within
from kbuild.base.progress import Progress

if TYPE_CHECKING:
    from docker import DockerClient

    Client: TypeAlias = DockerClient

NEEDED_API = (1, 41)  # Docker 20.10
_NEEDED = ".".join(map(str, NEEDED_API))
PROBE_SECONDS = 5
_PATIENCE_SECONDS = 600
# What Go's HTTP client says before the reason.
_DIALLED = re.compile(
    r'^(?:(?:Get|Head) "[^"]*": )?(?:dial tcp(?: \S+)?: )?(?:lookup \S+(?: on \S+)?: )?'
    r"(?:connect: )?"
)
# These words are about a registry only in an engine's answer to a pull.
_UNREACHABLE = re.compile(
    r"connection re(?:fused|set)|no such host|timeout|timed out|deadline exceeded|tls handshake"
    r"|temporary failure|unreachable|no route to host|server misbehaving|\beof\b"
    r"|http status:? 5\d\d|too ?many ?requests"
    r"|error parsing http|malformed http|content-type header",  # a web server, or a proxy's page
    re.IGNORECASE,
)
# The words of the SDK and of urllib.parse about DOCKER_HOST.
_BAD_ADDRESS = re.compile("Invalid bind|Port out of range|only supported on Windows")
_ABSENT = re.compile(
    r"manifest unknown|name unknown|not found|no such image|pull access denied|invalid reference",
    re.IGNORECASE,
)


def connect() -> "Client":
    """Return a client of the engine that DOCKER_HOST, the docker context or a socket names.

    Raises EngineMissing, EngineForbidden, EngineDown or EngineTooOld.
    """
    from docker import DockerClient  # slow to import

    address, options = _address()
    with _reaching(address):
        _knock(address)
        api = _spoken_api(address, options)
        if tuple(int(part) for part in api.split(".")) < NEEDED_API:
            raise EngineTooOld(actual=api, needed=_NEEDED)
        return DockerClient(base_url=address, version=api, timeout=_PATIENCE_SECONDS, **options)


def _spoken_api(address: str, options: Mapping[str, Any]) -> str:
    from docker import DockerClient

    # A client with a fixed version sends no request when it is created, so it can always be closed.
    # The request itself has no version, because engines refuse versions newer than theirs.
    probe = DockerClient(base_url=address, version=_NEEDED, timeout=PROBE_SECONDS, **options)
    with contextlib.closing(probe):
        return str(probe.api.version(api_version=False)["ApiVersion"])


def why_unavailable() -> str | None:
    """Return why no engine can be used, or None if one can."""
    try:
        connect().close()
    except KbuildError as error:
        return error.happened
    return None


def arch(client: "Client") -> str:
    """Return the engine's architecture, as Go names it."""
    return str(client.version()["Arch"])


def described() -> str:
    """Return the versions of the engine and its API; raises the engine's errors."""
    with contextlib.closing(connect()) as client, translate("the engine"):
        version = client.version().get("Version", "of unknown version")
        return f"{version} (API {client.api.api_version})"


@contextlib.contextmanager
def translate(image: str) -> Iterator[None]:
    """Translate the SDK's errors; ``image`` is the object that the block works with.

    Raises ImageNotFound, DiskFull or EngineFailed.
    """
    from docker.errors import APIError, DockerException, StreamParseError
    from docker.errors import ImageNotFound as NoImage
    from requests import RequestException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except NoImage as error:
        raise ImageNotFound(image=image, details=str(error)) from error
    except APIError as error:
        raise _failure(str(error.explanation or error)) from error
    except DockerException as error:
        raise EngineFailed(reason=str(error)) from error
    except (RequestException, HTTPError, StreamParseError) as error:
        raise EngineFailed(reason="it stopped answering", details=why(error)) from error


@contextlib.contextmanager
def _asking_registry(image: str) -> Iterator[None]:
    from docker.errors import APIError

    with translate(image):
        try:
            yield
        except APIError as error:
            raise _registry_failure(image, str(error.explanation or error)) from error


def pull(client: "Client", image: str, progress: Progress) -> None:
    """Pull an image by its digest, if the engine does not have it.

    Raises ImageNotFound, RegistryUnreachable, DiskFull or EngineFailed.
    """
    from docker.errors import ImageNotFound as NoImage

    with _asking_registry(image):
        try:
            client.images.get(image)
        except NoImage:
            progress.say(f"pulling {image}")
        else:
            return

    def once() -> None:
        try:
            with _asking_registry(image):
                _pull(client, image, progress)
        except RegistryUnreachable as error:
            raise NetworkError(error.details) from error

    try:
        on_network_errors(once, progress)
    except NetworkError as error:
        raise RegistryUnreachable(image=image, details=str(error)) from error


def load(
    client: "Client", image: str, ids: Collection[str], archive: Iterable[bytes], progress: Progress
) -> str:
    """Load an image from a docker archive, if the engine does not have it; return its id.

    ``ids`` are the digests that its id can be: that of its configuration or, in the image store of
    containerd, that of its manifest. Raises WrongImageLoaded, DiskFull or EngineFailed.
    """

    def sent() -> Iterator[bytes]:
        done = 0
        for block in archive:
            yield block
            done += len(block)
            progress.advance("load the image", done, None, "bytes")

    with translate(image):
        if (found := _found(client, ids)) is None:
            progress.say(f"loading {image} into the engine")
            for event in client.api.load_image(sent()):  # type: ignore[no-untyped-call]
                if words := str(event.get("error") or event.get("message") or ""):
                    raise _failure(words)
                progress.advance("load the image", 0, None)
            found = _found(client, ids)
    if found is None:
        raise WrongImageLoaded(image=image, expected=" or ".join(ids))
    return found


def _found(client: "Client", ids: Collection[str]) -> str | None:
    """Return the id of an image that the engine has; None if it has none of these."""
    from docker.errors import ImageNotFound as NoImage

    for each in ids:
        with contextlib.suppress(NoImage):
            # Compared, because a name can look like an id.
            if (found := str(client.images.get(each).id)) in ids:
                return found
    return None


def registry_digest(client: "Client", reference: str) -> str:
    """Return the digest that a tag has in its registry now: ``sha256:…``.

    Raises ImageNotFound, RegistryUnreachable or EngineFailed.
    """
    try:
        with _asking_registry(reference):
            return within(
                network.stall_timeout,
                lambda: str(client.images.get_registry_data(reference).id),
            )
    except NetworkError as error:
        raise RegistryUnreachable(image=reference, details=str(error)) from error


def _pull(client: "Client", image: str, progress: Progress) -> None:
    layers: dict[str, tuple[int, int]] = {}
    last: dict[str, dict[str, Any]] = {}

    def size(event: dict[str, Any]) -> float:
        """Return the bytes that came with an event; other progress counts as a full window."""
        layer = event.get("id", "")
        if event == last.get(layer):
            return 0
        last[layer] = event
        if event.get("status") != "Downloading":
            return LEAST * network.stall_timeout
        done, _ = layers.get(layer, (0, 0))
        return float(max(0, (event.get("progressDetail") or {}).get("current", 0) - done))

    # The SDK has no timeout for the next event, nor the engine for its registry's next byte.
    events = watched(lambda: client.api.pull(image, stream=True, decode=True), size)
    for event in events:
        if "error" in event:
            raise _registry_failure(image, str(event["error"]))
        sizes, layer = event.get("progressDetail") or {}, event.get("id", "")
        if event.get("status") == "Extracting":
            progress.advance(f"unpack {image.partition('@')[0]}", 0, None)
            continue
        if event.get("status") == "Downloading" and sizes.get("total"):
            layers[layer] = (sizes["current"], sizes["total"])
        elif event.get("status") == "Download complete" and layer in layers:
            layers[layer] = (layers[layer][1], layers[layer][1])
        else:
            continue
        done, total = (sum(column) for column in zip(*layers.values(), strict=True))
        progress.advance(f"pull {image.partition('@')[0]}", done, total, "bytes")


def _failure(words: str) -> KbuildError:
    if "no space left on device" in words.lower():
        return DiskFull(path="the container engine")
    return EngineFailed(reason=words)


def _registry_failure(image: str, words: str) -> KbuildError:
    if _ABSENT.search(words):
        return ImageNotFound(image=image, details=words)
    if _UNREACHABLE.search(words):
        return RegistryUnreachable(image=image, details=_DIALLED.sub("", words))
    return _failure(words)


def _address() -> tuple[str, Mapping[str, Any]]:
    from docker.context import ContextAPI
    from docker.context.config import get_current_context_name
    from docker.utils import kwargs_from_env

    if host := os.environ.get("DOCKER_HOST"):
        with _reaching(host):  # its TLS certificates may be missing
            options = kwargs_from_env()
        return str(options.pop("base_url")), options
    # Older SDKs do not read DOCKER_CONTEXT themselves.
    name = os.environ.get("DOCKER_CONTEXT") or get_current_context_name()
    if name == "default":
        return f"unix://{_socket()}", {}
    context = ContextAPI.get_context(name)
    if context is None:
        raise EngineMissing(address=f"the docker context {name}, which does not exist")
    return str(context.Host), {"tls": context.TLSConfig}


def _socket() -> Path:
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}")
    known = (
        Path("/var/run/docker.sock"),
        runtime / "docker.sock",
        runtime / "podman/podman.sock",
        Path("/run/podman/podman.sock"),
    )
    return next((path for path in known if _is_there(path)), known[0])


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except PermissionError:  # the runtime directory of another user, after su
        return False


@contextlib.contextmanager
def _reaching(address: str) -> Iterator[None]:
    from docker.errors import DockerException, TLSParameterError
    from requests import RequestException

    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise EngineMissing(address=address, details=why(error)) from error
    except PermissionError as error:
        raise EngineForbidden(address=address, details=why(error)) from error
    except TLSParameterError as error:
        details = "its TLS certificates cannot be read: DOCKER_CERT_PATH is their directory"
        raise EngineDown(address=address, details=details) from error
    except (DockerException, RequestException, OSError, ValueError, KeyError, TypeError) as error:
        raise EngineDown(address=address, details=_why_down(error)) from error


def _why_down(error: Exception) -> str:
    from docker.errors import APIError

    if isinstance(error, APIError) and error.response is not None:
        return f"HTTP {error.response.status_code} {error.response.reason}"
    if _BAD_ADDRESS.search(str(error)):
        return "it is not a valid address"
    return why(error)


def _knock(address: str) -> None:
    # The SDK distinguishes missing from forbidden only in text, and leaves its socket open.
    if address.startswith("unix://"):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(PROBE_SECONDS)
            probe.connect("/" + address.removeprefix("unix://").lstrip("/"))
