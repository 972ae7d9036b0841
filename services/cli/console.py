"""How the commands speak: tables for people, lines for pipes, JSON for programs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TextIO

import typer

from services.errors import OutputError

READER_GONE_EXIT_CODE = 141
"""As of a program that SIGPIPE ended: `| head` has seen enough."""

WRAPPING = frozenset({"prompt", "description", "file", "available", "licence of outputs"})


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person sees the stream; one that was closed before the start is None."""
    return stream is not None and stream.isatty()


def note(text: str) -> None:
    """Say something to the person; never part of the answer, and lost where nobody listens."""
    with suppress(OSError):
        typer.echo(text, err=True)


def answer(text: str) -> None:
    """Print a line of the answer.

    Raises:
        OutputError: stdout cannot take it.
    """
    with stdout_errors():
        typer.echo(printable(text))


@contextmanager
def stdout_errors() -> Iterator[None]:
    """Leave where the reader of stdout is gone, and say why where it cannot be written."""
    try:
        yield
    except BrokenPipeError:
        # What is still held back would fail again, and loudly, at the end of the process.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(READER_GONE_EXIT_CODE)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise OutputError(f"stdout cannot be written: {error.strerror}.") from error


def printable(name: str) -> str:
    """A file name may hold bytes that are no text."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep what C libraries write to the error stream by themselves from the person.

    libmpg123 does for every damaged file. It concerns the whole process, so it is for commands.
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


def answer_json(value: Any) -> None:
    """Print the answer for a program."""
    answer(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False))


def answer_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows: a table on a terminal, tab-separated lines without headings in a pipe."""
    if not is_terminal(sys.stdout):
        for row in rows:
            answer("\t".join(cell.replace("\t", " ").replace("\n", " ") for cell in row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        # Facts keep their width; what is prose takes the rest, on as many lines as it needs.
        wraps = heading in WRAPPING
        table.add_column(
            heading, no_wrap=not wraps, overflow="fold", min_width=10 if wraps else None
        )
    for row in rows:
        # Text, not str: a prompt may contain what rich would read as markup.
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)
