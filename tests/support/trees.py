"""What a folder or a source tree holds."""

from pathlib import Path

from kbuild.kubeadm.model import SourceTree


def files_of(tree: SourceTree) -> dict[str, bytes]:
    """Return the files of a tree by name; a link's content is what it points at."""
    found = {name: file.content for name, file in tree.files.items()}
    return found | content_of(tree.path)


def content_of(folder: Path) -> dict[str, bytes]:
    """Return the files below a folder by name; a link's content is what it points at."""
    found = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = str(path.readlink()).encode()
        elif path.is_file():
            found[name] = path.read_bytes()
    return found
