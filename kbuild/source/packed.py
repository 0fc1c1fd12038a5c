"""The import closure of a tag as one tar in the cache: making 2,500 files takes far longer.

    trees/<key>/tree.tar    the files; those that kbuild itself reads or patches come first
    trees/<key>/tree.json   how many those are, the tar's sha256, the tag and its commit

The key stands for where the tree comes from and for the rules that choose its files.
"""

import contextlib
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

from kbuild.model import CommitProof, SourceTree, Tag
from kbuild.source import closure
from kbuild.workspace import Workspace, key, make_then_move, sha256, shared

_LONGEST = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedTree:
    """A tar in the cache: its first ``head`` members are for kbuild, all for the compiler."""

    tar: Path
    head: int
    tag: Tag

    def open(self, target: Path, origin: str, proof: CommitProof) -> SourceTree:
        """Put what kbuild itself reads into the new folder ``target``."""
        with tarfile.open(self.tar) as tar:
            for member in islice(tar, self.head):
                path = target / member.name
                path.parent.mkdir(parents=True, exist_ok=True)
                if member.issym():
                    path.symlink_to(member.linkname)
                else:
                    file = tar.extractfile(member)
                    assert file is not None
                    path.write_bytes(file.read())
        assert self.tag.commit is not None
        return SourceTree(
            path=target,
            packed=self.tar,
            tag=self.tag.name,
            commit=self.tag.commit,
            origin=origin,
            commit_proof=proof,
        )


@contextlib.contextmanager
def held(identity: str, workspace: Workspace) -> Iterator[None]:
    """Hold the lock of what is kept for an identity: a tag's name and commit, or a sha256."""
    with shared(workspace, f"tree-{_folder(identity, workspace).name}"):
        yield


def find(identity: str, workspace: Workspace) -> PackedTree | None:
    """Return what was kept for that identity, if it is whole."""
    folder = _folder(identity, workspace)
    tar = folder / "tree.tar"
    try:
        about = json.loads((folder / "tree.json").read_text())
        if sha256(tar) != about["sha256"]:
            return None
        tag = Tag(name=about["tag"], commit=about["commit"])
        os.utime(folder)  # tells when it was last of use
        return PackedTree(tar=tar, head=int(about["head"]), tag=tag)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep(
    identity: str,
    tag: Tag,
    modes: Mapping[str, int],
    contents: Mapping[str, bytes],
    workspace: Workspace,
) -> PackedTree:
    """Pack the files of a closure; the caller holds the lock of that identity.

    No name leads out of the folder, and no link: the caller has seen to that. Raises ValueError if
    the files cannot be together in a file system.
    """
    parents = {str(parent) for name in contents for parent in PurePosixPath(name).parents}
    if clash := parents & contents.keys():
        msg = f"{min(clash)} is a file and a folder"
        raise ValueError(msg)
    if too_long := [n for n in contents if any(len(part) > _LONGEST for part in n.split("/"))]:
        msg = f"the name of {too_long[0]} is too long"
        raise ValueError(msg)
    folder = _folder(identity, workspace)
    head = [name for name in contents if closure.is_for_kbuild(name, modes[name])]
    rest = contents.keys() - head
    with make_then_move(folder) as made:
        with tarfile.open(made / "tree.tar", "w", format=tarfile.GNU_FORMAT) as tar:
            for name in head:
                _add(tar, name, modes[name], contents[name])
            for parent in sorted(parents - {"."}):
                member = tarfile.TarInfo(parent)
                member.type, member.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(member)
            for name in sorted(rest):
                _add(tar, name, modes[name], contents[name])
        about = {
            "head": len(head),
            "sha256": sha256(made / "tree.tar"),
            "tag": tag.name,
            "commit": tag.commit,
        }
        (made / "tree.json").write_text(json.dumps(about))
    return PackedTree(tar=folder / "tree.tar", head=len(head), tag=tag)


def _add(tar: tarfile.TarFile, name: str, mode: int, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    if mode == closure.LINK:
        member.type, member.linkname = tarfile.SYMTYPE, content.decode(errors="surrogateescape")
        tar.addfile(member)
    else:
        member.size, member.mode = len(content), 0o755 if mode & 0o100 else 0o644
        tar.addfile(member, io.BytesIO(content))


def _folder(identity: str, workspace: Workspace) -> Path:
    rules = hashlib.sha256(Path(closure.__file__).read_bytes()).hexdigest()
    return workspace.cache / "trees" / key(f"{identity} {rules}")
