"""The command of ssh that goes through jump hosts, in which each ssh has the same options.

With -J, or with a ProxyJump of a jump host, ssh starts another ssh, which gets -F but no -o of the
first (ssh.c, OpenSSH 9.2). That one would not check host keys as kbuild does, and might ask. So all
jump hosts are found first, and each ssh gets the one before it as its ProxyCommand.
"""

import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

_MOST = 8  # each is quoted once more, and the kernel takes 128 KiB for an argument
# Seconds for the last hop. Each before it has one less, so that what does not answer is told by the
# ssh that waits for it, and all before paramiko gives up, which waits for 20 (jump.py).
_CONNECT = 17
_HOP = re.compile(
    r"(?:(?P<user>\S+)@)?(?P<host>[^\s@:/,[\]-][^\s@:/,[\]]*|\[[^\s@/,[\]-][^\s@/,[\]]*\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
)


@dataclass(frozen=True, slots=True)
class _Hop:
    """A jump host as the configuration of ssh names it; user and port may be empty."""

    user: str
    host: str
    port: str

    @property
    def words(self) -> list[str]:
        user = ["-l", self.user] if self.user else []
        port = ["-p", self.port] if self.port else []
        return [*user, *port, "--", self.host]


def command_through(hops: str, target: str, options: Sequence[str]) -> list[str]:
    """Return the command that connects to a target through hops, which are as ProxyJump has them.

    The first hop may have a jump in the configuration of ssh, as for ssh itself, which is part of
    the command, or a ProxyCommand, which ssh runs. Raises ValueError for hops that ssh cannot use,
    and OSError without ssh.
    """
    ssh = ["ssh", *options]
    chain, has_command = _chain(hops, ssh)
    proxy = [] if has_command else ["-oProxyJump=none"]
    *others, last = chain
    for after, hop in zip(range(len(others), 0, -1), others, strict=True):
        command = [*ssh, f"-oConnectTimeout={_CONNECT - after}", *proxy]
        before, there = (shlex.join(words).replace("%", "%%") for words in (command, hop.words))
        # ssh passes no descriptor, whatever the configuration expects of other commands.
        proxy = ["-oProxyUseFdpass=no", f"-oProxyCommand={before} -W '[%h]:%p' {there}"]
    return [*ssh, f"-oConnectTimeout={_CONNECT}", *proxy, "-W", target, *last.words]


def _chain(hops: str, ssh: Sequence[str]) -> tuple[list[_Hop], bool]:
    """Return all hops in their order, and whether the first has a ProxyCommand."""
    chain = _read(hops)
    while len(chain) <= _MOST:
        first = chain[0]
        if first in chain[1:]:
            message = f"the jump host {first.host} is behind itself, in the configuration of ssh"
            raise ValueError(message)
        kind, value = _proxy_of(first, ssh)
        if kind != "proxyjump":
            return chain, kind == "proxycommand"
        chain = [*_read(value), *chain]
    message = f"there are more than {_MOST} jump hosts"
    raise ValueError(message)


def _read(hops: str) -> list[_Hop]:
    return [_hop(text.strip()) for text in hops.split(",")]


def _hop(text: str) -> _Hop:
    """Read ``[user@]host[:port]`` or ``ssh://[user@]host[:port]``, as ssh does."""
    is_uri = text.lower().startswith("ssh://")
    found = _HOP.fullmatch(text[len("ssh://") :].removesuffix("/") if is_uri else text)
    if found is None:
        message = f"ProxyJump has {ascii(text)[:80]}, which is not [user@]host[:port]"
        raise ValueError(message)
    user = found["user"] or ""
    return _Hop(unquote(user) if is_uri else user, found["host"].strip("[]"), found["port"] or "")


def _proxy_of(hop: _Hop, ssh: Sequence[str]) -> tuple[str, str]:
    """Return what ssh itself would use to reach a hop: its name in lower case, and its value."""
    done = subprocess.run(
        [*ssh, "-G", *hop.words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        check=False,
        start_new_session=True,
    )
    if done.returncode != 0:
        reason = next(iter(done.stderr.strip().splitlines()), "no reason is known")
        message = f"ssh cannot read the configuration of the jump host {hop.host}: {reason}"
        raise ValueError(message)
    pairs = (line.partition(" ") for line in done.stdout.splitlines())
    found = ((name, value) for name, _, value in pairs if name in ("proxyjump", "proxycommand"))
    kind, value = next(found, ("", ""))
    return ("", "") if value.lower() == "none" else (kind, value)
