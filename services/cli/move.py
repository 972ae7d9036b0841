"""`dgx-music db move`: from one database to another, as from SQLite to PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.console import answer_json, answer_table, note
from services.cli.running import progress_bar

if TYPE_CHECKING:
    from services import storage

_SHOWN_DIGITS = 16


def move(
    to: Annotated[
        str, typer.Option("--to", metavar="URL", help="An empty database: postgresql://...")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check both and say what would be moved.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Answer with JSON.")] = False,
) -> None:
    """Copy everything to another, empty database and compare; stop servers and workers before."""
    from services.config import load_settings
    from services.operations.moving import move_database

    settings = load_settings()
    with progress_bar(shown=not as_json) as progress:
        moved = move_database(settings, to, progress=progress, dry_run=dry_run)
    if as_json:
        answer_json(_for_programs(moved))
    else:
        _show(moved)


def _for_programs(moved: storage.Move) -> dict[str, object]:
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


def _show(moved: storage.Move) -> None:
    answer_table(
        ("table", "rows", "sha256"),
        [(table.name, str(table.rows), table.sha256[:_SHOWN_DIGITS]) for table in moved.tables],
    )
    if not moved.moved:
        note(f"Would move {moved.rows:,} rows from {moved.source} to {moved.target}.")
        return
    note(
        f"Moved {moved.rows:,} rows from {moved.source} to {moved.target} in "
        f"{moved.seconds:.1f} s; both were read again and hold the same. The source is as it was."
    )
    note(
        "Now set this for every server and worker, with the password if it has one, and start "
        f"them:\nDATABASE_URL={moved.database_url}"
    )
