"""Choose hosts with the patterns of --limit, which are those of Ansible where they are simple."""

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from kbuild.base.errors import BadSetting
from kbuild.base.values import did_you_mean

_HINT = "give names or groups, such as `kube_node:!node3`; with !: all but these, with &: also in"
# A colon separates patterns, unless it is in brackets.
_COLON = re.compile(r":(?![^\[\]]*\])")


def choose(
    hosts: Sequence[str], groups: Mapping[str, set[str]], patterns: Sequence[str]
) -> list[str]:
    """Return the hosts that the patterns choose, in their order; raises BadSetting.

    Ansible's order counts: first what is added, then what is also demanded (&), then what is left
    out (!). Other than Ansible, a pattern that fits no host and no group is an error: a typing
    error in ``!node3`` must not change node3.
    """
    known = {**groups, "all": set(hosts)}
    words = [word for each in patterns for word in _split(each.strip(), hosts)]
    if not words:
        return list(hosts) if not patterns else []
    added = [_match(word, hosts, known) for word in words if word[0] not in "!&"]
    chosen = set().union(*added) if added else set(hosts)
    for word in words:
        if word[0] == "&":
            chosen &= _match(word[1:], hosts, known)
    for word in words:
        if word[0] == "!":
            chosen -= _match(word[1:], hosts, known)
    return [host for host in hosts if host in chosen]


def _split(text: str, hosts: Sequence[str]) -> list[str]:
    if "," in text:
        return [word for part in text.split(",") for word in _split(part.strip(), hosts)]
    if text.lstrip("!&") in hosts or "::" in text:  # a colon of an address
        return [text]
    return [word for word in (part.strip() for part in _COLON.split(text)) if word]


def _match(pattern: str, hosts: Sequence[str], groups: Mapping[str, set[str]]) -> set[str]:
    if pattern in hosts:
        return {pattern} | groups.get(pattern, set())
    if pattern[:1] in ("~", "@", "") and pattern != "@local":
        raise _bad(pattern, "regular expressions and files are not supported")
    named = [name for name in groups if fnmatchcase(name, pattern)]
    found = {host for host in hosts if fnmatchcase(host, pattern)}.union(
        *(groups[name] for name in named)
    )
    if not found and not named:
        guess = did_you_mean(pattern, [*hosts, *groups])
        raise _bad(pattern, "no host and no group has this name" + (f"; {guess}" if guess else ""))
    return found


def _bad(pattern: str, reason: str) -> BadSetting:
    return BadSetting(name="--limit", value=pattern, reason=reason, hint=_HINT)
