"""Runs the attempts of a worker."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, TypeVar

from services import storage
from services.errors import CancelledError, DGXMusicError, EngineEndedError, EngineError
from services.jobs.dbos_queue import DispatchReturned
from services.jobs.failpoints import reach
from services.library.takes import estimate_most_bytes
from services.machine.shortage import find_shortage
from services.worker.retry import outage_pause

if TYPE_CHECKING:
    from services.jobs.dispatch import Dispatch
    from services.library.takes import Delivery, Take
    from services.worker.claims import Attempt, Claims
    from services.worker.hosting.pool import HostPool
    from services.worker.outage import Outage

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 0.25
"""Least time between two records of progress, each of which is a write."""

_DATABASE_RETRY_SECONDS = 0.5

SAME_END_SECONDS = 0.5
"""What ends an engine process, such as a power cut or a supervisor, may end this worker next."""

Result = TypeVar("Result")


class StopReason(Enum):
    """Why a running job is stopped."""

    LOST = auto()
    """The attempt no longer holds the row: the job was cancelled or taken over."""
    DRAINED = auto()
    """The worker shuts down, and the job goes to another."""
    ABANDONED = auto()
    """The worker ends at once."""


@dataclass(slots=True)
class RunningJob:
    """A job that this worker runs, and the reason to stop it, if any."""

    attempt: Attempt
    stop: StopReason | None = field(default=None)


class AttemptRunner:
    """Runs the dispatches of this worker, up to `concurrency` at once."""

    def __init__(
        self,
        claims: Claims,
        hosts: HostPool,
        delivery: Delivery,
        concurrency: int,
        outage: Outage,
    ) -> None:
        self._claims = claims
        self._hosts = hosts
        self._delivery = delivery
        self._concurrency = concurrency
        self._outage = outage
        self._outages: Counter[str] = Counter()
        """Job -> faults of the machine that ended an attempt at it and were over at once."""
        self._changed = threading.Condition()
        self._taken = 0
        self._waiting = 0
        self._suspects = 0
        self._jobs: dict[str, RunningJob] = {}
        self._dispatches: Counter[Dispatch] = Counter()
        self.stopping: StopReason | None = None
        """Set when the worker starts no more jobs."""

    def free_slots(self, model: str) -> int:
        """Return the number of dispatches for an engine that may be picked up now."""
        with self._changed:
            if self.stopping or self._suspects or self._outage.reason:
                return 0
            free = self._concurrency - self._taken - self._waiting
        # A job that would wait for a seat here may find one at another worker.
        return min(free, self._hosts.free_seats(model))

    @property
    def outage(self) -> str | None:
        """Why the worker takes no jobs for now; None while it does."""
        return self._outage.reason

    def dispatches(self) -> set[Dispatch]:
        """Return the dispatches that are at work here, or wait for a slot."""
        with self._changed:
            # In a database that was put back, one may run a second time before its first run ends.
            return {dispatch for dispatch, runs in self._dispatches.items() if runs}

    def tokens(self) -> list[str]:
        """Return the attempt tokens of the running jobs."""
        with self._changed:
            return list(self._jobs)

    def stop_jobs(self, reason: StopReason, tokens: list[str] | None = None) -> None:
        """Stop all running jobs, or those with the tokens."""
        with self._changed:
            for token, job in self._jobs.items():
                if tokens is None or token in tokens:
                    job.stop = job.stop or reason

    def stop_taking(self, reason: StopReason) -> None:
        """Start no more jobs."""
        with self._changed:
            self.stopping = reason
            self._changed.notify_all()

    def wait_idle(self, seconds: float) -> bool:
        """Wait until no job runs; return False if some still run after that time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._taken, timeout=seconds)

    def run(self, dispatch: Dispatch) -> None:
        """Run the job of a dispatch; afterwards it is finished or queued for a retry.

        Raises:
            DispatchReturned: the dispatch is left to another worker.
        """
        reach("job-claimed")
        with self._changed:
            self._dispatches[dispatch] += 1
        try:
            self._run_dispatch(dispatch)
        finally:
            with self._changed:
                self._dispatches[dispatch] -= 1
                self._dispatches = +self._dispatches

    def _run_dispatch(self, dispatch: Dispatch) -> None:
        with self._hold_slot(alone=self._persist(lambda: self._claims.is_suspect(dispatch))):
            attempt = self._persist(lambda: self._claims.claim(dispatch))
            if attempt is None:
                log.info("nothing to do job=%s attempt=%d", *_log_fields(dispatch))
                return
            log.info(
                "started job=%s attempt=%d worker=%s", *_log_fields(dispatch), attempt.worker_id
            )
            job = RunningJob(attempt)
            with self._changed:
                self._jobs[str(attempt.token)] = job
            try:
                self._run_attempt(job)
            finally:
                with self._changed:
                    del self._jobs[str(attempt.token)]
                self._claims.clean_up(attempt)

    def _run_attempt(self, job: RunningJob) -> None:
        attempt = job.attempt
        try:
            take = self._render(job)
            reach("take-made")
            self._claims.upload(attempt, take)
            reach("upload-done")
            published = self._persist(lambda: self._claims.publish(attempt, take))
        except CancelledError:
            if job.stop is None:
                self._handle_failure(attempt, EngineError("The engine stopped by itself."))
            else:
                self._handle_stop(job)
        except DGXMusicError as error:
            self._handle_error(job, error)
        except Exception as error:
            # The outer edge of a job: a bug costs an attempt, not the worker.
            log.exception("unexpected job=%s attempt=%d", *_log_fields(attempt.dispatch))
            failed = find_shortage(error) or EngineError(f"{type(error).__name__}: {error}")
            self._handle_error(job, failed)
        else:
            self._outages.pop(attempt.generation_id, None)
            event = "completed" if published else "lost, result refused"
            log.info("%s job=%s attempt=%d", event, *_log_fields(attempt.dispatch))

    def _render(self, job: RunningJob) -> Take:
        attempt = job.attempt
        path = self._claims.draft_path(attempt)
        order = self._claims.fetch_inputs(attempt)
        last_record = time.monotonic()
        last_step = "loading_model"

        def progress(step: str, fraction: float) -> None:
            nonlocal last_record, last_step
            now = time.monotonic()
            if now - last_record >= PROGRESS_SECONDS or step != last_step:
                last_record, last_step = now, step
                self._claims.note_progress(attempt, step, fraction)

        def should_stop() -> bool:
            return job.stop is not None

        # A job that failed before may have ended its engine process, with the other jobs in it.
        with self._hosts.lease(order.model, should_stop, alone=attempt.number > 1) as host:
            return host.render(order, path, self._delivery, progress, should_stop)

    def _handle_stop(self, job: RunningJob) -> None:
        names = _log_fields(job.attempt.dispatch)
        if job.stop is StopReason.LOST:
            log.info("stopped, no longer ours job=%s attempt=%d", *names)
            return
        if job.stop is StopReason.DRAINED:
            self._persist(lambda: self._claims.give_back(job.attempt))
            log.info("given back job=%s attempt=%d", *names)
        raise DispatchReturned

    def _handle_error(self, job: RunningJob, error: DGXMusicError) -> None:
        """Count the attempt if the job is at fault, and put the job off if something else is."""
        attempt = job.attempt
        if isinstance(error, EngineEndedError):
            time.sleep(SAME_END_SECONDS)
            if self.stopping:
                job.stop = self.stopping
                self._handle_stop(job)
                return
            if error.jobs != 1:
                # Another job ended it, or perhaps this one.
                self._put_off(attempt, error, pause=0.0, is_suspect=error.jobs > 1)
                return
        pause = self._pause_for_outage(attempt) if error.is_of_machine else None
        if pause is None:
            self._handle_failure(attempt, error)
        else:
            self._put_off(attempt, error, pause)

    def _pause_for_outage(self, attempt: Attempt) -> float | None:
        """Return the pause in seconds before the job is tried again, or None to count the fault."""
        params = attempt.order.params
        seconds = params.duration_seconds
        need = estimate_most_bytes(self._delivery, seconds, stems=params.stems)
        if self._outage.is_found(need):
            # No pause: another worker may take the job at once.
            return 0.0
        self._outages[attempt.generation_id] += 1
        return outage_pause(self._outages[attempt.generation_id])

    def _put_off(
        self, attempt: Attempt, error: DGXMusicError, pause: float, *, is_suspect: bool = False
    ) -> None:
        self._persist(lambda: self._claims.put_off(attempt, pause, is_suspect=is_suspect))
        log.warning(
            "put off, no attempt counted job=%s attempt=%d: %s",
            *_log_fields(attempt.dispatch),
            error,
        )

    def _handle_failure(self, attempt: Attempt, error: DGXMusicError) -> None:
        delay = self._persist(lambda: self._claims.retry_or_fail(attempt, error))
        if delay is None:
            self._outages.pop(attempt.generation_id, None)
        what = "failed" if delay is None else f"failed, again in {delay:g} s"
        log.warning("%s job=%s attempt=%d: %s", what, *_log_fields(attempt.dispatch), error)

    @contextmanager
    def _hold_slot(self, *, alone: bool) -> Iterator[None]:
        """Hold a slot; with `alone`, no other job runs in this worker meanwhile.

        Waits for a free one: two queues that are polled at the same moment may together hand out
        more dispatches than there are slots.
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
                raise DispatchReturned
            yield
        finally:
            with self._changed:
                self._taken -= 1
                self._suspects -= alone
                self._changed.notify_all()

    def _persist(self, step: Callable[[], Result]) -> Result:
        """Run a transaction, and repeat it while the database cannot be used.

        That ends at the latest when the worker gives up for lack of a heartbeat.
        """
        while True:
            try:
                return step()
            except storage.StorageError as error:
                if self.stopping is StopReason.ABANDONED:
                    raise DispatchReturned from error
                log.warning("the database does not answer: %s", error)
                time.sleep(_DATABASE_RETRY_SECONDS)


def _log_fields(dispatch: Dispatch) -> tuple[str, int]:
    return dispatch.generation_id, dispatch.attempt
