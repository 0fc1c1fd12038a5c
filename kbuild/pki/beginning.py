"""Write a first pki.toml."""

import os
from importlib import resources
from pathlib import Path

from kbuild.base.disk import disk_errors
from kbuild.pki.cfssl import SUFFIX
from kbuild.pki.cluster import FILE
from kbuild.pki.errors import PlanExists


def template() -> str:
    """Return the commented pki.toml that ``write_template`` writes."""
    return resources.files("kbuild.pki").joinpath("template.toml").read_text("utf-8")


def write_template(folder: Path) -> Path:
    """Write a commented pki.toml, and return its path.

    Raises PlanExists if the directory has a plan, NotWritable or DiskFull.
    """
    path = folder / FILE
    with disk_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        for name in sorted(os.listdir(folder)):  # noqa: PTH208  # names only
            if name == FILE or name.endswith(SUFFIX):
                raise PlanExists(path=folder / name)
        with path.open("x", encoding="utf-8") as file:
            file.write(template())
    return path
