"""What a source tree holds, in memory and on disk."""

from kbuild.model import SourceTree


def files_of(tree: SourceTree) -> dict[str, bytes]:
    """Return the files of a tree by name; a link's content is what it points at."""
    found = {name: file.content for name, file in tree.files.items()}
    for path in tree.path.rglob("*"):
        name = str(path.relative_to(tree.path))
        if path.is_symlink():
            found[name] = str(path.readlink()).encode()
        elif path.is_file():
            found[name] = path.read_bytes()
    return found
