"""Make the files of a configuration."""

from importlib import resources
from string import Template

from packaging.version import Version

from kbuild.base.markdown import wrapped
from kbuild.config.model import Configuration, File, Request
from kbuild.config.stored import (
    KUBELET_CHANGES,
    Change,
    Stored,
    change_kubeadm_config,
    change_kubelet_config,
    hours,
    kubeadm_changes,
)
from kbuild.config.yamltext import put
from kbuild.kubernetes.configuration import Era, configuration_of
from kbuild.kubernetes.renewal import Renewal, renewal_of

_KUBELET = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"
_KUBEADM_CONFIG, _KUBELET_CONFIG = "kubeadm-config", "kubelet-config"
_KEYS = {_KUBEADM_CONFIG: "ClusterConfiguration", _KUBELET_CONFIG: "kubelet"}


class _Text(Template):
    """A template for texts in which a dollar is the shell's."""

    delimiter = "@@"


def make_configuration(request: Request) -> Configuration:
    """Return the files for a cluster; raises BadStoredConfiguration."""
    era = configuration_of(request.version)
    notes = _notes(request, era)
    facts = _facts(request, era, notes)
    if request.purpose == "new":
        files = [_readme("new.md", facts), _kubeadm_yaml(request, era, facts)]
    else:
        stored = _stored(request, era)
        notes += [
            note for each in stored.values() if each for note in (*_left_out(each), *_dropped(each))
        ]
        files = _living(request, era, stored, {**facts, "first": " ".join(notes)})
    return Configuration(
        needs_build=not era.validity,
        notes=tuple(notes),
        files=(*files, *_common(era, facts)),
    )


def _expiration(renewal: Renewal) -> str:
    if not renewal.kubeconfigs:  # v1.13 and v1.14 have no check-expiration
        return "kbuild certs /etc/kubernetes    # kubeconfigs are not renewed: see kbuild advise"
    return f"kubeadm {' '.join(renewal.renew[:-2])} check-expiration"


def _facts(request: Request, era: Era, notes: list[str]) -> dict[str, str]:
    renewal = renewal_of(request.version)
    facts = {
        "tag": request.tag,
        "ca_years": str(request.lifetimes.ca_years),
        "leaf_years": str(request.lifetimes.leaf_years),
        "leaf": hours(request.lifetimes.leaf_years),
        "flag": era.signing_flag,
        "check": era.check,
        "kubelet_map": era.kubelet_config_map.format(minor=request.version.minor),
        "kubelet_update": era.kubelet_update,
        "first": " ".join(notes),
        "short": _read("short.md").rstrip(),
        "renew_fallback": _read("renew-fallback.md") if era.validity else "",
        "renew": " ".join(renewal.renew),
        "expiration": _expiration(renewal),
        "renew_note": "" if era.validity else "    # with the kubeadm that kbuild built",
    }
    return {**facts, "approval": _text("approval.md", facts).rstrip()}


def _notes(request: Request, era: Era) -> list[str]:
    """Return what the user must know first."""
    tag, lifetimes = request.tag, request.lifetimes
    build = (
        f"kbuild kubeadm --version {tag} --ca-years {lifetimes.ca_years}"
        f" --leaf-years {lifetimes.leaf_years}"
    )
    if era.validity and request.purpose == "new":
        first = (
            "A new cluster needs kubeadm.yaml only, and no build of kubeadm: the stock kubeadm"
            f" {tag} reads both lifetimes from it."
        )
    elif era.validity:
        first = (
            f"No build of kubeadm is needed: the stock kubeadm {tag} reads the lifetimes from the"
            " stored configuration, which wins over what is compiled in."
        )
    else:
        first = (
            f"The lifetimes of what kubeadm {tag} issues are compiled in, so it must be built:"
            f" {build}. These files are for what kubeadm does not issue."
        )
    notes = [first]
    newest = max(Version(tag) for tag in era.read)
    if request.version.release[:2] > newest.release[:2] and "," not in str(era.versions):
        notes.append(
            f"kbuild knows the configuration of Kubernetes up to v{newest}, and takes {tag} to be"
            " like it. Check the files."
        )
    return notes


def _kubeadm_yaml(request: Request, era: Era, facts: dict[str, str]) -> File:
    cluster = f"apiVersion: {era.kubeadm_api}\nkind: ClusterConfiguration\n"
    cluster = _with(f"{cluster}kubernetesVersion: {request.tag}\n", kubeadm_changes(request, era))
    content = _text("kubeadm.yaml", facts) + cluster + "---\n" + _with(_KUBELET, KUBELET_CHANGES)
    about = "the configuration for kubeadm init: ClusterConfiguration and KubeletConfiguration"
    return File(name="kubeadm.yaml", about=about, content=content)


def _stored(request: Request, era: Era) -> dict[str, Stored | None]:
    """Read what is stored, and change it."""
    stored: dict[str, Stored | None] = {_KUBEADM_CONFIG: None, _KUBELET_CONFIG: None}
    if request.kubeadm_config is not None:
        changed = change_kubeadm_config(request.kubeadm_config, request, era)
        stored[_KUBEADM_CONFIG] = changed
    if request.kubelet_config is not None:
        stored[_KUBELET_CONFIG] = change_kubelet_config(request.kubelet_config, request)
    return stored


def _left_out(stored: Stored) -> list[str]:
    """Return a note if the file has more documents than the ConfigMap."""
    if not stored.left_out:
        return []
    note = (
        f"The file with the {stored.name} has other documents too ({', '.join(stored.left_out)})."
        f" They are left out, because {stored.key} of the ConfigMap does not hold them. If the file"
        " comes from kubeadm config migrate, the comparison with what is stored shows this"
        " conversion, and the way back is the backup."
    )
    return [note]


def _dropped(stored: Stored) -> list[str]:
    """Return a note if an editor added something to the file that no cluster stores."""
    if not stored.dropped:
        return []
    note = (
        f"The file with the {stored.name} has {' and '.join(stored.dropped)}, which kubeadm never"
        " stores: an editor or a shell added this. It is left out of the files here."
    )
    return [note]


def _living(
    request: Request, era: Era, stored: dict[str, Stored | None], facts: dict[str, str]
) -> list[File]:
    lines = {
        _KUBEADM_CONFIG: _with(
            f"apiVersion: {era.kubeadm_api}\nkind: ClusterConfiguration\n",
            kubeadm_changes(request, era),
        ),
        _KUBELET_CONFIG: _with(_KUBELET, KUBELET_CHANGES),
    }
    steps = {
        f"{name.removesuffix('-config')}_steps": _steps(name, stored[name], facts)
        for name in stored
    }
    undo = "\n\n".join(_undo(name, stored[name], facts) for name in reversed(stored))
    files = [_readme("living.md", {**facts, **steps, "undo_steps": undo})]
    for name, change in stored.items():
        if change is None:
            about = f"the lines that must be in the stored {name}"
            files.append(File(name=f"{name}.lines.yaml", about=about, content=lines[name]))
        else:
            files += _files_of(change)
    return files


def _steps(name: str, change: Stored | None, facts: dict[str, str]) -> str:
    upload = f"kubectl -n kube-system edit configmap {facts['kubelet_map']}"
    if name == _KUBEADM_CONFIG:  # kubeadm checks what it stores; of kubelet's it would store more
        upload = "kubeadm init phase upload-config kubeadm --config kubeadm-config.yaml"
    more = {**_names(name, facts), "upload": upload}
    return _text("exact.md" if change else "generic.md", more).rstrip()


def _undo(name: str, change: Stored | None, facts: dict[str, str]) -> str:
    return _text("undo-exact.md" if change else "undo-generic.md", _names(name, facts)).rstrip()


def _names(name: str, facts: dict[str, str]) -> dict[str, str]:
    stored_as = name if name == _KUBEADM_CONFIG else facts["kubelet_map"]
    return {"name": name, "map": stored_as, "key": _KEYS[name]}


def _files_of(change: Stored) -> list[File]:
    name = change.name
    made = {
        f"{name}.diff": ("what changes in the stored configuration", change.diff),
        f"{name}.yaml": ("the changed configuration, whole", change.after),
        f"{name}.patch.json": (
            "stores it: a merge patch of the ConfigMap",
            change.patch(change.after),
        ),
        f"{name}.undo.json": ("the way back: stores what there was", change.patch(change.before)),
        f"{name}.before.yaml": ("what there was, as you gave it", change.before),
    }
    return [File(name=n, about=about, content=text) for n, (about, text) in made.items()]


def _common(era: Era, facts: dict[str, str]) -> list[File]:
    """Return the files that new and living clusters need alike."""
    signer = _read("signer.yaml") if era.signers else ""
    return [
        File(
            name="kubelet-serving-approver.yaml",
            about="a ClusterRole to approve kubelets' serving certificates, and nothing more",
            content=_read("kubelet-serving-approver.yaml") + signer,
        ),
        _file(
            "approve-kubelet-serving.sh",
            "approve-kubelet-serving.sh",
            "check the requests of one kubelet for a serving certificate, and approve them",
            None,
        ),
        *_without_kubeadm(facts),
    ]


def _without_kubeadm(facts: dict[str, str]) -> list[File]:
    """Return the files for components that systemd runs."""
    folder = "without-kubeadm"
    return [
        _file(
            f"{folder}/kube-controller-manager.service.d/20-certificates.conf",
            "controller-manager.conf",
            "the signing duration, for a kube-controller-manager that systemd runs",
            facts,
        ),
        _file(
            f"{folder}/kubelet.service.d/20-certificates.conf",
            "kubelet.conf",
            "rotation of both certificates, for a kubelet that systemd runs",
            None,
        ),
        File(
            name=f"{folder}/kubelet-config.yaml",
            about="the same for the file of the kubelet's --config",
            content=_with(_KUBELET, KUBELET_CHANGES),
        ),
        _file(
            f"{folder}/kubelet-client-csr.yaml",
            "kubelet-client-csr.yaml",
            "bindings that let the controller manager approve kubelets' client certificates",
            None,
        ),
    ]


def _with(text: str, changes: tuple[Change, ...]) -> str:
    for place, value in changes:
        text = put(text, place, value)
    return text


def _file(name: str, template: str, about: str, facts: dict[str, str] | None) -> File:
    content = _read(template) if facts is None else _text(template, facts)
    return File(name=name, about=about, content=content)


def _readme(template: str, facts: dict[str, str]) -> File:
    about = "what to do with the other files, step by step"
    return File(name="README.md", about=about, content=wrapped(_text(template, facts)))


def _text(template: str, facts: dict[str, str]) -> str:
    return _Text(_read(template)).substitute(facts)


def _read(template: str) -> str:
    return resources.files("kbuild.config").joinpath("templates", template).read_text("utf-8")
