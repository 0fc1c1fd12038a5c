"""The wheels of kbuild and of what it needs, for a machine that cannot download them."""

import os
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.metadata import parse_email
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from kbuild.base.files import BROKEN, open_file, reason_of, sha256
from kbuild.kubeadm.bundle.container import MAX_MEMBER, is_name
from kbuild.kubeadm.bundle.errors import WheelsUnusable

WHEELS = "wheels/"
REQUIREMENTS = f"{WHEELS}requirements.txt"
_OURS = canonicalize_name("kbuild")
_MOST = 500  # wheels; kbuild needs about a hundred
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # each Python can unpack these
_CP = re.compile(r"cp(\d)(\d+)", re.ASCII)
# https://packaging.python.org/en/latest/specifications/platform-compatibility-tags/
_LINUX = re.compile(r"linux(?:\d+|_\d+_\d+)?_([a-z]\w*)$", re.ASCII)
_MAX_METADATA = 4 << 20  # bytes
# What zipfile raises for a damaged or an encrypted file; NotImplementedError is a RuntimeError.
_DAMAGED = (RuntimeError, EOFError, zlib.error, zipfile.BadZipFile, zipfile.LargeZipFile)
# With these lines pip takes nothing from an index, and each file only with its sum. A path is
# relative to the file: https://pip.pypa.io/en/stable/reference/requirements-file-format/
_HEAD = "--no-index\n--find-links .\n--require-hashes\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wheel:
    path: Path
    project: NormalizedName
    version: Version
    needs: tuple[Requirement, ...]


def collect_wheels(folder: Path, requirements: Path) -> dict[str, Path]:
    """Return the wheels in a directory as members, and with them their requirements.txt.

    That is written to ``requirements``. Raises WheelsUnusable if something else is there, or if
    something is missing that kbuild needs on every machine, or if no bundle can have a file.
    """
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise WheelsUnusable(folder=folder, reason=reason_of(error)) from error
    if len(paths) > _MOST:
        raise WheelsUnusable(folder=folder, reason=f"it has more than {_MOST} files")
    wheels: dict[NormalizedName, list[_Wheel]] = {}
    for path in paths:
        wheel = _read(path, folder)
        wheels.setdefault(wheel.project, []).append(wheel)
    for reason in _lacks(wheels):
        raise WheelsUnusable(folder=folder, reason=reason)
    lines = [_line(project, same) for project, same in sorted(wheels.items())]
    requirements.write_text(_HEAD + "".join(lines))
    return {REQUIREMENTS: requirements, **{WHEELS + path.name: path for path in paths}}


def made_for(names: Iterable[str]) -> str:
    """Return for which Python and machine wheels are: ``Python 3.11 on x86_64``.

    Wheels for every machine, and those with Python's stable ABI, tell no version.
    """
    pythons, machines = set(), set()
    for tags in (parse_wheel_filename(name)[3] for name in names):
        if not any(tag.platform == "any" for tag in tags):
            pythons |= {tag.interpreter for tag in tags if tag.abi != "abi3"}
            machines |= {found[1] for tag in tags if (found := _LINUX.search(tag.platform))}
    versions = sorted(
        f"{found[1]}.{found[2]}" for each in pythons if (found := _CP.fullmatch(each))
    )
    where = f" on {', '.join(sorted(machines))}" if machines else ""
    return f"Python {', '.join(versions) or '3'}{where}"


def _read(path: Path, folder: Path) -> _Wheel:
    if not is_name(WHEELS + path.name):
        reason = f"a bundle can have no file of the name {path.name[:80]!r}"
        raise WheelsUnusable(folder=folder, reason=reason)
    try:
        project, version, *_ = parse_wheel_filename(path.name)
        about, _ = parse_email(_metadata(path))
        if canonicalize_name(about["name"]) != project or Version(about["version"]) != version:
            message = "its metadata is that of another package"
            raise ValueError(message)
        needs = tuple(map(Requirement, about.get("requires_dist", [])))
    except (OSError, *_DAMAGED, *BROKEN) as error:
        reason = f"{path.name} is not a wheel: {reason_of(error)}"
        raise WheelsUnusable(folder=folder, reason=reason) from error
    return _Wheel(path=path, project=project, version=version, needs=needs)


def _metadata(path: Path) -> bytes:
    with open_file(path) as file, zipfile.ZipFile(file) as archive:
        if os.fstat(file.fileno()).st_size > MAX_MEMBER:
            message = f"it is larger than {MAX_MEMBER} bytes"
            raise ValueError(message)
        # Other packages may carry wheels of their own, deeper in.
        [info] = [
            each
            for each in archive.infolist()
            if each.filename.count("/") == 1 and each.filename.endswith(".dist-info/METADATA")
        ]
        if info.compress_type not in _PACKED:
            message = f"its METADATA is compressed by method {info.compress_type}, not by deflate"
            raise ValueError(message)
        with archive.open(info) as metadata:
            return metadata.read(_MAX_METADATA)


def _lacks(wheels: Mapping[NormalizedName, list[_Wheel]]) -> Iterator[str]:
    """Yield what is wrong with these wheels together.

    A requirement with a marker is left to pip: the other machine may be of another kind.
    """
    if _OURS not in wheels:
        yield "it has no wheel of kbuild"
    for project, same in wheels.items():
        if len({wheel.version for wheel in same}) > 1:
            yield f"it has several versions of {project}"
        for need in (need for wheel in same for need in wheel.needs if need.marker is None):
            found = wheels.get(canonicalize_name(need.name), [])
            if not any(need.specifier.contains(each.version, prereleases=True) for each in found):
                yield f"{project} needs {need}, which is not there"


def _line(project: NormalizedName, wheels: list[_Wheel]) -> str:
    hashes = " ".join(f"--hash=sha256:{sha256(wheel.path)}" for wheel in wheels)
    return f"{project}=={wheels[0].version} {hashes}\n"
