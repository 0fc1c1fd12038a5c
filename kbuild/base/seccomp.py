"""A seccomp filter for programs in the sandbox, compiled by libseccomp.

It refuses system calls that kubeadm and Go do not need and that can attack the kernel or evade the
other limits: namespaces, mounts, tracing, keys, kernel modules, BPF, io_uring, and memory that no
limit counts. The list follows the default profiles of Docker (profiles/seccomp/default_linux.go in
moby) and Flatpak (common/flatpak-run.c). A system call of another architecture's ABI kills the
program.
"""

import ctypes
import errno
import os
import tempfile
from collections.abc import Iterator
from functools import cache

_ALLOW = 0x7FFF0000  # SCMP_ACT_ALLOW; these values come from seccomp.h of libseccomp 2.x
_ERRNO = 0x00050000  # SCMP_ACT_ERRNO, with the errno in its low bits
_GREATER, _MASKED_EQUAL = 6, 7  # SCMP_CMP_GT, SCMP_CMP_MASKED_EQ
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG: a process that clears it may outlive bwrap
_SHARED_ANONYMOUS = 0x21  # MAP_SHARED | MAP_ANONYMOUS: memory that belongs to no process
_INET, _INET6, _NETLINK, _NEWEST_FAMILY = 2, 10, 16, 63  # address families in linux/socket.h
_ALL_BITS = 0xFFFFFFFF
_NEW_NAMESPACES = (  # CLONE_NEW* in linux/sched.h
    *(0x00000080, 0x00020000, 0x02000000, 0x04000000),
    *(0x08000000, 0x10000000, 0x20000000, 0x40000000),
)
_TERMINAL_INPUT = 0x5412  # TIOCSTI
_REFUSED = (
    # namespaces and mounts
    *("unshare", "setns", "mount", "umount", "umount2", "pivot_root", "chroot", "open_tree"),
    *("move_mount", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr", "statmount"),
    *("listmount", "open_tree_attr"),
    # other processes
    *("ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd"),
    # the kernel itself
    *("bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter"),
    *("io_uring_register", "kexec_load", "kexec_file_load", "init_module", "finit_module"),
    *("delete_module", "create_module", "reboot", "swapon", "swapoff", "acct", "quotactl"),
    *("quotactl_fd", "syslog", "iopl", "ioperm", "modify_ldt", "lookup_dcookie", "uselib"),
    *("vhangup", "nfsservctl", "fanotify_init", "name_to_handle_at", "open_by_handle_at"),
    *("add_key", "request_key", "keyctl", "personality"),
    # the clock and the names of the machine
    *("settimeofday", "stime", "clock_settime", "clock_adjtime", "adjtimex", "sethostname"),
    *("setdomainname",),
    # memory that is not resident in a process and not on a file system with a limit
    *("memfd_create", "memfd_secret", "shmget", "semget", "msgget", "mq_open", "socketpair"),
    *("io_setup",),
)
# glibc and Go then fall back to clone, whose flags the filter can read.
_ABSENT = ("clone3",)


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("mask", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
    )


@cache
def filter_program() -> bytes | None:
    """Return the filter as a BPF program for this machine, or None if libseccomp is missing."""
    try:
        library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    except OSError:
        return None
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    context = ctypes.c_void_p(library.seccomp_init(_ALLOW))
    try:
        for name in _REFUSED:
            _refuse(library, context, name, errno.EPERM)
        for name in _ABSENT:
            _refuse(library, context, name, errno.ENOSYS)
        for flag in _NEW_NAMESPACES:
            # The flags are the first argument, on s390x the second: see clone(2).
            at = 1 if os.uname().machine == "s390x" else 0
            _refuse(
                library, context, "clone", errno.EPERM, _Comparison(at, _MASKED_EQUAL, flag, flag)
            )
        for name, comparison in _refused_arguments():
            _refuse(library, context, name, errno.EPERM, comparison)
        with tempfile.TemporaryFile() as file:
            _raise_on_error(library.seccomp_export_bpf(context, file.fileno()))
            file.seek(0)
            return file.read()
    finally:
        library.seccomp_release(context)


def _refused_arguments() -> Iterator[tuple[str, _Comparison]]:
    """Yield the system calls that are refused only with certain arguments."""
    yield "ioctl", _Comparison(1, _MASKED_EQUAL, _ALL_BITS, _TERMINAL_INPUT)
    yield "prctl", _Comparison(0, _MASKED_EQUAL, _ALL_BITS, _PARENT_DEATH_SIGNAL)
    yield "mmap", _Comparison(3, _MASKED_EQUAL, _SHARED_ANONYMOUS, _SHARED_ANONYMOUS)
    # For example vsock, which ignores network namespaces, and Unix sockets with their buffers.
    for family in range(_NEWEST_FAMILY + 1):
        if family not in (_INET, _INET6, _NETLINK):
            yield "socket", _Comparison(0, _MASKED_EQUAL, _ALL_BITS, family)
    yield "socket", _Comparison(0, _GREATER, _NEWEST_FAMILY, 0)


def _refuse(
    library: ctypes.CDLL,
    context: ctypes.c_void_p,
    name: str,
    number: int,
    *comparisons: _Comparison,
) -> None:
    call = library.seccomp_syscall_resolve_name(name.encode())
    if call == -1:  # __NR_SCMP_ERROR: unknown to this libseccomp or this architecture
        return
    array = (_Comparison * len(comparisons))(*comparisons)
    action = ctypes.c_uint32(_ERRNO | number)
    _raise_on_error(library.seccomp_rule_add_array(context, action, call, len(comparisons), array))


def _raise_on_error(result: int) -> None:
    if result < 0:
        raise OSError(-result, f"libseccomp: {os.strerror(-result)}")
