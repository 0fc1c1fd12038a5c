"""Make the plan of a directory: from its pki.toml, or from the files of cfssl in it."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from kbuild.base.errors import KbuildError
from kbuild.base.files import reason_of
from kbuild.base.values import did_you_mean
from kbuild.pki.cfssl import CONFIG, SUFFIX, Config, Profile, Request, read_config, read_request
from kbuild.pki.cluster import FILE, KEYS, Cluster, Node, read_cluster
from kbuild.pki.components import Component, authorities_of, certificates_of, pairs_of
from kbuild.pki.errors import (
    BadKeyUri,
    BadPkiFile,
    DuplicateName,
    NothingPlanned,
    ProfileWithoutUsages,
    UnknownCertificate,
    UnknownProfile,
)
from kbuild.pki.hosts import repeated
from kbuild.pki.key_uris import KeyUri, key_uri
from kbuild.pki.model import Login, Pair, Plan, Spec, Term
from kbuild.pki.overrides import overridden
from kbuild.pki.rotations import ROTATION, demand_planned, notes_of, read_rotations
from kbuild.pki.signers import signed
from kbuild.pki.store import MANIFEST, is_unfinished
from kbuild.x509.api import Subject, Wanted, name_of

UNFINISHED = "An earlier run was killed while it replaced files. `kbuild pki issue` finishes it."
UNKNOWN_FINISH = (
    "It cannot be told whether an earlier run is unfinished: .kbuild-pki is not readable for you."
)
_CA_USAGES = ("cert sign", "crl sign")  # of cfssl's initca
_KUBEADM_CA_USAGES = ("digital signature", "key encipherment", "cert sign")
_LEAF_USAGES = ("digital signature", "key encipherment")
_PURPOSES = ("cluster", "etcd", "front-proxy")
_API_NAMES = ("DNS:kubernetes", "DNS:kubernetes.default", "DNS:kubernetes.default.svc")


def plan_of(
    folder: Path,
    *,
    profiles: Mapping[str, str] | None = None,
    signers: Mapping[str, str] | None = None,
    cap: bool = False,
    encrypts_ca_keys: bool = False,
    ca_keys: Mapping[str, str] | None = None,
    contents: Mapping[Path, bytes] | None = None,
) -> Plan:
    """Return the plan of a directory; raises an error of kbuild.pki.errors.

    ``profiles`` and ``signers`` are the profiles and the CAs of cfssl's requests that are given by
    name, ``ca_keys`` the PKCS#11 URIs of the keys of CAs. With ``encrypts_ca_keys`` new keys of CAs
    are encrypted, as if pki.toml said so. ``contents`` are taken instead of those of files on the
    disk.
    """
    given = contents or {}
    if folder / FILE in given or os.path.lexists(folder / FILE):
        plan = plan_of_cluster(read_cluster(folder / FILE, given.get(folder / FILE)))
    else:
        plan = _plan_of_cfssl(folder, profiles or {}, signers or {}, given)
    plan = _with_key_uris(plan, key_uris(ca_keys or {}, "--ca-key"))
    _demand_distinct(plan)
    _demand_subjects(plan)
    encrypts = encrypts_ca_keys or plan.encrypts_ca_keys
    rotations = read_rotations(plan.output)
    plan = replace(plan, cap=cap, encrypts_ca_keys=encrypts, rotations=rotations)
    demand_planned(plan)
    signing = {each.ca: each.signing_key for each in rotations}
    on_tokens = key_uris({ca: text for ca, text in signing.items() if text}, ROTATION)
    plan = _with_key_uris(plan, {ca: on_tokens.get(ca) for ca in signing})
    _demand_own_keys(plan)
    return replace(plan, notes=(*plan.notes, *notes_of(plan)))


def key_uris(given: Mapping[str, str], where: str) -> dict[str, KeyUri]:
    """Return the PKCS#11 URIs of the keys of CAs, by their names; raises BadKeyUri."""
    return {name: key_uri(text, f"{name} in {where}") for name, text in given.items()}


def _with_key_uris(plan: Plan, given: Mapping[str, KeyUri | None]) -> Plan:
    """Return a plan whose CAs have these keys on tokens, or none; raises UnknownCertificate."""
    roots = [each.name for each in plan.specs if not each.issuer]
    for name in given:
        if name not in roots:
            raise UnknownCertificate(name=name, known=", ".join(roots))
    specs = (replace(s, key_uri=given[s.name]) if s.name in given else s for s in plan.specs)
    return replace(plan, specs=tuple(specs))


def _demand_own_keys(plan: Plan) -> None:
    """Check that no two CAs have one key on a token; raises BadKeyUri."""
    users: dict[object, str] = {}
    for each in plan.specs:
        if each.key_uri is not None:
            other = users.setdefault(each.key_uri.key, each.name)
            if other != each.name:
                reason = f"it names the key of {other}, and each CA needs a key of its own"
                hint = "make another key on the token, and name that"
                raise BadKeyUri(where=each.name, reason=reason, hint=hint)


def places_of(folder: Path) -> tuple[Path, frozenset[Path]]:
    """Return the output of the plan of a directory, and the directories with keys elsewhere.

    No certificate is read, so this succeeds after a run that was killed while it replaced files.
    Raises an error of kbuild.pki.errors.
    """
    if os.path.lexists(folder / FILE):
        plan = plan_of_cluster(read_cluster(folder / FILE))
        return plan.output, plan.key_folders
    if not is_unfinished(folder):  # else the requests may be what is still to be moved
        _requests(folder, {})
    return folder, frozenset()


def plan_of_cluster(cluster: Cluster) -> Plan:
    """Return the plan for a cluster as pki.toml describes it."""
    layout = _Layout(cluster=cluster)
    derived = [*layout.authorities(), *layout.leaves()]
    specs = overridden(cluster.path, derived, cluster.overrides)
    notes = []
    if cluster.cas == 1 and "front-proxy" in cluster.components:
        notes.append(
            "With one CA, give API servers --requestheader-allowed-names=front-proxy-client: else,"
            " every client certificate of this CA may act as any user."
        )
    if not any("control-plane" in node.roles for node in cluster.nodes):
        notes.append("No node has the role control-plane, so the API server has no address yet.")
    return Plan(
        output=cluster.output,
        inputs=(cluster.path,),
        specs=tuple(specs),
        pairs=tuple(layout.pairs()),
        notes=tuple(notes),
        encrypts_ca_keys=cluster.encrypts_ca_keys,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """Where the files of a cluster are written."""

    cluster: Cluster

    def authorities(self) -> Iterator[Spec]:
        cluster, term = self.cluster, Term(lifetime=self.cluster.ca_lifetime)
        usages = _KUBEADM_CA_USAGES if cluster.layout == "kubeadm" else _CA_USAGES
        for purpose in _PURPOSES if cluster.cas == 3 else ("cluster",):  # noqa: PLR2004  # one or three
            authority = authorities_of(cluster.layout)[purpose]
            certificate, key, request = self.paths(authority.name)
            if cluster.ca_keys is not None:
                key = cluster.ca_keys / key.relative_to(cluster.output)
            wanted = Wanted(subject=(("CN", (authority.common_name,)),), usages=usages, is_ca=True)
            yield Spec(
                name=authority.name,
                issuer="",
                wanted=wanted,
                asked=wanted,
                key_kind=KEYS[cluster.key],
                term=term,
                source=f"cas and ca-years of {FILE}",
                certificate=certificate,
                key=key,
                request=request,
                purposes=(purpose,) if cluster.cas == 3 else _PURPOSES,  # noqa: PLR2004  # as above
            )

    def leaves(self) -> Iterator[Spec]:
        for each in certificates_of(self.cluster.layout):
            if each.component not in self.cluster.components:
                continue
            if each.role:
                yield from (self.leaf(each, node) for node in self.cluster.nodes)
            else:
                yield self.leaf(each, None)

    def leaf(self, each: Component, node: Node | None) -> Spec:
        words = {"node": node.name if node else ""}
        name, user = each.name.format(**words), each.common_name.format(**words)
        paths = self.paths(name) if name else (None, None, None)
        kubeconfig, issuer = each.kubeconfig.format(**words), self.issuer(each.ca)
        subject: Subject = (("CN", (user,)),)
        if each.organization:
            subject = (("O", (each.organization,)), *subject)
        of_node = f" for the node {node.name}" if node else ""
        wanted = Wanted(
            subject=subject,
            names=self.cluster.hosts_of(each.hosts, node),
            usages=(*_LEAF_USAGES, *each.usages),
        )
        return Spec(
            name=name or kubeconfig,
            issuer=issuer,
            wanted=wanted,
            asked=wanted,
            key_kind=KEYS[self.cluster.key],
            term=Term(lifetime=self.cluster.leaf_lifetime),
            source=f"{each.component} of {FILE}{of_node}",
            certificate=paths[0],
            key=paths[1],
            request=paths[2],
            login=self.login(kubeconfig, user) if kubeconfig else None,
            component=each.component,
        )

    def login(self, name: str, user: str) -> Login:
        return Login(
            path=self.cluster.output / name,
            user=user,
            server=self.cluster.server,
            ca=self.issuer("cluster"),
        )

    def issuer(self, purpose: str) -> str:
        known = authorities_of(self.cluster.layout)
        return known[purpose if self.cluster.cas != 1 else "cluster"].name

    def pairs(self) -> Iterator[Pair]:
        # Kubernetes signs tokens with RSA and ECDSA only (pkg/serviceaccount/jwt.go, v1.20.2).
        key = "ecdsa-p256" if self.cluster.key == "ed25519" else self.cluster.key
        for each in pairs_of(self.cluster.layout):
            if each.component in self.cluster.components:
                yield Pair(
                    name=each.component,
                    key_kind=KEYS[key],
                    key=self.cluster.output / each.key,
                    public=self.cluster.output / each.public,
                    source=f"{each.component} of {FILE}",
                )

    def paths(self, name: str) -> tuple[Path, Path, Path | None]:
        return (
            _kubeadm(self.cluster, name)
            if self.cluster.layout == "kubeadm"
            else _flat(self.cluster.output, name)
        )


def _kubeadm(cluster: Cluster, name: str) -> tuple[Path, Path, None]:
    return cluster.output / f"{name}.crt", cluster.output / f"{name}.key", None


def _flat(folder: Path, name: str) -> tuple[Path, Path, Path]:
    """Return where cfssljson writes a certificate, its key and its request."""
    return folder / f"{name}.pem", folder / f"{name}-key.pem", folder / f"{name}.csr"


def _plan_of_cfssl(
    folder: Path,
    profiles: Mapping[str, str],
    signers: Mapping[str, str],
    contents: Mapping[Path, bytes],
) -> Plan:
    paths = _requests(folder, contents)
    config = read_config(folder / CONFIG, contents.get(folder / CONFIG))
    requests = [read_request(path, contents.get(path)) for path in paths]
    _demand_known(profiles, requests, config)
    authorities = [_root(folder, each) for each in requests if each.is_ca]
    leaves = [
        _leaf(folder, each, _profile(config, each, profiles)) for each in requests if not each.is_ca
    ]
    specs = [*authorities, *signed(folder, leaves, authorities, signers)]
    return Plan(
        output=folder,
        inputs=(config.path, *paths),
        specs=tuple(specs),
        notes=tuple(note for each in requests for note in _notes(each)),
    )


def _requests(folder: Path, contents: Mapping[Path, bytes]) -> list[Path]:
    """Return the requests of a directory, and those that it shall have."""
    try:
        paths = {*folder.iterdir(), *(path for path in contents if path.parent == folder)}
    except OSError as error:
        hint = "name the directory of pki.toml or of cfssl's files with --dir"
        raise BadPkiFile(path=folder, reason=reason_of(error), hint=hint) from error
    requests = sorted(path for path in paths if path.name.endswith(SUFFIX))
    if not requests:
        raise NothingPlanned(path=folder)
    return requests


def _demand_known(profiles: Mapping[str, str], requests: list[Request], config: Config) -> None:
    """Check that the names in --profile are those of requests."""
    names = {each.name for each in requests}
    for name in profiles:
        if name not in names:
            reason = did_you_mean(name, names) or f"the requests are {', '.join(sorted(names))}"
            known = ", ".join(config.profiles)
            raise UnknownProfile(path=config.path, name=name, reason=reason, known=known)


def _root(folder: Path, request: Request) -> Spec:
    certificate, key, csr = _flat(folder, request.name)
    return Spec(
        name=request.name,
        issuer="",
        wanted=Wanted(
            subject=request.subject,
            names=_addresses(request.hosts),
            usages=_CA_USAGES,
            is_ca=True,
            path_length=request.path_length,
            crl_url=request.crl_url,
        ),
        asked=request.asked,
        key_kind=request.key_kind,
        term=request.term,
        source=request.path.name,
        certificate=certificate,
        key=key,
        request=csr,
    )


def _addresses(hosts: tuple[str, ...]) -> tuple[str, ...]:
    """Return what cfssl leaves of the hosts of a CA (FillTemplate of signer/signer.go)."""
    return tuple(each for each in hosts if each.startswith("IP:"))


def _leaf(folder: Path, request: Request, profile: Profile) -> Spec:
    certificate, key, csr = _flat(folder, request.name)
    return Spec(
        name=request.name,
        issuer="",  # as signed() tells
        wanted=Wanted(
            subject=request.subject,
            names=_addresses(request.hosts) if profile.is_ca else request.hosts,
            usages=profile.usages,
            is_ca=profile.is_ca,
            path_length=profile.path_length,
            crl_url=profile.crl_url,
            ocsp_url=profile.ocsp_url,
            issuer_urls=profile.issuer_urls,
            ocsp_no_check=profile.ocsp_no_check,
        ),
        asked=request.asked,
        key_kind=request.key_kind,
        term=profile.term,
        source=f"{request.path.name}, profile {profile.name}",
        certificate=certificate,
        key=key,
        request=csr,
    )


def _profile(config: Config, request: Request, given: Mapping[str, str]) -> Profile:
    """Return the profile of a request.

    It is the one that is given, or the one with its name, or the only one. Without profiles it is
    the default. cfssl takes the default for a profile that does not exist, which is refused here.
    """
    known, name = config.profiles, given.get(request.name, "")
    if name in known:
        return known[name]
    if name == "default" or not (name or known):
        if not config.default.usages:
            raise ProfileWithoutUsages(path=config.path, name="default")
        return config.default
    if not name and request.name in known:
        return known[request.name]
    if not name and len(known) == 1:
        return next(iter(known.values()))
    reason = f"there is no profile {name!r}" if name else "none has its name, and there are several"
    if close := did_you_mean(name, known) if name else "":
        reason = f"{reason}; {close}"
    shown = ", ".join((*known, "default"))
    raise UnknownProfile(path=config.path, name=request.name, reason=reason, known=shown)


def _notes(request: Request) -> Iterator[str]:
    if request.empty_hosts:
        yield (
            f'{request.path.name} has the empty host "", which is left out: cfssl would write an'
            " empty DNS name."
        )
    missing = [each for each in _API_NAMES if each not in request.hosts]
    is_api = len(missing) < len(_API_NAMES)
    if is_api and "IP:127.0.0.1" not in request.hosts:
        missing.append("IP:127.0.0.1")
    if is_api and not any(each.startswith("DNS:kubernetes.default.svc.") for each in request.hosts):
        missing.append("DNS:kubernetes.default.svc.cluster.local")
    if is_api and missing:
        shown = ", ".join(each.partition(":")[2] for each in missing)
        yield f"{request.path.name} seems to be that of the API server, and lacks {shown}."


@contextlib.contextmanager
def telling_unfinished(folder: Path) -> Iterator[None]:
    """Tell of a run that was killed while it replaced files, before what follows from it.

    Raises BadPkiFile instead of an error of the block if there was such a run.
    """
    try:
        yield
    except KbuildError as error:
        output, _ = places_of(folder)
        if not is_unfinished(output):
            raise
        reason = "an earlier run was killed while it replaced files"
        hint = "`kbuild pki issue` finishes it"
        raise BadPkiFile(path=output, reason=reason, hint=hint) from error


def _demand_distinct(plan: Plan) -> None:
    """Check that no two certificates have one name or are written to one file."""
    path = plan.inputs[0]
    names = [*(each.name for each in plan.specs), *(each.name for each in plan.pairs)]
    if twice := repeated(names):
        raise DuplicateName(path=path, name=twice, where="two certificates have this name")
    if twice := repeated(map(str, _files(plan))):
        raise DuplicateName(path=path, name=twice, where="two files are written there")


def _files(plan: Plan) -> Iterator[Path]:
    """Yield every file that a plan may write, or that it was made from."""
    yield plan.output / MANIFEST
    yield from plan.inputs
    for each in plan.specs:
        yield from (*each.files, *((each.request,) if each.request else ()))
    for pair in plan.pairs:
        yield from (pair.key, pair.public)


def _demand_subjects(plan: Plan) -> None:
    """Check that X.509 allows the values of each subject."""
    for each in plan.specs:
        try:
            name_of(each.wanted.subject)
        except ValueError as error:
            reason = f"the subject of {each.name}: {error}"
            hint = "a country has two letters, a CN at most 64 characters"
            raise BadPkiFile(path=plan.inputs[0], reason=reason, hint=hint) from error
