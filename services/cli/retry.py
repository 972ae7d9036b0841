"""`dgx-music retry`."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.console import answer, answer_json, note
from services.cli.generate import Quiet, describe_take
from services.cli.options import AsJson
from services.cli.running import StopFlag, progress_bar
from services.errors import DGXMusicError, InvalidRequestError

if TYPE_CHECKING:
    from services.jobs.models import Job
    from services.jobs.service import MusicService
    from services.jobs.submission import CheckedRequest


def retry(
    jobs: Annotated[
        list[str] | None,
        typer.Argument(metavar="JOB...", help="The jobs' ids, or the starts of them."),
    ] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="All failed jobs that were not sent again yet.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make failed or cancelled jobs again, with their seeds.

    Example: dgx-music retry --failed
    """
    from services.cli.library import open_service
    from services.jobs.resubmission import check_again, list_failed

    if failed == bool(jobs):
        raise InvalidRequestError("Name the jobs to make again, or give --failed.")
    service = open_service()
    errors: list[tuple[str, DGXMusicError]] = []
    batch: dict[str | None, CheckedRequest] = {}
    for name in list_failed() if failed else list(jobs or ()):
        try:
            checked = check_again(service, name)
            batch[checked.parent] = checked
        except DGXMusicError as error:
            if not failed:
                raise
            errors.append((name, error))
            note(f"error: {name} cannot be made again: {error}")
    if not batch and not errors:
        note("No job is left that failed.")
    made = _make_all(service, list(batch.values()), errors, as_json=as_json, quiet=quiet)
    if as_json:
        done = [job.model_dump(mode="json") for job in made]
        answer_json([*done, *({"parent": name, "error": str(one)} for name, one in errors)])
    if errors:
        raise typer.Exit(errors[0][1].exit_code)


def _make_all(
    service: MusicService,
    batch: list[CheckedRequest],
    errors: list[tuple[str, DGXMusicError]],
    *,
    as_json: bool,
    quiet: bool,
) -> list[Job]:
    """Make the jobs; workers get all of them at once. The errors of those that fail are added."""
    from services.jobs.making import JobMaker

    maker, stop = JobMaker(service), StopFlag()
    waiting: dict[str, Job] = {}
    made = []
    with stop.catch_signals(), ExitStack() as undo:
        # However this ends early, nobody waits for the rest any more.
        undo.callback(_cancel, service, waiting)
        for checked in batch:
            if (job := maker.queue(checked)) is not None:
                waiting[str(checked.parent)] = job
        for checked in batch:
            parent = str(checked.parent)
            try:
                with progress_bar(shown=not quiet) as progress:
                    queued = waiting.get(parent)
                    if queued is not None:
                        done = maker.follow(queued, progress, stop)
                    else:
                        done = maker.make(checked, progress, stop)
            except DGXMusicError as error:
                if stop():
                    raise
                errors.append((parent, error))
                note(f"error: {parent} failed again: {error}")
            else:
                made.append(done)
                _show(done, as_json=as_json, quiet=quiet)
            waiting.pop(parent, None)
    return made


def _show(job: Job, *, as_json: bool, quiet: bool) -> None:
    if not quiet:
        for line in describe_take(job):
            note(line)
    if not as_json:
        answer(str(job.file))


def _cancel(service: MusicService, waiting: dict[str, Job]) -> None:
    for job in waiting.values():
        with suppress(DGXMusicError):
            service.cancel(job.job_id)
