"""What strangers say reaches the terminal as text, and nothing else."""

import io
import json
import sys
import time
from pathlib import Path

import pytest

from kbuild.base.errors import KbuildError
from kbuild.cli.console import Screen, plain_table
from kbuild.kubeadm.compile.errors import CompileFailed
from kbuild.kubeadm.prove.errors import KubeadmFailed

HOSTILE = "\x1b]0;owned\x07\x1b[2Ja\x9b31m\x7f\u202eb\u2066\u200b\r\x00\t[red]c[/red]\udcff"
SHOWN = r"\x1b]0;owned\x07\x1b[2Ja\x9b31m\x7f\u202eb\u2066\u200b\r\x00"


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    text = "".join(capsys.readouterr())
    assert all(c.isprintable() or c == "\n" for c in text), text
    return text


@pytest.mark.parametrize("door", ["stage", "say", "detail", "result", "table", "advance"])
def test_what_strangers_say_is_shown_as_text(door: str, capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(verbose=True, quiet=False, as_json=False)
    match door:
        case "stage":
            screen.stage(HOSTILE)
        case "say":
            screen.say(HOSTILE)
        case "detail":
            screen.detail(HOSTILE)
        case "result":
            screen.result({}, [HOSTILE])
        case "table":
            table = plain_table("x")
            table.add_row(HOSTILE)
            screen.result({}, [table])
        case _:
            screen.advance(HOSTILE, 1, 2)
    text = shown(capsys)
    assert SHOWN in text
    assert r"[red]c[/red]\udcff" in text


WORDS = f"{HOSTILE}\nfine"


@pytest.mark.parametrize(
    "error",
    [
        CompileFailed(arch=HOSTILE, code=1, log=Path(HOSTILE.replace("\0", "")), details=WORDS),
        KubeadmFailed(command=HOSTILE, code=1, details=WORDS),
    ],
    ids=lambda error: error.kind,
)
def test_the_last_words_of_another_program_are_shown_as_text(
    error: KbuildError, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = Screen(verbose=False, quiet=False, as_json=True)
    screen.error(error)
    out, err = capsys.readouterr()
    assert all(c.isprintable() or c == "\n" for c in out + err)
    assert r"\x1b[2J" in err
    assert "fine" in err
    assert json.loads(out)["error"]["details"] == f"{HOSTILE}\nfine"


@pytest.mark.parametrize("text", ["plain", "ünïcödé 字", r"a \ b [c]", "a  b"])
def test_text_that_is_harmless_is_shown_as_it_is(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Screen(verbose=False, quiet=False, as_json=False).result({}, [text])
    assert capsys.readouterr().out == f"{text}\n"


@pytest.mark.parametrize(("items", "lines"), [(3, 7), (1001, 1)])
def test_a_document_with_a_long_list_is_not_indented(
    items: int, lines: int, capsys: pytest.CaptureFixture[str]
) -> None:
    document = {"certificates": [f"https://user:secret@host/{i}" for i in range(items)]}
    Screen(verbose=False, quiet=False, as_json=True).result(document, [])
    out = capsys.readouterr().out
    assert out.count("\n") == lines
    assert json.loads(out) == {"certificates": [f"https://host/{i}" for i in range(items)]}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_each_of_several_has_a_bar_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen(verbose=False, quiet=False, as_json=False)
    screen.follow("a", "copy", 1, 4)
    screen.follow("b", "copy", 2, 4)
    deadline = time.monotonic() + 10
    while "2 of 4" not in (both := terminal.getvalue()):
        assert time.monotonic() < deadline, both
        time.sleep(0.01)
    screen.follow("a", "copy", 3, 4)
    screen.leave("b")
    screen.leave("nobody")
    terminal.truncate(0)
    screen.say("b has ended")
    last = terminal.getvalue()
    screen.close()
    assert "a: copy" in both[: both.index("b: copy")]
    assert ("a: copy" in last, "3 of 4" in last, "b: copy" in last) == (True, True, False)


def test_what_is_followed_in_a_pipe_is_told_when_it_changes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    screen = Screen(verbose=False, quiet=False, as_json=False)
    for done in range(1000):
        for who in "ab":
            screen.follow(who, "copy", done, 1000)
    screen.follow("a", "check", 0, 1)
    screen.leave("b")
    screen.follow("b", "copy", 0, 1)
    lines = capsys.readouterr().err.split()
    assert lines == ["a:", "copy", "b:", "copy", "a:", "check", "b:", "copy"]
