"""Run an untrusted program in its own namespaces, with bubblewrap.

The program sees the binds, which are read-only unless they are writable; /tmp and one directory to
exchange files with kbuild, both in memory and of limited size; a /proc with its own processes,
without the files that runc masks; /dev/null, random and urandom. It has no network except its own
loopback, no capabilities, no privileges of root or another user, no terminal, and limits.

    unshare         mount and PID namespaces; for a normal user also a user namespace
      sh            process 1 of that PID namespace: if it is killed, everything below it is too;
                    mounts the root on a tmpfs ("the stage") and unpacks files into it
        setpriv     only for root: becomes the user SANDBOX_ID, without capabilities
          prlimit   processes, memory, file size
            bwrap   user, mount, PID, network, IPC, UTS and cgroup namespaces, pivot_root with the
                    old root detached, no capabilities, no_new_privs, the seccomp filter
      tar           reads the exchanged files back, after every process of the program is dead

The stage runs only kbuild's own commands on its own input. Foreign code runs only inside bwrap.
"""

import contextlib
import errno
import io
import os
import platform
import re
import resource
import selectors
import shlex
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath

from kbuild.base.arches import ARCHES
from kbuild.base.errors import SandboxForbidden, SandboxLimit, SandboxUnavailable
from kbuild.base.seccomp import filter_program

SANDBOX_ID = 65532  # user and group of the program; if root runs kbuild, outside the sandbox too
CONTAINER_MARKS = ("/.dockerenv", "/run/.containerenv")  # made by Docker and by Podman
SYSTEM = ("bin", "lib", "lib32", "lib64", "sbin")
SYSTEM_USR = ("usr/bin", "usr/lib", "usr/lib32", "usr/lib64", "usr/sbin", "usr/share")
# Not /dev/zero: no limit counts the memory of a shared mapping of it.
_DEVICES = ("null", "random", "urandom")
# Masked by runc and Docker (moby, oci/defaults.go). bwrap itself makes sys, sysrq-trigger, irq and
# bus read-only.
_MASKED = (
    *("acpi", "asound", "fs", "interrupts", "kcore", "keys", "latency_stats"),
    *("sched_debug", "scsi", "timer_list", "timer_stats"),
)
_SAFE_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_STAGE_ENVIRONMENT = {"PATH": _SAFE_PATH, "LC_ALL": "C"}
_STAGE = PurePosixPath("/tmp")  # exists everywhere; covered by the root only in our namespace
_MAX_FILES = 512  # in the exchange directory; kubeadm writes 30
_MAX_TEMPORARY = 1 << 16  # files and directories in /tmp
_MAX_DEPTH = 16  # levels of directories in the exchange directory
_MAX_OPEN = 4096  # files that one process may hold open
_ROOT_SIZE = 2 << 30  # bytes; for programs that are copied into the root, and the source tree
_MIB = 1 << 20
_CHUNK = 1 << 16
_TICK = 0.25  # seconds between two checks of the limits
CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")
# Debian's packages spread a GOROOT over these directories.
LINKED = re.compile(r"/usr/(share|lib)/go(-[\w.]+)?(/|$)", re.ASCII)
_MEMORY = re.compile(r"^(?:VmRSS|VmPTE):\s+(\d+) kB$", re.MULTILINE | re.ASCII)
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE)

Files = Mapping[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bind:
    """A file or directory of the host at a path in the sandbox; files are copied."""

    source: Path
    target: PurePosixPath
    writable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """A read-only directory in memory: the content of ``tar``, overlaid with ``folder``."""

    tar: Path
    folder: Path
    target: PurePosixPath


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of a program: processes and threads, bytes, and seconds.

    ``memory`` applies to each process and to all of them together. ``disk`` applies to /tmp, the
    exchange directory, one file, and what is written to the host through writable binds.
    """

    processes: int
    memory: int
    disk: int
    printed: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The result of a program: exit code, output, and the files in the exchange directory."""

    code: int
    out: bytes
    err: bytes
    files: Files


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """What a program sees; ``exchange`` is the directory for exchanged files.

    ``work`` is an empty directory that belongs to kbuild. ``purpose`` names the use in an error.
    """

    work: Path
    binds: Sequence[Bind]
    environment: Mapping[str, str]
    limits: Limits
    purpose: str
    exchange: PurePosixPath | None = None
    layers: Layers | None = None

    def start(
        self, argv: Sequence[str], files: Files | None = None, *, merge: bool = True
    ) -> "Process":
        """Start a program; ``files`` are put into ``exchange`` first.

        With ``merge``, standard output and error are one stream. The program dies with kbuild, even
        after kill -9. Raises SandboxUnavailable or SandboxForbidden.
        """
        options = _options(self.purpose)
        self.work.mkdir(parents=True, exist_ok=True)
        root = self.work / "root"
        root.mkdir(exist_ok=True)
        (self.work / "files.tar").write_bytes(pack_files(files or {}))
        if (program := filter_program()) is not None:
            (self.work / "seccomp.bpf").write_bytes(program)
        script = _script(self, root)
        inner = [*_drop(self.limits), *_bwrap(self, options), "--", *argv]
        stage = ["sh", "-euc", script, "sh"]
        read_end, write_end = os.pipe()
        try:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *_unshare(), *stage, *inner],
                env=_STAGE_ENVIRONMENT,
                cwd="/",
                # The script writes the exchanged files here: both output streams are in use.
                stdin=write_end,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if merge else subprocess.PIPE,
                start_new_session=True,
            )
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        return Process(process, read_end, self)


@dataclass(slots=True, eq=False)
class Process:
    """A program that runs in a sandbox; only one thread may read it."""

    _process: subprocess.Popen[bytes]
    _files: int
    _sandbox: Sandbox
    _began: float = field(default_factory=time.monotonic)
    _out: bytearray = field(default_factory=bytearray)
    _err: bytearray = field(default_factory=bytearray)
    _tar: bytearray = field(default_factory=bytearray)
    _next_check: float = 0
    _free: list[tuple[Path, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._free = [
            (bind.source, _free_bytes(bind.source)) for bind in self._sandbox.binds if bind.writable
        ]

    def lines(self) -> Iterator[str]:
        """Yield each line that the program prints, until it ends. Raises SandboxLimit."""
        for _ in self._read():
            while (end := self._out.find(b"\n")) != -1:
                yield self._out[:end].decode(errors="replace")
                del self._out[: end + 1]
        if self._out:
            yield self._out.decode(errors="replace")
            self._out.clear()

    def wait(self) -> Ended:
        """Read the rest, wait for the program, and return its result. Raises SandboxLimit."""
        try:
            for _ in self._read():
                pass
            code = self._process.wait()
        finally:
            self.close()
        files = unpack_files(bytes(self._tar), self._sandbox.limits.disk)
        return Ended(code=code, out=bytes(self._out), err=bytes(self._err), files=files)

    def close(self) -> None:
        """Kill what still runs, wait until it is dead, and close the streams."""
        # First: a process that writes to a full pipe would wait forever.
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        if self._files != -1:
            os.close(self._files)
            self._files = -1
        while self._process.poll() is None:
            self.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=0.1)

    def kill(self) -> None:
        """Kill the program; any thread may call this."""
        # With process 1 of the namespace, the kernel kills all others in it. Its parent ends only
        # after all are dead. A signal to the group would miss processes that left the group.
        for child in _children(self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    def _read(self) -> Iterator[None]:
        """Read the streams, check the limits, and yield after each piece."""
        printed, limits = 0, self._sandbox.limits
        sinks = {self._process.stdout: self._out, self._process.stderr: self._err}
        with selectors.DefaultSelector() as selector:
            for stream, sink in sinks.items():
                if stream is not None and not stream.closed:
                    selector.register(stream, selectors.EVENT_READ, sink)
            if self._files != -1:
                selector.register(self._files, selectors.EVENT_READ, self._tar)
            while selector.get_map():
                for key, _ in selector.select(_TICK):
                    data = os.read(key.fd, _CHUNK)
                    if not data:
                        selector.unregister(key.fileobj)
                        continue
                    key.data.extend(data)
                    if key.data is self._tar:
                        # In a tar, each file takes more space than its content.
                        if len(self._tar) > limits.disk + _MAX_FILES * 4096:
                            self._exceeded(f"{_mib(limits.disk)} of files")
                    else:
                        printed += len(data)
                        if printed > limits.printed:
                            self._exceeded(f"{_mib(limits.printed)} of output")
                    yield
                self._check_limits()

    def _check_limits(self) -> None:
        now, limits = time.monotonic(), self._sandbox.limits
        if now < self._next_check:
            return
        self._next_check = now + _TICK
        if now - self._began > limits.seconds:
            self._exceeded("time")
        if _resident(self._process.pid) > limits.memory:
            self._exceeded(f"{_mib(limits.memory)} of memory")
        for folder, free in self._free:
            # Other programs write to this disk too, so count the files. That misses deleted files
            # that are still open, so twice the limit is always too much.
            taken = free - _free_bytes(folder)
            if taken > limits.disk:
                began = time.time() - (now - self._began)
                if taken > 2 * limits.disk or _written_since(folder, began) > limits.disk:
                    self._exceeded(f"{_mib(limits.disk)} of disk")

    def _exceeded(self, limit: str) -> None:
        self.close()
        raise SandboxLimit(purpose=self._sandbox.purpose, limit=limit)


def why_unavailable() -> str | None:
    """Return why there is no sandbox for this user on this machine, or None if there is one."""
    return _probe()[1]


def is_available() -> bool:
    """Return whether there is a sandbox for this user on this machine."""
    return why_unavailable() is None


def demand(purpose: str, *, or_else: str | None = None) -> None:
    """Raise SandboxUnavailable or SandboxForbidden if there is no sandbox.

    ``or_else`` is the reason why nothing else can take its place.
    """
    reason = why_unavailable()
    if reason is None:
        return
    text = reason if or_else is None else f"{reason}, and {or_else}"
    if not _missing_programs() and _in_container():
        raise SandboxForbidden(purpose=purpose, reason=text)
    raise SandboxUnavailable(purpose=purpose, reason=text)


def host_arch() -> str:
    """Return the architecture of this machine, as Go names it."""
    machine = platform.machine()
    known = (arch for arch, names in ARCHES.items() if names.machine == machine)
    return next(known, machine)


def system_binds() -> list[Bind]:
    """Return binds of the host's programs and libraries, for programs that need them."""
    names = [*SYSTEM, *SYSTEM_USR]
    return [
        Bind(source=Path("/", name).resolve(), target=PurePosixPath("/", name))
        for name in names
        if Path("/", name).is_dir()
    ]


def folder_binds(folder: Path, target: PurePosixPath) -> list[Bind]:
    """Return binds that make a directory of the host visible at a path in the sandbox.

    Each entry has its own bind: the directory itself may be unreadable for other users, and a link
    in it, as in Debian's GOROOT, may point to a path that the sandbox does not have. Raises
    OSError for a link to anywhere except the directory itself and ``LINKED``.
    """
    binds = []
    for name, path in shown_entries(folder):
        binds.append(Bind(source=path, target=target / name))
    return binds


def shown_entries(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield relative name and resolved path of each entry that the sandbox shows of a directory.

    Raises OSError for a link to anywhere except the directory itself and ``LINKED``.
    """
    top = folder.resolve()
    for entry in sorted(top.iterdir()):
        inner = sorted(entry.iterdir()) if entry.is_dir() and not entry.is_symlink() else []
        entries = inner if any(each.is_symlink() for each in inner) else [entry]
        for each in entries:
            path = each.resolve(strict=True)
            if each.is_symlink() and not (path.is_relative_to(top) or LINKED.match(str(path))):
                message = f"{each} is a link to {path}"
                raise OSError(errno.EXDEV, message)
            yield str(each.relative_to(top)), path


def own_writable(folder: Path) -> Path:
    """Create a directory that the program in the sandbox may write to, and return it."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if os.geteuid() == 0:
        os.chown(folder, SANDBOX_ID, SANDBOX_ID)
    return folder


def pack_files(files: Files) -> bytes:
    """Return a tar of files in their directories, readable only for the user of the sandbox."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        parents = {parent for name in files for parent in PurePosixPath(name).parents}
        for parent in sorted({PurePosixPath(), *parents}):
            folder = tarfile.TarInfo(str(parent))
            folder.type, folder.mode = tarfile.DIRTYPE, 0o700
            folder.uid = folder.gid = SANDBOX_ID
            tar.addfile(folder)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o600
            member.uid = member.gid = SANDBOX_ID
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def unpack_files(data: bytes, limit: int, top: str = "") -> Files:
    """Return the regular files below the directory ``top`` in an untrusted tar.

    Everything else, such as links and pipes, is skipped. Reading stops after ``limit`` bytes, and
    where the tar is truncated or damaged.
    """
    files: dict[str, bytes] = {}
    damage = (tarfile.TarError, EOFError, ValueError, OSError, RecursionError)
    with (
        contextlib.suppress(*damage),
        tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar,
    ):
        for member in tar:
            name = PurePosixPath(member.name)
            limit -= member.size
            if limit < 0:
                break
            parts = name.parts
            if member.type not in _REGULAR or ".." in parts or not name.is_relative_to(top):
                continue
            if len(parts) > _MAX_DEPTH or len(files) >= _MAX_FILES:
                continue
            if (content := tar.extractfile(member)) is not None:
                files[str(name.relative_to(top))] = content.read()
    return files


def _script(sandbox: Sandbox, root: Path) -> str:
    """Return the script that mounts the root, runs its arguments in it, and sends files back."""
    at, limits = shlex.quote(str(root)), sandbox.limits
    memory = f"size={limits.disk},nosuid,nodev"
    lines = [
        "umask 022",
        # bwrap and the program must not inherit the pipe or the files.
        "exec 3>&0 </dev/null",
        f"exec 5<{shlex.quote(str(sandbox.work / 'files.tar'))}",
        f"mount -t tmpfs -o mode=755,size={_ROOT_SIZE},nosuid,nodev kbuild {at}",
        f"mkdir {at}/proc {at}/dev {at}/tmp",
        *(f": >{at}/dev/{device}" for device in _DEVICES),
        f"ln -s /proc/self/fd {at}/dev/fd",
        f"mount -t tmpfs -o mode=1777,{memory},nr_inodes={_MAX_TEMPORARY} kbuild {at}/tmp",
        *(line for bind in sandbox.binds for line in _bind_lines(root, bind)),
    ]
    if sandbox.layers is not None:
        lines += _layers_lines(root, sandbox.layers)
    if filter_program() is not None:
        lines.append(f"exec 4<{shlex.quote(str(sandbox.work / 'seccomp.bpf'))}")
    sends = ""
    if sandbox.exchange is not None:
        target = shlex.quote(f"{root}{sandbox.exchange}")
        lines += [
            f"mkdir -p {target}",
            f"mount -t tmpfs -o mode=700,{memory},nr_inodes={_MAX_FILES} kbuild {target}",
            f"tar -xf - --no-same-owner -C {target} <&5",
        ]
        if os.geteuid() == 0:
            lines.append(f"chown -R {SANDBOX_ID}:{SANDBOX_ID} {target}")
        staged = shlex.quote(f"{_STAGE}{sandbox.exchange}")
        # Every process of the program is dead now: the program was process 1 of its namespace.
        sends = f"tar -cf - -C {staged} . >&3 2>/dev/null || true\n"
    lines += [
        f"mount --rbind {at} {_STAGE}",
        "code=0",
        '"$@" 3>&- 5>&- || code=$?',
        "exec >/dev/null 2>&1",  # a reader of the output need not wait for the files
    ]
    return "\n".join(lines) + f"\n{sends}exit $code\n"


def _bind_lines(root: Path, bind: Bind) -> Iterator[str]:
    source = shlex.quote(str(bind.source))
    target = shlex.quote(f"{root}{bind.target}")
    if bind.source.is_dir():
        yield f"mkdir -p {target}"
        yield f"mount --rbind {source} {target}"
    else:
        # The user in the sandbox may not be allowed to read the file of the host.
        yield f"mkdir -p {shlex.quote(f'{root}{bind.target.parent}')}"
        yield f"cp {source} {target}"
        yield f"chmod 755 {target}"


def _layers_lines(root: Path, layers: Layers) -> Iterator[str]:
    target = shlex.quote(f"{root}{layers.target}")
    yield f"mkdir -p {target}"
    yield f"tar -xf {shlex.quote(str(layers.tar))} --no-same-owner -C {target}"
    yield f"cp -RP {shlex.quote(str(layers.folder))}/. {target}"
    yield f"chmod -R a+rX {target}"


def _bwrap(sandbox: Sandbox, options: Sequence[str]) -> Iterator[str]:
    yield from ("bwrap", *options, "--chdir", "/")
    for device in _DEVICES:
        yield from ("--dev-bind", f"/dev/{device}", f"/dev/{device}")
    writable = [PurePosixPath("/tmp"), *(b.target for b in sandbox.binds if b.writable)]
    if sandbox.exchange is not None:
        writable.append(sandbox.exchange)
    for target in writable:
        yield from ("--bind", f"{_STAGE}{target}", str(target))
    if filter_program() is not None:
        yield from ("--seccomp", "4")
    for name, value in sandbox.environment.items():
        yield from ("--setenv", name, value)
    for name in _STAGE_ENVIRONMENT.keys() - sandbox.environment.keys():
        yield from ("--unsetenv", name)


def _drop(limits: Limits) -> Iterator[str]:
    """Yield the commands that give up root and set the limits of one process."""
    if os.geteuid() == 0:
        yield from ("setpriv", f"--reuid={SANDBOX_ID}", f"--regid={SANDBOX_ID}", "--clear-groups")
        yield from ("--inh-caps=-all", "--bounding-set=-all")
    wanted = {
        "nproc": _tasks_of_user() + limits.processes,
        "data": limits.memory,
        "fsize": limits.disk,
        "nofile": _MAX_OPEN,
    }
    yield from ("prlimit", f"--core={_core_limit()}")
    for name, most in wanted.items():
        # Nobody but root may raise a hard limit, and a lower one is as safe.
        _, hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))
        yield f"--{name}={most if hard == resource.RLIM_INFINITY else min(most, hard)}"
    yield "--"


def _core_limit() -> int:
    """Return the limit with which the kernel writes no core dump, in bytes.

    The pattern may send a dump to a program or a socket of the host, whatever the limit is, but
    not with a limit of one byte (fs/coredump.c). Elsewhere none does, which is also the highest one
    that some administrators allow.
    """
    try:
        is_sent = CORE_PATTERN.read_text(errors="replace").startswith(("|", "@"))
    except OSError:
        is_sent = True
    return 1 if is_sent else 0


def _unshare() -> tuple[str, ...]:
    # bwrap looks itself up in /proc, which must belong to its PID namespace.
    namespaces = ("--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
    if os.geteuid() == 0:
        return ("unshare", *namespaces)
    return ("unshare", "--user", "--map-root-user", *namespaces)


def _options(purpose: str) -> Sequence[str]:
    demand(purpose)
    return _probe()[0]


def _in_container() -> bool:
    is_marked = any(Path(mark).exists() for mark in CONTAINER_MARKS)
    return is_marked or "KUBERNETES_SERVICE_HOST" in os.environ  # which each container of a pod has


def _missing_programs() -> list[str]:
    names = ("bwrap", "unshare", "setpriv", "prlimit", "mount", "tar")
    return [name for name in names if shutil.which(name, path=_SAFE_PATH) is None]


@cache
def _probe() -> tuple[Sequence[str], str | None]:
    """Return the bwrap options that work on this machine, or why none do."""
    if missing := _missing_programs():
        return (), f"{', '.join(missing)} is not installed"
    reason = ""
    for options in _choices():
        with tempfile.TemporaryDirectory(prefix="kbuild-probe-") as folder:
            command = [*_unshare(), "sh", "-euc", _PROBE, "sh", folder, *_drop(_PROBE_LIMITS)]
            done = subprocess.run(
                [*command, "bwrap", *options, "--", "/usr/bin/env", "true"],
                env=_STAGE_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
        if done.returncode == 0:
            return options, None
        reason = reason or (done.stderr.strip().splitlines() or ["bwrap failed"])[-1]
    return (), reason


_PROBE_LIMITS = Limits(processes=64, memory=256 * _MIB, disk=_MIB, printed=_MIB, seconds=60)
_PROBE = """\
root=$1; shift
mount -t tmpfs kbuild "$root"
mkdir "$root/proc"
for name in bin lib lib32 lib64 sbin usr; do
  if [ -d "/$name" ]; then mkdir "$root/$name"; mount --rbind "/$name" "$root/$name"; fi
done
mount --rbind "$root" /tmp
exec "$@"
"""


def _choices() -> Iterator[tuple[str, ...]]:
    """Yield sets of bwrap options, the best first."""
    always = (
        *("--unshare-all", "--unshare-user", "--uid", str(SANDBOX_ID), "--gid", str(SANDBOX_ID)),
        *("--hostname", "kbuild", "--die-with-parent", "--new-session", "--cap-drop", "ALL"),
        # When process 1 of a PID namespace has ended, all others in it are dead. So nothing can
        # change the files while they are read back.
        "--as-pid-1",
        *("--ro-bind", str(_STAGE), "/"),
    )
    proc = ["--proc", "/proc"]
    for name in _MASKED:
        path = Path("/proc", name)
        if path.is_dir():
            proc += ["--ro-bind", f"{_STAGE}/proc", str(path)]
        elif path.exists():
            proc += ["--ro-bind", "/dev/null", str(path)]
    yield (*always, "--disable-userns", *proc)  # since bubblewrap 0.8
    yield (*always, *proc)


def _tasks_of_user() -> int:
    """Return how many threads the sandbox user already runs, because RLIMIT_NPROC counts them."""
    user = SANDBOX_ID if os.geteuid() == 0 else os.geteuid()
    count = 0
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if path.stat().st_uid == user:
                count += sum(1 for _ in (path / "task").iterdir())
    return count


def _children(pid: int) -> list[int]:
    """Return the running child processes of a process and its threads."""
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError):
        for task in Path("/proc", str(pid), "task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def _resident(pid: int) -> int:
    """Return the memory of a process and its descendants, with page tables, in bytes."""
    total, todo = 0, [pid]
    while todo:
        process = todo.pop()
        todo += _children(process)
        with contextlib.suppress(OSError, ValueError):
            status = Path("/proc", str(process), "status").read_text()
            total += sum(int(size) for size in _MEMORY.findall(status))
    return total * 1024


def _mib(size: int) -> str:
    return f"{size // _MIB} MiB"


def _free_bytes(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def _written_since(folder: Path, moment: float) -> int:
    total = 0
    for top, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # the file may be gone
                status = Path(top, name).lstat()
                total += status.st_blocks * 512 if status.st_ctime >= moment else 0
    return total
