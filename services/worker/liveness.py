"""Who lives: this worker's beat, and the jobs of workers that have none any more."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services import storage
from services.machine.process_identity import has_ended
from services.worker.redispatch import redispatch

if TYPE_CHECKING:
    from services.jobs.dbos_queue import QueueManager
    from services.worker.hosting.pool import HostPool
    from services.worker.runner import AttemptRunner

log = logging.getLogger(__name__)

BEATS_A_LIFE = 5
"""Beats within the time after which a worker without one counts as gone."""

CANCEL_POLL_SECONDS = 0.25
FINISHED_KEPT_SECONDS = 3600.0
"""How long DBOS remembers what is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A worker as it tells the database."""

    worker_id: str
    slot: str
    process: str
    host: str
    pid: int
    models: tuple[str, ...]
    concurrency: int


class Liveness:
    """Three threads of a worker: its beat, a look at the dead, and one at cancelled jobs."""

    def __init__(
        self,
        identity: Identity,
        queue: QueueManager,
        attempts: AttemptRunner,
        hosts: HostPool,
        *,
        ttl: float,
        give_up: Callable[[str], None],
    ) -> None:
        """Say that this worker is there.

        Args:
            identity: of this worker.
            queue: where the jobs of the dead go.
            attempts: the jobs of this worker.
            hosts: its engines.
            ttl: seconds after which a worker without a beat counts as gone.
            give_up: called with the reason when this worker may have been taken for dead.
        """
        self._identity = identity
        self._queue = queue
        self._attempts = attempts
        self._hosts = hosts
        self._ttl = ttl
        self._give_up = give_up
        self._ended = threading.Event()
        self._beaten = time.monotonic()
        self._done = dict.fromkeys(("redispatch", "forget"), float("-inf"))
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

    @property
    def beat_age(self) -> float:
        """Seconds since its last beat began that the database took."""
        return time.monotonic() - self._beaten

    def start(self) -> None:
        """Take over what was left behind, then keep looking."""
        self._bury()
        for name, look, pause in (
            # Apart from the rest, which takes as long as there is much to look at.
            ("beat", self._beat, self._ttl / BEATS_A_LIFE),
            ("look", self._look_after_others, self._ttl / BEATS_A_LIFE),
            ("cancelled", self._stop_lost_jobs, CANCEL_POLL_SECONDS),
        ):
            threading.Thread(
                target=self._repeat, args=(look, pause), name=name, daemon=True
            ).start()

    def say_draining(self) -> None:
        """Tell those who look for a worker that this one takes nothing more."""
        with storage.get_session() as session:
            storage.beat(session, self._identity.worker_id, draining=True)

    def end(self) -> None:
        """Say good-bye; what this worker had picked up goes back into the queue."""
        self._ended.set()
        self._queue.give_back([self._identity.worker_id])
        with storage.get_session() as session:
            storage.remove_workers(session, [self._identity.worker_id])

    def _repeat(self, look: Callable[[], None], pause: float) -> None:
        while not self._ended.wait(pause):
            try:
                look()
            except storage.StorageError as error:
                log.warning("the database does not answer: %s", error)
            except Exception:
                # A thread that ends in silence would leave a worker that is never missed.
                log.exception("unexpected")

    def _beat(self) -> None:
        began = time.monotonic()
        try:
            with storage.get_session() as session:
                known = storage.beat(
                    session, self._identity.worker_id, draining=self._attempts.stopping is not None
                )
        except storage.StorageError:
            if time.monotonic() - self._beaten > self._ttl:
                self._give_up(f"it could not beat for {self._ttl:g} s")
            raise
        if not known:
            self._give_up("it was taken for dead")
        self._beaten = began

    def _look_after_others(self) -> None:
        # What kept this worker from beating may keep others, who are no more dead than it is.
        if time.monotonic() - self._beaten < self._ttl / 2:
            self._bury()
        self._hosts.unload_idle()
        if self._is_turn("redispatch", self._ttl):
            redispatch(self._queue)
        if self._is_turn("forget", min(self._ttl * 4, FINISHED_KEPT_SECONDS)):
            self._queue.forget(older_than_seconds=FINISHED_KEPT_SECONDS)

    def _is_turn(self, name: str, every: float) -> bool:
        now = time.monotonic()
        if now - self._done[name] < every:
            return False
        self._done[name] = now
        return True

    def _bury(self) -> None:
        """Put the jobs of the dead back into the queue."""
        # In this order: a worker registers before it picks up its first job.
        holders = self._queue.holders()
        with storage.get_session(read_only=True) as session:
            states = storage.list_workers(session)
        dead = {state.id for state in states if self._is_dead(state)}
        # Who said good-bye, or was given up, has no row; what it holds is nobody's.
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
            held = storage.attempts_still_held(session, tokens)
        lost = [token for token in tokens if token not in held]
        if lost:
            self._attempts.stop_jobs(StopReason.LOST, lost)
