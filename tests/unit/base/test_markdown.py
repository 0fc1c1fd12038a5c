import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbuild.base.markdown import wrapped

WORDS = "word " * 30
CODE = "`kubeadm certs renew all --config kubeadm-config.yaml`"


@pytest.mark.parametrize("start", ["", "- ", "  ", "12. "])
def test_prose_is_wrapped_and_indented_like_its_item(start: str) -> None:
    lines = wrapped(f"{start}{WORDS}\n").splitlines()
    assert len(lines) == 2
    assert all(len(line) <= 80 for line in lines)
    assert lines[1].startswith(" " * len(start) + "word")


def test_short_lines_are_joined_but_not_items() -> None:
    assert wrapped("a\nb\n- c\n  d\n- e\n\nf\n") == "a b\n- c d\n- e\n\nf\n"


def test_code_and_headings_stay() -> None:
    text = f"# {WORDS}\n```sh\n{WORDS}\n\n  b\nc\n```\n"
    assert wrapped(text) == text
    assert CODE in wrapped(f"{'x' * 60} {CODE} y\n").splitlines()[1]


@given(st.lists(st.sampled_from(["a", "`b c`", "- d", "", "```", "# e", "  f", "g" * 90])))
def test_nothing_is_lost_and_twice_is_once(lines: list[str]) -> None:
    text = "\n".join([*lines, ""])
    assert wrapped(text).split() == text.split()
    assert wrapped(wrapped(text)) == wrapped(text)
