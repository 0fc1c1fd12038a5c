"""Variables of Ansible that tell how a host is reached."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from kbuild.nodes.inventory.ssh_options import SshOptions, read_options
from kbuild.nodes.inventory.tree import PRINT_IT, Value, Variables, bad

# In the order of ansible/plugins/connection/ssh.py and become/sudo.py (v2.16): the last that is
# set counts.
_ADDRESS = ("ansible_host", "ansible_ssh_host")
_PORT = ("ansible_port", "ansible_ssh_port")
_USER = ("ansible_user", "ansible_ssh_user")
_KEY = ("ansible_private_key_file", "ansible_ssh_private_key_file")
_PASSWORD = ("ansible_password", "ansible_ssh_pass", "ansible_ssh_password")
_BECOME_PASSWORD = ("ansible_become_password", "ansible_become_pass", "ansible_sudo_pass")
_BECOME_USER = ("ansible_become_user", "ansible_sudo_user")
_OPTIONS = ("ansible_ssh_args", "ansible_ssh_common_args", "ansible_ssh_extra_args")
_SSH = ("smart", "ssh", "paramiko", "paramiko_ssh", "ansible.builtin.ssh")
_LOCAL = ("local", "ansible.builtin.local")
_TRUE = ("y", "yes", "on", "1", "true", "t")
_FALSE = ("n", "no", "off", "0", "false", "f")
_BY_HAND = "let the user use sudo without a password, or connect as root"
_ASK = "remove it, and give it with --ask-sudo-password or in the variable SUDO_PASSWORD"
_MAX_PORT = 65535


class Secret(str):
    """A text that is never shown where values are shown for debugging."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """How a host is reached; all but the name may be empty.

    ``jump`` is as ProxyJump has it, ``data`` is more for pyinfra.
    """

    name: str
    address: str = ""
    port: int = 0
    user: str = ""
    key: str = ""
    password: Secret = Secret("")  # noqa: RUF009 - it cannot be changed
    jump: str = ""
    sudo: bool = False
    is_local: bool = False
    place: str = ""
    data: Mapping[str, object] = field(default_factory=dict)


def found_host(name: str, variables: Variables) -> Found:
    """Return how a host is reached; raises BadInventory, also for what kbuild cannot do."""
    reader = _Reader(name, variables)
    if reader.is_local():
        return Found(name=name, is_local=True, sudo=reader.sudo(), place=reader.place)
    if name.startswith("@") or "@" in name:
        raise bad(reader.place, f"the host {name} has an @ in its name: use ansible_user")
    options = reader.options()
    key = reader.text(*_KEY) or options.key
    return Found(
        name=name,
        address=reader.address(),
        port=reader.port(options.port),
        user=reader.user(options.user),
        key=reader.key(key),
        password=Secret(reader.text(*_PASSWORD, is_secret=True)),
        jump=options.jump,
        sudo=reader.sudo(),
        place=reader.place,
    )


class _Reader:
    """Reads the variables of one host; an error names the variable, and never a secret."""

    def __init__(self, name: str, variables: Variables) -> None:
        self._name, self._variables = name, variables
        self.place = next((value.place for value in variables.values()), f"host {name}")

    def text(self, *names: str, is_secret: bool = False) -> str:
        """Return the value of the last of these variables that is set, or empty text."""
        for name in reversed(names):
            value = self._variables.get(name)
            if value is not None and (value.problem or value.text is not None):
                return self._checked(name, value, is_secret=is_secret)
        return ""

    def _checked(self, name: str, value: Value, *, is_secret: bool) -> str:
        text = value.text or ""
        reason = value.problem
        if "{{" in text or "{%" in text:
            reason = "it is a Jinja template, which only Ansible can fill in"
        elif not is_secret and not text.isprintable():
            reason = "it has control characters"
        if reason:
            raise bad(value.place, f"{name} of {self._name} cannot be read: {reason}")
        return text

    def refuse(self, names: tuple[str, ...], reason: str, hint: str = PRINT_IT) -> Exception:
        """Return the error that one of these variables has a value that kbuild cannot use."""
        name = next(each for each in reversed(names) if each in self._variables)
        return bad(self._variables[name].place, f"{name} of {self._name}: {reason}", hint)

    def is_local(self) -> bool:
        """Tell whether the host is this machine."""
        connection = self.text("ansible_connection") or "ssh"
        if connection not in (*_SSH, *_LOCAL):
            reason = f"kbuild connects with ssh or local, not with {connection!r}"
            raise self.refuse(("ansible_connection",), reason)
        return connection in _LOCAL

    def address(self) -> str:
        """Return the address."""
        address = self.text(*_ADDRESS)
        if address.startswith(("-", "@")) or any(c in "@/ " for c in address):
            raise self.refuse(_ADDRESS, f"{address!r} is not an address")
        return address

    def user(self, default: str) -> str:
        """Return the user to connect as."""
        user = self.text(*_USER) or default
        if user.startswith("-") or any(c in "@/: " for c in user):
            raise self.refuse((*_OPTIONS, *_USER), f"{user!r} is not a name of a user")
        return user

    def port(self, default: str) -> int:
        """Return the port, or 0."""
        text = self.text(*_PORT) or default
        if not text:
            return 0
        if not (text.isascii() and text.isdecimal() and 0 < int(text[:6]) <= _MAX_PORT):
            raise self.refuse((*_OPTIONS, *_PORT), f"{text!r} is not a port")
        return int(text)

    def key(self, text: str) -> str:
        """Return the path of the private key."""
        if not text:
            return ""
        try:
            path = Path(text).expanduser()
            is_there = path.is_file()
        except (OSError, RuntimeError):  # no such user, or a name too long
            raise self.refuse((*_OPTIONS, *_KEY), f"{text!r} is not a path") from None
        if not is_there:
            raise self.refuse((*_OPTIONS, *_KEY), f"there is no file {text!r}")
        return str(path)

    def options(self) -> SshOptions:
        """Return what the options of ssh say, the first that is set of each."""
        found = SshOptions()
        for name in _OPTIONS:
            try:
                more = read_options(self.text(name))
            except ValueError as error:
                raise self.refuse((name,), str(error)) from error
            found = replace(
                found,
                jump=found.jump or more.jump,
                port=found.port or more.port,
                user=found.user or more.user,
                key=found.key or more.key,
            )
        return found

    def sudo(self) -> bool:
        """Tell whether root's rights are had with sudo."""
        text = self.text("ansible_become").lower()
        if text and text not in (*_TRUE, *_FALSE):
            raise self.refuse(("ansible_become",), f"{text!r} is neither true nor false")
        if text not in _TRUE:
            return False
        method = self.text("ansible_become_method") or "sudo"
        if method not in ("sudo", "ansible.builtin.sudo"):
            reason = f"kbuild becomes root with sudo, not with {method!r}"
            raise self.refuse(("ansible_become_method",), reason, _BY_HAND)
        user = self.text(*_BECOME_USER) or "root"
        if user != "root":
            raise self.refuse(_BECOME_USER, f"kubeadm needs root, not {user!r}", _BY_HAND)
        if any(self._variables.get(name) for name in _BECOME_PASSWORD):
            reason = "kbuild takes the password of sudo from no inventory"
            raise self.refuse(_BECOME_PASSWORD, reason, _ASK)
        return True
