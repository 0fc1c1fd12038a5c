"""Compare every file of a release with what the other files say about it.

The provenance determines which files a release may contain: requested architectures, layout and
packages name each file. So an extra file is found even if somebody has added it to the checksums.
"""

import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from packaging.version import Version

from kbuild.base.errors import KbuildError, NotWritable
from kbuild.base.files import BROKEN, reason_of
from kbuild.base.strictjson import load_json
from kbuild.kubeadm.api import full_tag, read_arch, series_for
from kbuild.kubeadm.model import CASES, DAYS_A_YEAR, Lifetimes
from kbuild.release.demands import Demands, TrustedKey, inside, read_trusted_key
from kbuild.release.errors import NotARelease
from kbuild.release.files import (
    MAX_NAMES,
    Problem,
    ReleaseFiles,
    looks_like_release,
    names_in,
    open_entry,
    open_folder,
    read_files,
    unsafe_mode,
)
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
from kbuild.release.place import is_unfinished
from kbuild.release.provenance import Statement, parse_provenance
from kbuild.release.recorded import artifacts
from kbuild.release.sbom import contradictions
from kbuild.release.signing import Signer, verify_signatures
from kbuild.release.sums import read_sums

_SLACK = timedelta(minutes=6)  # kubeadm backdates by five; see prove/certificates.py
_NONE = Demands()
_RAN = ("native", "qemu", None)
_Claim = tuple[str, str, str, object]  # the claiming file, the other file, algorithm and digest
_Pair = tuple[object, object]  # what one document says, and what the other says


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A checked release: its files, its problems, and its signer.

    ``unmet`` are those of the problems that only say that it is not for what the user requires.
    ``statement`` is the provenance, or None if it cannot be read. ``documents`` has the checked
    bytes of SHA256SUMS and of the provenance, and the signatures. ``proven`` is the number of
    certificates that each architecture issued in the proof, 0 if it did not run.
    """

    folder: Path
    files: tuple[str, ...]
    problems: tuple[Problem, ...]
    documents: Mapping[str, bytes]
    signer: Signer | None = None
    statement: Statement | None = None
    proven: Mapping[str, int] = field(default_factory=dict)
    unmet: tuple[Problem, ...] = ()


def check_folder(
    folder: Path, demands: Demands = _NONE, *, signatures: bool = True
) -> tuple[Checked, ...]:
    """Check a release, or each release directly in a directory, against the requirements.

    In a directory of releases, all that belongs to none of them is a problem of the directory
    itself, which is then the first of those returned. ``signatures`` is False where they are about
    to be replaced. Raises NotARelease, NotWritable, BadKey, or KeylessFailed for trust that cannot
    be used.
    """
    key = read_trusted_key(demands.key, folder) if demands.key else None
    with open_folder(folder) as descriptor:
        if looks_like_release(descriptor):
            whole = read_files(folder, descriptor)
            return (_check(whole, demands, key, signatures=signatures),)
        found: list[Checked] = []
        problems = list(unsafe_mode(".", os.fstat(descriptor)))
        names = names_in(descriptor)
        if len(names) == MAX_NAMES:
            what = f"it has {MAX_NAMES} or more entries, and not all were read"
            problems.append(Problem(file=".", kind="different", what=what))
        for name in names:
            if is_unfinished(name):  # even if it has all files
                what = "it is an unfinished release; the next run removes it if its run was killed"
                problems.append(Problem(file=name, kind="extra", what=what))
                continue
            read = _read_release(folder / name, descriptor)
            if read is None:
                what = "it does not belong to a release"
                problems.append(Problem(file=name, kind="extra", what=what))
            else:
                found.append(_check(read, demands, key, signatures=signatures))
    if not found:
        reason = f"there is neither {PROVENANCE} nor {SUMS['sha256']}"
        raise NotARelease(path=folder, reason=reason)
    if problems:
        stray = Checked(folder=folder, files=(), problems=tuple(problems), documents={})
        found.insert(0, stray)
    return tuple(found)


def check_release(folder: Path, demands: Demands = _NONE) -> Checked:
    """Check the release in a directory that may contain anything.

    Raises NotARelease, NotWritable, BadKey, or KeylessFailed for trust that cannot be used.
    """
    key = read_trusted_key(demands.key, folder) if demands.key else None
    with open_folder(folder) as descriptor:
        return _check(read_files(folder, descriptor), demands, key, signatures=True)


def _read_release(path: Path, parent: int) -> ReleaseFiles | None:
    """Return the files of a release, or None if it is not one; ``parent`` is a descriptor."""
    try:
        with open_entry(path.name, parent) as entry:
            if stat.S_ISDIR(os.fstat(entry).st_mode) and looks_like_release(entry):
                return read_files(path, entry)
    except PermissionError as error:
        raise NotWritable(path=path, reason=reason_of(error)) from error
    except OSError:  # a link or a socket
        return None
    return None


def _check(
    files: ReleaseFiles, demands: Demands, key: TrustedKey | None, *, signatures: bool
) -> Checked:
    """Check signatures, then names and digests, then the content of the documents.

    Each step relies on the earlier ones, so a step that fails is the last one.
    """
    if key is not None and key.place in files.places:
        raise inside(key.path)
    signed = (SUMS["sha256"], PROVENANCE, *SIGNATURES)
    documents = {n: files.files[n].content for n in signed if n in files.files}
    checked = Checked(
        folder=files.folder,
        files=tuple(sorted(files.files)),
        problems=files.unreadable + files.unsafe,
        documents=documents,
    )
    if files.unreadable:
        return checked
    if signatures:
        public, keyless = key and key.public, (demands.identity, demands.issuer)
        signer, faults = verify_signatures(files, public, *keyless, demands.trust_config)
        checked = replace(checked, signer=signer, problems=(*checked.problems, *faults))
        if demands.signature and faults:
            return checked
    statement, problems = _read_statement(files)
    proven: Mapping[str, int] = {}
    unmet: list[Problem] = []
    if statement is not None:
        unmet = list(_check_demands(statement, demands))
        problems = list(_check_digests(files, statement)) or list(_check_contents(files, statement))
        if not problems and not unmet:
            proven = _proven(files, statement)
            unmet = list(_check_proven(proven, demands))
    unique = tuple(dict.fromkeys((*checked.problems, *unmet, *problems)))
    return replace(checked, statement=statement, problems=unique, proven=proven, unmet=tuple(unmet))


def _proven(files: ReleaseFiles, statement: Statement) -> dict[str, int]:
    """Return the number of certificates that each architecture issued in a checked proof."""
    proofs = {each["file"]: each for each in load_json(files.files[PROOF].content)["binaries"]}
    layout = statement.asked["layout"]
    found = {arch: proofs[binary_name(arch, layout)] for arch in statement.asked["arches"]}
    return {arch: len(proof["certificates"]) for arch, proof in found.items()}


def _check_proven(proven: Mapping[str, int], demands: Demands) -> Iterator[Problem]:
    if demands.ca_years is None and demands.leaf_years is None:
        return
    for arch, count in proven.items():
        if count == 0:
            what = f"the kubeadm for {arch} was not run, so the required lifetimes are not proven"
            yield Problem(file=PROOF, kind="different", what=what)


def _read_statement(files: ReleaseFiles) -> tuple[Statement | None, list[Problem]]:
    """Return the provenance of a release, or its problems."""
    content = files.content(PROVENANCE)
    if content is None:
        what = "nothing is known about a release without it"
        return None, [Problem(file=PROVENANCE, kind="missing", what=what)]
    try:
        statement = parse_provenance(content)
    except BROKEN as error:
        what = f"it cannot be read: {reason_of(error)}"
        return None, [Problem(file=PROVENANCE, kind="different", what=what)]
    return statement, []


def _check_demands(statement: Statement, demands: Demands) -> Iterator[Problem]:
    asked = statement.asked
    version = demands.version and full_tag(demands.version)
    pairs: dict[str, tuple[object, object]] = {
        "version": (asked["version"], version),
        "CA lifetime": (asked["lifetimes"]["ca_years"], demands.ca_years),
        "leaf lifetime": (asked["lifetimes"]["leaf_years"], demands.leaf_years),
    }
    for name, (actual, demanded) in pairs.items():
        if demanded is not None and actual != demanded:
            what = f"its {name} is {actual}, you require {demanded}"
            yield Problem(file=PROVENANCE, kind="different", what=what)
    for arch in demands.arches:
        if arch not in asked["arches"]:
            what = f"its architectures are {', '.join(asked['arches'])}, you require {arch}"
            yield Problem(file=PROVENANCE, kind="different", what=what)


def _check_digests(files: ReleaseFiles, statement: Statement) -> Iterator[Problem]:
    """Yield a problem for each file that is missing, extra, or has another digest than claimed."""
    listed = {*artifacts(statement.asked), PROVENANCE}
    expected = {*listed, *SUMS.values(), *(f"{name}{SUM_SUFFIX}" for name in listed)}
    for name in sorted(expected - files.files.keys()):
        yield Problem(file=name, kind="missing", what="it belongs to this release")
    for name in sorted(files.files.keys() - expected - {*SIGNATURES}):
        yield Problem(file=name, kind="extra", what="it does not belong to this release")
    claims: list[_Claim] = []
    yield from _check_subjects(statement.subjects, listed - {PROVENANCE}, claims)
    yield from _check_sums(files, listed, claims)
    for name in listed:
        beside = f"{name}{SUM_SUFFIX}"
        if (content := files.content(beside)) is not None:
            claims.append((beside, name, "sha256", content.decode(errors="replace")))
    for where, name, algorithm, value in sorted(claims, key=str):
        if name in listed and name in files.files:
            actual = files.files[name].digests.get(algorithm)
            if actual != value:
                what = f"its {algorithm} is {actual}, but {where} says {value}"
                yield Problem(file=name, kind="different", what=what)


def _check_subjects(
    subjects: Mapping[str, Mapping[str, str]], listed: set[str], claims: list[_Claim]
) -> Iterator[Problem]:
    for name in sorted(listed ^ subjects.keys()):
        kind = "extra" if name in subjects else "missing"
        yield Problem(file=PROVENANCE, kind="different", what=f"its subject {name} is {kind}")
    for name, digests in subjects.items():
        claims += [(PROVENANCE, name, algorithm, value) for algorithm, value in digests.items()]
        if digests.keys() != SUMS.keys():
            what = f"its subject {name} has digests by {', '.join(digests) or 'nothing'}"
            yield Problem(file=PROVENANCE, kind="different", what=what)


def _check_sums(files: ReleaseFiles, listed: set[str], claims: list[_Claim]) -> Iterator[Problem]:
    for algorithm, sums in SUMS.items():
        if (content := files.content(sums)) is None:
            continue
        try:
            lines = read_sums(content)
        except BROKEN as error:
            what = f"it cannot be read: {reason_of(error)}"
            yield Problem(file=sums, kind="different", what=what)
            continue
        for name in sorted(listed ^ lines.keys()):
            about = "names" if name in lines else "does not name"
            yield Problem(file=sums, kind="different", what=f"it {about} {name}")
        claims += [(sums, name, algorithm, value) for name, value in lines.items()]


def _check_contents(files: ReleaseFiles, statement: Statement) -> Iterator[Problem]:
    """Yield a problem for each difference between the documents and the binaries."""
    checks = {
        PROOF: _check_proof,
        BUILD: _check_build,
        PATCH: _check_patch,
    }
    for name, check in checks.items():
        try:
            faults = list(check(files, statement))
        except BROKEN as error:
            faults = [f"it cannot be read: {reason_of(error)}"]
        for what in faults:
            yield Problem(file=name, kind="different", what=what)
    for arch in statement.asked["arches"]:
        name, sbom = binary_name(arch, statement.asked["layout"]), sbom_name(arch)
        binary = files.files[name]
        try:
            if (actual := read_arch(binary.content)) != arch:
                yield Problem(file=name, kind="different", what=f"it is for {actual}")
            text, sha256 = files.files[sbom].content, binary.digests["sha256"]
            for what in contradictions(text, binary.content, arch, sha256):
                yield Problem(file=sbom, kind="different", what=f"it {what}")
        except KbuildError as error:
            yield Problem(file=name, kind="different", what=error.happened)
        except BROKEN as error:
            what = f"it cannot be read: {reason_of(error)}"
            yield Problem(file=sbom, kind="different", what=what)


def _check_proof(files: ReleaseFiles, statement: Statement) -> Iterator[str]:
    asked = statement.asked
    layout = asked["layout"]
    proofs = {each["file"]: each for each in load_json(files.files[PROOF].content)["binaries"]}
    names = {binary_name(arch, layout): arch for arch in asked["arches"]}
    for name in sorted(proofs.keys() ^ names.keys()):
        yield f"it has an extra proof of {name}" if name in proofs else f"it has no proof of {name}"
    for name, arch in names.items():
        if name not in proofs:
            continue
        proof = proofs[name]
        if not isinstance(proof["certificates"], list):
            yield f"its certificates of {name} are not a list"
            continue
        if proof["sha256"] != files.files[name].digests["sha256"]:
            yield f"it is the proof of another {name}, with sha256 {proof['sha256']}"
        if proof["ran"] not in _RAN:
            yield f"it has an unknown way to run {name}: {proof['ran']}"
        if proof["ran"] is None and proof["certificates"]:
            yield f"it has certificates of {name}, which did not run"
        if proof["ran"] is None:
            continue
        version, go = proof["version"], statement.dependencies["go"]["annotations"]["version"]
        expected = {
            "gitVersion": asked["version"],
            "gitCommit": statement.commit,
            "gitTreeState": asked["tree_state"],
            "buildDate": asked["build_date"],
            "goVersion": f"go{go}",
            "platform": f"linux/{arch}",
        }
        for fact, value in expected.items():
            if version.get(fact) != value:
                yield f"its {name} reports {fact} {version.get(fact)}, {PROVENANCE} says {value}"
        yield from _check_certificates(name, proof["certificates"], asked)
        yield from _check_stored_defaults(name, proof.get("stored_defaults"), asked)


def _check_stored_defaults(name: str, done: object, asked: Mapping[str, Any]) -> Iterator[str]:
    way = asked.get("stored_defaults", "keep")
    # A version before v1.31 has none, nor has a release by an earlier kbuild.
    series = series_for(Version(asked["version"])) if "stored_defaults" in asked else ()
    is_known = any(each.stored_defaults for each in series)
    if done != way and (is_known or done is not None):
        yield f"its {name} has stored defaults {done}, {PROVENANCE} says {way}"


def _check_certificates(
    name: str, certificates: list[dict[str, Any]], asked: Mapping[str, Any]
) -> Iterator[str]:
    lifetimes, way = Lifetimes(**asked["lifetimes"]), asked.get("stored_defaults", "keep")
    if not certificates:
        yield f"it has no certificate of {name}"
    for certificate in certificates:
        born, ends = (datetime.fromisoformat(certificate[at]) for at in ("not_before", "not_after"))
        is_ca, case = certificate["kind"] == "ca", certificate["case"]
        if case not in CASES:
            yield f"{name} issued {certificate['path']} in an unknown case"
            continue
        expected = lifetimes.expected(case, way)
        years = expected.ca_years if is_ca else expected.leaf_years
        span = timedelta(days=DAYS_A_YEAR * years)
        # A leaf may begin with its CA, which may be old; the proof has checked its end.
        right = span - _SLACK <= ends - born and (ends - born <= span + _SLACK or not is_ca)
        if certificate["years"] != years or not right:
            yield f"{name} issued {certificate['path']} for {ends - born}, not {years} years"


def _check_build(files: ReleaseFiles, statement: Statement) -> Iterator[str]:
    build = load_json(files.files[BUILD].content)
    pairs = _inputs(build, statement) | _outputs(build, statement)
    pairs |= {
        f"requested {name}": (build["request"].get(name), value)
        for name, value in statement.asked.items()
        if name not in ("version", "requested_version")
    }
    for name, (here, there) in pairs.items():
        if here != there:
            yield f"its {name} is {here}, {PROVENANCE} says {there}"


def _inputs(build: Mapping[str, Any], statement: Statement) -> dict[str, _Pair]:
    """Return what build.json and the provenance say of each input of the build."""
    source, go = statement.dependencies["source"], statement.dependencies["go"]
    return {
        "tag": (build["source"]["tag"], statement.asked["version"]),
        "requested version": (build["request"]["version"], statement.asked["requested_version"]),
        "commit": (build["source"]["commit"], statement.commit),
        "commit proof": (build["source"]["commit_proof"], source["annotations"]["commitProof"]),
        "verified commit": (
            build["source"]["commit_proof"] != "archive-claim",
            "gitCommit" in source["digest"],
        ),
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
    }


def _outputs(build: Mapping[str, Any], statement: Statement) -> dict[str, _Pair]:
    """Return what build.json and the provenance say of the binaries and how they were made."""
    layout = statement.asked["layout"]
    return {
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


def _check_patch(files: ReleaseFiles, statement: Statement) -> Iterator[str]:
    text = files.files[PATCH].content.decode()
    changed = re.findall(r"^\+\+\+ b/(\S+)", text, re.MULTILINE)
    patched = any(name.startswith("patches/") for name in statement.dependencies)
    if bool(changed) != patched:
        yield "it changes nothing" if patched else f"it changes {', '.join(changed)}"
