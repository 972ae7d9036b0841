"""Runs the attempts of a worker, from the dispatch to the end of the attempt."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, TypeVar

from services import storage
from services.errors import CancelledError, DGXMusicError, EngineError
from services.jobs.dbos_queue import HandedBack
from services.jobs.failpoints import reach

if TYPE_CHECKING:
    from services.jobs.dispatch import Dispatch
    from services.library.takes import Delivery, Take
    from services.worker.claims import Attempt, Claims
    from services.worker.hosting.pool import HostPool

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 0.25
"""Least time between two notes of progress: each is a write."""

_DATABASE_RETRY_SECONDS = 0.5

Result = TypeVar("Result")


class StopReason(Enum):
    """Why a job is stopped that has not ended by itself."""

    LOST = auto()
    """Its row is no longer this attempt's: cancelled, or taken over."""
    DRAINED = auto()
    """The worker leaves, and the job goes to another."""
    ABANDONED = auto()
    """The worker gives up everything at once."""


@dataclass(slots=True)
class RunningJob:
    """A job at work in this process."""

    attempt: Attempt
    stop: StopReason | None = field(default=None)


class AttemptRunner:
    """Runs the dispatches that the queue hands to this worker, so many at once."""

    def __init__(
        self, claims: Claims, hosts: HostPool, delivery: Delivery, concurrency: int
    ) -> None:
        self._claims = claims
        self._hosts = hosts
        self._delivery = delivery
        self._concurrency = concurrency
        self._changed = threading.Condition()
        self._taken = 0
        self._waiting = 0
        self._suspects = 0
        self._jobs: dict[str, RunningJob] = {}
        self.stopping: StopReason | None = None
        """Set once this worker begins nothing more."""

    def free_slots(self, model: str) -> int:
        """How many more dispatches for an engine to take."""
        with self._changed:
            if self.stopping or self._suspects:
                return 0
            free = self._concurrency - self._taken - self._waiting
        # What would wait for a seat here may find one at another worker.
        return min(free, self._hosts.free_seats(model))

    def tokens(self) -> list[str]:
        """The tokens of the jobs at work."""
        with self._changed:
            return list(self._jobs)

    def stop_jobs(self, reason: StopReason, tokens: list[str] | None = None) -> None:
        """Ask jobs to stop, all or those with the tokens."""
        with self._changed:
            for token, job in self._jobs.items():
                if tokens is None or token in tokens:
                    job.stop = job.stop or reason

    def stop_taking(self, reason: StopReason) -> None:
        """Begin nothing more from now on."""
        with self._changed:
            self.stopping = reason
            self._changed.notify_all()

    def wait_idle(self, seconds: float) -> bool:
        """Wait until no job is at work; False when some still are after that time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._taken, timeout=seconds)

    def run(self, dispatch: Dispatch) -> None:
        """Make the job of a dispatch; afterwards its row is finished, or sent again.

        Raises:
            HandedBack: another worker is to have the dispatch.
        """
        reach("job-claimed")
        with self._slot(alone=self._persist(lambda: self._claims.is_suspect(dispatch))):
            attempt = self._persist(lambda: self._claims.begin(dispatch))
            if attempt is None:
                log.info("nothing to do job=%s attempt=%d", *_names(dispatch))
                return
            log.info("started job=%s attempt=%d worker=%s", *_names(dispatch), attempt.worker_id)
            job = RunningJob(attempt)
            with self._changed:
                self._jobs[str(attempt.token)] = job
            try:
                self._attempt(job)
            finally:
                with self._changed:
                    del self._jobs[str(attempt.token)]
                self._claims.clean_up(attempt)

    def _attempt(self, job: RunningJob) -> None:
        attempt = job.attempt
        try:
            take = self._render(job)
            reach("take-made")
            self._claims.upload(attempt, take)
            reach("upload-done")
            published = self._persist(lambda: self._claims.publish(attempt, take))
        except CancelledError:
            if job.stop is None:
                self._failed(
                    attempt, EngineError("The engine stopped, and nobody had asked it to.")
                )
            else:
                self._stopped(job)
        except DGXMusicError as error:
            self._failed(attempt, error)
        except Exception as error:
            # The outer edge of a job: a fault of ours costs an attempt, not the worker.
            log.exception("unexpected job=%s attempt=%d", *_names(attempt.dispatch))
            self._failed(attempt, EngineError(f"{type(error).__name__}: {error}"))
        else:
            event = "completed" if published else "lost, result refused"
            log.info("%s job=%s attempt=%d", event, *_names(attempt.dispatch))

    def _render(self, job: RunningJob) -> Take:
        attempt = job.attempt
        path = self._claims.draft_path(attempt)
        order = self._claims.fetch_inputs(attempt)
        noted = time.monotonic()
        last_step = "loading_model"

        def progress(step: str, fraction: float) -> None:
            nonlocal noted, last_step
            now = time.monotonic()
            if now - noted >= PROGRESS_SECONDS or step != last_step:
                noted, last_step = now, step
                self._claims.note_progress(attempt, step, fraction)

        def should_stop() -> bool:
            return job.stop is not None

        # A job that failed may be what ended its process, with all that was in it.
        failed_before = attempt.dispatch.attempt > 1
        with self._hosts.host(order.model, should_stop, alone=failed_before) as host:
            return host.render(order, path, self._delivery, progress, should_stop)

    def _stopped(self, job: RunningJob) -> None:
        names = _names(job.attempt.dispatch)
        if job.stop is StopReason.LOST:
            log.info("stopped, no longer ours job=%s attempt=%d", *names)
            return
        if job.stop is StopReason.DRAINED:
            self._persist(lambda: self._claims.give_back(job.attempt))
            log.info("given back job=%s attempt=%d", *names)
        raise HandedBack

    def _failed(self, attempt: Attempt, error: DGXMusicError) -> None:
        delay = self._persist(lambda: self._claims.retry_or_fail(attempt, error))
        what = "failed" if delay is None else f"failed, again in {delay:g} s"
        log.warning("%s job=%s attempt=%d: %s", what, *_names(attempt.dispatch), error)

    @contextmanager
    def _slot(self, *, alone: bool) -> Iterator[None]:
        """Hold a slot; a job that may be what ended its last worker has no neighbours.

        There may be none at once: two queues looked at in one moment hand out one too many.
        """

        def is_free() -> bool:
            if alone:
                return not self._taken
            return self._taken < self._concurrency and not self._suspects

        with self._changed:
            self._waiting += 1
            self._suspects += alone
            self._changed.wait_for(lambda: self.stopping or is_free())
            self._waiting -= 1
            self._taken += 1
        try:
            if self.stopping:
                raise HandedBack
            yield
        finally:
            with self._changed:
                self._taken -= 1
                self._suspects -= alone
                self._changed.notify_all()

    def _persist(self, step: Callable[[], Result]) -> Result:
        """Do a step on the rows, again and again while the database is away.

        It ends at the latest when the worker, which cannot beat either, gives up.
        """
        while True:
            try:
                return step()
            except storage.StorageError as error:
                if self.stopping is StopReason.ABANDONED:
                    raise HandedBack from error
                log.warning("the database does not answer: %s", error)
                time.sleep(_DATABASE_RETRY_SECONDS)


def _names(dispatch: Dispatch) -> tuple[str, int]:
    return dispatch.generation_id, dispatch.attempt
