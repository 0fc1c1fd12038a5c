"""Hold every file of a release against what the others say of it.

What may be in a release follows from its provenance: the architectures, the layout and the packages
asked for name each file. So a file too many is found even if somebody has added it to the sums.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from kbuild.errors import KbuildError, NotARelease, NotWritable
from kbuild.model import ARCHES, DAYS_A_YEAR
from kbuild.prove.elf import read_arch
from kbuild.release import list_files
from kbuild.release.names import (
    BUILD,
    PATCH,
    PROOF,
    PROVENANCE,
    SIGNATURES,
    SUM_SUFFIX,
    SUMS,
    binary_name,
    sbom_name,
)
from kbuild.release.packages import package_name
from kbuild.release.provenance import Statement, parse_provenance
from kbuild.release.sbom import contradictions
from kbuild.release.signing import Fault, Signer, verify_signatures
from kbuild.release.sums import digest, read_sums
from kbuild.settings import LAYOUTS
from kbuild.source.versions import is_tag

_SLACK = timedelta(minutes=6)  # kubeadm backdates by five; see prove/certificates.py
_BROKEN = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is wrong with a file; ``kind`` is missing, extra or different."""

    file: str
    kind: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.file}: {self.what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A release that was looked at: its files, what is wrong, and whose signature is good."""

    folder: Path
    files: tuple[str, ...]
    problems: tuple[Problem, ...]
    signer: Signer | None


def releases_in(folder: Path) -> tuple[Path, ...]:
    """Return the folder itself if it is a release, else the releases right below it.

    Raises NotARelease.
    """
    if not folder.is_dir():
        raise NotARelease(path=folder, reason="it is no folder")
    for found in ([folder], sorted(folder.iterdir())):
        releases = tuple(path for path in found if _looks_like_one(path))
        if releases:
            return releases
    raise NotARelease(path=folder, reason=f"there is neither {PROVENANCE} nor {SUMS['sha256']}")


def check_release(
    folder: Path,
    key: Path | None = None,
    identity: str | None = None,
    issuer: str | None = None,
    trust_config: Path | None = None,
) -> Checked:
    """Check a release; a signature is asked for where a key or an identity is given.

    Raises BadKey or KeylessFailed for a key or an identity that cannot be used.
    """
    try:
        files = list_files(folder)
        signer: Signer | None = None
        faults: list[Fault] = []
        problems = list(_odd_files(folder))
        if not problems:  # what is no file must not be read: a pipe never ends
            problems = list(_check_files(folder, files))
            signer, faults = verify_signatures(folder, files, key, identity, issuer, trust_config)
    except PermissionError as error:
        raise NotWritable(path=error.filename, reason=error.strerror) from error
    problems += [Problem(file=file, kind=kind, what=what) for file, kind, what in faults]
    return Checked(
        folder=folder, files=tuple(files), problems=tuple(dict.fromkeys(problems)), signer=signer
    )


def _looks_like_one(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (PROVENANCE, SUMS["sha256"]))


def _odd_files(folder: Path) -> Iterator[Problem]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            yield Problem(file=name, kind="different", what="it is no file")
        elif path.is_dir() and not any(path.iterdir()):
            yield Problem(file=name, kind="extra", what="it is an empty folder")


def _check_files(folder: Path, files: list[str]) -> Iterator[Problem]:
    try:
        statement = parse_provenance((folder / PROVENANCE).read_bytes())
        artifacts = _artifacts(statement.asked)
    except FileNotFoundError:
        yield Problem(file=PROVENANCE, kind="missing", what="without it nothing can be told")
        return
    except _BROKEN as error:
        yield Problem(file=PROVENANCE, kind="different", what=f"it cannot be read: {error!r}")
        return
    listed = {*artifacts, PROVENANCE}
    expected = {*listed, *SUMS.values(), *(f"{name}{SUM_SUFFIX}" for name in listed)}
    for name in sorted(expected - {*files}):
        yield Problem(file=name, kind="missing", what="it belongs to this release")
    for name in sorted({*files} - expected - {*SIGNATURES}):
        yield Problem(file=name, kind="extra", what="it does not belong to this release")
    yield from _check_digests(folder, statement, listed)
    yield from _check_contents(folder, statement)


def _artifacts(asked: dict[str, Any]) -> set[str]:
    """Return the names of the subjects that a release of this request has."""
    names = {PATCH, PROOF, BUILD}
    if not {*asked["arches"]} <= {*ARCHES} or not asked["arches"]:
        message = f"architectures {asked['arches']}"
        raise ValueError(message)
    if asked["layout"] not in LAYOUTS or not is_tag(asked["version"]):
        message = f"layout {asked['layout']} or version {asked['version']}"
        raise ValueError(message)
    for arch in asked["arches"]:
        names |= {binary_name(arch, asked["layout"]), sbom_name(arch)}
        names |= {package_name(kind, asked["version"], arch) for kind in asked["package"]}
    return names


def _check_digests(folder: Path, statement: Statement, listed: set[str]) -> Iterator[Problem]:
    subjects = statement.subjects
    for name in sorted(listed - {PROVENANCE} ^ subjects.keys()):
        kind = "extra" if name in subjects else "missing"
        yield Problem(file=PROVENANCE, kind="different", what=f"its subject {name} is {kind}")
    for name, digests in subjects.items():
        if digests.keys() != SUMS.keys():
            what = f"its subject {name} has digests by {', '.join(digests) or 'nothing'}"
            yield Problem(file=PROVENANCE, kind="different", what=what)
    told: list[tuple[str, str, str, str]] = [
        (PROVENANCE, name, algorithm, value)
        for name, digests in subjects.items()
        for algorithm, value in digests.items()
    ]
    for algorithm, sums in SUMS.items():
        try:
            lines = read_sums(folder / sums)
        except FileNotFoundError:
            continue
        except _BROKEN as error:
            yield Problem(file=sums, kind="different", what=f"it cannot be read: {error}")
            continue
        for name in sorted(listed ^ lines.keys()):
            about = "names" if name in lines else "does not name"
            yield Problem(file=sums, kind="different", what=f"it {about} {name}")
        told += [(sums, name, algorithm, value) for name, value in lines.items()]
    for name in sorted(listed):
        beside = folder / f"{name}{SUM_SUFFIX}"
        if beside.is_file():
            told.append((beside.name, name, "sha256", beside.read_text(errors="replace")))
    for where, name, algorithm, value in told:
        if name in listed and (folder / name).is_file():
            actual = digest(folder / name, algorithm) if algorithm in SUMS else None
            if actual != value:
                what = f"its {algorithm} is {actual}, by {where} it is {value}"
                yield Problem(file=name, kind="different", what=what)


def _check_contents(folder: Path, statement: Statement) -> Iterator[Problem]:
    """Yield what the documents say that the binaries, or one another, do not."""
    checks = {
        PROOF: _check_proof,
        BUILD: _check_build,
        PATCH: _check_patch,
    }
    for name, check in checks.items():
        if (folder / name).is_file():
            try:
                faults = list(check(folder, statement))
            except _BROKEN as error:
                faults = [f"it cannot be read: {error!r}"]
            for what in faults:
                yield Problem(file=name, kind="different", what=what)
    for arch in statement.asked["arches"]:
        binary = folder / binary_name(arch, statement.asked["layout"])
        if not binary.is_file():
            continue
        name, sbom = binary_name(arch, statement.asked["layout"]), folder / sbom_name(arch)
        try:
            if (actual := read_arch(binary)) != arch:
                yield Problem(file=name, kind="different", what=f"it is for {actual}")
            if sbom.is_file():
                text = sbom.read_text(errors="replace")
                for what in contradictions(text, binary, arch, digest(binary, "sha256")):
                    yield Problem(file=sbom.name, kind="different", what=f"it {what}")
        except KbuildError as error:
            yield Problem(file=name, kind="different", what=error.happened)


def _check_proof(folder: Path, statement: Statement) -> Iterator[str]:
    asked = statement.asked
    layout = asked["layout"]
    proofs = {each["file"]: each for each in json.loads((folder / PROOF).read_text())["binaries"]}
    names = {binary_name(arch, layout): arch for arch in asked["arches"]}
    for name in sorted(proofs.keys() ^ names.keys()):
        yield f"it is of {name}" if name in proofs else f"it is not of {name}"
    for name, arch in names.items():
        if name not in proofs or not (folder / name).is_file():
            continue
        proof = proofs[name]
        if proof["sha256"] != digest(folder / name, "sha256"):
            yield f"it is of another {name}, whose sha256 is {proof['sha256']}"
        if proof["ran"] is None:
            continue
        version, go = proof["version"], statement.dependencies["go"]["annotations"]["version"]
        expected = {
            "gitVersion": asked["version"],
            "gitCommit": statement.dependencies["source"]["digest"]["gitCommit"],
            "gitTreeState": asked["tree_state"],
            "buildDate": asked["build_date"],
            "goVersion": f"go{go}",
            "platform": f"linux/{arch}",
        }
        for field, value in expected.items():
            if version.get(field) != value:
                yield f"its {name} reports {field} {version.get(field)}, by {PROVENANCE} {value}"
        yield from _check_certificates(name, proof["certificates"], asked["lifetimes"])


def _check_certificates(
    name: str, certificates: list[dict[str, Any]], lifetimes: dict[str, int]
) -> Iterator[str]:
    if not certificates:
        yield f"it saw no certificate of {name}"
    for certificate in certificates:
        born, ends = (datetime.fromisoformat(certificate[at]) for at in ("not_before", "not_after"))
        is_ca = certificate["kind"] == "ca"
        years = lifetimes["ca_years" if is_ca else "leaf_years"]
        span = timedelta(days=DAYS_A_YEAR * years)
        # A leaf may begin with its CA, which may be old; that it ends when it should was proven.
        right = span - _SLACK <= ends - born and (ends - born <= span + _SLACK or not is_ca)
        if certificate["years"] != years or not right:
            yield f"{name} issued {certificate['path']} for {ends - born}, not {years} years"


def _check_build(folder: Path, statement: Statement) -> Iterator[str]:
    build = json.loads((folder / BUILD).read_text())
    layout = statement.asked["layout"]
    source, go = statement.dependencies["source"], statement.dependencies["go"]
    pairs = {
        "tag": (build["source"]["tag"], statement.asked["version"]),
        "requested version": (build["request"]["version"], statement.asked["requested_version"]),
        "commit": (build["source"]["commit"], source["digest"]["gitCommit"]),
        "source sha256": (build["source"]["sha256"], source["digest"].get("sha256")),
        "Go": (build["go"]["version"], go["annotations"]["version"]),
        "image": (build["go"]["image"], go["annotations"].get("image")),
        "patches": (
            {f"patches/{patch['name']}": patch["sha256"] for patch in build["patches"]},
            {
                name: each["digest"]["sha256"]
                for name, each in statement.dependencies.items()
                if name.startswith("patches/")
            },
        ),
        "commands": (
            {binary["arch"]: binary["command"] for binary in build["binaries"]},
            statement.commands,
        ),
        "binaries": (
            {binary["file"]: binary["sha256"] for binary in build["binaries"]},
            {
                binary_name(arch, layout): statement.subjects[binary_name(arch, layout)]["sha256"]
                for arch in statement.asked["arches"]
            },
        ),
    }
    pairs |= {
        f"requested {name}": (build["request"].get(name), value)
        for name, value in statement.asked.items()
        if name not in ("version", "requested_version")
    }
    for name, (here, there) in pairs.items():
        if here != there:
            yield f"its {name} is {here}, by {PROVENANCE} {there}"


def _check_patch(folder: Path, statement: Statement) -> Iterator[str]:
    files = re.findall(r"^\+\+\+ b/(\S+)", (folder / PATCH).read_text(), re.MULTILINE)
    patched = any(name.startswith("patches/") for name in statement.dependencies)
    if bool(files) != patched:
        yield "it changes nothing" if patched else f"it changes {', '.join(files)}"
