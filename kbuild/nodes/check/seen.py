"""What check.sh tells of a node, as values."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from kbuild.certs.api import Copy
from kbuild.certs.model import Owner
from kbuild.nodes.connection import first_of
from kbuild.nodes.model import HostFacts

KUBELET = "kubelet"
_HOW_TO_SEE = "see it on the node with `kbuild certs`"
_PROBLEMS = {
    "unreadable": "Permission denied",
    "der": f"it is DER, which may hold a private key, so it was left on the node; {_HOW_TO_SEE}",
    "unusual": (
        "it is not written as kubectl writes a kubeconfig, so what may be secret in it cannot be"
        f" told from the rest, and it was left on the node; {_HOW_TO_SEE}"
    ),
}
_UNUSUAL = b"# unusual\n"


@dataclass(slots=True, kw_only=True)
class Component:
    """A program of the control plane: the image and the flags of its static pod."""

    name: str
    image: str = ""
    flags: dict[str, str] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """Return the tag of the image."""
        return self.image.rpartition(":")[2].partition("@")[0] if ":" in self.image else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """The lifetimes in the ConfigMap kubeadm-config, empty if it has none (before v1.31).

    ``problem`` says why they are not known.
    """

    leaf: str = ""
    ca: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSeen:
    """What was seen of a node.

    ``components`` are those with a manifest. ``started`` tells when programs began, and ``changed``
    when files were changed. ``kubelet`` are fields of its configuration. ``stored`` is None if the
    node has no admin.conf. ``is_cut`` tells that there were more files than are read. ``absent``
    are the paths that were to be read and are not there.
    """

    facts: HostFacts
    copies: tuple[Copy, ...]
    components: Mapping[str, Component]
    started: Mapping[str, datetime]
    changed: Mapping[str, datetime]
    kubelet: Mapping[str, str]
    stored: Stored | None
    is_cut: bool
    absent: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Return the name of the host."""
        return self.facts.host.name


def node_seen(facts: HostFacts, values: Mapping[str, list[str]]) -> NodeSeen:
    """Return what the function ``look`` printed; raises ValueError or LookupError."""
    return NodeSeen(
        facts=facts,
        copies=tuple(_copy(line) for line in values.get("file", ())),
        components=_components(values),
        started=_started(values),
        changed=_changed(values),
        kubelet=dict(_pair(line) for line in values.get("kubelet_setting", ())),
        stored=_stored(values),
        is_cut="cut" in values,
        absent=tuple(map(_path, values.get("absent", ()))),
    )


def _copy(line: str) -> Copy:
    inode, mode, size, _, link, kind, path, content, owner = line.split(" ", 8)
    user, _, group = owner.partition(":")
    shown = base64.b64decode(content.removesuffix("-"), validate=True)
    if shown.endswith(_UNUSUAL):
        kind = "unusual"
    return Copy(
        path=_path(path),
        inode=inode,
        is_link=link == "l",
        owner=Owner(user=user, group=group, mode=int(mode, 8)),
        size=int(size),
        content=shown or b"left on the node",
        problem=_PROBLEMS.get(kind, ""),
    )


def _path(encoded: str) -> str:
    return base64.b64decode(encoded, validate=True).decode("utf-8", "surrogateescape")


def _components(values: Mapping[str, list[str]]) -> dict[str, Component]:
    found = {name: Component(name=name) for name in values.get("manifest", ())}
    for line in values.get("image", ()):
        name, image = _pair(line)
        found[name].image = found[name].image or image
    for line in values.get("flag", ()):
        name, flag = _pair(line)
        option, _, value = flag.removeprefix("--").partition("=")
        found[name].flags[option] = value
    return found


def _started(values: Mapping[str, list[str]]) -> dict[str, datetime]:
    """Return when each program began; of several of one name, the last to begin."""
    boot = first_of(values, "boot")
    if not boot:
        return {}
    began = datetime.fromtimestamp(int(boot), UTC)
    ticks = int(values["ticks"][0])
    found: dict[str, datetime] = {}
    for line in values.get("process", ()):
        name, _, since = line.split()
        moment = began + timedelta(seconds=int(since) / ticks)
        found[name] = max(found.get(name, moment), moment)
    return found


def _changed(values: Mapping[str, list[str]]) -> dict[str, datetime]:
    pairs = (_pair(line) for line in values.get("changed", ()))
    return {path: datetime.fromtimestamp(int(seconds), UTC) for seconds, path in pairs}


def _stored(values: Mapping[str, list[str]]) -> Stored | None:
    if "stored" not in values:
        return None
    state, _, problem = values["stored"][0].partition(" ")
    if state != "read":
        return Stored(problem=problem)
    return Stored(leaf=first_of(values, "stored_leaf"), ca=first_of(values, "stored_ca"))


def _pair(line: str) -> tuple[str, str]:
    first, _, rest = line.partition(" ")
    return first, rest
