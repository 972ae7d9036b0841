"""Output of the commands: tables on a terminal, lines in a pipe, JSON with `--json`."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO

import typer

from services.errors import InvalidRequestError, OutputError

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

READER_GONE_EXIT_CODE = 141
"""As if SIGPIPE had ended the process: the reader, such as `head`, has closed the pipe."""

PROSE_COLUMNS = frozenset({"prompt", "description", "file", "available"})
"""Headings of columns that wrap."""

_UNDECODABLE = re.compile("[\ud800-\udfff]")

_CONTROLS = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Control characters but for the tab, and those that end a line or turn its direction round."""

PROSE_WIDTH = 20
"""Characters of a prose column below which a table is hard to read, and becomes a list."""

_GAP = 2
"""Characters between two columns of a table."""


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether the stream is a terminal; None is a stream closed before the start."""
    return stream is not None and stream.isatty()


def note(text: str) -> None:
    """Print to stderr; nothing happens if stderr is closed.

    Further lines are indented, so that a line break in a name does not look like a message of ours.
    """
    with suppress(OSError):
        typer.echo(_make_lines_printable(text).replace("\n", "\n  "), err=True)


def answer(text: str) -> None:
    """Print a line of the answer to stdout; on a terminal without control characters.

    Raises:
        OutputError: stdout cannot be written.
    """
    with stdout_errors():
        shows = is_terminal(sys.stdout)
        typer.echo(make_printable(text) if shows else replace_undecodable(text))


def answer_fields(fields: Mapping[str, str]) -> None:
    """Print named values, each as one line: control characters are escaped in a pipe as well."""
    width = max(map(len, fields), default=0)
    for name, value in fields.items():
        answer(f"{name:<{width}}  {make_printable(value)}")


def answer_lines(text: str) -> None:
    """Print several lines at once; as `answer`."""
    with stdout_errors():
        shows = is_terminal(sys.stdout)
        typer.echo(_make_lines_printable(text) if shows else replace_undecodable(text))


@contextmanager
def stdout_errors() -> Iterator[None]:
    """Exit if stdout's reader is gone; raise an OutputError if stdout cannot be written."""
    try:
        yield
    except BrokenPipeError:
        # Buffered output would fail again at exit, with a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(READER_GONE_EXIT_CODE)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise OutputError(f"stdout cannot be written: {error.strerror}.") from error


def replace_undecodable(name: str) -> str:
    """Replace what is not text; a file name may contain any bytes."""
    return _UNDECODABLE.sub("\ufffd", name)


def make_printable(text: str) -> str:
    """Replace what is not text, and escape what a terminal would act on instead of showing it."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", replace_undecodable(text))


def _make_lines_printable(text: str) -> str:
    return "\n".join(map(make_printable, text.split("\n")))


@contextmanager
def silence_libraries() -> Iterator[None]:
    """Discard what C libraries write to stderr, as libmpg123 does for every damaged file.

    It affects the whole process, so only commands may use it.
    """
    if sys.stderr is None or not hasattr(sys.stderr, "fileno"):
        yield
        return
    try:
        descriptor = sys.stderr.fileno()
    except (OSError, ValueError):
        yield
        return
    kept = os.dup(descriptor)
    ours = sys.stderr
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        with os.fdopen(os.dup(kept), "w", buffering=1, errors="replace") as sys.stderr:
            os.dup2(nowhere, descriptor)
            yield
    finally:
        sys.stderr = ours
        os.dup2(kept, descriptor)
        os.close(kept)
        os.close(nowhere)


def confirm(question: str, *, yes: bool) -> None:
    if yes:
        return
    if not is_terminal(sys.stdin):
        raise InvalidRequestError(f"{question} Not a terminal: pass --yes to confirm.")
    if not typer.confirm(question, err=True):
        raise typer.Exit(1)


def answer_json(value: Any) -> None:
    # What is escaped in a string of JSON is escaped in JSON's own way.
    answer_lines(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False))


def answer_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on a terminal, or tab-separated lines without headings in a pipe.

    On a terminal too narrow for the table each row becomes a list of its cells; nothing is cut.
    """
    if not is_terminal(sys.stdout):
        for row in rows:
            answer("\t".join(_make_cell(cell.replace("\t", " ")) for cell in row))
        return
    from rich.console import Console

    console = Console()
    table = _make_table(headings, rows)
    narrowest = sum(column.min_width or 0 for column in table.columns)
    if narrowest + _GAP * (len(headings) - 1) <= console.width:
        console.print(table)
        return
    for row in rows:
        console.print(_make_list(headings, row))


def _make_cell(text: str) -> str:
    return make_printable(text.replace("\n", " "))


def _make_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, *cells in zip(headings, *rows, strict=True):
        width = max(cell_len(_make_cell(text)) for text in (heading, *cells))
        if heading in PROSE_COLUMNS:
            table.add_column(heading, overflow="fold", min_width=min(width, PROSE_WIDTH))
        else:
            table.add_column(heading, no_wrap=True, min_width=width)
    for row in rows:
        # Text, not str: rich would read markup in a prompt.
        table.add_row(*(Text(_make_cell(cell)) for cell in row))
    return table


def _make_list(headings: Sequence[str], row: Sequence[str]) -> Group:
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    cells = Table.grid(padding=(0, 2, 0, 0))
    cells.add_column(no_wrap=True)
    cells.add_column(overflow="fold")
    for heading, cell in zip(headings[1:], row[1:], strict=True):
        if cell:
            cells.add_row(heading, Text(_make_cell(cell)))
    return Group(Text(_make_cell(row[0]), style="bold"), Padding(cells, (0, 0, 0, 2)))
