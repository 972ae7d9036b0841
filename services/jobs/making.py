"""Watching a job that a worker makes, for somebody who waits for it."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from services import storage
from services.database import storage_errors
from services.errors import CancelledError, EngineError, JobFinishedError
from services.jobs.dispatch import Dispatch
from services.jobs.pipeline import Task, task_of
from services.library.store import clear_quietly

if TYPE_CHECKING:
    from services.generation.engine import Progress, ShouldStop
    from services.jobs.models import Job
    from services.jobs.service import MusicService

LOOK_SECONDS = 0.1
"""Between two looks at a job that a worker makes."""


def follow(service: MusicService, job: Job, progress: Progress, should_stop: ShouldStop) -> Job:
    """Watch a job in the queue to its end; make it here when no worker is left for it.

    Raises:
        CancelledError: it was cancelled, here or by someone else.
        EngineError: it failed; its row says the same.
    """
    last_heard = time.monotonic()
    try:
        while not job.is_finished:
            if should_stop():
                service.cancel(job.job_id)
                raise CancelledError("Cancelled.")
            progress(job.current_step.replace("_", " "), job.progress)
            time.sleep(LOOK_SECONDS)
            if service.is_served(job.model):
                last_heard = time.monotonic()
            elif time.monotonic() - last_heard > service.settings.worker_ttl_seconds:
                task = _take_back(service, job.job_id)
                if task is not None:
                    return service.make_here(task, progress, should_stop)
            job = service.get(job.job_id)
    except (KeyboardInterrupt, JobFinishedError):
        with suppress(JobFinishedError):
            service.cancel(job.job_id)
            raise
        job = service.get(job.job_id)
    if job.status == storage.GenerationStatus.CANCELLED:
        raise CancelledError("The generation was cancelled while it was being made.")
    if job.status == storage.GenerationStatus.FAILED:
        raise EngineError(str(job.error_message))
    progress("completed", 1.0)
    return job


def _take_back(service: MusicService, job_id: str) -> Task | None:
    """Take a job out of a queue that nobody serves; None when it is finished after all."""
    with storage_errors(), storage.get_session() as session:
        row = storage.lock_generation(session, job_id)
        entry = storage.get_queue_entry(session, job_id, to_change=True)
        if row is None or entry is None or row.is_finished:
            return None
        if row.attempt_token is not None:
            storage.release_generation(session, row.id, row.attempt_token)
        storage.remove_queue_entry(session, row.id)
    with suppress(storage.StorageError):
        service.queue.cancel([Dispatch(row.id, entry.attempt)])
    clear_quietly(service.store, row.file_path)
    return task_of(row)
