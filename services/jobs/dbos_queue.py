"""The queue, on DBOS Transact: the one module that knows it.

DBOS keeps one promise, that every job is picked up, also after a crash; what a person sees is the
row of `generations`. A dispatch is one workflow of DBOS, named after the generation and the
attempt, with nothing but these two as its input. docs/queue.md says what is DBOS's and what ours.
"""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from services import storage
from services.errors import SettingsError
from services.jobs.dispatch import Dispatch

if TYPE_CHECKING:
    from dbos import DBOSClient, EnqueueOptions
    from sqlalchemy.engine import Engine
    from sqlalchemy.orm import Session

APPLICATION = "dgx-music"
APPLICATION_VERSION = "1"
"""Never changes: DBOS leaves what another version began to that version, for ever."""

TESTED_DBOS = "3.4."
POLLING_SECONDS = 0.1

_WORKFLOW = "generate"
_LIVE = ("ENQUEUED", "DELAYED", "PENDING")
_OVER = ("SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")
_PAGE = 500
_EVERY_SLOT = 1_000
"""DBOS keeps one limit for all workers of a queue; ours differ, so it is out of the way."""


class HandedBack(BaseException):
    """Raised by a job's body that leaves its dispatch to another worker.

    Not an `Exception`, as DBOS records every one of those as the outcome.
    """


Body = Callable[[Dispatch], None]


def queue_of(model: str) -> str:
    """Name the queue of an engine: a worker listens to those it can run, and to no other."""
    return f"generations.{model}"


class QueueManager:
    """The queue in the open database, for those who send jobs and those who look after it."""

    def __init__(self) -> None:
        _refuse_what_was_not_tested()
        self._prepared = False

    def prepare(self) -> None:
        """Make DBOS's tables where they are missing: schema `dbos` on PostgreSQL, else beside ours.

        Raises:
            SettingsError: the installed DBOS is not one this release was tested with.
        """
        if not self._prepared:
            with storage.database_errors():
                self._system_database.run_migrations()
            self._prepared = True
            # Here, and not first within a transaction, which would wait for the library to load.
            _ = self._client

    def enqueue(
        self, session: Session, dispatch: Dispatch, *, model: str, place: int, delay: float = 0.0
    ) -> None:
        """Send a dispatch with the session's transaction; it is there when that commits.

        Args:
            session: an open session that may write.
            dispatch: a new one.
            model: the engine that is to make it.
            place: lower starts earlier, 1 to 2**31 - 1.
            delay: seconds before it may start.
        """
        options: EnqueueOptions = {
            "workflow_name": _WORKFLOW,
            "queue_name": queue_of(model),
            "workflow_id": dispatch.workflow_id,
            "priority": place,
        }
        if delay:
            options["delay_seconds"] = delay
        self._client.enqueue_in_transaction(
            session, options, dispatch.generation_id, dispatch.attempt
        )

    def cancel(self, dispatches: Collection[Dispatch]) -> None:
        """Take dispatches out of the queue; those that are over are left alone."""
        if dispatches:
            with storage.database_errors():
                self._client.cancel_workflows([one.workflow_id for one in dispatches])

    def without_workflow(self, dispatches: Sequence[Dispatch]) -> list[Dispatch]:
        """Give those that nobody will ever pick up."""
        if not dispatches:
            return []
        names = [one.workflow_id for one in dispatches]
        with storage.database_errors():
            found = self._client.list_workflows(
                workflow_ids=names, status=list(_LIVE), load_input=False, load_output=False
            )
        live = {workflow.workflow_id for workflow in found}
        return [one for one in dispatches if one.workflow_id not in live]

    def holders(self) -> set[str]:
        """Give the ids of the workers that have picked up dispatches, living or not."""
        return {str(workflow.executor_id) for workflow in self._picked_up()}

    def give_back(self, worker_ids: Collection[str]) -> int:
        """Put what those workers had picked up back into the queue; how many.

        Each dispatch moves once, however many callers try: it must still be theirs.
        """
        gone = list(worker_ids)
        # DBOS has this for its own start-up alone; `resume_workflow`, which is public, does not
        # look at who has the job, and starts one twice that somebody else has taken meanwhile.
        with storage.database_errors():
            return sum(
                self._system_database.reenqueue_for_recovery(
                    workflow.workflow_id, gone, workflow.queue_name or queue_of("lost")
                )
                for workflow in self._picked_up(gone)
            )

    def forget(self, *, older_than_seconds: float) -> int:
        """Delete what DBOS remembers of dispatches that are over; how many."""
        end = datetime.now(UTC) - timedelta(seconds=older_than_seconds)
        forgotten = 0
        while True:
            with storage.database_errors():
                over = self._client.list_workflows(
                    status=list(_OVER),
                    completed_before=end.isoformat(),
                    limit=_PAGE,
                    load_input=False,
                    load_output=False,
                )
                self._client.delete_workflows([workflow.workflow_id for workflow in over])
            forgotten += len(over)
            if len(over) < _PAGE:
                return forgotten

    def register(self, names: Collection[str]) -> None:
        """Note the queues, so that a listener hears of them at once."""
        with storage.database_errors():
            for name in names:
                self._client.register_queue(
                    name,
                    worker_concurrency=_EVERY_SLOT,
                    polling_interval_sec=POLLING_SECONDS,
                )

    def _picked_up(self, worker_ids: list[str] | None = None) -> list[Any]:
        with storage.database_errors():
            return list(
                self._client.list_workflows(
                    status="PENDING", executor_id=worker_ids, load_input=False, load_output=False
                )
            )

    @cached_property
    def _engine(self) -> Engine:
        return storage.open_queue_engine()

    @cached_property
    def _client(self) -> DBOSClient:
        _quieten()
        from dbos import DBOSClient

        self.prepare()
        return DBOSClient(
            system_database_engine=self._engine,
            application_name=APPLICATION,
            serializer=_serializer(),
            lazy=True,
            retry_connection_errors=False,
        )

    @cached_property
    def _system_database(self) -> Any:
        _quieten()
        from dbos._sys_db import SystemDatabase

        return SystemDatabase.create(
            system_database_url=_kind(self._engine),
            engine_kwargs={},
            engine=self._engine,
            schema="dbos",
            serializer=_serializer(),
            executor_id=None,
            use_listen_notify=False,
            app_name=APPLICATION,
            retry_connection_errors=False,
        )


class QueueListener:
    """Picks up dispatches for this process, as many as it has free slots for."""

    def __init__(
        self,
        queue: QueueManager,
        worker_id: str,
        models: Collection[str],
        free_slots: Callable[[str], int],
        body: Body,
    ) -> None:
        """Start to listen.

        Args:
            queue: prepared.
            worker_id: never used by another process, of now or before.
            models: engines whose queues to listen to.
            free_slots: how many more dispatches for an engine to take now.
            body: called in a thread of its own for each dispatch; the dispatch is over when it
                returns, and stays open when it raises `HandedBack`.
        """
        _quieten()
        from dbos import DBOS

        def generate(generation_id: str, attempt: int) -> None:
            body(Dispatch(generation_id, attempt))

        engine = storage.open_queue_engine()
        # Without a number DBOS gives up a job, and its neighbours, after so many crashes; that is
        # for us to decide, of one job at a time.
        DBOS.workflow(name=_WORKFLOW, max_recovery_attempts=None)(generate)
        self._dbos = DBOS(
            config={
                "name": APPLICATION,
                "system_database_url": _kind(engine),
                "system_database_engine": engine,
                "application_version": APPLICATION_VERSION,
                "executor_id": worker_id,
                "serializer": _serializer(),
                "use_listen_notify": False,
                "log_level": "WARNING",
            }
        )
        names = [queue_of(model) for model in models]
        queue.register(names)
        DBOS.listen_queues(names)
        self._count_slots(free_slots, dict(zip(names, models, strict=True)))
        DBOS.launch()

    def _count_slots(self, free_slots: Callable[[str], int], models: Mapping[str, str]) -> None:
        """Let DBOS ask us how busy this worker is: it counts a queue at a time, we count jobs."""

        def busy(queue_name: str) -> int:
            return _EVERY_SLOT - max(0, free_slots(models.get(queue_name, queue_name)))

        active: Any = self._dbos._active_workflows_set
        active.count_for_queue = busy

    def stop(self) -> None:
        """Pick up nothing more; bodies that have ended are recorded, those that run are left."""
        from dbos import DBOS

        ending = bool(self._dbos._active_workflows_set.activeList())
        DBOS.destroy(workflow_completion_timeout_sec=int(ending), destroy_registry=True)


def _refuse_what_was_not_tested() -> None:
    """Refuse another DBOS than the one the crash tests ran on.

    Raises:
        SettingsError: it is of another version, or its proprietary part is installed.
    """
    version = importlib.metadata.version("dbos")
    if not version.startswith(TESTED_DBOS):
        raise SettingsError(
            f"dbos {version} is installed, and this release was tested with {TESTED_DBOS}x only. "
            "Install the project again: ./just init"
        )
    if find_spec("dbos_enterprise") is not None:
        raise SettingsError(
            "The package dbos-enterprise is installed. It is proprietary and changes who recovers "
            "jobs; uninstall it: pip uninstall dbos-enterprise"
        )


def _serializer() -> Any:
    """JSON: what another process wrote is never unpickled."""
    from dbos._serialization import DBOSPortableJSON

    return DBOSPortableJSON


def _kind(engine: Engine) -> str:
    """What DBOS reads of a URL when it is given an engine: which database it is."""
    return "sqlite:///engine" if engine.dialect.name == "sqlite" else "postgresql://engine/engine"


def _quieten() -> None:
    """Let DBOS log where everything else does; it would else talk on stderr by itself."""
    logger = logging.getLogger("dbos")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
        logger.setLevel(logging.WARNING)
