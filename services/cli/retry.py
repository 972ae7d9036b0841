"""`dgx-music retry`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.console import answer, answer_json, note
from services.cli.generate import Quiet, describe_take
from services.cli.options import AsJson
from services.cli.running import StopFlag, progress_bar
from services.errors import CancelledError, DGXMusicError, InvalidRequestError, JobFinishedError

if TYPE_CHECKING:
    from services.jobs.making import JobMaker
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
    from services.jobs.making import JobMaker
    from services.jobs.resubmission import check_again, list_failed

    if failed == bool(jobs):
        raise InvalidRequestError("Name the jobs to make again, or give --failed.")
    service = open_service()
    names = list_failed() if failed else list(jobs or ())
    if not names:
        note("No job is left that failed.")
    batch = [check_again(service, name) for name in names]
    maker = JobMaker(service)
    queued = [maker.queue(checked) for checked in batch]
    made, errors = [], []
    for number, (checked, job) in enumerate(zip(batch, queued, strict=True)):
        try:
            done = _make(maker, checked, job, quiet=quiet)
        except CancelledError:
            _cancel(service, queued[number + 1 :])
            raise
        except DGXMusicError as error:
            errors.append(error)
            note(f"error: {checked.parent} failed again: {error}")
            continue
        made.append(done)
        if not quiet:
            for line in describe_take(done):
                note(line)
        if not as_json:
            answer(str(done.file))
    if as_json:
        answer_json([job.model_dump(mode="json") for job in made])
    if errors:
        raise typer.Exit(errors[0].exit_code)


def _make(maker: JobMaker, checked: CheckedRequest, queued: Job | None, *, quiet: bool) -> Job:
    stop = StopFlag()
    with stop.catch_signals(), progress_bar(shown=not quiet) as progress:
        if queued is not None:
            return maker.follow(queued, progress, stop)
        return maker.make(checked, progress, stop)


def _cancel(service: MusicService, jobs: list[Job | None]) -> None:
    """Cancel queued jobs whose caller no longer waits for them."""
    for job in jobs:
        if job is not None:
            try:
                service.cancel(job.job_id)
            except JobFinishedError:
                continue
