"""`dgx-music db`: the database's life: make, migrate, check, back up, restore, move, thin out."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.console import answer, answer_json, answer_table, is_terminal, note
from services.cli.move import move
from services.errors import InvalidRequestError, StorageError

if TYPE_CHECKING:
    from services.config import Settings

app = typer.Typer(no_args_is_help=True, help="Look after the database.")

AsJson = Annotated[bool, typer.Option("--json", help="Answer with JSON.")]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace what is there.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def _opened() -> Settings:
    from services.config import load_settings
    from services.database import open_database

    settings = load_settings()
    open_database(settings)
    return settings


def _prepare_queue() -> None:
    from services.database import storage_errors
    from services.jobs.dbos_queue import QueueManager

    with storage_errors():
        QueueManager().prepare()


def _show_facts() -> None:
    from services import storage
    from services.database import storage_errors

    with storage_errors():
        facts = storage.describe_database()
    note(f"{facts['name']}: revision {facts['revision']}, up to date.")


def _confirm(question: str, *, yes: bool) -> None:
    if yes:
        return
    if not is_terminal(sys.stdin):
        raise InvalidRequestError(f"{question} Say --yes; nobody is here to ask.")
    if not typer.confirm(question, err=True):
        raise typer.Exit(1)


@app.command("init")
def initialise() -> None:
    """Make the database, or bring an old one up to date; what is in it stays."""
    _opened()
    _prepare_queue()
    _show_facts()


@app.command("migrate")
def migrate() -> None:
    """Bring the database to the newest revision; an SQLite one is backed up before."""
    _opened()
    _prepare_queue()
    _show_facts()


@app.command("reset")
def reset(yes: Yes = False) -> None:
    """Delete every generation and prompt from the database; audio files stay."""
    from services import storage
    from services.database import storage_errors

    _opened()
    with storage_errors():
        with storage.get_session(read_only=True) as session:
            held = storage.count_generations(session)
        _confirm(f"Delete all {held} generations from the database?", yes=yes)
        storage.reset_database()
    note(f"Deleted {held} generations; their audio files are where they were.")


@app.command("stats")
def stats(as_json: AsJson = False) -> None:
    """Count what is in the database."""
    from services import storage
    from services.database import storage_errors

    _opened()
    with storage_errors(), storage.get_session(read_only=True) as session:
        counts = storage.get_database_stats(session)
    if as_json:
        answer_json(counts)
        return
    width = max(len(name) for name in counts)
    for name, count in counts.items():
        answer(f"{name:<{width}}  {count}")


@app.command("check")
def check() -> None:
    """Look for damage, broken references and a stale search index; exit code 6 if any."""
    from services import storage
    from services.database import storage_errors

    _opened()
    with storage_errors():
        result = storage.check_database()
    for problem in result.problems:
        answer(problem)
    if not result.ok:
        raise StorageError(
            f"The database has {len(result.problems)} problems. "
            "Restore a backup with 'dgx-music db restore FILE'."
        )
    answer(f"ok, revision {result.revision}")


@app.command("backup")
def backup(
    file: Annotated[Path, typer.Argument(help="Where to write the copy.")], force: Force = False
) -> None:
    """Write a whole, checked copy of the database while others may be using it."""
    from services import storage
    from services.database import storage_errors

    _opened()
    with storage_errors():
        answer(str(storage.backup_database(file, force=force)))


@app.command("restore")
def restore(
    file: Annotated[Path, typer.Argument(help="What `db backup` wrote.")], force: Force = False
) -> None:
    """Put a backup in the place of the database; what was there is kept beside it."""
    from services import storage
    from services.config import load_settings
    from services.database import storage_errors

    # Not opened first: the database to be replaced may be too damaged for that.
    with storage_errors():
        kept = storage.restore_database(
            file, force=force, database_url=load_settings().database_url
        )
    if kept is not None:
        note(f"What was there is kept as {kept}.")
    _show_facts()


app.command("move")(move)


@app.command("cleanup")
def cleanup(
    older_than: Annotated[
        float,
        typer.Option("--older-than", min=0.0, max=36_500.0, help="Days since it was finished."),
    ] = 30.0,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Really delete; without it, only show.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the finished generations of long ago and, with --yes, delete them with their files."""
    from services import storage
    from services.database import storage_errors
    from services.library.store import open_store

    settings = _opened()
    with storage_errors(), storage.get_session(read_only=not yes) as session:
        found = storage.cleanup_generations(session, older_than_days=older_than, dry_run=not yes)
    if found.deleted:
        # Rows first: a file without a row can be found and removed, a row without a file misleads.
        store = open_store(settings)
        for relative in found.file_paths:
            # The rows of another system's backup may name files elsewhere: they are not ours.
            with suppress(ValueError):
                store.delete(relative)
    _show_cleanup(found, as_json=as_json)


def _show_cleanup(found: Any, *, as_json: bool) -> None:
    if as_json:
        rows = [
            {"job_id": row.id, "file": row.file_path, "bytes": row.file_size_bytes}
            for row in found.expired
        ]
        answer_json({"deleted": found.deleted, "generations": rows})
        return
    answer_table(
        ("finished", "MB", "file"),
        [
            (
                f"{row.finished_at:%Y-%m-%d}",
                f"{row.file_size_bytes / 1e6:.1f}",
                row.file_path,
            )
            for row in found.expired
        ],
    )
    done = "Deleted" if found.deleted else "Would delete (--yes does)"
    note(f"{done} {len(found.expired)} generations, {found.total_bytes / 1e6:.1f} MB.")
