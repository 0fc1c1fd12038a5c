"""The values of a plan: what is to be issued, and what is done about it."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from kbuild.pki.key_uris import KeyUri
from kbuild.x509.api import KeyKind, Wanted

Role = Literal["control-plane", "etcd", "worker"]
# missing: it is not there. changed: it is not what is planned. expired, kept, renewed and extended
# are as they say. resigned: another CA has signed it.
# rotated: a step of a rotation has changed which certificates the file of a CA holds.
State = Literal[
    "missing", "changed", "expired", "resigned", "renewed", "extended", "rotated", "kept"
]
# The last step of a rotation that was made. begin: the old CA signs. leaves: the new one does.
Stage = Literal["begin", "leaves"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """When a certificate begins and ends; fixed moments win, as in cfssl."""

    lifetime: timedelta
    backdate: timedelta = timedelta(minutes=5)
    not_before: datetime | None = None
    not_after: datetime | None = None

    def dates(self, now: datetime) -> tuple[datetime, datetime]:
        """Return begin and end; raises OverflowError beyond the year 9999.

        cfssl rounds to the minute and goes back by ``backdate`` (FillTemplate of signer/signer.go).
        """
        rounded = (now + timedelta(seconds=30)).replace(second=0, microsecond=0)
        born = self.not_before or rounded - self.backdate
        return born, self.not_after or born + self.lifetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """A kubeconfig to be written: where, for whom, and for which API server."""

    path: Path
    user: str
    server: str
    ca: str
    cluster: str = "kubernetes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A certificate to be issued.

    ``issuer`` is the name of its CA, empty for a root. ``asked`` is what its request says.
    ``certificate`` and ``key`` are paths, None if only the kubeconfig ``login`` holds them. With
    ``key_uri`` the key of a CA is on a token, and ``key`` is where it would be else.
    ``source`` tells from what it is made. ``component`` is who uses it, and ``purposes`` what a CA
    is for: cluster, etcd and front-proxy; empty if it is not known.
    """

    name: str
    issuer: str
    wanted: Wanted
    asked: Wanted
    key_kind: KeyKind
    term: Term
    source: str
    certificate: Path | None
    key: Path | None
    request: Path | None = None
    login: Login | None = None
    component: str = ""
    purposes: tuple[str, ...] = ()
    key_uri: KeyUri | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the files that whoever uses it needs: certificate, key, kubeconfig."""
        key = self.key if self.key_uri is None else None
        paths = (self.certificate, key, self.login.path if self.login else None)
        return tuple(path for path in paths if path is not None)

    @property
    def place(self) -> Path:
        """Return the file that holds the certificate."""
        if self.certificate is not None:
            return self.certificate
        assert self.login is not None
        return self.login.path


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A key pair without certificate, such as that of service accounts."""

    name: str
    key_kind: KeyKind
    key: Path
    public: Path
    source: str

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the files that whoever uses it needs."""
        return (self.key, self.public)

    @property
    def component(self) -> str:
        """Return who uses it, as of a certificate."""
        return self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """A CA that is being replaced: its name, the last step, and the fingerprints of both CAs.

    ``began`` is when, as in RFC 3339. ``old_key`` and ``new_key`` are the PKCS#11 URIs of keys on
    tokens, empty for keys in files.
    """

    ca: str
    stage: Stage
    old: str
    new: str
    began: str
    old_key: str = ""
    new_key: str = ""

    @property
    def signing_key(self) -> str:
        """Return the URI of the key that signs, empty for a key in a file."""
        return self.old_key if self.stage == "begin" else self.new_key

    @property
    def order(self) -> tuple[str, str]:
        """Return the fingerprints as the file of the CA has them: that of the signer first."""
        return (self.old, self.new) if self.stage == "begin" else (self.new, self.old)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that is to be issued into ``output``, CAs first, and what the user should know.

    ``inputs`` are the files that it was made from. ``rotations`` are those that have not ended.
    ``encrypts_ca_keys`` tells whether new keys of CAs are written encrypted.
    """

    output: Path
    inputs: tuple[Path, ...]
    specs: tuple[Spec, ...]
    pairs: tuple[Pair, ...] = ()
    notes: tuple[str, ...] = ()
    cap: bool = False
    encrypts_ca_keys: bool = False
    rotations: tuple[Rotation, ...] = ()

    @property
    def items(self) -> tuple[Spec | Pair, ...]:
        """Return the certificates, then the key pairs."""
        return (*self.specs, *self.pairs)

    def rotation(self, ca: str) -> Rotation | None:
        """Return the rotation of a CA, None if there is none."""
        return next((each for each in self.rotations if each.ca == ca), None)

    @property
    def key_folders(self) -> frozenset[Path]:
        """Return the directories with keys that are not below the output."""
        keys = [each.key for each in self.specs if each.key is not None]
        return frozenset(key.parent for key in keys if not key.is_relative_to(self.output))

    def spec(self, name: str) -> Spec:
        """Return a certificate by its name; raises KeyError."""
        return {each.name: each for each in self.specs}[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What is done about one planned certificate or key pair, and why.

    ``keeps_key`` tells whether the key that is there stays. With ``only_login`` the certificate is
    right, and only its kubeconfig is written.
    """

    spec: Spec | Pair
    state: State
    reasons: tuple[str, ...] = ()
    keeps_key: bool = False
    only_login: bool = False

    @property
    def is_kept(self) -> bool:
        """Tell whether nothing is written."""
        return self.state == "kept"


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a run has written: when a certificate ends, and what was done about it."""

    name: str
    state: State
    reasons: tuple[str, ...]
    files: tuple[Path, ...]
    not_after: datetime | None = None
    fingerprint: str = ""
