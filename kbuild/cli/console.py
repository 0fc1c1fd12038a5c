"""Terminal output: results on standard output, everything else on standard error."""

import contextlib
import io
import json
import os
import re
import sys
import threading
from collections.abc import Iterable, Mapping
from typing import Any, TextIO, cast

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kbuild.base.addresses import has_mark, shown
from kbuild.base.errors import KbuildError, NotWritable
from kbuild.base.files import reason_of
from kbuild.base.printable import printable
from kbuild.base.progress import Unit
from kbuild.cli.live import Bars, Beats

_LONG = 1000  # items of a list in JSON
_WIDE = 1000  # characters of a line in a pipe, which has no width: a long path is not cut
_DRAWING = 160  # columns of a drawing in a pipe
PATIENCE = 1.0  # seconds
_STAGE = "stage"  # the key of the step that the stage is at


class Screen:
    """Shows progress as bars on a terminal and as few lines elsewhere; a kbuild Progress.

    File names, compiler output and values of untrusted documents pass through this class, so it
    escapes control characters. In JSON output, json.dumps does that.
    """

    def __init__(self, *, verbose: bool, quiet: bool, as_json: bool) -> None:
        self._out = _console(sys.stdout)
        self._err = _console(sys.stderr, may_be_lost=True)
        self._verbose, self._quiet, self._json = verbose, quiet, as_json
        # Not rich's is_terminal: CI sets FORCE_COLOR, and its logs are no terminal.
        self._err_is_live = self._err.file.isatty() and not self._err.is_dumb_terminal
        self._steps: Bars | Beats | None = None
        self._one_at_a_time = threading.RLock()
        self._patience: threading.Timer | None = None
        self._doing: dict[str, str] = {}
        self._has_result = False

    @property
    def width(self) -> int:
        """Return how many characters of a line of results are shown."""
        return self._out.width

    @property
    def drawing_width(self) -> int:
        """Return how many columns a drawing takes: those of the terminal, or of COLUMNS."""
        if self._out.file.isatty():
            return self._out.width
        columns = os.environ.get("COLUMNS", "")
        is_number = re.fullmatch(r"[1-9]\d{0,3}", columns, re.ASCII) is not None
        return min(int(columns), _WIDE) if is_number else _DRAWING

    def can_show(self, characters: str) -> bool:
        """Tell whether the encoding of standard output has these characters, and the user too.

        Python takes UTF-8 in the locale C, whose users ask for ASCII.
        """
        if not characters.isascii() and os.environ.get("LC_ALL") in ("C", "POSIX"):
            return False
        try:
            characters.encode(self._out.encoding)
        except UnicodeEncodeError:
            return False
        return True

    def wait_for(self, command: str) -> None:
        """Show that a command runs, if it shows nothing else for a second."""

        def show() -> None:
            # Of a shortage, the thread of the command tells.
            with contextlib.suppress(MemoryError, RuntimeError), self._one_at_a_time:
                if self._patience is not None:  # else it was cancelled while it began
                    self.advance(command, 0, None)

        self._patience = threading.Timer(PATIENCE, show)
        self._patience.daemon = True
        self._patience.start()

    def stage(self, title: str) -> None:
        """Begin a stage."""
        self.close()
        if not self._quiet:
            self._print_err(Text(f"==> {visible(title)}", "bold"))
            self._show(_STAGE, title, 0, None, "")

    def say(self, text: str) -> None:
        """Show one message."""
        if not self._quiet:
            self._print_err(Text(f"    {visible(text)}"), soft_wrap=True)

    def detail(self, text: str) -> None:
        """Show a line with --verbose."""
        if self._verbose:
            self._print_err(Text.assemble("    ", (visible(text), "dim")), soft_wrap=True)

    def advance(self, what: str, done: int, total: int | None, unit: Unit = "") -> None:
        """Show how far a step is; it takes the place of the step before it."""
        self._show(_STAGE, what, done, total, unit)

    def follow(self, who: str, what: str, done: int, total: int | None, unit: Unit = "") -> None:
        """Show what one of several is doing: each has a bar of its own.

        Without a terminal, each has a line for whatever it begins.
        """
        if not self._err_is_live and not self._quiet and self._doing.get(who) != what:
            self.say(f"{who}: {what}")
        self._doing[who] = what
        self._show(f"{_STAGE} {who}", f"{who}: {what}", done, total, unit)

    def leave(self, who: str) -> None:
        """Remove the bar of one that was followed."""
        self._doing.pop(who, None)
        with self._one_at_a_time:
            if self._steps is not None:
                self._steps.leave(f"{_STAGE} {who}")

    def close(self) -> None:
        """Remove all bars from the terminal."""
        with self._one_at_a_time:
            self._lose_patience()
            if self._steps is not None:
                self._steps.stop()
            self._steps = None
            self._doing.clear()

    def result(self, document: Mapping[str, object], lines: Iterable[str | Text | Table]) -> None:
        """Print the result: one JSON document with --json, otherwise the lines."""
        self.close()
        if sys.stdout is None:  # it was closed when kbuild started
            raise BrokenPipeError
        self._has_result = True
        try:
            if self._json:
                self._out.file.write(_as_json(document))
            else:
                for line in lines:
                    match line:
                        case str():
                            self._out.print(Text(visible(line)), soft_wrap=True)
                        case Text():
                            self._out.print(line, soft_wrap=True)
                        case _:
                            self._print_table(line)
            self._out.file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise NotWritable(path="standard output", reason=reason_of(error)) from error

    def error(self, error: KbuildError) -> None:
        """Print an error: what happened, what to do, and the last output of another program."""
        self.close()
        self._say_labelled(f"error[{error.kind}]:", "red", error.happened)
        if error.hint:
            self._say_labelled("hint:", "yellow", error.hint)
        for line in error.details.splitlines():
            self._print_err(Text(f"  | {visible(line)}"), soft_wrap=True)
        self.error_document(error.kind, error.exit_code, error.happened, error.hint, error.details)

    def error_document(
        self, kind: str, exit_code: int, what: str, todo: str = "see --help", details: str = ""
    ) -> None:
        """Print an error as the JSON document, with --json, unless a result is there already."""
        if self._json and not self._has_result:
            error = {
                "kind": kind,
                "exit_code": exit_code,
                "what": what,
                "todo": todo,
                "details": details,
            }
            with contextlib.suppress(OSError):  # standard error has it already
                self._out.file.write(_as_json({"error": error}))
                self._out.file.flush()

    def _print_table(self, table: Table) -> None:
        """Print a table, without the spaces that rich adds after the last column."""
        with self._out.capture() as captured:
            self._out.print(table)
        for line in captured.get().splitlines():
            self._out.file.write(f"{line.rstrip()}\n")

    def _print_err(self, text: Text, *, soft_wrap: bool = False) -> None:
        self._err.print(text, soft_wrap=soft_wrap)
        if isinstance(self._steps, Beats):
            self._steps.heard()

    def _say_labelled(self, label: str, style: str, text: str) -> None:
        self._print_err(Text.assemble((label, style), f" {visible(text)}"), soft_wrap=True)

    def _show(self, key: str, what: str, done: int, total: int | None, unit: Unit) -> None:
        if self._quiet:
            return
        with self._one_at_a_time:
            self._lose_patience()
            if self._steps is None:
                self._steps = Bars(self._err) if self._err_is_live else Beats(self.say)
            self._steps.show(key, visible(what), done, total, unit)

    def _lose_patience(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None


class PlainTable(Table):
    """A table without lines; its cells are text, not markup."""

    def add_row(self, *cells: object) -> None:  # type: ignore[override]  # only text is allowed
        """Add a row of text."""
        super().add_row(*(Text(visible(str(cell))) for cell in cells))


def plain_table(*headings: str) -> PlainTable:
    """Return an empty table with these headings."""
    table = PlainTable(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    return table


def visible(text: str) -> str:
    """Return text as one line that is safe to print on a terminal, without credentials.

    Unprintable characters are escaped as in Python: control characters, which begin escape
    sequences, marks that reorder text, and lone surrogates. Tabs become spaces.
    """
    return printable(shown(text).expandtabs(8))


def _as_json(document: Mapping[str, object]) -> str:
    """Return a document as JSON: indented, unless it is so long that only programs read it.

    Indentation takes the encoder three times as long.
    """
    is_long = any(isinstance(value, list) and len(value) > _LONG for value in document.values())
    indent = None if is_long else 2
    text = json.dumps(document, indent=indent)
    if has_mark(text):  # else there is no credential in any of its values
        text = json.dumps(_without_secrets(document), indent=indent)
    return f"{text}\n"


def _without_secrets(value: object) -> Any:  # noqa: ANN401  # returns the type of its argument
    match value:
        case str():
            return shown(value)
        case dict():
            return {name: _without_secrets(item) for name, item in value.items()}
        case list() | tuple():
            return [_without_secrets(item) for item in value]
        case _:
            return value


class _MayBeLost:
    """A text stream that drops what cannot be written: a lost terminal must not end a run.

    Here, and not around the calls of rich: it also draws in a thread, which would show a traceback.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # of any attribute of the stream
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text, if that is possible."""
        with contextlib.suppress(OSError, ValueError):  # ValueError: it was closed
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream, if that is possible."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


class _Console(Console):
    """A console that raises an error for a broken pipe, and that never hides the cursor."""

    def on_broken_pipe(self) -> None:
        """Raise BrokenPipeError."""
        raise BrokenPipeError

    def show_cursor(self, show: bool = True) -> bool:  # noqa: ARG002  # rich's own
        """Leave the cursor alone: after Ctrl-Z, the shell would have none."""
        return False


def _console(stream: TextIO | None, *, may_be_lost: bool = False) -> Console:
    # A stream that was closed at the start is None; its output is dropped.
    file = stream or io.StringIO()
    if isinstance(file, io.TextIOWrapper):
        file.reconfigure(errors="backslashreplace")  # the locale may lack a character
    if may_be_lost:
        file = cast("TextIO", _MayBeLost(file))
    # A pipe has no width, and rich would wrap tables at 80 columns.
    return _Console(file=file, highlight=False, width=None if file.isatty() else _WIDE)
