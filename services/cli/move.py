"""`dgx-music db move`: copy everything to another database, such as from SQLite to PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.console import answer_json, answer_table, note
from services.cli.options import AsJson
from services.cli.running import progress_bar

if TYPE_CHECKING:
    from services import storage

_SHOWN_DIGITS = 16


def move(
    to: Annotated[
        str, typer.Option("--to", metavar="URL", help="Empty database, such as postgresql://...")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check both databases, but move nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Copy everything to an empty database, and compare the two.

    Stop servers and workers first.
    """
    from services.config import load_settings
    from services.operations.moving import move_database

    settings = load_settings()
    with progress_bar(shown=not as_json) as progress:
        moved = move_database(settings, to, progress=progress, dry_run=dry_run)
    if as_json:
        answer_json(_describe_move(moved))
    else:
        _show_move(moved)


def _describe_move(moved: storage.Move) -> dict[str, object]:
    return {
        "moved": moved.moved,
        "source": moved.source,
        "target": moved.target,
        "database_url": moved.database_url,
        "seconds": round(moved.seconds, 3),
        "tables": [
            {"table": table.name, "rows": table.rows, "sha256": table.sha256}
            for table in moved.tables
        ],
    }


def _show_move(moved: storage.Move) -> None:
    answer_table(
        ("table", "rows", "sha256"),
        [(table.name, str(table.rows), table.sha256[:_SHOWN_DIGITS]) for table in moved.tables],
    )
    if not moved.moved:
        note(f"Would move {moved.rows:,} rows from {moved.source} to {moved.target}.")
        return
    note(
        f"Moved {moved.rows:,} rows from {moved.source} to {moved.target} in "
        f"{moved.seconds:.1f} s, and compared them. The source is unchanged."
    )
    note("Set this for every server and worker, with the password if there is one, and start them:")
    note(f"DATABASE_URL={moved.database_url}")
