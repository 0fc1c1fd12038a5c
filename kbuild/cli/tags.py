"""The version of commands that are about one release of Kubernetes."""

from kbuild.base.errors import BadSetting
from kbuild.kubeadm.api import full_tag


def whole_tag(versions: tuple[str, ...], reason: str) -> str:
    """Return the tag of a single whole version; ``reason`` says why it must be one.

    Raises BadSetting, BadVersion or UnsupportedVersion.
    """
    tag = full_tag(versions[0]) if len(versions) == 1 else None
    if tag is None:
        hint = "write it like v1.23.0"
        raise BadSetting(name="--version", value=",".join(versions), reason=reason, hint=hint)
    return tag
