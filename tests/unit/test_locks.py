"""The lock files pin all that pyproject.toml asks for, each file by its hash."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = ("dev", "release")
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")

Pins = dict[str, tuple[Requirement, int]]


def pins_of(lock: str) -> Pins:
    """Return each pinned name with its requirement and its number of hashes."""
    text = (ROOT / f"locks/{lock}.txt").read_text().replace("\\\n", " ")
    pins: Pins = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            pin = Requirement(line.split(" --hash=")[0].strip())
            assert canonicalize_name(pin.name) not in pins, f"{pin.name} is pinned twice"
            pins[canonicalize_name(pin.name)] = (pin, len(HASH.findall(line)))
    return pins


def asked_for(lock: str) -> list[Requirement]:
    groups = PROJECT["dependency-groups"]
    texts = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]]
    texts += PROJECT["project"]["optional-dependencies"]["keyless"]
    if lock == "dev":
        texts += [*groups["dev"], *groups["ci"]]
    return [Requirement(text) for text in texts]


def version_of(pin: Requirement) -> Version:
    (specifier,) = pin.specifier
    assert specifier.operator == "=="
    return Version(specifier.version)


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_each_dependency_to_a_version_that_is_asked_for(lock: str) -> None:
    pins = pins_of(lock)
    for wanted in asked_for(lock):
        pin, _ = pins[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(version_of(pin)), f"{wanted} is pinned as {pin}"


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_a_hash_of_each_file(lock: str) -> None:
    pins = pins_of(lock)
    assert len(pins) > len(asked_for(lock))
    # A release on PyPI has a wheel and a source distribution. A single hash was made by a mirror.
    assert {name for name, (_, hashes) in pins.items() if hashes < 2} == set()


@pytest.mark.slow
@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_what_the_pinned_packages_ask_for(lock: str) -> None:
    pins = pins_of(lock)
    for pin, _ in pins.values():
        try:
            needed = [Requirement(text) for text in requires(pin.name) or []]
        except PackageNotFoundError:
            continue  # of another platform, or of the group ci, which not everyone installs
        for one in needed:
            if one.marker is None or one.marker.evaluate({"extra": ""}):
                assert canonicalize_name(one.name) in pins, f"{pin.name} needs {one}"


def test_both_locks_pin_the_same_versions() -> None:
    dev, release = pins_of("dev"), pins_of("release")
    assert {name: str(pin) for name, (pin, _) in release.items()}.items() <= {
        name: str(pin) for name, (pin, _) in dev.items()
    }.items()


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_index_and_says_how_it_is_made(lock: str) -> None:
    text = (ROOT / f"locks/{lock}.txt").read_text()
    assert not re.search(r"https?:|file:|--(extra-)?index|--find-links", text)
    assert "make lock" in text.splitlines()[1]
    assert re.search(r"^lock:.* ## ", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_the_build_backend_is_locked_too() -> None:
    assert PROJECT["dependency-groups"]["build"] == PROJECT["build-system"]["requires"]
