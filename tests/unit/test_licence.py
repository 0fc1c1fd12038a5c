"""The licence is the whole of Apache-2.0, and it ships with kbuild."""

import hashlib
import importlib.metadata
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
# https://www.apache.org/licenses/LICENSE-2.0.txt
APACHE_2_0 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


def test_the_licence_is_the_complete_text_of_apache_2_0() -> None:
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE_2_0


def test_the_metadata_names_the_licence_and_its_file() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["license"] == "Apache-2.0"
    assert project["project"]["license-files"] == ["LICENSE"]
    sdist = project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert {"LICENSE", "SECURITY.md", "locks"} <= set(sdist)
    assert all((ROOT / path).exists() for path in sdist)


def test_an_installed_kbuild_carries_its_licence() -> None:
    metadata = importlib.metadata.metadata("kbuild")
    assert metadata["License-Expression"] == "Apache-2.0"
    licence = [p for p in importlib.metadata.files("kbuild") or [] if p.name == "LICENSE"]
    assert [hashlib.sha256(path.read_binary()).hexdigest() for path in licence] == [APACHE_2_0]
