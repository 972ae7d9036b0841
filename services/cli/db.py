"""`dgx-music db`: create, upgrade, check, back up, restore, move and clean up the database."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli.console import answer, answer_json, answer_table, confirm, note
from services.cli.keys import why_key_needed
from services.cli.library import open_database_of_settings
from services.cli.move import move
from services.cli.options import App, AsJson
from services.errors import InvalidRequestError, StorageError

app = App(help="Manage the database.")


def _upgrade(*, as_json: bool) -> None:
    from services.database import storage_errors
    from services.jobs.dbos_queue import QueueManager

    open_database_of_settings()
    with storage_errors():
        QueueManager().prepare()
    _show_revision(as_json=as_json)


def _show_revision(*, as_json: bool, **more: str | None) -> None:
    from services import storage
    from services.database import storage_errors

    with storage_errors():
        facts = storage.describe_database()
    note(f"{facts['name']}: revision {facts['revision']}, up to date.")
    if as_json:
        answer_json({"database": facts["name"], "revision": facts["revision"], **more})


@app.command("init")
def initialise(as_json: AsJson = False) -> None:
    """Create the database, or upgrade an old one; its contents stay."""
    _upgrade(as_json=as_json)


@app.command("migrate")
def migrate(as_json: AsJson = False) -> None:
    """Upgrade the database; an SQLite file is backed up first."""
    _upgrade(as_json=as_json)


@app.command("reset")
def reset(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    keys: Annotated[bool, typer.Option("--keys", help="Delete the API keys too.")] = False,
    in_use: Annotated[
        bool,
        typer.Option("--in-use", help="Delete even while workers run; they lose their jobs."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Delete all jobs and prompts from the database; audio files stay.

    API keys and the records of installed models stay too.
    """
    from services.operations.resetting import count_contents, reset_database

    settings = open_database_of_settings()
    found = count_contents(with_keys=keys)
    contents = f"jobs: {found.jobs}, prompts: {found.prompts}"
    if keys:
        reason = why_key_needed(settings)
        if reason is not None:
            raise InvalidRequestError(f"--keys: {reason}")
        contents += f", API keys: {found.keys}"
    confirm(f"Empty the database ({contents})?", yes=yes)
    reset_database(settings, with_keys=keys, even_in_use=in_use)
    note(f"Deleted {contents}. " + ("" if keys else "API keys stay, and ") + "audio files stay.")
    if as_json:
        deleted = {"jobs": found.jobs, "prompts": found.prompts, "keys": found.keys if keys else 0}
        answer_json({"deleted": deleted})


@app.command("stats")
def stats(as_json: AsJson = False) -> None:
    """Count the jobs and prompts in the database."""
    from services import storage
    from services.database import storage_errors

    open_database_of_settings()
    with storage_errors(), storage.get_session(read_only=True) as session:
        counts = storage.get_database_stats(session)
    if as_json:
        answer_json(counts)
        return
    width = max(len(name) for name in counts)
    for name, count in counts.items():
        answer(f"{name:<{width}}  {count}")


@app.command("check")
def check(as_json: AsJson = False) -> None:
    """Look for damage, broken references and a stale search index.

    The exit code is 6 if there is a problem.
    """
    from services import storage
    from services.database import storage_errors

    open_database_of_settings()
    with storage_errors():
        result = storage.check_database()
    if as_json:
        answer_json({"revision": result.revision, "problems": list(result.problems)})
    elif result.ok:
        answer(f"ok, revision {result.revision}")
    else:
        for problem in result.problems:
            answer(problem)
    if not result.ok:
        note(
            f"error: The database has {len(result.problems)} problems. "
            "Restore a backup: dgx-music db restore FILE"
        )
        raise typer.Exit(StorageError.exit_code)


@app.command("backup")
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write the copy to.")],
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Replace FILE if it exists.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a checked copy of the database, even while it is in use."""
    from services import storage
    from services.database import storage_errors

    open_database_of_settings()
    with storage_errors():
        written = storage.backup_database(file, force=force)
    if as_json:
        answer_json({"file": str(written)})
    else:
        answer(str(written))


@app.command("restore")
def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file from `db backup`.")],
    force: Annotated[
        bool,
        typer.Option("--force", "-f", help="Replace a database that holds jobs or is damaged."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Restore the database from a backup; the old one is kept beside it."""
    from services import storage
    from services.config import load_settings
    from services.database import storage_errors

    # The database is not opened first: it may be too damaged.
    with storage_errors():
        kept = storage.restore_database(
            file, force=force, database_url=load_settings().database_url
        )
    if kept is not None:
        note(f"The old database is kept as {kept}.")
    _show_revision(as_json=as_json, kept=None if kept is None else str(kept))


app.command("move")(move)


@app.command("cleanup")
def cleanup(
    older_than: Annotated[
        float,
        typer.Option(
            "--older-than", min=0.0, max=36_500.0, metavar="DAYS", help="Days since a job finished."
        ),
    ] = 30.0,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Delete the jobs instead of listing them.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List old finished jobs; with --yes, delete them and their files."""
    from services import storage
    from services.database import storage_errors
    from services.library.store import open_store

    settings = open_database_of_settings()
    with storage_errors(), storage.get_session(read_only=not yes) as session:
        found = storage.cleanup_generations(session, older_than_days=older_than, dry_run=not yes)
    if found.deleted:
        # Rows are deleted first: `files check` can find a file without a row.
        store = open_store(settings)
        for relative in found.file_paths:
            # A backup from another machine may name files outside the store; they are not ours.
            with suppress(ValueError):
                store.delete(relative)
                store.prune_folders(relative)
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
    done = "Deleted" if found.deleted else "With --yes, this deletes"
    note(f"{done} {len(found.expired)} jobs, {found.total_bytes / 1e6:.1f} MB.")
