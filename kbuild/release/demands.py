"""The user's requirements for a release, and the trusted key."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kbuild.base.errors import BadSetting
from kbuild.base.files import read_file, reason_of
from kbuild.kubeadm.api import full_tag
from kbuild.release.errors import BadKey
from kbuild.release.files import Place
from kbuild.release.keys import MAX_KEY, public_key


@dataclass(frozen=True, slots=True, kw_only=True)
class Demands:
    """The requirements for a release; None or empty means no requirement.

    ``key``, or ``identity`` with ``issuer``, require a signature. All ``arches`` must be in the
    release. Raises BadSetting, BadVersion or UnsupportedVersion.
    """

    key: Path | None = None
    identity: str | None = None
    issuer: str | None = None
    trust_config: Path | None = None
    version: str | None = None
    arches: tuple[str, ...] = ()
    ca_years: int | None = None
    leaf_years: int | None = None

    def __post_init__(self) -> None:
        keyless = {"identity": self.identity, "issuer": self.issuer}
        given = [name for name, value in keyless.items() if value is not None]
        if self.key is not None and given:
            reason = "a release has only one kind of signature"
            _refuse("key", self.key, reason, f"leave out --{given[0]}")
        if len(given) == 1:
            reason = "an identity needs its issuer"
            _refuse(given[0], keyless[given[0]], reason, "give both --identity and --issuer")
        for name in given:
            if not str(keyless[name]).strip():
                _refuse(name, keyless[name], "it is empty", "see --help")
        if self.trust_config is not None and not given:
            reason = "it is only used for keyless signatures"
            _refuse("trust-config", self.trust_config, reason, "give --identity and --issuer too")
        if self.version is not None and full_tag(self.version) is None:
            reason = "a release has one patch version, not a minor version"
            _refuse("version", self.version, reason, "give the full version, such as v1.23.0")

    @property
    def signature(self) -> bool:
        """Return whether a signature is required."""
        return self.key is not None or self.identity is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedKey:
    """The required public key, and the file that it was read from."""

    path: Path
    public: Any  # of a package that is slow to import
    place: Place


def read_trusted_key(path: Path, folder: Path) -> TrustedKey:
    """Read the required key; raises BadKey, also for a key in the directory under check."""
    try:
        content, status = read_file(path, MAX_KEY), path.stat()
        if path.resolve().is_relative_to(folder.resolve()):
            raise inside(path)
    except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError in Python 3.11
        raise BadKey(path=path, reason=reason_of(error)) from error
    place = status.st_dev, status.st_ino
    return TrustedKey(path=path, public=public_key(content, path), place=place)


def inside(path: Path) -> BadKey:
    """Return the error for a key in the directory under check."""
    reason = "it is in the directory that it should vouch for; use a copy that you got another way"
    return BadKey(path=path, reason=reason)


def _refuse(name: str, value: object, reason: str, hint: str) -> None:
    raise BadSetting(name=name, value=str(value), reason=reason, hint=hint)
