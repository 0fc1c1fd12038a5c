"""Run git, fenced from the user's own settings for working trees, and ask a source for its tags."""

import contextlib
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from kbuild.addresses import shown
from kbuild.errors import (
    BrokenSource,
    DiskFull,
    GitMissing,
    NotKubernetes,
    SourceUnreachable,
)
from kbuild.model import Tag
from kbuild.network import NetworkError, on_network_errors
from kbuild.progress import Progress
from kbuild.source.versions import is_tag

if TYPE_CHECKING:
    from git import RemoteProgress

_NETWORK = re.compile(
    r"could not resolve|couldn't resolve|connection (refused|reset|timed out|was reset)|timed out"
    r"|unable to (connect|look up)|failed to connect|early eof|hung up|rpc failed|disconnect"
    r"|network is unreachable|no route to host|operation too slow|empty reply|ssl_|gnutls"
    r"|error: (429|5\d\d)|http (429|5\d\d)|temporary failure",
    re.IGNORECASE,
)
_REFUSED = re.compile(
    r"denied|not found|not exported|not appear|host key|authentication|dubious ownership|bad owner",
    re.IGNORECASE,
)
_NO_FILTER = "filtering not recognized by server"
_SETTINGS = (
    "protocol.ext.allow=never",
    "protocol.version=2",  # a server of version 0 lists every ref, and gives no object by its name
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
    "http.lowSpeedLimit=1000",
    "http.lowSpeedTime=60",
)
# Set where kbuild is run by a git hook, and meant for another repository: what
# `git rev-parse --local-env-vars` names, but for settings, which may hold a proxy.
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


def stop() -> None:
    """End every git that runs for another thread, which then fails."""
    for child in list(_running):
        child.kill()


def list_tags(source: str, progress: Progress, *patterns: str) -> tuple[Tag, ...]:
    """Return the tags of a source that name Kubernetes versions, oldest first.

    With ``patterns`` only those refs are asked for. Raises SourceUnreachable or BrokenSource.
    """
    words = ["ls-remote", "--tags", "--", address(source), *patterns]
    lines = ask(words, source, "its tags", progress)
    commits = {}
    for line in lines.splitlines():
        commit, _, ref = line.partition("\t")
        name = ref.removeprefix("refs/tags/")
        # The peeled line of an annotated tag follows that of the tag object, so it wins.
        if is_tag(name.removesuffix("^{}")):
            commits[name.removesuffix("^{}")] = commit
    tags = [Tag(name=name, commit=commit) for name, commit in commits.items()]
    return tuple(sorted(tags, key=lambda tag: tag.version))


def find_tag(source: str, name: str, progress: Progress) -> Tag | None:
    """Return one tag with the commit that it stands for, or None."""
    refs = (f"refs/tags/{name}", f"refs/tags/{name}^{{}}")
    return next(iter(list_tags(source, progress, *refs)), None)


def ask(words: Sequence[str], source: str, what: str, progress: Progress, text: str = "") -> str:
    """Run a git command that needs the network, again and again on network errors.

    ``text`` is its input, ``what`` is what git was asked for. Raises SourceUnreachable or
    BrokenSource.
    """

    def once() -> str:
        try:
            return run(words, source, what, progress, text)
        except BrokenSource as error:
            if _is_network_error(error.details):
                raise NetworkError(error.details) from error
            raise

    try:
        return on_network_errors(once, progress)
    except NetworkError as error:
        raise SourceUnreachable(source=shown(source), details=str(error)) from error


def feed(words: Sequence[str], text: str, tag: Tag, source: str) -> bytes:
    """Run a local git command on some input and return its output as it is.

    Raises BrokenSource or DiskFull.
    """
    from git import Git, GitCommandError

    settings = [word for setting in _SETTINGS for word in ("-c", setting)]
    with _input(text) as stdin:
        try:
            output = Git().execute(
                [Git.GIT_PYTHON_GIT_EXECUTABLE, *settings, *words],
                istream=stdin,
                stdout_as_string=False,
                strip_newline_in_stdout=False,
            )
        except GitCommandError as error:
            details = str(error.stderr).strip()
            if "No space left on device" in details:
                raise DiskFull(path="the cache") from error
            raise BrokenSource(tag=tag.name, source=shown(source), details=details) from error
    assert isinstance(output, bytes)
    return output


@contextlib.contextmanager
def _input(text: str) -> Iterator[BinaryIO]:
    with tempfile.TemporaryFile() as file:
        file.write(text.encode(errors="surrogateescape"))
        file.seek(0)
        yield file


def _is_network_error(words: str) -> bool:
    # A server that hangs up is told in the words of one that refuses, which say why, though.
    hung_up = "Could not read from remote" in words and not _REFUSED.search(words)
    return hung_up or _NETWORK.search(words) is not None


def run(
    words: Sequence[str],
    source: str,
    what: str,
    progress: Progress | None = None,
    text: str = "",
) -> str:
    """Run a git command on some input and return its output; progress of receiving is passed on.

    Raises BrokenSource with git's words in its details, DiskFull or GitMissing.
    """
    # Loaded here: importing it runs git, which most commands do not need.
    try:
        from git import Git, GitCommandNotFound
        from git.cmd import handle_process_output
    except ImportError as error:
        raise GitMissing(details=str(error)) from error
    for name in _INHERITED:
        os.environ.pop(name, None)
    settings = [word for setting in _SETTINGS for word in ("-c", setting)]
    try:
        with _input(text) as stdin:  # git has a copy of it
            process = Git().execute(
                [Git.GIT_PYTHON_GIT_EXECUTABLE, *settings, *words],
                istream=stdin,
                env={"GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "", "SSH_ASKPASS": ""},
                as_process=True,
                universal_newlines=True,
            )
    except GitCommandNotFound as error:
        raise GitMissing(details=str(error)) from error
    out: list[str] = []
    errors = _listener(progress)
    child = process.proc
    assert child is not None
    _running.add(child)
    try:
        handle_process_output(
            process, out.append, errors.new_message_handler(), decode_streams=False
        )
        code = child.wait()
    except BaseException:
        child.kill()
        child.wait()
        raise
    finally:
        _running.discard(child)
    if code != 0:
        details = shown("\n".join([*errors.error_lines, *errors.other_lines][:15]))
        if code == -signal.SIGPIPE:  # git had no time to say so itself
            details = "the remote end hung up"
        if "No space left on device" in details:
            raise DiskFull(path="the cache")
        raise BrokenSource(tag=what, source=shown(source), details=details)
    if progress is not None and any(_NO_FILTER in line for line in errors.other_lines):
        progress.say("the source cannot leave files out, so the whole tree was fetched")
    return "".join(out)


def _listener(progress: Progress | None) -> "RemoteProgress":
    from git import RemoteProgress  # see run

    class Listener(RemoteProgress):
        def update(
            self,
            op_code: int,
            cur_count: str | float,
            max_count: str | float | None = None,
            message: str = "",  # noqa: ARG002  # GitPython's signature
        ) -> None:
            if progress is not None and max_count and op_code & self.RECEIVING:
                progress.advance("fetch", int(float(cur_count)), int(float(max_count)))

    return Listener()


def address(source: str) -> str:
    """Return what git is to be given for a source; raises NotKubernetes for an absent path."""
    # A plain path would be copied whole; only a URL honours --depth.
    path = Path(source).expanduser()
    if path.is_dir():
        return path.resolve().as_uri()
    if ":" not in source:
        raise NotKubernetes(source=source, reason="there is no such file or folder")
    return source
