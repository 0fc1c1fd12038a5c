"""Downloads, and trying again what failed for want of a network, and nothing else."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from kbuild.progress import Progress

ATTEMPTS = 4
FIRST_WAIT = 1.0  # seconds; tests set it to nothing
_CHUNK = 1 << 20
_TOO_MANY_REQUESTS = 429
_SERVER_ERRORS = 500
_AS_IT_IS = {"Accept-Encoding": "identity"}  # an archive is compressed already

T = TypeVar("T")


class NetworkError(Exception):
    """A failure that may well be over the next time; its text is the other program's."""


class DownloadFailed(Exception):
    """A download failed for good; its text says why."""


def on_network_errors(what: Callable[[], T], progress: Progress) -> T:
    """Call ``what`` up to four times while it raises NetworkError; the last one passes on."""
    # Loaded here: most commands never ask a network for anything.
    from tenacity import (
        RetryCallState,
        Retrying,
        retry_if_exception_type,
        stop_after_attempt,
        wait_exponential,
        wait_random,
    )

    def tell(state: RetryCallState) -> None:
        wait = state.next_action.sleep if state.next_action else 0
        progress.say(f"the network failed, trying again in {wait:.0f} s")

    retrying = Retrying(
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_exponential(multiplier=FIRST_WAIT) + wait_random(0, FIRST_WAIT),
        retry=retry_if_exception_type(NetworkError),
        before_sleep=tell,
        reraise=True,
    )
    return retrying(what)


def download(url: str, target: Path, what: str, progress: Progress) -> None:
    """Download a file, trying again on network errors and on a server's own faults.

    Raises DownloadFailed.
    """
    try:
        on_network_errors(lambda: _download(url, target, what, progress), progress)
    except NetworkError as error:
        raise DownloadFailed(str(error)) from error


def _download(url: str, target: Path, what: str, progress: Progress) -> None:
    import requests  # slow to import

    try:
        with requests.get(url, stream=True, timeout=60, headers=_AS_IT_IS) as answer:
            _check_status(answer.status_code, str(answer.reason))
            total = int(answer.headers.get("Content-Length", 0)) or None
            done = 0
            with target.open("wb") as file:
                for chunk in answer.iter_content(_CHUNK):
                    done += file.write(chunk)
                    progress.advance(what, done, total)
    except (requests.ConnectionError, requests.Timeout) as error:
        raise NetworkError(str(error)) from error
    except requests.exceptions.ChunkedEncodingError as error:
        raise NetworkError(str(error)) from error
    except requests.RequestException as error:
        raise DownloadFailed(str(error)) from error
    if total is not None and done != total:
        message = f"only {done} of {total} bytes came"
        raise NetworkError(message)


def _check_status(code: int, reason: str) -> None:
    message = f"HTTP {code} {reason}"
    if code == _TOO_MANY_REQUESTS or code >= _SERVER_ERRORS:
        raise NetworkError(message)
    if code >= 400:  # noqa: PLR2004
        raise DownloadFailed(message)
