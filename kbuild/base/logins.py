"""The login that ``docker login`` has kept for a registry: in its file, or in a credential helper.

Source: the reference of docker's command line, "docker login" ("Credential stores", "Credential
helpers").
"""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kbuild.base.errors import BadLoginFile, CredentialHelperFailed
from kbuild.base.files import BROKEN, read_file, reason_of

_MAX_FILE = 1 << 20  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """A user and a password; ``is_token`` if it is an identity token, which kbuild cannot use."""

    user: str = ""
    password: str = field(default="", repr=False)
    is_token: bool = False


def login_for(host: str) -> Login | None:
    """Return the login for a registry, None if there is none.

    Raises BadLoginFile or CredentialHelperFailed.
    """
    from docker.utils.config import find_config_file  # slow to import

    if (name := find_config_file()) is None:
        return None
    path = Path(str(name))
    try:
        logins, helper = _parsed(read_file(path, _MAX_FILE), host)
    except (OSError, *BROKEN) as error:
        raise BadLoginFile(path=path, reason=reason_of(error)) from error
    return _found(logins, helper, host, path)


def _parsed(text: bytes, host: str) -> tuple[Any, str | None]:
    """Return the logins in a file, as the SDK has them, and the credential helper for a host."""
    from docker import auth
    from docker.errors import DockerException

    content = json.loads(text.decode())
    if not isinstance(content, dict):
        _refuse("it is not an object")
    # The SDK would read the file again if there were nothing in it.
    content.setdefault("auths", {})
    try:
        logins = auth.load_config(config_dict=content)
    except (ValueError, DockerException) as error:
        message = "an `auth` in it is not the base64 form of USER:PASSWORD"
        raise ValueError(message) from error
    helper = logins.get_credential_store(host)
    if not isinstance(helper, str | None):
        _refuse(f"a credential helper cannot be {helper!r}")
    return logins, helper or None


def _found(logins: Any, helper: str | None, host: str, path: Path) -> Login | None:  # noqa: ANN401
    """Ask the helper, if there is one, and then the file."""
    from docker.errors import DockerException

    program = f"docker-credential-{helper}"
    # Asked first, because the SDK only warns of it.
    if helper is not None and shutil.which(program) is None:
        reason = "it is not installed, or not in PATH"
        raise CredentialHelperFailed(helper=program, path=path, reason=reason)
    try:
        found = logins.resolve_authconfig(host) or {}
    except (DockerException, *BROKEN) as error:
        reason = str(error.__cause__) if isinstance(error, DockerException) else reason_of(error)
        raise CredentialHelperFailed(helper=program, path=path, reason=reason) from error
    lower = {str(name).lower(): value for name, value in found.items()}
    name, secret = lower.get("username"), lower.get("password")
    if lower.get("identitytoken"):
        return Login(is_token=True)
    return Login(user=str(name), password=str(secret)) if name and secret else None


def _refuse(reason: str) -> None:
    raise ValueError(reason)
