"""`history`, `status` and `models`: what was made, and with what more can be made."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.console import answer, answer_json, answer_table, is_terminal, note

if TYPE_CHECKING:
    from services.jobs.models import Job
    from services.jobs.service import MusicService

AsJson = Annotated[bool, typer.Option("--json", help="Answer with JSON.")]

models_app = typer.Typer(no_args_is_help=True, help="The engines that make the music.")


def open_service() -> MusicService:
    """The service on the settings of this process."""
    from services.config import load_settings
    from services.generation.registry import default_registry
    from services.jobs.service import MusicService

    settings = load_settings()
    return MusicService(settings, default_registry(settings))


def history(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000)] = 20,
    search: Annotated[
        str | None, typer.Option("--search", "-s", help="Words that the prompt must have.")
    ] = None,
    status: Annotated[
        str | None,
        typer.Option(help="pending, processing, completed, failed or cancelled."),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Made by this engine.")] = None,
    cursor: Annotated[
        str | None, typer.Option(help="Go on where the last page ended (next_cursor in JSON).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List what was made, newest first. In a pipe: tab-separated, whole ids, no headings."""
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
        note("Nothing found." if search or status or model else "Nothing was made yet.")
        return
    whole = not is_terminal(sys.stdout)
    headings = ("id", "when", "status", "s", "bpm", "key", "model", "prompt")
    answer_table(headings, [_row(job, whole=whole) for job in page.jobs])
    if page.next_cursor:
        note("There is more: --limit shows it, or --json with its next_cursor.")


def _row(job: Job, *, whole: bool) -> tuple[str, ...]:
    about = job.metadata
    return (
        job.job_id if whole else job.job_id[:8],
        job.created_at.isoformat(timespec="seconds") if whole else _ago(job.created_at),
        job.status if job.file or job.status != "completed" else "completed, no file",
        f"{job.duration_seconds:g}",
        f"{about['bpm']:g}" if "bpm" in about else "",
        str(about.get("key", "")),
        job.model,
        job.prompt,
    )


def _ago(moment: datetime) -> str:
    seconds = max(0, int((datetime.now(UTC) - moment).total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return "just now"


def status(
    job: Annotated[str, typer.Argument(help="An id, or enough of its first characters.")],
    as_json: AsJson = False,
) -> None:
    """Show one generation with everything known about it."""
    found = open_service().get(job)
    if as_json:
        answer_json(found.model_dump(mode="json"))
        return
    shown = found.model_dump(mode="json", exclude={"metadata"}) | found.metadata
    width = max(len(name) for name in shown)
    for name, value in shown.items():
        if value is not None:
            answer(f"{name:<{width}}  {_plain(value)}")


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return ", ".join(_plain(inner) for inner in value)
    return str(value)


@models_app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List the engines, and why one cannot run here."""
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
