"""Exports: takes as sessions of a DAW, as folders and as sample packs."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.daw.building import TakeInput, build_session
from services.daw.sources import SourceFile
from services.daw.writers import WRITERS
from services.errors import EngineError, InvalidRequestError
from services.jobs.attachments import list_attached, local_attachment
from services.jobs.parts import add_parts, explain_no_parts, read_score
from services.library.attachments import STEM

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from services.generation.engine import Progress, ShouldStop
    from services.jobs.models import Job
    from services.jobs.service import MusicService

FORMATS = tuple(WRITERS)
"""What takes can be exported to."""

MOST_JOBS = 100
"""Takes in one export."""

_GATHERING_SHARE = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A finished export."""

    path: Path
    """The folder, or the file of a format that is one file."""
    remarks: tuple[str, ...] = ()
    """Sentences for the user: which takes have no stems, and why."""


def export_jobs(
    service: MusicService,
    jobs: Sequence[Job],
    to: str,
    folder: Path,
    *,
    name: str | None = None,
    force: bool = False,
    progress: Progress,
    should_stop: ShouldStop,
    permissions: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Export:
    """Write takes as one session into a folder, after each other, with stems and notes.

    Takes that were made without stems get them first: the music is rendered again and compared.
    One that cannot have them is exported as its mix alone, and a remark says why.

    Args:
        service: of the library.
        jobs: completed; 1 to `MOST_JOBS`, in the order of the timeline.
        to: one of `FORMATS`.
        folder: where the export is written; it is created.
        name: of the session; None for the prompt of the first job.
        force: whether an existing export of this name may be replaced.
        progress: called as takes are rendered again.
        should_stop: asked often; True stops the export.
        permissions: is entered while the export is written: the files are its caller's.

    Raises:
        InvalidRequestError: the format is unknown, a job has no take, or the export exists.
        CancelledError: `should_stop` returned True.
        FileGoneError, FileDamagedError: a file of a take is missing or changed.
        OutputError: the disk refuses; nothing of the export is left.
    """
    check_export(jobs, to)
    remarks: list[str] = []
    takes = []
    for place, job in enumerate(jobs):

        def report(stage: str, fraction: float, place: int = place) -> None:
            progress(stage, _GATHERING_SHARE * (place + fraction) / len(jobs))

        takes.append(_gather(service, job, remarks, report, should_stop))
    progress("writing", _GATHERING_SHARE)
    session = build_session(name or jobs[0].prompt, takes)
    with permissions():
        path = WRITERS[to](session, folder, force=force)
    progress("completed", 1.0)
    return Export(path=path, remarks=tuple(remarks))


def check_export(jobs: Sequence[Job], to: str) -> None:
    """Check that these jobs can be exported to a format.

    Raises:
        InvalidRequestError: they cannot; the message says why.
    """
    if to not in FORMATS:
        raise InvalidRequestError(
            f"Takes cannot be exported to {to!r}. The formats are {', '.join(FORMATS)}."
        )
    if not 1 <= len(jobs) <= MOST_JOBS:
        raise InvalidRequestError(f"Export 1 to {MOST_JOBS} jobs at once, not {len(jobs)}.")
    for job in jobs:
        if job.status != "completed" or job.file is None:
            lack = f"is {job.status}" if job.status != "completed" else "has no file any more"
            raise InvalidRequestError(f"The job {job.job_id} {lack}. Only a take can be exported.")


def _gather(
    service: MusicService,
    job: Job,
    remarks: list[str],
    progress: Progress,
    should_stop: ShouldStop,
) -> TakeInput:
    """Return a take with its files, rendered again if its stems are missing."""
    from services.audio import read_facts

    mix = service.local_copy(job.job_id)
    stems = _list_stems(service, job)
    why_not = explain_no_parts(service, job)
    if not stems and why_not is None:
        try:
            add_parts(service, job, progress, should_stop)
            stems = _list_stems(service, job)
        except EngineError as error:
            why_not = str(error)
    if not stems and why_not is not None:
        remarks.append(f"{job.job_id[:8]} is exported without stems. {why_not}")
    return TakeInput(
        name=job.prompt,
        mix=SourceFile(mix, job.file_sha256),
        stems=stems,
        # All stems of a take get the gain of its mix.
        do_stems_sum_to_mix=bool(stems),
        score=read_score(job) if why_not is None else None,
        facts=read_facts(mix),
    )


def _list_stems(service: MusicService, job: Job) -> dict[str, SourceFile]:
    return {
        one.name: SourceFile(local_attachment(service, one), one.sha256)
        for one in list_attached(service, job.job_id)
        if one.kind == STEM
    }
