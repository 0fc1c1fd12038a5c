"""Read a kubeconfig: its users, clusters and contexts, with what each embeds; and write one.

The format is that of k8s.io/client-go/tools/clientcmd/api/v1/types.go (v0.20.2).
"""

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from kbuild.base.files import BROKEN, plain_yaml_events, reason_of

MAX_KUBECONFIG = 256 << 10  # bytes; one with a user of kubeadm has 6 KiB
_MAX_DEPTH = 16  # a kubeconfig has four levels
_MAX_EVENTS = 50_000  # of the parser; a user, a cluster and a context have about 60
# All values are text for this loader: YAML's numbers may take quadratic time.
_Loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
_NULLS = ("null", "Null", "NULL", "~")
_MEANT = re.compile(
    rb"""^[ \t{]*["']?(?:users|clusters)["']?[ \t]*:|["']?kind["']?[ \t]*:[ \t]*["']?Config\b""",
    re.MULTILINE,
)


class BadKubeconfig(ValueError):
    """A file is not a kubeconfig, or a broken one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """PEM in a kubeconfig (``data``), or the path of a file that it refers to; both may be empty.

    ``problem`` is why the data is not base64.
    """

    data: bytes = b""
    file: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A user, with the client certificate and its key."""

    name: str
    certificate: Embedded
    key: Embedded


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A cluster, with the bundle of CAs that its API server is checked with."""

    name: str
    server: str
    ca: Embedded


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Which user is used with which cluster."""

    name: str
    user: str
    cluster: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Kubeconfig:
    """What is in a kubeconfig."""

    users: tuple[User, ...]
    clusters: tuple[Cluster, ...]
    contexts: tuple[Context, ...]


def looks_like_kubeconfig(content: bytes) -> bool:
    """Tell whether a content has a word that is in every kubeconfig, and in text about them."""
    return (
        b"client-certificate" in content
        or b"certificate-authority" in content
        or b"current-context" in content
    )


def is_meant_as_kubeconfig(content: bytes) -> bool:
    """Tell whether a content that cannot be read as a kubeconfig seems to be a damaged one."""
    return looks_like_kubeconfig(content) and _MEANT.search(content) is not None


def read_kubeconfig(content: bytes) -> Kubeconfig:
    """Parse a kubeconfig; raises BadKubeconfig, whose text says why.

    A field of another type counts as absent, so that the rest can be read. Of YAML with several
    documents each is looked at.
    """
    if len(content) > MAX_KUBECONFIG:
        message = f"it has {len(content)} bytes, which is more than {MAX_KUBECONFIG}"
        raise BadKubeconfig(message)
    try:
        _demand_plain(content)
        documents = [each for each in yaml.load_all(content, _Loader) if _is_kubeconfig(each)]
        if not documents:
            message = "it is not a YAML mapping with users or clusters"
            raise BadKubeconfig(message)
        return Kubeconfig(
            users=tuple(user for each in documents for user in _users(each)),
            clusters=tuple(cluster for each in documents for cluster in _clusters(each)),
            contexts=tuple(context for each in documents for context in _contexts(each)),
        )
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""
        message = f"it is not YAML{where}"
        raise BadKubeconfig(message) from error
    except BROKEN as error:
        raise BadKubeconfig(reason_of(error)) from error


def make_kubeconfig(
    *, cluster: str, server: str, ca: bytes, user: str, certificate: bytes, key: bytes
) -> bytes:
    """Return a kubeconfig that embeds PEM, with the fields and the order of kubectl's."""
    context = f"{user}@{cluster}"
    document = {
        "apiVersion": "v1",
        "clusters": [
            {
                "cluster": {"certificate-authority-data": _base64(ca), "server": server},
                "name": cluster,
            }
        ],
        "contexts": [{"context": {"cluster": cluster, "user": user}, "name": context}],
        "current-context": context,
        "kind": "Config",
        "preferences": {},
        "users": [
            {
                "name": user,
                "user": {
                    "client-certificate-data": _base64(certificate),
                    "client-key-data": _base64(key),
                },
            }
        ],
    }
    return yaml.safe_dump(document, sort_keys=False, width=1 << 20).encode()


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _demand_plain(content: bytes) -> None:
    """Raise ValueError for YAML that takes long, or means more than its text says."""
    for number, event in enumerate(plain_yaml_events(content, _MAX_DEPTH, _Loader)):
        if isinstance(event, yaml.ScalarEvent) and event.value == "<<":
            message = "it has YAML merge keys"
            raise BadKubeconfig(message)
        if number > _MAX_EVENTS:
            message = f"it has more than {_MAX_EVENTS} YAML tokens"
            raise BadKubeconfig(message)


def _is_kubeconfig(document: object) -> bool:
    return isinstance(document, dict) and (
        document.get("kind") == "Config"
        or any(isinstance(document.get(key), list) for key in ("users", "clusters"))
    )


def _entries(
    document: dict[Any, Any], key: str, inner: str
) -> Iterator[tuple[str, dict[Any, Any]]]:
    entries = document.get(key)
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and isinstance(found := entry.get(inner), dict):
            yield _text(entry, "name"), found


def _users(document: dict[Any, Any]) -> Iterator[User]:
    for name, user in _entries(document, "users", "user"):
        yield User(
            name=name,
            certificate=_embedded(user, "client-certificate"),
            key=_embedded(user, "client-key"),
        )


def _clusters(document: dict[Any, Any]) -> Iterator[Cluster]:
    for name, cluster in _entries(document, "clusters", "cluster"):
        yield Cluster(
            name=name,
            server=_text(cluster, "server"),
            ca=_embedded(cluster, "certificate-authority"),
        )


def _contexts(document: dict[Any, Any]) -> Iterator[Context]:
    for name, context in _entries(document, "contexts", "context"):
        yield Context(name=name, user=_text(context, "user"), cluster=_text(context, "cluster"))


def _embedded(entry: dict[Any, Any], key: str) -> Embedded:
    data = entry.get(f"{key}-data")
    if data and data not in _NULLS:  # it wins over a file, as in clientcmd
        try:
            # A block of YAML has line ends in it.
            return Embedded(data=base64.b64decode("".join(data.split()), validate=True))
        except (ValueError, TypeError, AttributeError, binascii.Error):
            return Embedded(problem="it is not base64")
    return Embedded(file=_text(entry, key))


def _text(entry: dict[Any, Any], key: str) -> str:
    value = entry.get(key)
    return value if isinstance(value, str) and value not in _NULLS else ""
