from pathlib import Path

import pytest

from kbuild.base.errors import NotWritable, OutputExists, OutputNotReplaceable
from kbuild.config.api import File, write_configuration

FILES = (
    File(name="README.md", about="", content="one\n"),
    File(name="in/two.yaml", about="", content="two\n"),
)


def texts(folder: Path) -> dict[str, str]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in found}


def test_the_files_and_their_sums_are_written(tmp_path: Path) -> None:
    folder = tmp_path / "a/b"
    write_configuration(folder, FILES, force=False)
    made = texts(folder)
    sums = made.pop("SHA256SUMS")
    assert made == {"README.md": "one\n", "in/two.yaml": "two\n"}
    assert [line[66:] for line in sums.splitlines()[1:]] == [*made]
    assert [*(tmp_path / "a").iterdir()] == [folder]


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    write_configuration(tmp_path, FILES, force=False)
    assert "README.md" in texts(tmp_path)


def test_nothing_is_replaced_without_force(tmp_path: Path) -> None:
    write_configuration(tmp_path, FILES, force=False)
    with pytest.raises(OutputExists):
        write_configuration(tmp_path, FILES[:1], force=False)
    assert len(texts(tmp_path)) == 3
    write_configuration(tmp_path, FILES[:1], force=True)
    assert len(texts(tmp_path)) == 2


@pytest.mark.parametrize("name", ["README.md", "in/two.yaml", "SHA256SUMS", "mine", "in/mine"])
def test_force_replaces_nothing_that_somebody_changed(tmp_path: Path, name: str) -> None:
    write_configuration(tmp_path, FILES, force=False)
    (tmp_path / name).write_text("mine\n")
    with pytest.raises(OutputNotReplaceable):
        write_configuration(tmp_path, FILES, force=True)
    assert (tmp_path / name).read_text() == "mine\n"


def test_force_replaces_no_folder_from_which_something_was_taken(tmp_path: Path) -> None:
    write_configuration(tmp_path, FILES, force=False)
    (tmp_path / "README.md").unlink()
    with pytest.raises(OutputNotReplaceable, match=r"README\.md was added or removed"):
        write_configuration(tmp_path, FILES, force=True)


def test_force_replaces_no_folder_with_a_link(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    write_configuration(folder, FILES, force=False)
    (folder / "README.md").rename(tmp_path / "kept")
    (folder / "README.md").symlink_to(tmp_path / "kept")
    with pytest.raises(OutputNotReplaceable, match=r"README\.md was changed"):
        write_configuration(folder, FILES, force=True)


def test_a_folder_of_somebody_else_stays(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine\n")
    for force in (False, True):
        with pytest.raises(OutputNotReplaceable if force else OutputExists):
            write_configuration(tmp_path, FILES, force=force)
    assert texts(tmp_path) == {"mine": "mine\n"}


def test_a_file_a_link_or_the_current_folder_is_no_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    monkeypatch.chdir(tmp_path / "folder")
    for name in ("file", "link", "folder", "."):
        with pytest.raises(NotWritable):
            write_configuration(tmp_path / name, FILES, force=True)
    assert texts(tmp_path) == {"file": "mine\n"}


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotWritable):
        write_configuration(tmp_path / "file/out", FILES, force=False)
