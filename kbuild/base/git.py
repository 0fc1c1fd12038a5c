"""Run git, isolated from the user's own settings for working trees.

Only this module imports GitPython.
"""

import contextlib
import os
import re
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from kbuild.base.addresses import shown
from kbuild.base.disk import disk_errors
from kbuild.base.errors import (
    BadSetting,
    BrokenSource,
    DiskFull,
    GitMissing,
    KbuildError,
    NotEnoughMemory,
    NotKubernetes,
    SourceUnreachable,
)
from kbuild.base.network import LARGEST, LEAST, NetworkError, Pace, on_network_errors
from kbuild.base.progress import Progress

if TYPE_CHECKING:
    from git import Git, RemoteProgress

_NETWORK = re.compile(
    r"could not resolve|couldn't resolve|connection (refused|reset|timed out|was reset)|timed out"
    r"|unable to (connect|look up)|failed to connect|early eof|hung up|rpc failed|disconnect"
    r"|network is unreachable|no route to host|operation too slow|empty reply|ssl_|gnutls"
    r"|error: (429|5\d\d)|http (429|5\d\d)|temporary failure"
    r"|(connect tunnel failed, response|received http code) (429|5\d\d)"
    r"|proxy connect aborted|connection to proxy closed",
    re.IGNORECASE,
)
# The words of curl, of 2020 and of today; a proxy that refuses says nothing about the repository.
_PROXY_REFUSED = re.compile(
    r"connect tunnel failed|from proxy after connect|error: 407", re.IGNORECASE
)
_REFUSED = re.compile(
    r"denied|not found|not exported|not appear|host key|authentication|dubious ownership|bad owner",
    re.IGNORECASE,
)
_SHORTAGE = re.compile(
    r"out of memory|cannot allocate memory|cannot fork|unable to (create (async )?thread|fork)",
    re.IGNORECASE,
)
# Git's advice after a lost connection; kbuild gives its own.
_ADVICE = re.compile(
    r"\s*(Please make sure you have the correct access rights|and the repository exists\.)?\s*"
)
_NO_FILTER = "filtering not recognized by server"
PROTOCOLS = ("https", "ssh", "git", "file", "http")
_SETTINGS = (
    "protocol.version=2",  # with version 0, a server lists every ref and serves no object by its id
    "core.hooksPath=/dev/null",
    "core.attributesFile=/dev/null",
    "core.autocrlf=false",
    "core.eol=lf",
    "core.fsmonitor=false",
    "core.sparseCheckout=false",
    "core.symlinks=true",
    "gc.auto=0",
    "maintenance.auto=false",
    "advice.detachedHead=false",
)
_ENVIRONMENT = {
    "GIT_ALLOW_PROTOCOL": ":".join(PROTOCOLS),  # overrides protocol.*.allow of the user's settings
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "",
    "SSH_ASKPASS": "",
}
_TICK = 0.5  # seconds between two checks of git's progress
_BUSY = 0.05  # of a processor; a git that computes this much is not waiting for a server
_CHUNK = 1 << 16
_MOST = 4 * LARGEST  # bytes that git may read; it reads each byte of a transfer more than once
MOST_CONTENT = 512 << 20  # bytes of objects, unpacked; v1.20.2 takes 29 MB
_MOST_MEMORY = 4 << 30  # bytes of address space; a few bytes of delta can expand to gigabytes
_MOST_LINES = 1000  # of git's output, without progress
# Git runs in its own session. So it has no terminal for questions, and can be killed together with
# the processes that it starts. The shell leads the session: the kernel signals it when kbuild has
# died, and it kills the others. LARGEST bytes is the limit of a file, such as a pack; POSIX counts
# it in blocks of 512.
_SCRIPT = f"""\
trap 'kill -KILL 0' TERM
ulimit -f {LARGEST // 512} 2>/dev/null
ulimit -v {_MOST_MEMORY // 1024} 2>/dev/null
exec 3<&0
"$@" <&3 3<&- &
wait $!
"""
_LEADER = ("setpriv", "--pdeathsig", "TERM", "sh", "-c", _SCRIPT, "sh")
_HUNG_UP = (-signal.SIGPIPE, 128 + signal.SIGPIPE)
# A git hook sets these for its own repository: the output of `git rev-parse --local-env-vars`,
# without settings, which may contain a proxy.
_INHERITED = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_QUARANTINE_PATH",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
)


_running: "set[subprocess.Popen[bytes]]" = set()


def demand() -> None:
    """Raise GitMissing if git cannot be run."""
    # Imported here: the import runs git, and most commands do not need it.
    try:
        import git  # noqa: F401
    except ImportError as error:
        if isinstance(error.__cause__, OSError | MemoryError):  # the system could not start git
            raise error.__cause__ from error
        # The words of GitPython are about its own settings.
        raise GitMissing() from error


def stop() -> None:
    """Kill every running git; the threads that wait for them fail."""
    for child in list(_running):
        _kill(child)


def ask(
    words: Sequence[str],
    source: str,
    what: str,
    progress: Progress,
    text: str = "",
    most: int = _MOST,
) -> str:
    """Run a git command that needs the network, with retries after network errors and stalls.

    ``text`` is its input, ``what`` names the request in errors, ``most`` is the limit of bytes
    read. Raises SourceUnreachable or BrokenSource.
    """

    def once() -> str:
        progress.advance(f"ask the source for {what}", 0, None)
        try:
            return _run(words, source, what, progress, text, most).decode(errors="replace")
        except BrokenSource as error:
            if _is_network_error(error.details):
                raise NetworkError(error.details) from error
            if _PROXY_REFUSED.search(error.details):
                raise SourceUnreachable(source=shown(source), details=error.details) from error
            raise

    try:
        return on_network_errors(once, progress)
    except NetworkError as error:
        raise SourceUnreachable(source=shown(source), details=str(error)) from error


def run(
    words: Sequence[str], source: str, what: str, text: str = "", *, is_limited: bool = False
) -> bytes:
    """Run a local git command with this input, and return its output unchanged.

    With ``is_limited``, it has limits of memory and of the size of a file, as with the network:
    what it reads is not trusted. Raises BrokenSource with git's words in its details, DiskFull,
    NotEnoughMemory or GitMissing.
    """
    return _run(words, source, what, None, text, _MOST, is_limited=is_limited)


def apply_patch(folder: Path, text: str, *options: str) -> None:
    """Apply a unified diff without context in a directory.

    Raises BrokenSource with git's words in its details, DiskFull, NotEnoughMemory or GitMissing.
    """
    # Otherwise a repository around the directory and the user's settings would decide which files
    # git apply silently skips, and how it writes line ends.
    nothing = os.devnull
    isolated = {"GIT_CONFIG_GLOBAL": nothing, "GIT_CONFIG_NOSYSTEM": "1"}
    words = ["-C", str(folder), "--git-dir", nothing, "-c", "apply.whitespace=nowarn"]
    words += ["apply", "--unidiff-zero", *options, "-"]
    with disk_errors(Path(tempfile.gettempdir())):
        _run(words, str(folder), "a patch", None, text, _MOST, isolated)


@contextlib.contextmanager
def _input(text: str) -> Iterator[BinaryIO]:
    with tempfile.TemporaryFile() as file:
        file.write(text.encode(errors="surrogateescape"))
        file.seek(0)
        yield file


def _is_network_error(words: str) -> bool:
    # Git reports a lost connection with the words of a refusal, but a refusal has a reason.
    hung_up = "Could not read from remote" in words and not _REFUSED.search(words)
    return hung_up or _NETWORK.search(words) is not None


def _run(
    words: Sequence[str],
    source: str,
    what: str,
    progress: Progress | None,
    text: str,
    most: int,
    environment: Mapping[str, str] | None = None,
    *,
    is_limited: bool = False,
) -> bytes:
    """Run a git command with this input, and return its output.

    With ``progress``, the command uses the network: progress is reported, and a stall or more than
    ``most`` bytes end it with NetworkError. Also raises BrokenSource with git's words in its
    details, DiskFull, NotEnoughMemory or GitMissing.
    """
    leader = _LEADER if is_limited or progress is not None else ()  # others end by themselves
    process, errors = _start(leader, words, text, environment), _listener(progress, what)
    child = process.proc  # it is terminated when nothing refers to ``process`` any more
    assert child is not None
    _running.add(child)
    with child:
        try:
            out = _read(child, errors, None if progress is None else _Work(child.pid, most))
            code = child.wait()
        except _TooLarge:
            _kill(child)
            details = f"what it holds is larger than {MOST_CONTENT} bytes"
            raise BrokenSource(tag=what, source=shown(source), details=details) from None
        except BaseException:
            _kill(child)
            raise
        finally:
            _running.discard(child)
    if code != 0:
        raise _failure(code, errors, source, what)
    if progress is not None and any(_NO_FILTER in line for line in errors.other_lines):
        progress.say("the source cannot leave files out, so the whole tree was fetched")
    return out


def _start(
    leader: Sequence[str],
    words: Sequence[str],
    text: str,
    environment: Mapping[str, str] | None,
) -> "Git.AutoInterrupt":
    """Start git in its own session; ``text`` is its input."""
    demand()
    from git import Git, GitCommandNotFound

    for name in _INHERITED:
        os.environ.pop(name, None)
    settings = [word for setting in _SETTINGS for word in ("-c", setting)]
    try:
        with _input(text) as stdin:  # git has its own descriptor of it
            return Git().execute(
                [*leader, Git.GIT_PYTHON_GIT_EXECUTABLE, *settings, *words],
                istream=stdin,
                env={**_ENVIRONMENT, **(environment or {})},
                as_process=True,
                start_new_session=True,
            )
    except GitCommandNotFound as error:
        raise GitMissing() from error


def _failure(code: int, errors: "RemoteProgress", source: str, what: str) -> KbuildError:
    lines = [line for line in [*errors.error_lines, *errors.other_lines] if _ADVICE.sub("", line)]
    details = shown("\n".join(lines[:15]))
    if code in _HUNG_UP:  # git was killed before it could report it
        details = "the remote end hung up"
    if "No space left on device" in details:
        return DiskFull(path="the cache")
    for line in details.splitlines():
        if _SHORTAGE.search(line) and not line.startswith("remote:"):
            return NotEnoughMemory(reason=f"git: {line}")
    return BrokenSource(tag=what, source=shown(source), details=details)


class _TooLarge(Exception):
    """Git printed more than the largest Kubernetes tree contains."""


def _kill(child: "subprocess.Popen[bytes]") -> None:
    """Kill git and the processes that it started; any thread may call this."""
    if child.poll() is None:  # otherwise another process may have its id
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


def _read(
    child: "subprocess.Popen[bytes]", errors: "RemoteProgress", work: "_Work | None"
) -> bytes:
    """Return what git prints, and give each line of its standard error to ``errors``.

    Raises NetworkError for a stall, and if git has read too much.
    """
    assert child.stdout is not None
    assert child.stderr is not None
    out, said, pace, looked = bytearray(), bytearray(), Pace(), time.monotonic()
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ, out)
        selector.register(child.stderr, selectors.EVENT_READ, said)
        while selector.get_map():
            has_ended = child.poll() is not None
            ready = selector.select(_TICK)
            if has_ended and not ready:
                break  # only processes outside the session still hold the pipes
            for key, _ in ready:
                if data := os.read(key.fd, _CHUNK):
                    key.data.extend(data)
                    if len(out) > MOST_CONTENT:
                        raise _TooLarge
                else:
                    selector.unregister(key.fileobj)
            _hear(said, errors)
            seconds = time.monotonic() - looked
            if work is not None and seconds >= _TICK:
                pace.add(seconds, work.since_last(seconds))
                looked += seconds
    _hear(said, errors, at_end=True)
    return bytes(out)


def _hear(said: bytearray, errors: "RemoteProgress", *, at_end: bool = False) -> None:
    """Give the complete lines to ``errors``, up to a limit: the server chooses them."""
    *lines, rest = re.split(rb"[\r\n]", said)
    if at_end or len(rest) > _CHUNK:
        lines, rest = [*lines, rest], b""
    said[:] = rest
    hear = errors.new_message_handler()
    for line in lines:
        if len(errors.error_lines) + len(errors.other_lines) < _MOST_LINES:
            hear(line.decode(errors="replace"))


class _Work:
    """Git's activity as a number of bytes for Pace.

    With any protocol, git itself reads each byte of a transfer, from its socket or from a helper's
    pipe, and the kernel counts these bytes. Progress messages count too. After the transfer, git
    resolves deltas and writes files, without network: a twentieth of a processor, or waiting for a
    disk, then counts as much as the bytes that must arrive in that time. The activity of ssh and
    other helpers does not show progress, so they do not count.
    """

    def __init__(self, session: int, most: int) -> None:
        self._session, self._left = session, most
        self._seen: dict[int, tuple[int, float]] = {}

    def since_last(self, seconds: float) -> float:
        """Return the activity since the last call, ``seconds`` ago.

        Raises NetworkError when git has read more than it may.
        """
        done, on_disk = 0.0, False
        for process, state, read, computed in self._processes():
            on_disk = on_disk or state == "D"
            read_before, computed_before = self._seen.get(process, (0, 0.0))
            self._seen[process] = read, computed
            self._left -= read - read_before
            done += read - read_before + (computed - computed_before) * LEAST / _BUSY
        if self._left < 0:
            message = "it sends more data than any repository needs"
            raise NetworkError(message)
        return done + (LEAST * seconds if on_disk else 0)

    def _processes(self) -> Iterator[tuple[int, str, int, float]]:
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it may have ended, or it is another user's
                # proc(5): pid (comm) state ppid pgrp session …, 14 utime, 15 stime
                stat = (process / "stat").read_text(errors="replace")
                command, _, rest = stat.rpartition(")")
                fields = rest.split()
                if int(fields[3]) != self._session or "(git" not in command:
                    continue
                computed = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
                read = int((process / "io").read_text().split()[1])  # rchar: …
                yield int(process.name), fields[0], read, computed


def _listener(progress: Progress | None, what: str) -> "RemoteProgress":
    """Return what reads git's standard error, and tells the progress of a transfer."""
    from git import RemoteProgress  # see run

    steps = (
        (RemoteProgress.RECEIVING, f"fetch {what}"),
        (RemoteProgress.RESOLVING, f"unpack {what}"),
    )

    class Listener(RemoteProgress):
        def update(
            self,
            op_code: int,
            cur_count: str | float,
            max_count: str | float | None = None,
            message: str = "",  # noqa: ARG002  # GitPython's signature
        ) -> None:
            step = next((name for code, name in steps if op_code & code), None)
            if progress is not None and max_count and step is not None:
                progress.advance(step, int(float(cur_count)), int(float(max_count)))

    return Listener()


def address(source: str) -> str:
    """Return a source as an argument for git.

    Raises NotKubernetes for a path that does not exist, BadSetting for an address for which git
    would run another program.
    """
    # Git copies a plain path completely; --depth works only with a URL.
    with contextlib.suppress(OSError, RuntimeError):  # too long a name, or an unknown user
        path = Path(source).expanduser()
        if path.is_dir():
            return path.resolve().as_uri()
    if ":" not in source and not source.startswith("-"):
        raise NotKubernetes(source=source, reason="there is no such file or directory")
    # For `helper::address` and `helper://address`, git runs git-remote-<helper>.
    protocol = re.match(r"([A-Za-z0-9][A-Za-z0-9+.-]*):(?:(:)|//)", source)
    if protocol is not None and (protocol[2] or protocol[1] not in PROTOCOLS):
        raise _not_allowed(source, f"kbuild does not use the protocol {protocol[1]}")
    if re.match(r"(?:[^/@]*://)?(?:[^/@]*@)?-", source):
        raise _not_allowed(source, "ssh would read it as an option")
    return source


def _not_allowed(source: str, reason: str) -> BadSetting:
    return BadSetting(
        name="a git source",
        value=shown(source),
        reason=reason,
        hint=f"give a directory, host:path, or an address of {', '.join(PROTOCOLS)}",
    )
