"""Clone one tag: a shallow fetch into an object store that all runs share, and a checkout.

The store of a source is a bare repository in the cache. It holds every tag that was ever asked
for, so a second run fetches nothing, and a second tag only what is new in it.
"""

import io
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kbuild.errors import (
    BrokenSource,
    DiskFull,
    GitMissing,
    NotKubernetes,
    SourceUnreachable,
)
from kbuild.model import SourceTree, Tag
from kbuild.network import NetworkError, on_network_errors
from kbuild.progress import Progress
from kbuild.source.closure import is_for_linux, needed_files
from kbuild.source.versions import is_tag
from kbuild.workspace import Workspace, key, make_then_move, remove, shared

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
_SETTINGS = (
    "protocol.ext.allow=never",
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
_LINK = "120000"
_ROOM = 16 << 20  # bytes; with less left, a file may not have fitted


class _Entry(NamedTuple):
    mode: str
    oid: str


def list_tags(source: str, progress: Progress, *patterns: str) -> tuple[Tag, ...]:
    """Return the tags of a source that name Kubernetes versions, oldest first.

    With ``patterns`` only those refs are asked for. Raises SourceUnreachable or BrokenSource.
    """
    words = ["ls-remote", "--tags", "--", _address(source), *patterns]
    lines = _from_network(words, source, "its tags", progress)
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


def fetch_tag(
    source: str, tag: Tag, target: Path, workspace: Workspace, progress: Progress
) -> SourceTree:
    """Put the tree of a tag into ``target``.

    Raises SourceUnreachable, BrokenSource, NotKubernetes or DiskFull.
    """
    name = key(_address(source))
    # Git takes a path that is not absolute to begin in the work tree.
    store, target = (workspace.cache / "git" / f"{name}.git").absolute(), target.absolute()
    assert tag.commit is not None
    with shared(workspace, f"git-{name}"):
        is_new = not (store / "HEAD").exists()
        try:
            _obtain(source, tag, store, target, progress)
        except BrokenSource as error:
            _check_room(store)
            if is_new:
                raise
            # Damage shows in many ways, some of them at the fetch already; a new store has none.
            progress.say(f"the cached clone is damaged ({error.details}), fetching anew")
            remove(store)
            remove(target)
            _obtain(source, tag, store, target, progress)
    return SourceTree(path=target, tag=tag.name, commit=tag.commit, origin=shown(source))


def shown(source: str) -> str:
    """Return a source without the credentials that its address may hold."""
    return re.sub(r"(?<=://)[^/\s]*@", "", source)


def _obtain(source: str, tag: Tag, store: Path, target: Path, progress: Progress) -> None:
    if not (store / "HEAD").exists():
        _make_store(store, source, tag)
    _clean(store)
    if _has(store, str(tag.commit)):
        progress.say(f"{tag.name} is in the cache already")
    else:
        _fetch(source, tag, store, progress)
    _check_out(store, tag, target, source)


def _make_store(store: Path, source: str, tag: Tag) -> None:
    # Not as the user's settings have it: a template may hold attributes, which change the tree.
    words = ["init", "--quiet", "--bare", "--template=", "--object-format=sha1", "--"]
    remove(store)
    with make_then_move(store) as made:
        _git([*words, str(made)], source, tag.name)


def _check_room(store: Path) -> None:
    # Git does not say why it could not write a file of the tree.
    if shutil.disk_usage(store.parent).free < _ROOM:
        raise DiskFull(path=store.parent)


def _fetch(source: str, tag: Tag, store: Path, progress: Progress) -> None:
    ref = f"refs/tags/{tag.name}"
    words = [
        *("--git-dir", str(store), "fetch", "--progress", "--depth=1", "--no-tags"),
        *("--no-write-fetch-head", "--", _address(source), f"+{ref}:{ref}"),
    ]
    _from_network(words, source, tag.name, progress)


def _check_out(store: Path, tag: Tag, target: Path, source: str) -> None:
    entries = _entries(store, tag, source)
    if not any(name.startswith("cmd/kubeadm/") for name in entries):
        raise NotKubernetes(source=shown(source), reason=f"{tag.name} has no cmd/kubeadm")

    def read(names: Collection[str]) -> dict[str, bytes]:
        return _contents(store, {name: entries[name].oid for name in names}, tag, source)

    links = [name for name, entry in entries.items() if entry.mode == _LINK]
    needed = needed_files(entries, links, read)
    # An index of its own: the store is shared, and has no work tree.
    target.mkdir(parents=True)
    index = target.parent / "index"
    lines = (f"{entries[n].mode} {entries[n].oid}\t{n}\0" for n in needed)
    here = ("--git-dir", str(store), "--work-tree", str(target))
    where = {"GIT_INDEX_FILE": str(index)}
    _feed([*here, "update-index", "-z", "--index-info"], "".join(lines), tag, source, where)
    _feed([*here, "checkout-index", "--all", "--force"], "", tag, source, where)
    index.unlink()


def _entries(store: Path, tag: Tag, source: str) -> dict[str, _Entry]:
    words = ["--git-dir", str(store), "ls-tree", "-r", "-z", str(tag.commit)]
    listed = _feed(words, "", tag, source).decode(errors="surrogateescape")
    entries = {}
    for line in filter(None, listed.split("\0")):
        about, _, name = line.partition("\t")
        mode, kind, oid = about.split(" ")
        if kind == "blob" and is_for_linux(name):
            entries[name] = _Entry(mode, oid)
    return entries


def _contents(store: Path, oids: Mapping[str, str], tag: Tag, source: str) -> dict[str, bytes]:
    words = ["--git-dir", str(store), "cat-file", "--batch"]
    answer = io.BytesIO(_feed(words, "\n".join(oids.values()), tag, source))
    contents = {}
    for name in oids:
        header = answer.readline().split()
        if len(header) != 3:  # noqa: PLR2004  # oid, type, size; or oid, "missing"
            raise BrokenSource(tag=tag.name, source=shown(source), details=f"{name} is missing")
        contents[name] = answer.read(int(header[2]))
        answer.read(1)
    return contents


def _has(store: Path, commit: str) -> bool:
    try:
        _git(["--git-dir", str(store), "cat-file", "-e", f"{commit}^{{tree}}"], "", commit)
    except BrokenSource:
        return False
    return True


def _clean(store: Path) -> None:
    # What a killed git leaves behind; nobody else is at it, for the store's lock is held.
    for pattern in ("*.lock", "refs/tags/*.lock", "objects/pack/tmp_*", "objects/??/tmp_obj_*"):
        for left in store.glob(pattern):
            remove(left)


def _from_network(words: Sequence[str], source: str, what: str, progress: Progress) -> str:
    def once() -> str:
        try:
            return _git(words, source, what, progress)
        except BrokenSource as error:
            if _is_network_error(error.details):
                raise NetworkError(error.details) from error
            raise

    try:
        return on_network_errors(once, progress)
    except NetworkError as error:
        raise SourceUnreachable(source=shown(source), details=str(error)) from error


def _feed(
    words: Sequence[str],
    text: str,
    tag: Tag,
    source: str,
    environment: Mapping[str, str] | None = None,
) -> bytes:
    """Run a local git command on some input and return its output as it is."""
    from git import Git, GitCommandError

    settings = [word for setting in _SETTINGS for word in ("-c", setting)]
    with tempfile.TemporaryFile() as stdin:
        stdin.write(text.encode(errors="surrogateescape"))
        stdin.seek(0)
        try:
            output = Git().execute(
                [Git.GIT_PYTHON_GIT_EXECUTABLE, *settings, *words],
                istream=stdin,
                env=environment,
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


def _is_network_error(words: str) -> bool:
    # A server that hangs up is told in the words of one that refuses, which say why, though.
    hung_up = "Could not read from remote" in words and not _REFUSED.search(words)
    return hung_up or _NETWORK.search(words) is not None


def _git(
    words: Sequence[str],
    source: str,
    what: str,
    progress: Progress | None = None,
    **environment: str,
) -> str:
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
        process = Git().execute(
            [Git.GIT_PYTHON_GIT_EXECUTABLE, *settings, *words],
            env={"GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "", "SSH_ASKPASS": "", **environment},
            as_process=True,
            universal_newlines=True,
        )
    except GitCommandNotFound as error:
        raise GitMissing(details=str(error)) from error
    out: list[str] = []
    errors = _listener(progress)
    child = process.proc
    assert child is not None
    try:
        handle_process_output(
            process, out.append, errors.new_message_handler(), decode_streams=False
        )
        code = child.wait()
    except BaseException:
        child.kill()
        child.wait()
        raise
    if code != 0:
        details = shown("\n".join([*errors.error_lines, *errors.other_lines][:15]))
        if code == -signal.SIGPIPE:  # git had no time to say so itself
            details = "the remote end hung up"
        if "No space left on device" in details:
            raise DiskFull(path="the cache")
        raise BrokenSource(tag=what, source=shown(source), details=details)
    return "".join(out)


def _listener(progress: Progress | None) -> "RemoteProgress":
    from git import RemoteProgress  # see _git

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


def _address(source: str) -> str:
    # A plain path would be copied whole; only a URL honours --depth.
    path = Path(source).expanduser()
    if path.is_dir():
        return path.resolve().as_uri()
    if ":" not in source:
        raise NotKubernetes(source=source, reason="there is no such file or folder")
    return source
