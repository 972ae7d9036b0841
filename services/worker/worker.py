"""The worker process: `dgx-music worker`."""

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
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING

from services import storage
from services.database import open_database, storage_errors
from services.errors import EngineUnavailableError
from services.generation.engine import EngineSettings
from services.jobs.dbos_queue import QueueListener, QueueManager
from services.jobs.living import living_workers
from services.library.drafts import remove_old_drafts
from services.library.store import open_store
from services.library.takes import Delivery
from services.machine.process_identity import ProcessIdentity
from services.worker.claims import Claims
from services.worker.hosting.host import (
    DEFAULT_REGISTRY,
    STOP_GRACE_SECONDS,
    EngineSource,
    Limits,
)
from services.worker.hosting.pool import HostPool
from services.worker.liveness import LivenessMonitor, WorkerIdentity
from services.worker.lock import WorkerLock
from services.worker.outage import Outage, find_reason
from services.worker.preflight import (
    explain_unshared_folder,
    require_local_disk,
    require_one_machine,
)
from services.worker.runner import AttemptRunner, StopReason
from services.worker.stopped import StoppedWorkerKiller

if TYPE_CHECKING:
    from services.config import Settings
    from services.generation.registry import Registry

log = logging.getLogger(__name__)

GAVE_UP_EXIT_CODE = 6
SAME_SIGNAL_SECONDS = 1.0
"""A second signal within this time is the first again: supervisors may signal process and group."""

_OLD_DRAFT_SECONDS = 86_400.0
_STOPPING_SECONDS = STOP_GRACE_SECONDS + 10.0


class Worker:
    """A worker without signal handling, so that a server can contain one."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        *,
        concurrency: int | None = None,
        models: Sequence[str] | None = None,
        registry_source: str = DEFAULT_REGISTRY,
    ) -> None:
        """Open the database and check that a worker may run here.

        Args:
            settings: of the process.
            registry: the engines.
            concurrency: jobs at once; None for the setting.
            models: engines to serve; None for all that can run here.
            registry_source: "module:function" that returns the registry in engine processes.

        Raises:
            EngineUnavailableError: a model of `models` cannot run here.
            SettingsError: workers cannot use the database.
            StorageError, OutputError: the database or the output folder cannot be used.
        """
        self._settings = settings
        self.models = _models(registry, models)
        self.concurrency = concurrency or settings.worker_concurrency
        open_database(settings, long_lived=True)
        with storage_errors():
            _check_database(settings)
            self._stopped_killer = StoppedWorkerKiller(settings.worker_ttl_seconds)
            self._lock = WorkerLock(settings.output_dir)
            store = open_store(settings)
            store.check()
            _clear_scratch(settings)
            self._queue = QueueManager()
            self._queue.prepare()
        host = socket.gethostname()
        self.id = f"{host}.{self._lock.number}.{uuid.uuid4().hex[:8]}"
        self._identity = WorkerIdentity(
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
            EngineSource(registry_source, EngineSettings.of(settings)),
            limits,
            settings.engine_idle_seconds,
            seats={
                entry.facts.name: min(entry.facts.concurrent, self.concurrency)
                for entry in registry
            },
        )
        claims = Claims(settings, self._queue, self.id, store)
        delivery = Delivery.of(settings)
        self._outage = Outage(partial(find_reason, delivery, store))
        self._attempts = AttemptRunner(
            claims, self._hosts, delivery, self.concurrency, self._outage
        )

    def start(self) -> None:
        """Start the heartbeat, take over the jobs of dead workers, and pick up jobs."""
        with storage_errors():
            self._liveness = LivenessMonitor(
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
    def heartbeat_age(self) -> float:
        """Seconds since the last heartbeat of this worker, which must have been started."""
        return self._liveness.heartbeat_age

    @property
    def loaded_models(self) -> Counter[str]:
        """Engine -> number of processes that have it loaded."""
        return self._hosts.count_models()

    def drain(self, seconds: float) -> None:
        """Take no more jobs, finish or give back those that run, and shut down.

        Args:
            seconds: for running jobs to finish; the others are given back.
        """
        log.info("draining worker=%s", self.id)
        self._attempts.stop_taking(StopReason.DRAINED)
        with suppress(storage.StorageError):
            self._liveness.announce_draining()
        if not self._attempts.wait_idle(seconds):
            self._attempts.stop_jobs(StopReason.DRAINED)
            self._attempts.wait_idle(_STOPPING_SECONDS)
        self._listener.stop()
        with storage_errors():
            self._liveness.deregister()
        self._stopped_killer.end()
        self._outage.end()
        self._hosts.kill_all()
        self._lock.release()
        log.info("ended worker=%s", self.id)

    def give_up(self, reason: str) -> None:
        """End the process at once, because other workers may run its jobs by now."""
        log.error("giving up worker=%s: %s", self.id, reason)
        self._attempts.stop_taking(StopReason.ABANDONED)
        self._hosts.kill_all()
        os._exit(GAVE_UP_EXIT_CODE)


def shutdown_signals() -> list[signal.Signals]:
    """Return the signals that a worker or a server shuts down on."""
    # nohup makes a process ignore SIGHUP.
    ignores_hang_up = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [signal.SIGTERM, signal.SIGINT, *([] if ignores_hang_up else [signal.SIGHUP])]


def run_worker(worker: Worker, drain_seconds: float) -> None:
    """Run a worker until SIGTERM, SIGINT or SIGHUP, then drain it; a second signal ends it at once.

    Args:
        worker: not started.
        drain_seconds: as for `Worker.drain`.
    """
    signalled = threading.Event()
    signalled_at = 0.0

    def handle(_number: int, _frame: FrameType | None) -> None:
        nonlocal signalled_at
        now = time.monotonic()
        if not signalled.is_set():
            signalled_at = now
        elif now - signalled_at > SAME_SIGNAL_SECONDS:
            worker.give_up("a second signal came")
        signalled.set()

    for number in shutdown_signals():
        signal.signal(number, handle)
    worker.start()
    signalled.wait()
    worker.drain(drain_seconds)
    storage.close_db()


def _models(registry: Registry, wanted: Sequence[str] | None) -> tuple[str, ...]:
    if wanted:
        return tuple(registry.resolve(name).facts.name for name in wanted)
    available = tuple(entry.facts.name for entry in registry if entry.why_unavailable() is None)
    if not available:
        raise EngineUnavailableError("No model can run here. `dgx-music models list` says why.")
    return available


def _clear_scratch(settings: Settings) -> None:
    """Remove the drafts of workers that were killed on this machine.

    Other machines may have taken over their jobs. If the output folder is the store, `files check
    --repair` removes the drafts.
    """
    if settings.file_store is not None:
        age = max(_OLD_DRAFT_SECONDS, 2 * settings.job_deadline_seconds)
        remove_old_drafts(settings.output_dir, age)


def _check_database(settings: Settings) -> None:
    facts = storage.describe_database()
    if facts["kind"] == "sqlite":
        require_local_disk(storage.database_file(settings.database_url))
        require_one_machine(living_workers(settings.worker_ttl_seconds))
    elif settings.file_store is None:
        living = living_workers(settings.worker_ttl_seconds)
        if (reason := explain_unshared_folder(settings.output_dir, living)) is not None:
            log.warning("the output folder is not shared: %s", reason)
