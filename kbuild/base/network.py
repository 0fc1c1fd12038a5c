"""Downloads, what a stall is, and trying again what failed for want of a network.

A transfer has stalled when fewer than 1000 bytes a second came over ``stall_timeout`` seconds, as
with git's own http.lowSpeedLimit. The time-outs of sockets do not tell that: they begin anew with
each byte, so a server that sends one now and then would never be left.
"""

import contextlib
import queue
import re
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, wait
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from kbuild.base.progress import Progress

if TYPE_CHECKING:
    import requests

ATTEMPTS = 4
FIRST_WAIT = 1.0  # seconds; tests set it to nothing
LEAST = 1000  # bytes a second
LARGEST = 2 << 30  # bytes of a download
stall_timeout = 60.0  # seconds; the setting of that name, for this whole process
_TICK = 0.25  # seconds between two looks at what came
_GRACE = 5.0  # seconds that a socket waits longer than we do, so that a stall is told as one
_CHUNK = 1 << 20
_QUEUED = 4
_OK = 200
_TOO_MANY_REQUESTS = 429
_SERVER_ERRORS = 500
_AS_IT_IS = {"Accept-Encoding": "identity"}  # an archive is compressed already

T = TypeVar("T")


class NetworkError(Exception):
    """A failure that may well be over the next time; its text is the other program's."""


class DownloadFailed(Exception):
    """A download failed for good; its text says why."""


class Pace:
    """Tells a transfer that has stalled from one that is slow.

    A window ends when the bytes of a whole window have come, and the next one begins. So a server
    may be silent once for nearly ``stall_timeout``, for example before its first byte, and whatever
    it sent before does not count for later.
    """

    def __init__(self) -> None:
        self._seconds, self._bytes = 0.0, 0.0

    def add(self, seconds: float, size: float) -> None:
        """Count what came in so many seconds of waiting; raises NetworkError for a stall."""
        self._seconds, self._bytes = self._seconds + seconds, self._bytes + size
        if self._bytes >= LEAST * stall_timeout:
            self._seconds, self._bytes = 0.0, 0.0
        elif self._seconds >= stall_timeout:
            message = (
                f"it stalled: fewer than {LEAST} bytes a second for {stall_timeout:g} s"
                " (--stall-timeout)"
            )
            raise NetworkError(message)


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


def watched(
    items: Callable[[], Generator[T, None, None]],
    size: Callable[[T], float],
    tick: Callable[[], None] = lambda: None,
) -> Generator[T, None, None]:
    """Yield the items of a generator that runs in a thread of its own, unless they stall.

    A thread that waits for a server cannot be ended. It can be left behind: then it closes the
    generator as soon as it gets another item or an error, and at the latest it ends with kbuild.
    ``size`` tells how many bytes an item stands for; ``tick`` is called while there is none, and
    may raise. Raises NetworkError when the items stall, and whatever the generator raises.
    """
    given: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(_QUEUED)
    is_left = threading.Event()

    def give() -> None:
        try:
            with contextlib.closing(items()) as all_items:
                for item in all_items:
                    given.put((item,))
                    if is_left.is_set():
                        return
        except BaseException as error:
            given.put(error)
        else:
            given.put(None)

    threading.Thread(target=give, daemon=True).start()
    pace = Pace()
    try:
        while True:
            # Only the time of waiting counts, not what is done with an item.
            began = time.monotonic()
            try:
                got = given.get(timeout=_TICK)
            except queue.Empty:
                pace.add(time.monotonic() - began, 0)
                tick()
                continue
            if got is None:
                return
            if isinstance(got, BaseException):
                raise got
            pace.add(time.monotonic() - began, size(got[0]))
            yield got[0]
    finally:
        is_left.set()
        with contextlib.suppress(queue.Empty):
            while True:  # it may wait for room in the queue
                given.get_nowait()


def within(seconds: float, what: Callable[[], T]) -> T:
    """Return what a call returns that asks servers for a few answers, if it does so in time.

    Raises NetworkError when the time is over, and whatever the call raises.
    """
    answer = Future[T]()

    def call() -> None:
        try:
            answer.set_result(what())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    if not wait([answer], seconds).done:
        message = f"no answer in {seconds:g} s (--stall-timeout)"
        raise NetworkError(message)
    return answer.result()


def download(url: str, target: Path, what: str, progress: Progress, limit: int = LARGEST) -> None:
    """Download a file of at most ``limit`` bytes as the server has it: nothing is decompressed.

    It is tried again on network errors, stalls and a server's own faults. Raises DownloadFailed.
    """
    try:
        on_network_errors(lambda: _download(url, target, what, progress, limit), progress)
    except NetworkError as error:
        raise DownloadFailed(str(error)) from error


def _download(url: str, target: Path, what: str, progress: Progress, limit: int) -> None:
    import requests  # noqa: F401  # slow to import: that is no waiting for the server

    done, total = 0, None
    pieces = watched(
        lambda: _pieces(url, limit),
        lambda got: len(got[0]),
        lambda: progress.advance(what, done, total),
    )
    with contextlib.closing(pieces), target.open("wb") as file:
        for piece, total in pieces:
            done += file.write(piece)
            if done > limit:
                raise DownloadFailed(_too_large(limit))
            progress.advance(what, done, total)
    if total is not None and done != total:
        message = f"only {done} of {total} bytes came"
        raise NetworkError(message)


def _pieces(url: str, limit: int) -> Generator[tuple[bytes, int | None], None, None]:
    """Yield what a server sends, each piece with the length of all, if the server tells it."""
    import requests
    from urllib3.exceptions import HTTPError

    # No larger than what must come in one window, or a slow transfer would seem to have stalled.
    chunk = min(_CHUNK, int(LEAST * stall_timeout))
    try:
        with requests.get(
            url,
            stream=True,
            timeout=stall_timeout + _GRACE,
            headers=_AS_IT_IS,
            hooks={"response": _leave_out_body},
        ) as answer:
            _check_status(answer.status_code, str(answer.reason))
            total = _length(answer.headers.get("Content-Length"), limit)
            # Not iter_content, which would decompress what a server has compressed unasked.
            for piece in answer.raw.stream(chunk, decode_content=False):
                yield piece, total
    except (requests.ConnectionError, requests.Timeout, HTTPError) as error:
        raise NetworkError(str(error)) from error
    except (requests.RequestException, ValueError) as error:  # of an address that cannot be
        raise DownloadFailed(str(error)) from error


def _leave_out_body(answer: "requests.Response", **_: object) -> None:
    # Else requests reads all of the body of a redirect, before it follows it.
    if answer.is_redirect:
        answer.close()


def _check_status(code: int, reason: str) -> None:
    message = f"HTTP {code} {reason}"
    if code == _TOO_MANY_REQUESTS or code >= _SERVER_ERRORS:
        raise NetworkError(message)
    if code != _OK:
        raise DownloadFailed(message)


def _length(header: str | None, limit: int) -> int | None:
    if header is None:
        return None
    if not re.fullmatch(r"\d{1,18}", header, re.ASCII):
        message = f"its Content-Length is {header[:40]!r}"
        raise DownloadFailed(message)
    if int(header) > limit:
        raise DownloadFailed(_too_large(limit))
    return int(header)


def _too_large(limit: int) -> str:
    return f"it is larger than {limit} bytes"
