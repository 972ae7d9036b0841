"""A worker's heartbeat, the takeover of dead workers' jobs, and the stop of cancelled jobs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services import storage
from services.jobs.dbos_queue import queue_name
from services.machine.process_identity import has_ended
from services.worker.lost_dispatches import dispatch_again, replace_lost_dispatches

if TYPE_CHECKING:
    from services.jobs.dbos_queue import QueueManager
    from services.jobs.dispatch import Dispatch
    from services.worker.hosting.pool import HostPool
    from services.worker.runner import AttemptRunner

log = logging.getLogger(__name__)

HEARTBEATS_PER_TTL = 5
"""Heartbeats within the time after which a worker without one counts as dead."""

CANCEL_POLL_SECONDS = 0.25
KEEP_FINISHED_SECONDS = 3600.0
"""Age at which DBOS's records of finished dispatches are deleted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerIdentity:
    """The facts about a worker in its row."""

    worker_id: str
    slot: str
    process: str
    host: str
    pid: int
    models: tuple[str, ...]
    concurrency: int


class LivenessMonitor:
    """Three threads of a worker: its heartbeat, upkeep of the queue, and stopping of lost jobs."""

    def __init__(
        self,
        identity: WorkerIdentity,
        queue: QueueManager,
        attempts: AttemptRunner,
        hosts: HostPool,
        *,
        ttl: float,
        give_up: Callable[[str], None],
    ) -> None:
        """Register the worker in the database.

        Args:
            identity: of this worker.
            queue: takes back the jobs of dead workers.
            attempts: the jobs of this worker.
            hosts: its engine processes.
            ttl: seconds after which a worker without a heartbeat counts as dead.
            give_up: called with the reason when other workers may count this one as dead.
        """
        self._identity = identity
        self._queue = queue
        self._attempts = attempts
        self._hosts = hosts
        self._ttl = ttl
        self._give_up = give_up
        self._ended = threading.Event()
        self._membership = threading.Lock()
        self._last_heartbeat = time.monotonic()
        self._done = dict.fromkeys(("replace lost", "delete finished"), float("-inf"))
        self._unheld: set[Dispatch] = set()
        self._register()

    @property
    def heartbeat_age(self) -> float:
        """Seconds since the start of the last heartbeat that the database took."""
        return time.monotonic() - self._last_heartbeat

    def start(self) -> None:
        """Take over the jobs of dead workers, then start the threads."""
        self._take_over_dead_workers()
        beat = self._ttl / HEARTBEATS_PER_TTL
        for name, task, first_pause, pause in (
            # In a thread of its own: upkeep of a long queue must not delay the heartbeat.
            ("heartbeat", self._send_heartbeat, beat, beat),
            # At once: the jobs of a database that was moved or restored have no dispatch.
            ("upkeep", self._maintain_queue, 0.0, beat),
            ("lost jobs", self._stop_lost_jobs, CANCEL_POLL_SECONDS, CANCEL_POLL_SECONDS),
        ):
            threading.Thread(
                target=self._repeat, args=(task, first_pause, pause), name=name, daemon=True
            ).start()

    def announce_draining(self) -> None:
        """Record that this worker takes no more jobs."""
        with storage.get_session() as session:
            storage.record_heartbeat(session, self._identity.worker_id, draining=True)

    def deregister(self) -> None:
        """Stop the threads, return this worker's dispatches to the queue, and remove its row."""
        self._ended.set()
        with self._membership:
            self._queue.give_back([self._identity.worker_id])
            with storage.get_session() as session:
                storage.remove_workers(session, [self._identity.worker_id])

    def _register_again(self) -> None:
        """Register in a database that was put back to a state without this worker.

        Another worker may have taken its jobs for lost; then their tokens are no longer theirs.
        """
        with self._membership:
            if self._ended.is_set():
                return
            self._queue.register_queues([queue_name(model) for model in self._identity.models])
            self._register()
        log.warning("registered again: the database no longer had this worker")

    def _register(self) -> None:
        identity = self._identity
        with storage.get_session() as session:
            storage.register_worker(
                session,
                worker_id=identity.worker_id,
                slot=identity.slot,
                process=identity.process,
                host=identity.host,
                pid=identity.pid,
                models=identity.models,
                concurrency=identity.concurrency,
            )

    def _repeat(self, task: Callable[[], None], first_pause: float, pause: float) -> None:
        next_pause = first_pause
        while not self._ended.wait(next_pause):
            next_pause = pause
            try:
                task()
            except storage.StorageError as error:
                log.warning("the database does not answer: %s", error)
            except Exception:
                # The thread must survive, or the worker would run on without its heartbeat.
                log.exception("unexpected")

    def _send_heartbeat(self) -> None:
        started = time.monotonic()
        try:
            with storage.get_session() as session:
                known = storage.record_heartbeat(
                    session,
                    self._identity.worker_id,
                    draining=self._attempts.stopping is not None,
                    outage=self._attempts.outage,
                )
        except storage.StorageError:
            if time.monotonic() - self._last_heartbeat > self._ttl:
                self._give_up(f"no heartbeat was written for {self._ttl:g} s")
            raise
        if not known:
            if self.heartbeat_age > self._ttl:
                self._give_up("another worker took over its jobs")
            self._register_again()
        self._last_heartbeat = started

    def _maintain_queue(self) -> None:
        # Whatever delays this worker's heartbeat may delay those of others, which are not dead.
        if time.monotonic() - self._last_heartbeat < self._ttl / 2:
            self._take_over_dead_workers()
        self._hosts.unload_idle()
        if self._is_due("replace lost", self._ttl):
            replace_lost_dispatches(self._queue)
        if self._is_due("delete finished", min(self._ttl * 4, KEEP_FINISHED_SECONDS)):
            self._queue.delete_finished(older_than_seconds=KEEP_FINISHED_SECONDS)
        self._return_unheld_dispatches()

    def _return_unheld_dispatches(self) -> None:
        """Enqueue anew what the database says is at work here and is not, as after a restore."""
        if self._attempts.stopping:
            return
        claimed = self._queue.dispatches_of(self._identity.worker_id)
        unheld = claimed - self._attempts.dispatches()
        # Seen twice: one that was just picked up or is just finished is unheld for a moment.
        stale = unheld & self._unheld
        for dispatch in stale:
            dispatch_again(self._queue, dispatch)
        self._queue.cancel(stale)
        self._unheld = unheld - stale

    def _is_due(self, name: str, every: float) -> bool:
        now = time.monotonic()
        if now - self._done[name] < every:
            return False
        self._done[name] = now
        return True

    def _take_over_dead_workers(self) -> None:
        # The order matters: a worker registers before it picks up its first job, so every holder
        # that is alive has a row by the time the rows are read.
        holders = self._queue.workers_with_dispatches()
        with storage.get_session(read_only=True) as session:
            states = storage.list_workers(session)
        dead = {state.id for state in states if self._is_dead(state)}
        # A worker without a row has left or was taken over already.
        dead |= holders - {state.id for state in states}
        dead.discard(self._identity.worker_id)
        if not dead:
            return
        returned = self._queue.give_back(dead)
        with storage.get_session() as session:
            storage.remove_workers(session, dead)
        log.warning("took over jobs=%d workers=%s", returned, ",".join(sorted(dead)))

    def _is_dead(self, state: storage.WorkerState) -> bool:
        if state.id == self._identity.worker_id:
            return False
        return (
            state.age > self._ttl or state.slot == self._identity.slot or has_ended(state.process)
        )

    def _stop_lost_jobs(self) -> None:
        from services.worker.runner import StopReason

        tokens = self._attempts.tokens()
        if not tokens:
            return
        with storage.get_session(read_only=True) as session:
            held = storage.find_current_tokens(session, tokens)
        lost = [token for token in tokens if token not in held]
        if lost:
            self._attempts.stop_jobs(StopReason.LOST, lost)
