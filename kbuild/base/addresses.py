"""Addresses as users and documents may see them: no credential, no path of this machine.

Everything in an address except its host and path can be a secret: the user information, the query
and the fragment of a URL (https://www.rfc-editor.org/rfc/rfc3986#section-3.2.1 and 3.4), and the
part before the ``@`` in git's scp-like form (https://git-scm.com/docs/git-clone#_git_urls). Only
the user name ``git`` is kept, because every hosting service uses it.

Other programs quote addresses in their messages, so these functions take any text. They read each
word once, because the text may be long and hostile.
"""

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

LOCAL = "local:"
_WORD = re.compile(r"\S+")
# pathlib reduces the slashes of a URL to one; urllib3 omits the scheme of a URL it cannot parse.
_SCHEME_END = re.compile(r"(:/+|^[^\w/]*//+)")
_QUERY = re.compile(r"[?#]")
# An @ before a digest belongs to the name of an image.
_AT_HOST = re.compile(r"@(?!sha256:[0-9a-f]{64})(?=([\w.-]+|\[[0-9A-Fa-f:.]+\])[:/])")
# The hops of ssh's -J: users are names without a password.
_JUMP = r"(ssh://)?([a-zA-Z_][\w.-]{0,31}@)?([\w.-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?"
_JUMPS = re.compile(rf"{_JUMP}(,{_JUMP}){{0,8}}")
_AROUND_JUMPS = "'\"`()<>{},.;:"  # without the brackets of an IPv6 address
_OPENING, _CLOSING = "'\"(<[{", "'\")>]},.;:"
_HIDDEN = "***"


def shown(text: str) -> str:
    """Return a text without the credentials of the addresses in it."""
    if not has_mark(text):
        return text
    return _WORD.sub(_clean_in_its_place, text)


def recorded(source: str) -> str:
    """Return a source as a published document may hold it.

    A remote source is its address without credentials. A source on this machine is ``local:`` and
    its file name. That is not an address: anybody else has to say where their copy is.
    """
    path = urlsplit(source).path if source.startswith("file:") else source
    local = path != source or Path(path).expanduser().exists() or ":" not in path
    if not local:
        return shown(source)
    return LOCAL + os.path.basename(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100, PTH119


def is_local(source: str) -> bool:
    """Return whether a recorded source was on the build machine and is therefore not an address."""
    return source.startswith(LOCAL)


def has_mark(text: str) -> bool:
    """Tell whether a text has a character that stands beside each credential of an address."""
    return "@" in text or "?" in text or "#" in text


def _clean_in_its_place(found: re.Match[str]) -> str:
    """Clean a word, but keep the users of the jump hosts in a command of ssh to be typed."""
    word = found[0]
    is_after = found.string.endswith(" -J ", 0, found.start())
    is_jump = is_after and _JUMPS.fullmatch(word.strip(_AROUND_JUMPS))
    return word if is_jump else _clean(word)


def _clean(word: str) -> str:
    if not has_mark(word):
        return word
    before, *parts = _SCHEME_END.split(word)
    if not parts:
        return _clean_path(_clean_scp(word))
    cleaned = _clean_scp(before)
    for mark, part in zip(parts[::2], parts[1::2], strict=True):
        kept, is_whole = _clean_url(part)
        cleaned += mark + kept
        if not is_whole:  # what follows belongs to the query
            return cleaned + _closing(word)
    return cleaned


def _clean_url(part: str) -> tuple[str, bool]:
    """Clean what follows the slashes of a URL; the second value is False if its end was cut."""
    authority, slash, path = part.partition("/")
    query = _QUERY.search(authority)
    if query is not None and "@" not in part[query.start() :]:
        return authority[: query.start()], False
    port = authority.rpartition(":")[2]
    password = ":" in authority and ("@" in path or not _is_port(port))
    if "@" in part and (query is not None or (password and "@" not in authority)):
        return _HIDDEN, False  # a bare ?, # or / in a password: where it ends is not certain
    user, at, host = authority.rpartition("@")
    host = f"git@{host}" if user == "git" and at else host
    query = _QUERY.search(path)
    return host + slash + (path[: query.start()] if query else path), query is None


def _is_port(text: str) -> bool:
    digits = text.strip(_OPENING + _CLOSING)
    return digits == "" or digits.isdecimal() or text.endswith("]")


def _clean_scp(word: str) -> str:
    """Clean ``user:secret@host:path``; a path before the ``@`` makes it something else."""
    found = [match.start() for match in _AT_HOST.finditer(word)]
    opening = word[: len(word) - len(word.lstrip(_OPENING))]
    user = word[len(opening) : found[-1]] if found else "git"
    # @local is kbuild's name of this machine.
    if user in ("", "git") or ("/" in user and ":" not in user.partition("/")[0]):
        return word
    return opening + word[found[-1] + 1 :]


def _clean_path(word: str) -> str:
    """Clean ``/path?query``, as requests writes it beside the host."""
    path, _, query = word.partition("?")
    is_query = path.lstrip(_OPENING).startswith("/") and query.strip(_CLOSING)
    return path + _closing(word) if is_query else word


def _closing(word: str) -> str:
    return word[len(word.rstrip(_CLOSING)) :]
