"""Write a release, which appears complete."""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kbuild.base.disk import disk_errors
from kbuild.base.errors import OutputExists
from kbuild.base.files import BROKEN, read_file
from kbuild.base.progress import Progress
from kbuild.base.workspace import Workspace
from kbuild.kubeadm.model import (
    BuildRequest,
    Layout,
    OutputRequest,
    PatchedTree,
    Proof,
    ProvenBinary,
    ProvenBuild,
    Tag,
)
from kbuild.release.documents import build_document, proof_document, request_document
from kbuild.release.files import MAX_DOCUMENT
from kbuild.release.names import (
    BUILD,
    PATCH,
    PROOF,
    PROVENANCE,
    SUMS,
    binary_name,
    sbom_name,
)
from kbuild.release.packages import make_package
from kbuild.release.place import (
    demand_replaceable,
    demand_writable,
    locked,
    new_release,
    why_no_release,
)
from kbuild.release.provenance import provenance
from kbuild.release.sbom import sbom_text
from kbuild.release.sums import digest, digests_of, read_sums, write_sums


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A finished release: its directory, file names, tree and proofs.

    ``unchanged`` is True if an earlier run compiled the binaries from the same inputs. ``written``
    is False if the directory already held exactly these binaries and was left unchanged.
    """

    folder: Path
    files: tuple[str, ...]
    tree: PatchedTree
    proofs: tuple[Proof, ...]
    unchanged: bool
    written: bool = True


@contextlib.contextmanager
def reserve(folder: Path, request: BuildRequest, tag: Tag, workspace: Workspace) -> Iterator[None]:
    """Lock the output directory for this run, and report its problems before the work begins.

    It may contain a release of the same tag and request, which may turn out to be unchanged.

    Raises BadSetting, OutputBusy, OutputExists, OutputNotReplaceable, NotWritable or DiskFull.
    """
    with locked(folder, workspace):
        if not _is_occupied(folder):
            demand_writable(folder)
        elif request.output.force:
            demand_replaceable(folder)
            demand_writable(folder)
        elif not _is_of(folder, request, tag):
            raise OutputExists(path=folder)
        yield


def demand_free(folder: Path, request: OutputRequest) -> None:
    """Raise OutputExists unless the directory is empty, missing or to be replaced."""
    if not request.force and _is_occupied(folder):
        raise OutputExists(path=folder)


def publish(
    proven: ProvenBuild,
    request: BuildRequest,
    folder: Path,
    times: Mapping[str, float],
    progress: Progress,
) -> Release:
    """Write the release into ``folder``, which appears complete or not at all.

    ``times`` are the seconds that each stage took. A directory that holds these very binaries
    already is left as it is, unless it is to be replaced. Raises OutputExists,
    OutputNotReplaceable, PackagerFailed, DiskFull or NotWritable.
    """
    output = request.output
    is_left = not output.force and _is_occupied(folder)
    if is_left:
        if not _holds(folder, proven.binaries, output.layout):
            raise OutputExists(path=folder)
    else:
        with new_release(folder, force=output.force) as made:
            _write(made, proven.binaries, request, times, progress)
    return Release(
        folder=folder,
        files=tuple(list_files(folder)),
        tree=proven.binaries[0].binary.tree,
        proofs=tuple(each.proof for each in proven.binaries),
        unchanged=proven.unchanged,
        written=not is_left,
    )


def list_files(folder: Path) -> list[str]:
    """Return the names of all files and links below a directory, relative to it, sorted."""
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _write(
    folder: Path,
    proven: tuple[ProvenBinary, ...],
    request: BuildRequest,
    times: Mapping[str, float],
    progress: Progress,
) -> None:
    layout = request.output.layout
    binaries, proofs = [each.binary for each in proven], [each.proof for each in proven]
    for binary in binaries:
        path = folder / binary_name(binary.arch, layout)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(binary.path, path)
        path.chmod(0o755)
        progress.advance(f"SBOM of {binary.arch}", 0, None)
        (folder / sbom_name(binary.arch)).write_text(sbom_text(binary))
        for number, kind in enumerate(request.output.packages):
            what = f"packages of {binary.arch}"
            progress.advance(what, number, len(request.output.packages))
            place = binary.path.parent  # on the disk of the cache, for the error of a full disk
            with disk_errors(place), tempfile.TemporaryDirectory(dir=place) as work:
                make_package(kind, binary, Path(work), folder)
    progress.advance("checksums and provenance", 0, None)
    (folder / PATCH).write_text(binaries[0].tree.diff, encoding="utf-8")
    _write_json(folder / PROOF, {"binaries": [proof_document(p, layout) for p in proofs]})
    _write_json(folder / BUILD, build_document(binaries, request, times))
    digests = digests_of(folder, list_files(folder))
    statement = provenance(binaries, request, digests, sum(times.values()))
    _write_json(folder / PROVENANCE, statement)
    write_sums(folder, digests | digests_of(folder, [PROVENANCE]))
    _make_owners_own(folder)


def _make_owners_own(folder: Path) -> None:
    """Make the release writable only for its owner; ``kbuild check`` refuses other modes."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o022)


def _is_occupied(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _is_of(folder: Path, request: BuildRequest, tag: Tag) -> bool:
    """Return whether a directory holds a release of the same tag and request, of any date."""
    free = {"version", *(["build_date"] if request.build_date is None else [])}
    asked = request_document(request, request.build_date)
    wanted = {name: value for name, value in asked.items() if name not in free}
    try:
        build = json.loads(read_file(folder / BUILD, MAX_DOCUMENT))
        made = {name: value for name, value in build["request"].items() if name not in free}
        source = build["source"]
        return wanted == made and (source["tag"], source["commit"]) == (tag.name, tag.commit)
    except (OSError, *BROKEN):
        return False


def _holds(folder: Path, proven: tuple[ProvenBinary, ...], layout: Layout) -> bool:
    """Return whether a release is complete and has exactly these binaries; it may be signed."""
    if why_no_release(folder) is not None:
        return False
    sums = read_sums(read_file(folder / SUMS["sha256"], MAX_DOCUMENT))
    return (
        all(digest(folder / name, "sha256") == value for name, value in sums.items())
        and {binary_name(e.proof.arch, layout): e.proof.sha256 for e in proven}.items()
        <= sums.items()
    )


def _write_json(path: Path, document: Mapping[str, object]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n")
