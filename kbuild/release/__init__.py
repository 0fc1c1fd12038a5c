"""Write what goes beside the binaries, and put the whole folder in its place at once."""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from kbuild.base.files import BROKEN, read_file
from kbuild.base.workspace import Workspace, disk_errors
from kbuild.kubeadm.model import Binary, BuildRequest, Proof, Release, Tag
from kbuild.release.documents import build_document, proof_document, request_document
from kbuild.release.errors import OutputExists
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
    held,
    new_release,
    why_no_release,
)
from kbuild.release.provenance import provenance
from kbuild.release.sbom import sbom_text
from kbuild.release.sums import digest, digests_of, read_sums, write_sums


@contextlib.contextmanager
def reserve(folder: Path, request: BuildRequest, tag: Tag, workspace: Workspace) -> Iterator[None]:
    """Hold the output folder for this run; what is wrong with it shows before the work begins.

    A release of the same tag and request may be there: nothing may have changed since.

    Raises BadSetting, OutputBusy, OutputExists, OutputNotReplaceable, NotWritable or DiskFull.
    """
    with held(folder, workspace):
        if not _is_occupied(folder):
            demand_writable(folder)
        elif request.force:
            demand_replaceable(folder)
            demand_writable(folder)
        elif not _is_of(folder, request, tag):
            raise OutputExists(path=folder)
        yield


def demand_free(folder: Path, request: BuildRequest) -> None:
    """Raise OutputExists unless the folder is empty, absent or to be replaced."""
    if not request.force and _is_occupied(folder):
        raise OutputExists(path=folder)


def publish(
    proven: Mapping[Path, Proof],
    binaries: tuple[Binary, ...],
    request: BuildRequest,
    folder: Path,
    times: Mapping[str, float],
    *,
    unchanged: bool,
) -> Release:
    """Write the release into ``folder``, which appears whole or not at all.

    ``times`` are the seconds that each stage took. A folder that holds these very binaries already
    is left as it is, unless it is to be replaced. Raises OutputExists, OutputNotReplaceable,
    PackagerFailed, DiskFull or NotWritable.
    """
    tree = binaries[0].tree
    proofs = tuple(proven[binary.path] for binary in binaries)
    is_left = not request.force and _is_occupied(folder)
    if is_left:
        if not _holds(folder, binaries, request.layout):
            raise OutputExists(path=folder)
    else:
        with new_release(folder, force=request.force) as made:
            _write(made, proofs, binaries, request, times)
    return Release(
        folder=folder,
        files=tuple(list_files(folder)),
        tree=tree,
        proofs=proofs,
        unchanged=unchanged,
        written=not is_left,
    )


def list_files(folder: Path) -> list[str]:
    """Return the names of all that is in a folder and is no folder, relative to it, sorted."""
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _write(
    folder: Path,
    proofs: tuple[Proof, ...],
    binaries: tuple[Binary, ...],
    request: BuildRequest,
    times: Mapping[str, float],
) -> None:
    layout = request.layout
    for binary in binaries:
        path = folder / binary_name(binary.arch, layout)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(binary.path, path)
        path.chmod(0o755)
        (folder / sbom_name(binary.arch)).write_text(sbom_text(binary, request))
        for kind in request.package:
            place = binary.path.parent  # on the disk of the cache, which may be the full one
            with disk_errors(place), tempfile.TemporaryDirectory(dir=place) as work:
                make_package(kind, binary, request, Path(work), folder)
    (folder / PATCH).write_text(binaries[0].tree.diff, encoding="utf-8")
    _write_json(folder / PROOF, {"binaries": [proof_document(p, layout) for p in proofs]})
    _write_json(folder / BUILD, build_document(binaries, request, times))
    digests = digests_of(folder, list_files(folder))
    statement = provenance(binaries, request, digests, sum(times.values()))
    _write_json(folder / PROVENANCE, statement)
    write_sums(folder, digests | digests_of(folder, [PROVENANCE]))
    _make_owners_own(folder)


def _make_owners_own(folder: Path) -> None:
    """Let only the owner write, whatever the umask: ``kbuild check`` refuses anything else."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o022)


def _is_occupied(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _is_of(folder: Path, request: BuildRequest, tag: Tag) -> bool:
    """Tell whether a folder holds a release of the same tag and request, whenever that was."""
    free = {"version", *(["build_date"] if request.build_date is None else [])}
    wanted = {k: v for k, v in request_document(request).items() if k not in free}
    try:
        build = json.loads(read_file(folder / BUILD, MAX_DOCUMENT))
        made = {name: value for name, value in build["request"].items() if name not in free}
        source = build["source"]
        return wanted == made and (source["tag"], source["commit"]) == (tag.name, tag.commit)
    except (OSError, *BROKEN):
        return False


def _holds(folder: Path, binaries: tuple[Binary, ...], layout: str) -> bool:
    """Tell whether a release is whole and has these very binaries; it may be signed."""
    if why_no_release(folder) is not None:
        return False
    sums = read_sums(read_file(folder / SUMS["sha256"], MAX_DOCUMENT))
    return (
        all(digest(folder / name, "sha256") == value for name, value in sums.items())
        and {binary_name(binary.arch, layout): binary.sha256 for binary in binaries}.items()
        <= sums.items()
    )


def _write_json(path: Path, document: Mapping[str, object]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n")
