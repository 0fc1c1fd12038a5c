"""Write the files of a tree, which are in memory.

Nothing derived from a source is kept between runs: each run reads the files from git objects or an
archive, and verifies ids and digests. So no damage or edit between runs can change a tree.
"""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from kbuild.kubeadm.model import CommitProof, SourceFile, SourceTree, Tag
from kbuild.kubeadm.source import closure

_LONGEST = 255  # bytes that a file system allows for a name


def write_tree(
    files: Mapping[str, SourceFile], tag: Tag, target: Path, origin: str, proof: CommitProof
) -> SourceTree:
    """Return the tree of these files, and write those that kbuild itself reads to ``target``.

    No name leads out of the directory, and no link: the caller has seen to that. Raises ValueError
    if the files cannot be together in a file system.
    """
    assert tag.commit is not None
    if clash := _folders(files) & files.keys():
        msg = f"{min(clash)} is a file and a directory"
        raise ValueError(msg)
    for name in files:
        if any(len(part.encode(errors="replace")) > _LONGEST for part in name.split("/")):
            msg = f"the name of {name} is too long"
            raise ValueError(msg)
    for name, file in files.items():
        if closure.is_for_kbuild(name, file.mode):
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if file.mode == closure.LINK:
                path.symlink_to(_link_target(file))
            else:
                path.write_bytes(file.content)
    return SourceTree(
        path=target,
        files=files,
        tag=tag.name,
        commit=tag.commit,
        origin=origin,
        commit_proof=proof,
    )


def write_tar(files: Mapping[str, SourceFile], path: Path) -> None:
    """Write a tar with all files: making 2,500 files one by one takes much longer."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for folder in sorted(_folders(files)):
            member = tarfile.TarInfo(folder)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(member)
        for name, file in sorted(files.items()):
            member = tarfile.TarInfo(name)
            if file.mode == closure.LINK:
                member.type, member.linkname = tarfile.SYMTYPE, _link_target(file)
                tar.addfile(member)
            else:
                member.size, member.mode = len(file.content), 0o755 if file.mode & 0o100 else 0o644
                tar.addfile(member, io.BytesIO(file.content))


def _folders(files: Mapping[str, SourceFile]) -> set[str]:
    return {str(parent) for name in files for parent in PurePosixPath(name).parents} - {"."}


def _link_target(file: SourceFile) -> str:
    return file.content.decode(errors="surrogateescape")
