"""The next command for a certificate that should be another one."""

from dataclasses import dataclass

from kbuild.certs import commands
from kbuild.certs.findings.seen import SAME_TIME, Scene, Seen, finding
from kbuild.certs.model import Finding, Severity
from kbuild.certs.naming import embedded
from kbuild.certs.paths import folder_of, name_of
from kbuild.certs.roles import known_file

_OF_USERS = "`kubeadm kubeconfig user` needs kubeadm v1.22 or later"


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """A command, and what to know of it, which is told with the reason; may be empty."""

    command: str
    note: str = ""


def remedied(severity: Severity, kind: str, one: Seen, reason: str, remedy: Remedy) -> Finding:
    """Return a finding on a certificate with its remedy."""
    told = f"{reason}; {remedy.note}" if remedy.note else reason
    return finding(severity, kind, one.shown, told, remedy.command)


def another(one: Seen, scene: Scene) -> Remedy:
    """Return how to get a certificate like this one that ends later."""
    certificate = one.shown
    if certificate.is_ca and not _is_made_by_kubelet(one):
        return _later_ca(one, scene)
    if one.file and one.file.renew:
        if _is_of_external_ca(one, scene):
            return _request(one, scene)
        if renewal := commands.renew(certificate.path, one.file.renew):
            return Remedy(command=renewal)
    if certificate.role.startswith("kubelet, ") or certificate.is_ca:
        return Remedy(command=_of_kubelet(one))
    if certificate.place.startswith("users["):
        return _user(one, scene)
    return _request(one, scene)


def _of_kubelet(one: Seen) -> str:
    if _is_made_by_kubelet(one):
        return commands.make_again(one.shown.path)
    return "journalctl -u kubelet -n 50"


def _is_made_by_kubelet(one: Seen) -> bool:
    """Tell whether it is the serving certificate that kubelet made itself, or the CA of it."""
    known = known_file(one.shown.path)
    return known is not None and known.path == "kubelet.crt"


def with_new_key(one: Seen, scene: Scene) -> Remedy:
    """Return how to replace a certificate and its key; kubeadm and kubelet make new keys anyway."""
    certificate = one.shown
    if _is_in_bundle(one, scene):
        return another(one, scene)
    if certificate.is_ca:
        if _folder_of_kubeadm(one):
            command = commands.new_cas()
        else:
            command = commands.new_ca(certificate.path, scene.tree.der)
        return Remedy(command=command, note="with another key it is another CA: rotate it")
    remedy = another(one, scene)
    if not remedy.command.startswith("openssl"):
        return remedy
    make, key = commands.new_key(certificate.path)
    return Remedy(command=f"{make} && {_signed_request(one, scene, key)}")


def take_over(old: Seen, new: Seen, scene: Scene) -> Remedy:
    """Return how to give a kubeconfig the later certificate of the same user."""
    path, source = old.shown.path, new.shown
    if old.file and old.file.renew and commands.renew(path, old.file.renew):
        return another(old, scene)
    if source.place:
        return Remedy(command=_copy(old, new, scene))
    inside = embedded(old.shown)
    user = inside.key if inside else ""
    key = source.private_key.path if source.private_key else source.path
    command = (
        f"kubectl config --kubeconfig={commands.quote(path)} set-credentials"
        f" {commands.quote(user)} --client-certificate={commands.quote(source.path)}"
        f" --client-key={commands.quote(key)}"
    )
    return Remedy(command=command)


def _later_ca(one: Seen, scene: Scene) -> Remedy:
    certificate, key = one.shown, one.shown.private_key
    if certificate.place.startswith(("clusters[", "users[")):
        return _embed_later(one, scene)
    if _is_in_bundle(one, scene):
        return _show_all(one, scene)
    if key is not None and key.fits is False:
        return Remedy(command=commands.compare(certificate.path, key.path, scene.tree.der))
    if folder := _folder_of_kubeadm(one):
        return Remedy(command=commands.advise(folder), note="`kbuild advise` tells the steps")
    if certificate.chain != "self-signed" or key is None:
        return Remedy(command=commands.show(certificate.path, scene.tree.der))
    note = (
        f"{commands.LONG} days are a choice; then put the new file in place, also in kubeconfigs,"
        " and restart what reads it"
    )
    return Remedy(command=commands.lengthen(certificate.path, key.path, scene.tree.der), note=note)


def _embed_later(one: Seen, scene: Scene) -> Remedy:
    """Return how to embed the file of a CA that ends later, if there is one with this key."""
    certificate = one.shown
    later = scene.latest_cas.get(one.entry.facts.public_key)
    inside = embedded(certificate)
    cluster = inside.key if inside and inside.kind == "cluster" else ""
    if later is None or later.shown.not_after <= certificate.not_after or not cluster:
        return Remedy(command=commands.show_embedded(certificate.path, cluster))
    return Remedy(command=commands.trust(certificate.path, cluster, later.shown.path))


def _is_in_bundle(one: Seen, scene: Scene) -> bool:
    return bool(one.shown.place) or one.shown.path in scene.tree.pkcs7


def _show_all(one: Seen, scene: Scene) -> Remedy:
    path, tree = one.shown.path, scene.tree
    if path in tree.pkcs7:
        return Remedy(command=commands.show_pkcs7(path, tree.der))
    return Remedy(command=commands.show_all(path))


def _folder_of_kubeadm(ca: Seen) -> str:
    """Return the folder with the kubeconfigs of kubeadm, if this is one of its CAs."""
    path = ca.shown.path
    pki = commands.cert_dir(path)
    is_its = ca.file is not None and ca.file.role.endswith("CA") and path.endswith(".crt")
    return folder_of(pki) if is_its and name_of(pki) == "pki" else ""


def _is_of_external_ca(one: Seen, scene: Scene) -> bool:
    ca = scene.ca_of(one)
    return ca is not None and ca.shown.private_key is None


def _request(one: Seen, scene: Scene) -> Remedy:
    certificate, key = one.shown, one.shown.private_key
    if certificate.place.startswith("users["):
        is_kubeadms = one.file is not None and one.file.renew
        inside = commands.look_into(certificate.path)
        return Remedy(command=commands.REQUESTS if is_kubeadms else inside)
    if _is_in_bundle(one, scene):
        return _show_all(one, scene)
    if key is None:
        return Remedy(command=commands.show(certificate.path, scene.tree.der))
    if key.fits is False:
        return Remedy(command=commands.compare(certificate.path, key.path, scene.tree.der))
    return Remedy(command=_signed_request(one, scene, key.path))


def _signed_request(one: Seen, scene: Scene, key: str) -> str:
    """Return what makes a request, and signs it if the key of the CA is here."""
    certificate, ca = one.shown, scene.ca_of(one)
    request = commands.request(certificate.path, key, scene.tree.der)
    ca_key = ca.shown.private_key if ca and not ca.shown.place else None
    if ca is None or ca_key is None or ca_key.fits is False:
        return request
    days = max(min(one.lifetime, ca.shown.time_left(scene.now)).days, 1)
    paths = certificate.path, ca.shown.path, ca_key.path
    return f"{request} && {commands.sign(*paths, days, scene.tree.der)}"


def _user(one: Seen, scene: Scene) -> Remedy:
    """Return how to renew a kubeconfig that kubeadm does not know: from admin.conf, or anew."""
    admin = scene.admin_like(one)
    if admin is not None and admin.file is not None:
        renewal, copy = commands.renew(admin.shown.path, admin.file.renew), _copy(one, admin, scene)
        if admin.shown.not_after - one.shown.not_after > SAME_TIME:
            return Remedy(command=copy)
        if renewal and not _is_of_external_ca(one, scene):
            return Remedy(command=f"{renewal} && {copy}")
    facts = one.entry.facts
    command = commands.new_user(facts.common_name, facts.organizations)
    return Remedy(command=command, note=_OF_USERS)


def _copy(old: Seen, new: Seen, scene: Scene) -> str:
    entry = scene.kubeconfigs.get(old.shown.path)
    parts = (entry.kubeconfig.users, entry.kubeconfig.clusters) if entry else ()
    is_whole = all(len(part) == 1 for part in parts)
    whose, admins = (f"{each.shown.owner.user}:{each.shown.owner.group}" for each in (old, new))
    owner = whose if whose != admins else ""
    return commands.take_over(old.shown.path, new.shown.path, is_whole=is_whole, owner=owner)
