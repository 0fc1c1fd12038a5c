"""Describe who ran a build, and with which programs, for ``runDetails`` of a provenance.

docs/builders.md tells users what each builder id means and proves.

Sources: https://slsa.dev/spec/v1.0/provenance#builder,
https://docs.github.com/actions/reference/workflows-and-actions/variables,
https://docs.gitlab.com/ci/variables/predefined_variables/.
"""

import platform
import subprocess
import uuid
from collections.abc import Mapping

from kbuild import HOME, __version__
from kbuild.base import engine
from kbuild.base.addresses import shown
from kbuild.base.errors import KbuildError

LOCAL_BUILDER = f"{HOME}/blob/main/docs/builders.md#local"
_GITHUB = "{GITHUB_SERVER_URL}/{GITHUB_WORKFLOW_REF}"
_GITHUB_RUN = (
    "{GITHUB_SERVER_URL}/{GITHUB_REPOSITORY}/actions/runs/{GITHUB_RUN_ID}"
    "/attempts/{GITHUB_RUN_ATTEMPT}"
)
_GITLAB = "{CI_SERVER_URL}/{CI_PROJECT_PATH}//{CI_CONFIG_PATH}@refs/%s/{CI_COMMIT_REF_NAME}"
_GITLAB_RUN = "{CI_JOB_URL}"


def builder_id(environment: Mapping[str, str]) -> str:
    """Return the URI of the CI workflow that runs kbuild, or of a build outside of CI."""
    gitlab = _GITLAB % ("tags" if environment.get("CI_COMMIT_TAG") else "heads")
    return _from_ci(environment, _GITHUB, gitlab) or LOCAL_BUILDER


def invocation_id(environment: Mapping[str, str]) -> str:
    """Return the URL of the CI run, or a random URN (RFC 4122) outside of CI."""
    return _from_ci(environment, _GITHUB_RUN, _GITLAB_RUN) or uuid.uuid4().urn


def versions(kind: str) -> dict[str, str]:
    """Return the versions of the programs that take part in a build; ``kind`` is docker or local.

    They do not identify the machine or its user.
    """
    release = _distribution()
    found = {
        "kbuild": __version__,
        "python": platform.python_version(),
        "linux": platform.release(),
        "distribution": f"{release.get('ID', 'linux')} {release.get('VERSION_ID', '')}".strip(),
        **({"docker": _engine()} if kind == "docker" else {"sandbox": _sandbox()}),
    }
    return {name: version for name, version in found.items() if version}


def _from_ci(environment: Mapping[str, str], github: str, gitlab: str) -> str | None:
    pattern = None
    if environment.get("GITHUB_ACTIONS") == "true":
        pattern = github
    elif environment.get("GITLAB_CI") == "true":
        pattern = gitlab
    try:
        return shown(pattern.format_map(environment)) if pattern else None
    except KeyError:  # a CI that only looks like one of these
        return None


def _distribution() -> dict[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def _engine() -> str:
    try:
        return engine.described()
    except KbuildError:  # an engine that stopped after the build must not lose the release
        return ""


def _sandbox() -> str:
    try:
        done = subprocess.run(["bwrap", "--version"], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()
