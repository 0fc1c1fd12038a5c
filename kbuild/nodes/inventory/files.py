"""Read the files of an inventory: one file, or a directory with group_vars and host_vars."""

import os
from collections.abc import Iterator
from pathlib import Path

from kbuild.base.files import read_file, reason_of
from kbuild.nodes.inventory.documents import read_document
from kbuild.nodes.inventory.groups import read_groups
from kbuild.nodes.inventory.ini import IniReader
from kbuild.nodes.inventory.tree import Tree, Variables, bad

_MAX_SIZE = 4 << 20  # bytes of a file; 10,000 hosts with five variables have 2 MiB
_MAX_FILES = 1_000  # in a directory
_MAX_LEVELS = 4  # of directories in group_vars
_YAML = (".yml", ".yaml", ".json")
# What Ansible ignores in a directory: ansible/constants.py and config/base.yml (v2.16).
_IGNORED = (".pyc", ".pyo", ".swp", ".bak", "~", ".rpm", ".md", ".txt", ".rst")
_IGNORED_TOO = (".orig", ".cfg", ".retry")
_DIRECTORIES = ("group_vars", "host_vars", "vars_plugins")
_RUN_IT = "run it yourself: `ansible-inventory -i {} --list > hosts.json`, which kbuild reads"


def read_tree(path: Path) -> Tree:
    """Return what an inventory of Ansible says, with its group_vars; raises BadInventory."""
    tree = Tree()
    is_folder = os.path.isdir(path)  # noqa: PTH112 - a long name raises nothing here
    for each in _sources(path) if is_folder else (path,):
        _read_source(each, tree)
    _read_variables(path if is_folder else path.parent, tree)
    return tree


def _sources(folder: Path) -> Iterator[Path]:
    for name in _names(folder):
        if name.startswith(".") or name in _DIRECTORIES or name.endswith(_IGNORED + _IGNORED_TOO):
            continue
        path = folder / name
        if path.is_dir():
            raise bad(str(path), "directories in a directory are not read", _RUN_IT.format(folder))
        yield path


def _names(folder: Path) -> list[str]:
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 - iterdir makes a path of each
    except OSError as error:
        raise bad(str(folder), reason_of(error)) from error
    if len(names) > _MAX_FILES:
        raise bad(str(folder), f"it has more than {_MAX_FILES} files")
    return names


def _read_source(path: Path, tree: Tree) -> None:
    text, place = _text(path), str(path)
    if path.suffix in (".py", ".toml") or text.startswith("#!"):
        kind = "written in TOML" if path.suffix == ".toml" else "a program, and kbuild runs none"
        raise bad(place, f"it is {kind}", _RUN_IT.format(path))
    if path.suffix in _YAML or text.lstrip().startswith("{") or text.startswith("$ANSIBLE_VAULT;"):
        read_groups(read_document(text, place), tree)
    else:
        IniReader(tree, place).read(text)


def _read_variables(folder: Path, tree: Tree) -> None:
    for name, group in tree.groups.items():
        for path in _variable_files(folder / "group_vars", name):
            group.of_files |= _variables(path)
    if (folder / "host_vars").is_dir():
        for name, host in tree.hosts.items():
            for path in _variable_files(folder / "host_vars", name):
                host.of_files |= _variables(path)


def _variable_files(folder: Path, name: str) -> Iterator[Path]:
    """Yield the files of a host or group: the first that is there, or those of its directory."""
    for extension in ("", *_YAML):
        path = folder / f"{name}{extension}"
        if path.is_dir():
            yield from _inside(path, _MAX_LEVELS)
            return
        if path.exists():
            yield path
            return


def _inside(folder: Path, levels: int) -> Iterator[Path]:
    if not levels:
        raise bad(str(folder), f"it has more than {_MAX_LEVELS} levels of directories")
    for name in _names(folder):
        path = folder / name
        if name.startswith(".") or name.endswith("~") or path.suffix not in ("", *_YAML):
            continue
        if path.is_dir():
            yield from () if path.suffix else _inside(path, levels - 1)
        else:
            yield path


def _variables(path: Path) -> Variables:
    document = read_document(_text(path), str(path))
    if isinstance(document.content, str):
        raise bad(str(path), "a file of variables is not a mapping")
    return document.variables("a file of variables")


def _text(path: Path) -> str:
    try:
        return read_file(path, _MAX_SIZE).decode("utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise bad(str(path), reason_of(error)) from error
