"""Give the flags of components their values: the paths of a plan's files on nodes."""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from packaging.version import Version

from kbuild.kubernetes.flags import Flag, Value, flags_of
from kbuild.pki.errors import NotForUnits
from kbuild.pki.model import Pair, Plan, Spec
from kbuild.pki.rotating import signing_file
from kbuild.pki.uses import Serving, common_name, signing_problem

_SAFE = re.compile(r"[\w./:@+=-]+", re.ASCII)  # systemd and shells take other characters apart
_SERVICE = "DNS:kubernetes.default.svc."


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the flags are for.

    ``folder`` is where nodes have the files. ``lifetime`` is how long kube-controller-manager
    signs, as a duration of Go; empty for its default.
    """

    version: Version
    folder: PurePosixPath
    lifetime: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A flag with its value. ``source`` is the file here that is copied to this path."""

    flag: Flag
    value: Value
    source: Path | None = None

    @property
    def word(self) -> str:
        """Return the word for the command line."""
        value = str(self.value).lower() if isinstance(self.value, bool) else self.value
        return f"--{self.flag.name}={value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A component with its flags. ``node`` is that of a kubelet, else empty.

    ``left_out`` are flags without value, each with the reason.
    """

    name: str
    node: str
    settings: tuple[Setting, ...]
    left_out: tuple[tuple[Flag, str], ...]

    @property
    def files(self) -> dict[str, Path]:
        """Return the files here that it needs, by their paths on the node."""
        return {str(each.value): each.source for each in self.settings if each.source is not None}


def components_of(plan: Plan, found: Serving, wish: Wish) -> tuple[Component, ...]:
    """Return the components that have a certificate; raises NotForUnits."""
    values = _Values(plan=plan, found=found, wish=wish)
    flags: dict[str, list[Flag]] = {}
    for flag in flags_of(wish.version):
        flags.setdefault(flag.component, []).append(flag)
    return tuple(
        values.component(name, node, own)
        for name, own in flags.items()
        for use, node in found
        if use == own[0].use
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Values:
    """Where values come from. Where there is none, the reason why is returned as an error."""

    plan: Plan
    found: Serving
    wish: Wish

    def component(self, name: str, node: str, flags: list[Flag]) -> Component:
        settings, left_out = [], []
        for flag in flags:
            try:
                settings.append(self.setting(flag, node))
            except LookupError as error:
                left_out.append((flag, str(error.args[0])))
        return Component(name=name, node=node, settings=tuple(settings), left_out=tuple(left_out))

    def setting(self, flag: Flag, node: str) -> Setting:
        spec = self.found.get((flag.use, node))
        if spec is None:
            message = f"no certificate of the plan is known to be that of {flag.use}"
            raise LookupError(message)
        if not flag.part:
            return Setting(flag=flag, value=flag.value)
        value = self.value(flag, spec)
        if isinstance(value, Path):
            return Setting(flag=flag, value=_safe(flag, self.on_node(value)), source=value)
        return Setting(flag=flag, value=_safe(flag, value))

    def value(self, flag: Flag, spec: Spec | Pair) -> Path | str:
        if flag.part == "issuer":
            return self.issuer()
        if isinstance(spec, Pair):
            return {"key": spec.key, "public": spec.public}[flag.part]
        match flag.part:
            case "certificate" | "public" | "key":
                path = spec.key if flag.part == "key" else spec.certificate
                if path is None:
                    message = f"{spec.name} holds its certificate and key itself"
                    raise LookupError(message)
                return path
            case "common-name":
                return common_name(spec)
            case "kubeconfig":
                own = str(self.wish.folder / f"{flag.component}.kubeconfig")
                return spec.login.path if spec.login else own
            case _:
                return self.of_ca(flag, self.plan.spec(spec.issuer))

    def of_ca(self, flag: Flag, ca: Spec) -> Path | str:
        assert ca.certificate is not None
        assert ca.key is not None
        if flag.part == "ca":
            return ca.certificate
        if problem := signing_problem(self.plan, ca):
            raise LookupError(problem)
        if flag.part == "lifetime" and not self.wish.lifetime:
            message = "no lifetime was given with --signing-years"
            raise LookupError(message)
        if flag.part == "lifetime":
            return self.wish.lifetime
        if flag.part == "signing-key":
            return ca.key
        return signing_file(ca) if self.plan.rotation(ca.name) else ca.certificate

    def issuer(self) -> str:
        """Return the issuer that kubeadm gives to tokens: the API server's longest service name."""
        server = self.found.get(("apiserver", ""))
        names = server.wanted.names if isinstance(server, Spec) else ()
        for name in names:
            if name.startswith(_SERVICE):
                return f"https://{name.removeprefix('DNS:')}"
        message = "the certificate of the API server has no name kubernetes.default.svc.DOMAIN"
        raise LookupError(message)

    def on_node(self, path: Path) -> str:
        """Return where a node has a file; its own ones are not in a directory of nodes there."""
        parts = path.relative_to(self.plan.output).parts
        return str(self.wish.folder.joinpath(*(parts[2:] if parts[0] == "nodes" else parts)))


def _safe(flag: Flag, text: str) -> str:
    if not _SAFE.fullmatch(text):
        raise NotForUnits(flag=f"--{flag.name}", value=text)
    return text
