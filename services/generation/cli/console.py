"""How the commands speak: tables for people, lines for pipes, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TextIO

import typer

WRAPPING = frozenset({"prompt", "description", "file", "available", "licence of outputs"})


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person sees the stream; one that was closed before the start is None."""
    return stream is not None and stream.isatty()


def note(text: str) -> None:
    """Say something to the person; never part of the answer, and lost where nobody listens."""
    with suppress(OSError):
        typer.echo(text, err=True)


def answer(text: str) -> None:
    """Print a line of the answer."""
    typer.echo(text)


def answer_json(value: Any) -> None:
    """Print the answer for a program."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False))


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
        table.add_column(heading, no_wrap=heading not in WRAPPING, overflow="fold")
    for row in rows:
        # Text, not str: a prompt may contain what rich would read as markup.
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)
