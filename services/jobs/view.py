"""Jobs for display, built from their rows and their queue entries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from services import storage
from services.jobs.living import living_in
from services.jobs.models import Job
from services.library.reconcile import has_take

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from services.config import Settings
    from services.library.store import FileStore

Rank = tuple[float, ...]

_STEPS = {"queued": 0, "loading_model": 1, "encoding_prompt": 2, "generating": 3, "saving": 4}


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """A page of jobs, newest first, and the cursor of the next page."""

    jobs: list[Job]
    next_cursor: str | None
    total: int | None = None
    """Jobs on all pages; None unless they were counted."""


def build_job(row: storage.Generation, entry: storage.QueueEntry | None, store: FileStore) -> Job:
    """Build a job without its place in the queue, which takes more queries."""
    in_queue = (None, None) if entry is None else (entry.step, entry.progress)
    step, progress = _step_and_progress(row.status, *in_queue)
    metadata = row.get_metadata()
    # Without validation: the row was checked when it was written, and lists have a hundred.
    return Job.model_construct(
        job_id=row.id,
        status=row.status,
        prompt=row.prompt,
        model=row.model_name,
        duration_seconds=row.duration_seconds,
        file=store.display_path(row.file_path) if has_take(row, metadata) else None,
        file_sha256=row.file_sha256,
        metadata=metadata,
        generation_time_seconds=row.generation_time_seconds,
        error_message=row.error_message,
        retry_count=max(0, row.attempts - 1),
        owner=row.owner,
        current_step=step,
        progress=progress,
        created_at=row.created_at,
        completed_at=row.completed_at,
    )


def rank_job(job: Job) -> Rank:
    """Return a tuple that grows with every step of a job: attempts, then steps of the attempt."""
    return _rank(job.status, job.retry_count, job.current_step, job.progress)


def rank_state(state: storage.JobState) -> Rank:
    """As `rank_job`, for the short form of a job."""
    step, progress = _step_and_progress(state.status, state.step, state.progress)
    return _rank(state.status, max(0, state.attempts - 1), step, progress)


def _rank(status: str, retries: int, step: str, progress: float) -> Rank:
    is_finished = status in storage.FINISHED_STATUSES
    has_begun = status != storage.GenerationStatus.PENDING
    return (is_finished, retries, has_begun, _STEPS.get(step, 0), progress)


def add_estimates(session: Session, job: Job, entry: storage.QueueEntry, settings: Settings) -> Job:
    """Add the place in the queue and the estimated seconds until the job is finished.

    The estimate covers the jobs before it and its own rendering, at the speed of the engine's last
    jobs on the workers that are alive.
    """
    waits = job.status == storage.GenerationStatus.PENDING
    ahead, music_ahead = storage.count_jobs_ahead(session, entry.place) if waits else (0, 0.0)
    speed = storage.average_real_time_factor(session, job.model)
    seconds = None
    if speed is not None:
        living = living_in(session, settings.worker_ttl_seconds)
        slots = sum(state.concurrency for state in living if job.model in state.models)
        own = job.duration_seconds * (1.0 - job.progress)
        seconds = round(speed * (music_ahead / max(1, slots) + own), 1)
    return job.model_copy(
        update={
            "queue_position": ahead + 1 if waits else None,
            "estimated_time_seconds": seconds,
        }
    )


def _step_and_progress(status: str, step: str | None, progress: float | None) -> tuple[str, float]:
    if status in storage.FINISHED_STATUSES:
        return status, float(status == storage.GenerationStatus.COMPLETED)
    if step is not None and progress is not None:
        return step, progress
    is_processing = status == storage.GenerationStatus.PROCESSING
    return ("generating" if is_processing else "queued"), 0.0
