"""`dgx-music files`: count, clean up and check the stored audio files."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.console import answer_fields, answer_json, answer_table, note
from services.cli.library import open_database_of_settings
from services.cli.options import App, AsJson
from services.errors import InvalidRequestError

if TYPE_CHECKING:
    from services.audio.inventory import FileCleanup
    from services.library.reconcile import FileCheck, Orphan

app = App(help="Manage the audio files.")

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


@app.command("stats")
def stats(as_json: AsJson = False) -> None:
    """Show how many audio files are stored, and their size."""
    from services.audio.files import AudioFileManager
    from services.audio.inventory import summarise
    from services.config import load_settings
    from services.library.store import open_store

    settings = load_settings()
    store = open_store(settings)
    is_folder = settings.file_store is None
    folder = AudioFileManager(settings.output_dir, create=False)
    free = folder.get_info()["free_bytes"] if is_folder else None
    facts = {"folder": store.location, "free_bytes": free}
    finished = (file for file in store.list() if not file.is_temporary)
    summary = summarise(finished, lambda file: store.display_path(file.relative))
    if as_json:
        answer_json(facts | summary)
        return
    kinds = sorted(summary["file_types"].items())
    shown = {
        "folder": facts["folder"],
        "files": summary["total_files"],
        "size": format_size(summary["total_size_bytes"]),
        "kinds": ", ".join(f"{number} {kind or 'without a suffix'}" for kind, number in kinds),
        "oldest": summary["oldest_file"],
        "newest": summary["newest_file"],
        "free": None if free is None else format_size(free),
    }
    answer_fields({name: str(value) for name, value in shown.items() if value not in {None, ""}})


@app.command("cleanup")
def cleanup(
    older_than: Annotated[
        float | None,
        typer.Option(
            "--older-than", min=0.0, max=36_500.0, metavar="DAYS", help="Delete older files."
        ),
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option(
            "--max-size",
            metavar="SIZE",
            help="Delete the oldest files until the rest fits, such as 10GB or 500MiB.",
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes/--dry-run", "-y", help="Delete the files, or only list them.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the oldest audio files; with --yes, delete them.

    Their jobs stay in the history. To delete jobs and files: dgx-music db cleanup
    """
    from services.database import storage_errors
    from services.library.cleanup import clean_up_files
    from services.library.store import open_store

    if older_than is None and max_size is None:
        raise InvalidRequestError(
            "Choose the files to delete: --older-than DAYS, --max-size SIZE, or both."
        )
    max_bytes = None if max_size is None else parse_size(max_size)
    settings = open_database_of_settings()
    with storage_errors():
        found = clean_up_files(
            open_store(settings), older_than_days=older_than, max_bytes=max_bytes, dry_run=not yes
        )
    _show_cleanup(found, as_json=as_json)


@app.command("check")
def check(
    repair: Annotated[
        bool, typer.Option("--repair", help="Repair what can be repaired; no music is deleted.")
    ] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every file and compare its SHA-256.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compare the files with the database.

    The exit code is 1 if a problem remains. --repair moves files that belong to no job to
    `lost-and-found`, deletes unfinished files, and notes in each job whether its file is
    missing or back.
    """
    from services.database import storage_errors
    from services.jobs.pipeline import fail_abandoned_jobs
    from services.library.reconcile import find_orphans, repair_orphans
    from services.library.store import open_store

    store = open_store(open_database_of_settings())
    with storage_errors():
        fail_abandoned_jobs()
        found = find_orphans(store, deep=deep)
        done: list[tuple[Orphan, str | None]] = [(orphan, None) for orphan in found.orphans]
        if repair:
            done = repair_orphans(store, found)
    _show_check(found, done, as_json=as_json)
    if any(action is None for _, action in done):
        raise typer.Exit(1)


def parse_size(text: str) -> int:
    """Return the bytes of a size such as `10GB`, `1.5 GiB`, `500m` or a plain number.

    Raises:
        InvalidRequestError: the text is not a size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidRequestError(f"{text!r} is not a size. Write it as 10GB or 500MiB.")
    number, unit, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** _POWERS[unit.lower()])


def format_size(size: int) -> str:
    """Return a size in megabytes of 10**6 bytes."""
    return f"{size / 1e6:,.1f} MB"


def _show_cleanup(found: FileCleanup, *, as_json: bool) -> None:
    if as_json:
        files = [{"file": file.relative, "bytes": file.size} for file in found.files]
        answer_json(
            {
                "deleted": found.deleted,
                "files": files,
                "kept_files": found.kept_files,
                "kept_bytes": found.kept_bytes,
            }
        )
        return
    rows = [(f"{file.day}", f"{file.size / 1e6:.1f}", file.relative) for file in found.files]
    answer_table(("day", "MB", "file"), rows)
    done = "Deleted" if found.deleted else "With --yes, this deletes"
    note(
        f"{done} {len(found.files)} files, {format_size(found.total_bytes)}. "
        f"{found.kept_files} files, {format_size(found.kept_bytes)}, remain."
    )


def _show_check(found: FileCheck, done: list[tuple[Orphan, str | None]], *, as_json: bool) -> None:
    if as_json:
        answer_json(
            {
                "files": found.files,
                "generations": found.generations,
                "problems": [_describe_problem(orphan, action) for orphan, action in done],
            }
        )
        return
    rows = [(orphan.kind, orphan.path, action or orphan.detail) for orphan, action in done]
    answer_table(("problem", "file", "description"), rows)
    left = sum(action is None for _, action in done)
    counts = f"Files: {found.files}, jobs: {found.generations}."
    outcome = f"Problems repaired: {len(done) - left}, left: {left}." if done else "No problems."
    note(f"{counts} {outcome}")


def _describe_problem(orphan: Orphan, action: str | None) -> dict[str, Any]:
    return {
        "kind": orphan.kind,
        "file": orphan.path,
        "bytes": orphan.size_bytes,
        "job_id": orphan.generation_id,
        "detail": orphan.detail,
        "repaired": action,
    }
