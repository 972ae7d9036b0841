"""`dgx-music history`, `status` and `models list`."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.console import answer_fields, answer_json, answer_table, is_terminal, note
from services.cli.options import App, AsJson, Model

if TYPE_CHECKING:
    from services.config import Settings
    from services.jobs.models import Job
    from services.jobs.service import MusicService

models_app = App(help="List, install and test the models that make the music.")


def open_database_of_settings() -> Settings:
    from services.config import load_settings
    from services.database import open_database

    settings = load_settings()
    open_database(settings)
    return settings


def open_service() -> MusicService:
    from services.config import load_settings
    from services.generation.registry import default_registry
    from services.jobs.service import MusicService

    settings = load_settings()
    return MusicService(settings, default_registry(settings))


def history(
    limit: Annotated[
        int,
        typer.Option("--limit", "-n", min=1, max=1000, metavar="N", help="Jobs to list."),
    ] = 20,
    search: Annotated[
        str | None, typer.Option("--search", "-s", metavar="WORDS", help="Words of the prompt.")
    ] = None,
    status: Annotated[
        str | None,
        typer.Option(metavar="STATUS", help="pending, processing, completed, failed or cancelled."),
    ] = None,
    model: Model = None,
    cursor: Annotated[
        str | None,
        typer.Option(metavar="CURSOR", help="Continue an earlier list: its next_cursor in JSON."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first.

    In a pipe the lines are tab-separated, with full ids and without headings.
    """
    page = open_service().history(
        limit=limit, search=search, status=status, model=model, cursor=cursor
    )
    if as_json:
        answer_json(
            {
                "generations": [job.model_dump(mode="json") for job in page.jobs],
                "next_cursor": page.next_cursor,
            }
        )
        return
    if not page.jobs:
        note("No jobs match." if search or status or model else "There are no jobs yet.")
        return
    full = not is_terminal(sys.stdout)
    headings = ("id", "when", "status", "s", "bpm", "key", "model", "prompt")
    answer_table(headings, [_format_row(job, full=full) for job in page.jobs])
    if page.next_cursor:
        note("There are more jobs: raise --limit, or use next_cursor of --json.")


def _format_row(job: Job, *, full: bool) -> tuple[str, ...]:
    about = job.metadata
    return (
        job.job_id if full else job.job_id[:8],
        job.created_at.isoformat(timespec="seconds") if full else _format_age(job.created_at),
        job.status if job.file or job.status != "completed" else "completed, file missing",
        f"{job.duration_seconds:g}",
        f"{about['bpm']:g}" if "bpm" in about else "",
        str(about.get("key", "")),
        job.model,
        job.prompt,
    )


def _format_age(moment: datetime) -> str:
    seconds = max(0, int((datetime.now(UTC) - moment).total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return "just now"


def status(
    job: Annotated[str, typer.Argument(metavar="JOB", help="The job's id, or the start of it.")],
    as_json: AsJson = False,
) -> None:
    """Show everything about one job."""
    from services.cli.generate import list_paths
    from services.jobs.attachments import list_attached

    service = open_service()
    found = service.get(job)
    analysis = service.find_analysis(found.job_id)
    files = list_paths([(one, one.file) for one in list_attached(service, found.job_id)])
    if as_json:
        answer_json(found.model_dump(mode="json") | files | {"analysis": analysis})
        return
    shown = found.model_dump(mode="json", exclude={"metadata"}) | found.metadata
    shown |= {name: value for name, value in files.items() if value}
    shown["analysis"] = analysis
    answer_fields(
        {name: _format_value(value) for name, value in shown.items() if value is not None}
    )


def _format_value(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_format_value(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return ", ".join(_format_value(inner) for inner in value)
    return str(value)


@models_app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List the models, and why one cannot run here."""
    from services.config import load_settings
    from services.generation.registry import default_registry

    registry = default_registry(load_settings())
    entries = [(entry.facts, entry.why_unavailable()) for entry in registry]
    if as_json:
        answer_json(
            [
                {
                    "name": facts.name,
                    "version": facts.version,
                    "available": reason is None,
                    "why_unavailable": reason,
                    "output_licence": facts.output_licence,
                    "sample_rate": facts.sample_rate,
                    "channels": facts.channels,
                    "longest_seconds": facts.longest_seconds,
                    "description": facts.description,
                }
                for facts, reason in entries
            ]
        )
        return
    answer_table(
        ("name", "available", "licence of outputs", "longest", "format", "description"),
        [
            (
                facts.name,
                "yes" if reason is None else f"no: {reason}",
                facts.output_licence,
                f"{facts.longest_seconds:g} s",
                f"{facts.sample_rate / 1000:g} kHz, {facts.channels} ch",
                facts.description,
            )
            for facts, reason in entries
        ],
    )
