"""What strangers say reaches the terminal as text, and nothing else."""

import io
import json
import os
import pty
import sys
import threading
import time
from pathlib import Path

import pytest

from kbuild.base.errors import KbuildError
from kbuild.cli import console, live
from kbuild.cli.console import Screen, plain_table
from kbuild.kubeadm.compile.errors import CompileFailed
from kbuild.kubeadm.prove.errors import KubeadmFailed

HOSTILE = "\x1b]0;owned\x07\x1b[2Ja\x9b31m\x7f\u202eb\u2066\u200b\r\x00\t[red]c[/red]\udcff"
SHOWN = r"\x1b]0;owned\x07\x1b[2Ja\x9b31m\x7f\u202eb\u2066\u200b\r\x00"


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    text = "".join(capsys.readouterr())
    assert all(c.isprintable() or c == "\n" for c in text), text
    return text


@pytest.mark.parametrize("door", ["stage", "say", "detail", "result", "table", "follow"])
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
            screen.follow("host", HOSTILE, 1, 2)
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
    assert "\x1b[?25l" not in both  # the cursor is not hidden: Ctrl-Z would leave it so
    assert ("a: copy" in last, "3 of 4" in last, "b: copy" in last) == (True, True, False)


def test_a_shortage_of_memory_is_not_told_by_the_thread_that_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken: list[object] = []
    monkeypatch.setattr(threading, "excepthook", broken.append)
    screen = Screen(verbose=False, quiet=False, as_json=False)
    tried = threading.Event()

    def fail(*_: object) -> None:
        tried.set()
        raise MemoryError

    monkeypatch.setattr(screen, "advance", fail)
    screen.wait_for("check")
    assert tried.wait(60)
    time.sleep(0.2)  # in which the thread ends
    assert broken == []


def test_a_closed_standard_error_ends_no_thread_that_tells_how_far_a_step_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    screen = Screen(verbose=False, quiet=False, as_json=False)
    screen.say("heard")
    assert stream.getvalue() == "    heard\n"
    stream.close()
    screen.say("lost")


def test_a_terminal_that_is_lost_takes_no_result_with_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = pty.openpty()
    broken: list[object] = []
    monkeypatch.setattr(threading, "excepthook", broken.append)
    monkeypatch.setenv("TERM", "xterm")
    with open(theirs, "w") as terminal:  # noqa: PTH123  # of a number
        monkeypatch.setattr(sys, "stderr", terminal)
        screen = Screen(verbose=False, quiet=False, as_json=True)
        screen.stage("issue")
        screen.follow("a", "copy", 1, 4)
        drawing = screen._steps
        os.close(ours)
        with pytest.raises(OSError, match="Input/output error"):
            os.write(theirs, b"x")
        time.sleep(0.6)  # in which the bars are drawn
        screen.advance("issue", 1, 2)
        screen.leave("a")
        screen.stage("prove")
        screen.result({"is": "there"}, [])
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123  # else it cannot be closed
            os.dup2(nowhere.fileno(), theirs)
    assert isinstance(drawing, live.Bars)
    assert json.loads(capsys.readouterr().out) == {"is": "there"}
    assert broken == []


def test_a_terminal_shows_how_far_how_long_and_how_much_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(live, "MEANINGFUL", 0.0)
    screen = Screen(verbose=False, quiet=False, as_json=False)
    screen.stage("toolchain")
    screen.advance("download go1.15.15.linux-amd64.tar.gz", 0, None)
    screen.advance("download go1.15.15.linux-amd64.tar.gz", 61_000_000, 122_000_000, "bytes")
    deadline = time.monotonic() + 10
    while "61.0 of 122.0 MB, 0s, about 1s left" not in terminal.getvalue():
        assert time.monotonic() < deadline, terminal.getvalue()
        time.sleep(0.01)
    screen.close()
    terminal.truncate(0)
    time.sleep(0.3)
    assert terminal.getvalue().strip("\0") == ""  # nothing is drawn any more


def test_a_command_that_shows_nothing_else_is_shown_after_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(console, "PATIENCE", 0.05)
    quick, slow = (Screen(verbose=False, quiet=False, as_json=False) for _ in range(2))
    quick.wait_for("config-file")
    quick.result({}, [])
    slow.wait_for("check")
    deadline = time.monotonic() + 10
    while "check" not in terminal.getvalue():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    slow.close()
    assert "config-file" not in terminal.getvalue()


@pytest.mark.parametrize("environment", [{"FORCE_COLOR": "1"}, {"TERM": "dumb"}])
def test_what_is_no_terminal_gets_a_line_a_stage(
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    screen = Screen(verbose=False, quiet=False, as_json=False)
    screen.stage("build amd64")
    for done in range(1000):
        screen.advance("compile amd64", done, 1000)
    screen.stage("prove amd64")
    screen.close()
    lines = [line for line in capsys.readouterr().err.splitlines() if "==>" not in line]
    assert lines == []


def test_a_pipe_that_got_nothing_for_a_minute_gets_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(live, "BEAT", 0.2)
    monkeypatch.setattr(live, "MEANINGFUL", 0.0)
    screen = Screen(verbose=False, quiet=False, as_json=False)
    screen.stage("build amd64")
    screen.advance("compile amd64", 100, 200)
    time.sleep(0.7)
    screen.close()
    printed = capsys.readouterr().err
    time.sleep(0.5)
    title, *beats = printed.splitlines()
    assert title == "==> build amd64"
    assert 1 <= len(beats) <= 3
    assert set(beats) == {"    compile amd64: 100 of 200, 0s, about 1s left"}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("done", "total", "seconds", "figures"),
    [
        (0, None, 0.5, "0s"),
        (7, None, 61, "7, 1m 1s"),
        (0, 200, 100, "0 of 200, 1m 40s"),
        (3, 200, 100, "3 of 200, 1m 40s"),  # too early for an estimate
        (50, 200, 2, "50 of 200, 2s"),
        (50, 200, 8, "50 of 200, 8s, about 20s left"),
        (50, 200, 3700, "50 of 200, 1h 1m, about 3h 5m left"),
        (190, 200, 100, "190 of 200, 1m 40s, about 5s left"),
        (50, 200, 19, "50 of 200, 19s, about 1m left"),
        (200, 200, 100, "200 of 200, 1m 40s"),
        (300, 200, 100, "300 of 200, 1m 40s"),
    ],
)
def test_an_estimate_is_told_when_it_means_something(
    done: int, total: int | None, seconds: float, figures: str
) -> None:
    step = live.Step("x", done, total, began=time.monotonic() - seconds)
    assert step.figures() == figures


def test_the_wait_for_the_first_byte_is_not_in_the_estimate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    step = live.Step("download", began=clock[0])
    clock[0] += 100
    step.move(0, None, "bytes")
    clock[0] += 10
    step.move(50_000_000, 100_000_000, "bytes")
    assert step.figures() == "50.0 of 100.0 MB, 1m 50s, about 10s left"
    assert step.figures(is_short=True) == "50.0 of 100.0 MB, 1m 50s, ~10s"


def test_what_does_not_move_any_more_has_no_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    step = live.Step("compile amd64", began=clock[0])
    clock[0] += 90
    step.move(180, 200, "")
    assert step.figures() == "180 of 200, 1m 30s, about 10s left"
    clock[0] += 60
    step.move(180, 200, "")
    assert step.figures() == "180 of 200, 2m 30s"
    clock[0] += 1
    step.move(190, 200, "")
    assert step.figures() == "190 of 200, 2m 31s, about 7s left"


def test_a_narrow_terminal_shows_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(live, "MEANINGFUL", 0.0)
    screen = Screen(verbose=False, quiet=False, as_json=False)
    screen.advance("download go1.15.15.linux-amd64.tar.gz", 0, None)
    screen.advance("download go1.15.15.linux-amd64.tar.gz", 61_000_000, 122_000_000, "bytes")
    deadline = time.monotonic() + 10
    while "    download … 61.0 of 122.0 MB, 0s, ~1s" not in terminal.getvalue():
        assert time.monotonic() < deadline, terminal.getvalue()
        time.sleep(0.01)
    screen.close()


def test_what_begins_again_is_timed_again() -> None:
    step = live.Step("download", began=time.monotonic() - 100)
    step.move(50, 100, "bytes")
    assert "1m 40s" in step.figures()
    step.move(0, None, "bytes")
    assert step.figures() == "0.0 MB, 0s"


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
