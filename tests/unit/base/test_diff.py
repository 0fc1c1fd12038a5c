import subprocess
from pathlib import Path

import pytest

from kbuild.base.diff import unified


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a\nb\n", "a\nc\n"),
        ('{"a": 1}', '{"a": 2}'),
        ("a\nb", "a\nb\n"),
        ("a\rb\rc\n", "a\rB\rc\n"),
        ("a\x0bb\u2028c\n", "a\x0bb\u2028d\n"),
        ("", "a"),
    ],
    ids=range(6),
)
def test_git_applies_it(before: str, after: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(before.encode())
    diff = unified(before, after, "a/x", "b/x")
    words = ("git", "apply", "--whitespace=nowarn", "-")
    subprocess.run(words, cwd=tmp_path, input=diff.encode(), check=True)
    assert (tmp_path / "x").read_bytes().decode() == after


def test_equal_texts_have_no_difference() -> None:
    assert unified("a\n", "a\n", "a", "b") == ""
