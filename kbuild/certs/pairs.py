"""Find the private key of each certificate, and tell whether it fits."""

from collections.abc import Iterator

from kbuild.certs.model import PrivateKey
from kbuild.certs.paths import near, split_extension
from kbuild.certs.reading import CertificateEntry, KeyEntry, Tree, resolved

_NAMES_OF_KEYS = {"cert": "privkey", "fullchain": "privkey", "tls": "tls"}


class Keys:
    """The private keys of a tree, by place and by public key."""

    def __init__(self, tree: Tree) -> None:
        self._by_place: dict[tuple[str, str], list[KeyEntry]] = {}
        self._by_public: dict[bytes, list[KeyEntry]] = {}
        for key in tree.keys:
            self._by_place.setdefault((key.path, key.place), []).append(key)
            if key.facts.public_key:
                self._by_public.setdefault(key.facts.public_key, []).append(key)
        # Of the client certificate of a user, embedded or in a file, the place of the key.
        self._of_users = dict(_users(tree))

    def key_of(self, entry: CertificateEntry) -> PrivateKey | None:
        """Return the key of a certificate; None if none was found.

        It is the one that belongs to its place or its name; without one, the nearest that fits.
        """
        # The later certificates of a bundle are those of CAs: their keys do not stand there.
        found = self._expected(entry) if entry.number == 1 else None
        if found is None and entry.facts.public_key:
            fitting = self._by_public.get(entry.facts.public_key, [])
            found = max(fitting, key=lambda key: near(entry.path, key.path), default=None)
        if found is None:
            return None
        return PrivateKey(
            path=found.path,
            owner=found.owner,
            fits=_fits(entry, found),
            encrypted=found.facts.encrypted,
        )

    def _expected(self, entry: CertificateEntry) -> KeyEntry | None:
        where = self._of_users.get((entry.path, entry.place))
        places = [where] if where else []
        if not entry.place:
            places += [(name, "") for name in (entry.path, *_names_of_key(entry.path))]
        keys = next((self._by_place[each] for each in places if each in self._by_place), [])
        fitting = (key for key in keys if _fits(entry, key))
        return next(fitting, keys[0] if keys else None)


def _users(tree: Tree) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    for entry in tree.kubeconfigs:
        for user in entry.kubeconfig.users:
            where = f"users[{user.name}].client"
            key = (entry.path, f"{where}-key-data")
            if user.key.file:
                key = (tree.name_of(resolved(entry, user.key)), "")
            if user.certificate.data:
                yield (entry.path, f"{where}-certificate-data"), key
            elif user.certificate.file:
                yield (tree.name_of(resolved(entry, user.certificate)), ""), key


def _names_of_key(path: str) -> Iterator[str]:
    root, extension = split_extension(path)
    yield f"{root}.key"
    yield f"{root}-key{extension}"
    yield f"{root}-key.pem"
    yield f"{root}_key{extension}"
    folder, _, name = root.rpartition("/")
    prefix = f"{folder}/" if folder else ""
    if name.endswith("-cert"):
        yield f"{root.removesuffix('-cert')}-key{extension}"
    if name in _NAMES_OF_KEYS:
        yield f"{prefix}{_NAMES_OF_KEYS[name]}{extension}"
        yield f"{prefix}key{extension}"


def _fits(entry: CertificateEntry, key: KeyEntry) -> bool | None:
    if not key.facts.public_key or not entry.facts.public_key:
        return None
    return key.facts.public_key == entry.facts.public_key
