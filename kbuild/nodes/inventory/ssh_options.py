"""Options of ssh in an inventory: what kbuild can do with them, or why it cannot.

The options are those of ssh(1) and ssh_config(5) of OpenSSH 9. A command in an inventory is never
run: ProxyCommand is understood if it is what ProxyJump does too.
"""

import re
import shlex
from dataclasses import dataclass

# They change nothing here: how a connection is kept, shared or logged, and the checks of host keys,
# which kbuild always makes against the file in --known-hosts.
_WITHOUT_EFFECT = frozenset(
    {
        "addkeystoagent",
        "batchmode",
        "checkhostip",
        "compression",
        "connectionattempts",
        "connecttimeout",
        "controlmaster",
        "controlpath",
        "controlpersist",
        "forwardagent",
        "globalknownhostsfile",
        "hashknownhosts",
        "identitiesonly",
        "ipqos",
        "loglevel",
        "passwordauthentication",
        "numberofpasswordprompts",
        "preferredauthentications",
        "pubkeyauthentication",
        "serveralivecountmax",
        "serveraliveinterval",
        "stricthostkeychecking",
        "tcpkeepalive",
        "updatehostkeys",
        "userknownhostsfile",
        "kbdinteractiveauthentication",
        "gssapiauthentication",
    }
)
_LONE = frozenset("qvACTtxaXYnN")  # letters without a value, and without effect here
_VALUED = {"J": "proxyjump", "p": "port", "l": "user", "i": "identityfile", "W": "forward"}
# None begins with a minus, or ssh would take it for an option.
_HOST = r"(?:\w[\w.-]*@)?(?:\w[\w.-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
_JUMP = re.compile(rf"(?:ssh://)?{_HOST}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class SshOptions:
    """What options say; ``jump`` is a list of hosts as ProxyJump has it, all may be empty."""

    jump: str = ""
    port: str = ""
    user: str = ""
    key: str = ""


def read_options(text: str) -> SshOptions:
    """Return what options of ssh mean; raises ValueError, which names an option, not its value."""
    found: dict[str, str] = {}
    words = shlex.split(text)
    while words:
        name, value = _option(words)
        if name not in _WITHOUT_EFFECT:
            found.setdefault(name, value)  # the first one counts, as for ssh
    unknown = found.keys() - {"proxyjump", "proxycommand", "port", "user", "identityfile", ""}
    if unknown:
        raise ValueError(_UNKNOWN.format(ascii(min(unknown))[:60]))
    jump = found.get("proxyjump") or _of_command(found.get("proxycommand", ""))
    return SshOptions(
        jump=_jump(jump),
        port=found.get("port", ""),
        user=found.get("user", ""),
        key=found.get("identityfile", ""),
    )


def _option(words: list[str]) -> tuple[str, str]:
    """Take one option from the words; return its name in lower case, and its value."""
    word = words.pop(0)
    letter, value = word[1:2], word[2:]
    if not word.startswith("-") or not letter:
        message = "a word in the options of ssh is not an option"
        raise ValueError(message)
    if letter not in _VALUED and letter != "o":
        if set(word[1:]) <= _LONE:
            return "", ""
        raise ValueError(_UNKNOWN.format(ascii(f"-{letter}")))
    if not value and not words:
        message = f"the ssh option -{letter} has no value"
        raise ValueError(message)
    value = value or words.pop(0)
    if letter != "o":
        return _VALUED[letter], value
    name, _, value = re.sub(r"\s*=\s*|\s+", "=", value.strip(), count=1).partition("=")
    return name.lower(), value.strip('"')


def _of_command(command: str) -> str:
    """Return the jump that ``ssh -W %h:%p HOST`` in a ProxyCommand is; raises ValueError."""
    if command.lower() in ("", "none"):
        return command
    words = shlex.split(command)
    found: dict[str, str] = {}
    host = ""
    while rest := words[1:]:
        if rest[0].startswith("-"):
            name, value = _option(rest)
            if name not in _WITHOUT_EFFECT:
                found.setdefault(name, value)
        else:
            if host:
                raise ValueError(_NOT_RUN)
            host = rest.pop(0)
        words[1:] = rest
    is_jump = words[0].rpartition("/")[2] == "ssh" and found.get("forward") in _FORWARDS
    if not is_jump or not host or found.keys() - {"forward", "port", "user", ""}:
        raise ValueError(_NOT_RUN)
    user = f"{found['user']}@" if "user" in found and "@" not in host else ""
    return f"{user}{host}" + (f":{found['port']}" if "port" in found else "")


_UNKNOWN = (
    "kbuild cannot use the ssh option {}: put it into a configuration of ssh, and name that with"
    " --ssh-config"
)
_FORWARDS = ("%h:%p", "[%h]:%p")
_NOT_RUN = (
    "ProxyCommand is a command, and kbuild runs none from an inventory, except"
    " `ssh -W %h:%p HOST` with -p and -l; put it into your ssh configuration, or use ProxyJump"
)


def _jump(text: str) -> str:
    if text.lower() in ("", "none"):
        return ""
    if not all(_JUMP.fullmatch(hop) for hop in text.split(",")):
        message = "ProxyJump is not a list of [user@]host[:port]"
        raise ValueError(message)
    return text
