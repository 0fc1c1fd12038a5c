"""Write what goes beside the binaries, and put the whole folder in its place at once."""

import contextlib
import dataclasses
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

from packaging.version import Version

from kbuild import __version__
from kbuild.errors import NotWritable, OutputBusy, OutputExists
from kbuild.model import Binary, BuildRequest, PatchedTree, Proof, Release, Tag
from kbuild.workspace import disk_errors, key, make_then_move, only_one, sha256

SUMS = "SHA256SUMS"
BUILD = "build.json"


@contextlib.contextmanager
def reserve(folder: Path, request: BuildRequest, tag: Tag, cache: Path) -> Iterator[None]:
    """Hold the output folder for this run; what is wrong with it shows before the work begins.

    A release of the same tag and request may be there: nothing may have changed since.

    Raises OutputBusy, OutputExists or NotWritable.
    """
    name = f"output-{key(str(folder.absolute()))}"
    with disk_errors(folder), only_one(cache, name, OutputBusy(path=folder)):
        _check_folder(folder, request, tag)
        yield


def demand_free(folder: Path, request: BuildRequest) -> None:
    """Raise OutputExists unless the folder is empty, absent or to be replaced."""
    if _is_occupied(folder, request):
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
    is left as it is, unless it is to be replaced. Raises OutputExists, DiskFull or NotWritable.
    """
    tree = binaries[0].tree
    proofs = tuple(proven[binary.path] for binary in binaries)
    if _is_occupied(folder, request):
        if not _holds(folder, binaries):
            raise OutputExists(path=folder)
        names = sorted(path.name for path in folder.iterdir() if path.name != SUMS)
        return Release(
            folder=folder, files=(*names, SUMS), tree=tree, proofs=proofs, unchanged=unchanged
        )
    with make_then_move(folder) as made:
        for binary in binaries:
            shutil.copyfile(binary.path, made / binary_name(binary.arch))
            (made / binary_name(binary.arch)).chmod(0o755)
        (made / "kubeadm.patch").write_text(tree.diff)
        _write_json(made / "proof.json", {"binaries": [proof_document(p) for p in proofs]})
        _write_json(made / BUILD, build_document(binaries, request, times))
        names = sorted(path.name for path in made.iterdir())
        sums = "".join(f"{sha256(made / name)}  {name}\n" for name in names)
        (made / SUMS).write_text(sums)
    return Release(
        folder=folder, files=(*names, SUMS), tree=tree, proofs=proofs, unchanged=unchanged
    )


def binary_name(arch: str) -> str:
    """Return the file name of a binary in the release."""
    return f"kubeadm-linux-{arch}"


def proof_document(proof: Proof) -> dict[str, object]:
    """Return one binary's part of proof.json."""
    return {
        "file": binary_name(proof.arch),
        "arch": proof.arch,
        "sha256": proof.sha256,
        "ran": proof.ran,
        "where": proof.where,
        "version": proof.version,
        "certificates": [
            {
                **dataclasses.asdict(certificate),
                "not_before": rfc3339(certificate.not_before),
                "not_after": rfc3339(certificate.not_after),
            }
            for certificate in proof.certificates
        ],
    }


def build_document(
    binaries: tuple[Binary, ...], request: BuildRequest, times: Mapping[str, float]
) -> dict[str, object]:
    """Return build.json: all that went into the binaries."""
    tree = binaries[0].tree
    return {
        "kbuild": __version__,
        "request": _plain(dataclasses.asdict(request)),
        "source": source_document(tree),
        "go": go_document(tree),
        "patches": [dataclasses.asdict(patch) for patch in tree.patches],
        "binaries": [
            {
                "file": binary_name(binary.arch),
                "arch": binary.arch,
                "sha256": binary.sha256,
                "command": list(binary.command),
            }
            for binary in binaries
        ],
        "seconds": {stage: round(seconds, 3) for stage, seconds in times.items()},
    }


def source_document(tree: PatchedTree) -> dict[str, object]:
    """Return where the source came from."""
    source = tree.source
    return {
        "origin": source.origin,
        "tag": source.tag,
        "commit": source.commit,
        "sha256": source.sha256,
    }


def go_document(tree: PatchedTree) -> dict[str, object]:
    """Return which Go built and why that one."""
    toolchain = tree.toolchain
    return {
        "version": toolchain.go_version,
        "pin": toolchain.pin.version,
        "pin_files": list(toolchain.pin.files),
        "overridden": toolchain.overridden,
        "builder": toolchain.builder,
        "image": toolchain.image,
    }


def rfc3339(moment: datetime) -> str:
    """Return a UTC moment as RFC 3339 with whole seconds."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _check_folder(folder: Path, request: BuildRequest, tag: Tag) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise NotWritable(path=folder, reason="it is a link or a file, not a folder")
    if folder.is_dir() and any(folder.iterdir()):
        if not request.force and not _is_of(folder, request, tag):
            raise OutputExists(path=folder)
        if not (folder / BUILD).is_file():
            raise NotWritable(path=folder, reason="it holds what kbuild did not make")
    parent = next(path for path in folder.absolute().parents if path.exists())
    # Only trying tells: root is asked for no permission, and /proc has no say in its mode bits.
    with disk_errors(parent):
        try:
            tempfile.TemporaryDirectory(prefix=f".{folder.name}.kbuild-", dir=parent).cleanup()
        except FileNotFoundError as error:
            raise NotWritable(path=parent, reason="no folder can be made in it") from error


def _is_occupied(folder: Path, request: BuildRequest) -> bool:
    return not request.force and folder.is_dir() and any(folder.iterdir())


def _is_of(folder: Path, request: BuildRequest, tag: Tag) -> bool:
    """Tell whether a folder holds a release of the same tag and request, whenever that was."""
    free = {"force", "output", "version", *(["build_date"] if request.build_date is None else [])}
    wanted = _plain({k: v for k, v in dataclasses.asdict(request).items() if k not in free})
    try:
        build = json.loads((folder / BUILD).read_text())
        made = {name: value for name, value in build["request"].items() if name not in free}
        source = build["source"]
        return wanted == made and (source["tag"], source["commit"]) == (tag.name, tag.commit)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _holds(folder: Path, binaries: tuple[Binary, ...]) -> bool:
    """Tell whether a release is whole and has these very binaries."""
    try:
        lines = (folder / SUMS).read_text().splitlines()
        sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        return (
            {path.name for path in folder.iterdir()} == {*sums, SUMS}
            and all(sha256(folder / name) == digest for name, digest in sums.items())
            and {binary_name(binary.arch): binary.sha256 for binary in binaries}.items()
            <= sums.items()
        )
    except OSError:
        return False


def _write_json(path: Path, document: Mapping[str, object]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n")


def _plain(value: object) -> object:
    match value:
        case dict():
            return {name: _plain(item) for name, item in value.items()}
        case tuple() | list():
            return [_plain(item) for item in value]
        case datetime():
            return rfc3339(value)
        case Path() | Version():
            return str(value)
        case _:
            return value
