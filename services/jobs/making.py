"""Jobs whose caller waits: a worker runs them if one is alive, else this process does."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from services import storage
from services.database import storage_errors
from services.errors import CancelledError, EngineError, JobFinishedError
from services.jobs.dispatch import Dispatch
from services.jobs.living import living_workers
from services.jobs.pipeline import cancel_job, run_job
from services.jobs.service import POLL_SECONDS
from services.jobs.submission import add_row, audio_references
from services.library.orders import Order
from services.library.store import try_remove_leftovers
from services.library.takes import Delivery

if TYPE_CHECKING:
    from services.generation.engine import Engine, Progress, ShouldStop
    from services.generation.registry import EngineEntry
    from services.jobs.models import Job
    from services.jobs.service import MusicService
    from services.jobs.submission import CheckedRequest


class JobMaker:
    """Runs jobs while their caller waits; an engine loaded in this process stays loaded."""

    def __init__(self, service: MusicService) -> None:
        self._service = service
        self._delivery = Delivery.of(service.settings)
        self._engines: dict[str, Engine] = {}

    def make(self, checked: CheckedRequest, progress: Progress, should_stop: ShouldStop) -> Job:
        """Run a job and return it completed; its row is finished on every way out.

        Raises:
            CancelledError: the job was cancelled, here or by another process.
            QueueFullError, OutputError, StorageError: there is no space for it.
            DGXMusicError: the job failed; its row has the same message.
        """
        job = self.queue(checked)
        if job is not None:
            return self.follow(job, progress, should_stop)
        return self.run(self.prepare(checked), progress, should_stop, checked.entry)

    def queue(self, checked: CheckedRequest) -> Job | None:
        """Queue a job for a worker, to be followed; None if no worker is alive for its engine."""
        if not self.is_served(checked.entry.facts.name):
            return None
        (job,) = self._service.enqueue([checked])
        return job

    def is_served(self, model: str) -> bool:
        """Whether a worker that is alive takes jobs for this engine, now or after an outage."""
        return bool(self._find_workers(model))

    def _find_workers(self, model: str) -> list[storage.WorkerState]:
        with storage_errors():
            living = living_workers(self._service.settings.worker_ttl_seconds)
        return [state for state in living if model in state.models and not state.draining]

    def prepare(self, checked: CheckedRequest) -> Order:
        """Write the row of a job that is not queued; raises as `make`."""
        self._service.store.check()
        with storage_errors():
            owner = checked.choose_owner(None)
            inputs = self._service.inputs.resolve(audio_references(checked.request), owner)
            with storage.get_session() as session:
                return Order.of(add_row(session, checked, owner, inputs))

    def run(
        self,
        order: Order,
        progress: Progress,
        should_stop: ShouldStop,
        entry: EngineEntry | None = None,
    ) -> Job:
        """Run a pending job in this process; raises as `make`.

        Args:
            order: of the job.
            progress: called as the job advances.
            should_stop: asked often; True cancels the job.
            entry: the engine, when the caller has resolved it already.
        """

        def load() -> Engine:
            return self._engine(entry or self._service.registry.resolve(order.model))

        with ExitStack() as undo:
            # A signal may arrive before the job is claimed, or between two of its steps.
            undo.callback(cancel_job, order)
            with storage_errors():
                store = self._service.store
                run_job(order, load, self._delivery, store, progress, should_stop)
            job = self._service.get(order.generation_id)
            undo.pop_all()
        return job

    def _engine(self, entry: EngineEntry) -> Engine:
        name = entry.facts.name
        if name not in self._engines:
            self._engines[name] = entry.load()
        return self._engines[name]

    def follow(self, job: Job, progress: Progress, should_stop: ShouldStop) -> Job:
        """Wait for a queued job; run it here when no worker is left for its engine.

        Returns and raises as `make`.
        """
        service = self._service
        last_served = time.monotonic()
        try:
            while not job.is_finished:
                if should_stop():
                    service.cancel(job.job_id)
                    raise CancelledError("Cancelled.")
                workers = self._find_workers(job.model)
                progress(_describe_step(job, workers), job.progress)
                time.sleep(POLL_SECONDS)
                if workers:
                    last_served = time.monotonic()
                elif time.monotonic() - last_served > service.settings.worker_ttl_seconds:
                    order = _take_from_queue(service, job.job_id)
                    if order is not None:
                        return self.run(order, progress, should_stop)
                job = service.get(job.job_id)
        except (KeyboardInterrupt, JobFinishedError):
            with suppress(JobFinishedError):
                service.cancel(job.job_id)
                raise
            job = service.get(job.job_id)
        if job.status == storage.GenerationStatus.CANCELLED:
            raise CancelledError("The job was cancelled while it ran.")
        if job.status == storage.GenerationStatus.FAILED:
            raise EngineError(str(job.error_message))
        progress("completed", 1.0)
        return job


def _describe_step(job: Job, workers: list[storage.WorkerState]) -> str:
    outages = [worker.outage for worker in workers if worker.outage is not None]
    if job.current_step == "queued" and workers and len(outages) == len(workers):
        return f"waiting: {outages[0]}"
    return job.current_step.replace("_", " ")


def _take_from_queue(service: MusicService, job_id: str) -> Order | None:
    """Remove a job from a queue that no worker serves; None when it has finished meanwhile."""
    with storage_errors(), storage.get_session() as session:
        row = storage.lock_generation(session, job_id)
        entry = storage.get_queue_entry(session, job_id, for_update=True)
        if row is None or entry is None or row.is_finished:
            return None
        if row.attempt_token is not None:
            storage.release_generation(session, row.id, row.attempt_token)
        storage.remove_queue_entry(session, row.id)
    with suppress(storage.StorageError):
        service.queue.cancel([Dispatch(row.id, entry.attempt)])
    try_remove_leftovers(service.store, row.file_path)
    return Order.of(row)
