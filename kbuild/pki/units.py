"""Write the flags of components as files: drop-ins for systemd, and what to do with them."""

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath
from string import Template
from typing import Any

import yaml
from packaging.version import Version

from kbuild.base.markdown import wrapped
from kbuild.base.words import listed
from kbuild.pki.cluster import FILE, Cluster, cluster_content, read_cluster
from kbuild.pki.flags import Component, Wish, components_of
from kbuild.pki.model import Pair, Plan, Spec
from kbuild.pki.planning import UNFINISHED, plan_of
from kbuild.pki.rotating import signing_file
from kbuild.pki.store import is_unfinished
from kbuild.pki.uses import USES, Serving, common_name, organizations, serving

_DROP_IN = "{name}.service.d/20-kbuild-pki.conf"
_CONFIGURATION = {"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration"}
_FOLDERS = {"cfssl": "/etc/kubernetes/pki", "kubeadm": "/etc/kubernetes"}
_ROLES = {
    "control-plane": ("kube-apiserver", "kube-controller-manager", "kube-scheduler"),
    "etcd": ("etcd",),
}
_EVERYWHERE = ("kubelet", "kube-proxy", "flanneld")


# What may be in code of Markdown and in a command that is pasted into a shell.
_PRINTABLE = re.compile(r"[ -_a-~]+")
_COMPONENTS = tuple(dict.fromkeys(use.component for use in USES.values()))


class _Text(Template):
    """A template for texts in which a dollar is the shell's."""

    delimiter = "@@"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitFile:
    """A file to write: its name in the output, what it is for, and its content."""

    name: str
    about: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """The components of a plan, the files for them, and what the user must know first."""

    components: tuple[Component, ...]
    files: tuple[UnitFile, ...]
    notes: tuple[str, ...]


def make_units(
    folder: Path,
    tag: str,
    *,
    on_node: PurePosixPath | None = None,
    signing_years: int | None = None,
    certificates: Mapping[str, str] | None = None,
    profiles: Mapping[str, str] | None = None,
    signers: Mapping[str, str] | None = None,
    ca_keys: Mapping[str, str] | None = None,
) -> Units:
    """Return the files with which components of a version use the certificates of a plan.

    ``certificates`` tell by name which one serves for what. Raises an error of kbuild.pki.errors.
    """
    path = folder / FILE
    # Read once: both must be of the same file.
    contents = {path: cluster_content(path)} if os.path.lexists(path) else {}
    plan = plan_of(folder, profiles=profiles, signers=signers, ca_keys=ca_keys, contents=contents)
    cluster = read_cluster(path, contents[path]) if contents else None
    years = signing_years or (cluster.leaf_lifetime.days // 365 if cluster else 0)
    wish = Wish(
        version=Version(tag),
        folder=on_node or PurePosixPath(_FOLDERS[cluster.layout if cluster else "cfssl"]),
        lifetime=f"{years * 365 * 24}h" if years else "",
    )
    found = serving(plan, certificates or {})
    components = components_of(plan, found, wish)
    notes = tuple(_notes(components, found, plan))
    files = [file for each in components for file in _files(each, plan, tag)]
    readme = UnitFile(
        name="README.md",
        about="what to do with the other files, and what each flag is for",
        content=_readme(components, notes, plan, cluster, tag),
    )
    return Units(components=components, files=(readme, *files), notes=notes)


def _notes(components: tuple[Component, ...], found: Serving, plan: Plan) -> Iterator[str]:
    if is_unfinished(plan.output):
        yield UNFINISHED
    left_out: dict[tuple[str, str, str], dict[str, None]] = {}
    for each in components:
        for flag, reason in each.left_out:
            left_out.setdefault((each.name, reason, flag.use), {})[f"--{flag.name}"] = None
    for (name, reason, use), flags in left_out.items():
        is_known = any(each == use for each, _ in found)
        hint = "" if is_known else f"; `--use {use}=NAME` names one"
        yield f"{name} gets no {listed([f'`{flag}`' for flag in flags])}: {reason}{hint}."
    there = {each.name for each in components}
    if missing := [name for name in _COMPONENTS if name not in there]:
        yield f"Nothing is written for {listed(missing)}: the plan has no certificate for it."
    if paths := _kubeconfigs(components):
        yield (
            f"kbuild issues no kubeconfigs from {plan.inputs[0].name}. Write {listed(paths)}"
            " yourself, with `kubectl config --embed-certs`."
        )
    yield from _binding(found.get(("apiserver-kubelet-client", "")))
    for rotation in plan.rotations:
        signing = signing_file(plan.spec(rotation.ca))
        if any(signing in each.files.values() for each in components):
            yield (
                f"The CA {rotation.ca} is being replaced, and kube-controller-manager signs with"
                f" {signing.name} until that has ended. `kbuild pki rotate-ca` tells which files"
                " it gets after each step. After the last step, write these drop-ins again."
            )


def _kubeconfigs(components: tuple[Component, ...]) -> tuple[str, ...]:
    """Return the kubeconfigs that are not in the plan."""
    of_all = (setting for each in components for setting in each.settings)
    missing = (s for s in of_all if s.flag.part == "kubeconfig" and s.source is None)
    return tuple(dict.fromkeys(str(setting.value) for setting in missing))


def _binding(client: Spec | Pair | None) -> Iterator[str]:
    if isinstance(client, Spec) and "system:masters" not in organizations(client):
        user, role = common_name(client), "system:kubelet-api-admin"
        if not _PRINTABLE.fullmatch(user):
            yield (
                f"Kubelets ask whether the user in the certificate {client.name} may read logs and"
                f" run commands. Bind it to the cluster role {role}. No command is shown, because"
                " the user's name is not of printable ASCII characters."
            )
            return
        yield (
            f"Kubelets ask whether the user `{user}` may read logs and run commands. Allow it with"
            " `kubectl create clusterrolebinding kubelet-api-admin"
            f" --clusterrole={role} --user={shlex.quote(user)}`."
        )


def _files(component: Component, plan: Plan, tag: str) -> Iterator[UnitFile]:
    folder = f"nodes/{component.node}/" if component.node else ""
    of_node = f", of the node {component.node}" if component.node else ""
    files = [f"#   {_shown(plan, here)} -> {there}" for there, here in component.files.items()]
    facts = {
        "name": component.name,
        "tag": tag,
        "of_node": of_node,
        "files": "\n".join(files) or "#   none",
        "flags": " \\\n  ".join(each.word for each in component.settings),
    }
    yield UnitFile(
        name=folder + _DROP_IN.format(name=component.name),
        about=f"flags for {component.name}{of_node}",
        content=_text("unit.conf", facts),
    )
    if component.name == "kubelet":
        yield UnitFile(
            name=f"{folder}kubelet-config.yaml",
            about=f"the same for the file of the kubelet's --config{of_node}",
            content=yaml.safe_dump(_configuration(component), sort_keys=False),
        )


def _configuration(component: Component) -> dict[str, Any]:
    """Return the settings as a KubeletConfiguration."""
    made: dict[str, Any] = dict(_CONFIGURATION)
    for each in component.settings:
        *path, key = each.flag.setting.split(".")
        table = made
        for name in path:
            table = table.setdefault(name, {})
        if key:
            table[key] = each.value
    return made


def _readme(
    components: tuple[Component, ...],
    notes: tuple[str, ...],
    plan: Plan,
    cluster: Cluster | None,
    tag: str,
) -> str:
    kubelet = any(each.name == "kubelet" for each in components)
    facts = {
        "tag": tag,
        "source": plan.inputs[0].name,
        "notes": "\n".join(f"- {note}" for note in notes),
        "nodes": "\n".join(_nodes(components, cluster)),
        "flags": "\n".join(_explained(components)),
        "kubelet": _text("units-kubelet.md", {}) if kubelet else "",
    }
    return wrapped(_text("units.md", facts))


def _nodes(components: tuple[Component, ...], cluster: Cluster | None) -> Iterator[str]:
    there = {each.name for each in components}
    if cluster is None:
        yield "A node gets the drop-ins of the components that run on it."
        return
    groups: dict[tuple[str, ...], list[str]] = {}
    for node in cluster.nodes:
        own = [name for role in node.roles for name in _ROLES.get(role, ())]
        names = tuple(name for name in _COMPONENTS if name in there & {*own, *_EVERYWHERE})
        groups.setdefault(names, []).append(node.name)
    for names, nodes in groups.items():
        yield f"- {', '.join(nodes)}: {', '.join(names) or 'nothing'}"
    if "kubelet" in there:
        yield ""
        yield "The drop-in of a kubelet is in `nodes/NAME`, because it has certificates of its own."


def _explained(components: tuple[Component, ...]) -> Iterator[str]:
    """Yield a section for each component; kubelets have the same flags."""
    for each in {each.name: each for each in components}.values():
        yield f"### {each.name}"
        yield ""
        for setting in each.settings:
            place = f" (`{setting.flag.setting}`)" if setting.flag.setting else ""
            yield f"- `--{setting.flag.name}`{place}: {setting.flag.why}."
        yield ""


def _shown(plan: Plan, path: Path) -> str:
    return str(path.relative_to(plan.output))


def _text(template: str, facts: dict[str, str]) -> str:
    text = resources.files("kbuild.pki").joinpath(template).read_text("utf-8")
    return _Text(text).substitute(facts)
