"""What a source tree holds, packed or not."""

import tarfile

from kbuild.model import SourceTree


def files_of(tree: SourceTree) -> dict[str, bytes]:
    """Return the files of a tree by name; a link's content is what it points at."""
    found = {}
    if tree.packed is not None:
        with tarfile.open(tree.packed) as tar:
            for member in tar:
                if member.issym():
                    found[member.name] = member.linkname.encode()
                elif (file := tar.extractfile(member)) is not None:
                    found[member.name] = file.read()
    for path in tree.path.rglob("*"):
        name = str(path.relative_to(tree.path))
        if path.is_symlink():
            found[name] = str(path.readlink()).encode()
        elif path.is_file():
            found[name] = path.read_bytes()
    return found
