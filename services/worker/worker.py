"""A process that makes the jobs of the queue: `dgx-music worker`."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING

from services import storage
from services.database import open_database, storage_errors
from services.errors import EngineUnavailableError
from services.jobs.dbos_queue import QueueListener, QueueManager
from services.jobs.living import living_workers
from services.library.drafts import clear_old_drafts
from services.library.store import open_store
from services.library.takes import Delivery
from services.machine.process_identity import ProcessIdentity
from services.worker.claims import Claims
from services.worker.hosting.host import (
    DEFAULT_REGISTRY,
    STOP_GRACE_SECONDS,
    Limits,
)
from services.worker.hosting.pool import HostPool
from services.worker.liveness import Identity, Liveness
from services.worker.lock import WorkerLock
from services.worker.preflight import (
    require_local_disk,
    require_one_machine,
    why_files_stay_here,
)
from services.worker.runner import AttemptRunner, StopReason
from services.worker.stopped import StoppedWorkers

if TYPE_CHECKING:
    from services.config import Settings
    from services.generation.registry import Registry

log = logging.getLogger(__name__)

GAVE_UP_EXIT_CODE = 6
SAME_WISH_SECONDS = 1.0
"""A second signal so soon is the first one again: a supervisor may tell a process and its group."""

_OLD_DRAFT_SECONDS = 86_400.0
_STOPPING_SECONDS = STOP_GRACE_SECONDS + 10.0


class Worker:
    """Everything of a worker but its signals, so that a server can have one inside."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        *,
        concurrency: int | None = None,
        models: Sequence[str] | None = None,
        registry_source: str = DEFAULT_REGISTRY,
    ) -> None:
        """Open the database, and check that a worker may run here.

        Args:
            settings: of the process.
            registry: the engines.
            concurrency: jobs at once; None takes the setting.
            models: engines to serve; None is all that can run here.
            registry_source: "module:function" that gives the registry to the engines' processes.

        Raises:
            EngineUnavailableError: an engine is asked for that cannot run here.
            SettingsError: the database is not one for workers.
            StorageError, OutputError: the database or the output folder cannot be used.
        """
        self._settings = settings
        self.models = _models(registry, models)
        self.concurrency = concurrency or settings.worker_concurrency
        open_database(settings, for_long=True)
        with storage_errors():
            _check_database(settings)
            self._stopped = StoppedWorkers(settings.worker_ttl_seconds)
            self._lock = WorkerLock(settings.output_dir)
            store = open_store(settings)
            store.check()
            _clear_scratch(settings)
            self._queue = QueueManager()
            self._queue.prepare()
        host = socket.gethostname()
        self.id = f"{host}.{self._lock.number}.{uuid.uuid4().hex[:8]}"
        self._identity = Identity(
            worker_id=self.id,
            slot=self._lock.slot,
            process=str(ProcessIdentity.current()),
            host=host,
            pid=os.getpid(),
            models=self.models,
            concurrency=self.concurrency,
        )
        limits = Limits(stall=settings.engine_stall_seconds, deadline=settings.job_deadline_seconds)
        self._hosts = HostPool(
            self.concurrency,
            registry_source,
            limits,
            settings.engine_idle_seconds,
            seats={
                entry.facts.name: min(entry.facts.concurrent, self.concurrency)
                for entry in registry
            },
        )
        claims = Claims(settings, self._queue, self.id, store)
        self._attempts = AttemptRunner(claims, self._hosts, Delivery.of(settings), self.concurrency)

    def start(self) -> None:
        """Beat, take over what dead workers left, and begin to pick up jobs."""
        with storage_errors():
            self._liveness = Liveness(
                self._identity,
                self._queue,
                self._attempts,
                self._hosts,
                ttl=self._settings.worker_ttl_seconds,
                give_up=self.give_up,
            )
            self._liveness.start()
            self._listener = QueueListener(
                self._queue, self.id, self.models, self._attempts.free_slots, self._attempts.run
            )
        log.info(
            "ready worker=%s concurrency=%d models=%s",
            self.id,
            self.concurrency,
            ",".join(self.models),
        )

    @property
    def beat_age(self) -> float:
        """Seconds since the last beat of this worker, which was started."""
        return self._liveness.beat_age

    @property
    def loaded_models(self) -> Counter[str]:
        """Engine -> how many processes have it now."""
        return self._hosts.models()

    def drain(self, seconds: float) -> None:
        """Begin nothing more, finish what runs or give it back, and leave."""
        log.info("draining worker=%s", self.id)
        self._attempts.stop_taking(StopReason.DRAINED)
        with suppress(storage.StorageError):
            self._liveness.say_draining()
        if not self._attempts.wait_idle(seconds):
            self._attempts.stop_jobs(StopReason.DRAINED)
            self._attempts.wait_idle(_STOPPING_SECONDS)
        self._listener.stop()
        with storage_errors():
            self._liveness.end()
        self._stopped.end()
        self._hosts.kill_all()
        self._lock.release()
        log.info("ended worker=%s", self.id)

    def give_up(self, reason: str) -> None:
        """End the process at once: others may be making its jobs by now."""
        log.error("giving up worker=%s: %s", self.id, reason)
        self._attempts.stop_taking(StopReason.ABANDONED)
        self._hosts.kill_all()
        os._exit(GAVE_UP_EXIT_CODE)


def ending_signals() -> list[signal.Signals]:
    """Give the signals that ask a worker or a server to leave."""
    # nohup has the hang-up of the terminal ignored.
    ignores_hang_up = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [signal.SIGTERM, signal.SIGINT, *([] if ignores_hang_up else [signal.SIGHUP])]


def run_worker(worker: Worker, drain_seconds: float) -> None:
    """Run a worker until SIGTERM, SIGINT or SIGHUP, then drain it; a second ends it at once."""
    asked = threading.Event()
    asked_at = 0.0

    def ask(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked_at
        now = time.monotonic()
        if not asked.is_set():
            asked_at = now
        elif now - asked_at > SAME_WISH_SECONDS:
            worker.give_up("told so twice")
        asked.set()

    for number in ending_signals():
        signal.signal(number, ask)
    worker.start()
    asked.wait()
    worker.drain(drain_seconds)
    storage.close_db()


def _models(registry: Registry, wanted: Sequence[str] | None) -> tuple[str, ...]:
    if wanted:
        return tuple(registry.resolve(name).facts.name for name in wanted)
    here = tuple(entry.facts.name for entry in registry if entry.why_unavailable() is None)
    if not here:
        raise EngineUnavailableError("No model can run here. `dgx-music models list` says why.")
    return here


def _clear_scratch(settings: Settings) -> None:
    """Remove drafts of workers that were killed here, and whose jobs other machines took over.

    Where the output folder is the store, `files check` looks after it.
    """
    if settings.file_store is not None:
        age = max(_OLD_DRAFT_SECONDS, 2 * settings.job_deadline_seconds)
        clear_old_drafts(settings.output_dir, age)


def _check_database(settings: Settings) -> None:
    facts = storage.describe_database()
    if facts["kind"] == "sqlite":
        require_local_disk(storage.database_file(settings.database_url))
        require_one_machine(living_workers(settings.worker_ttl_seconds))
    elif settings.file_store is None:
        living = living_workers(settings.worker_ttl_seconds)
        if (reason := why_files_stay_here(settings.output_dir, living)) is not None:
            log.warning("files are only here: %s", reason)
