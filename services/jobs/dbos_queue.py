"""The queue, on DBOS Transact; no other module uses DBOS.

DBOS guarantees that every dispatch is picked up, also after a crash. Users see the row of
`generations`, not DBOS. A dispatch is one DBOS workflow: its name and its input are the job id and
the attempt number. docs/queue.md lists what DBOS does and what this project does.
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
from services.installation import name_repair_command
from services.jobs.dispatch import Dispatch

if TYPE_CHECKING:
    from dbos import DBOSClient, EnqueueOptions
    from sqlalchemy.engine import Engine
    from sqlalchemy.orm import Session

APPLICATION = "dgx-music"
APPLICATION_VERSION = "1"
"""Never changes: DBOS leaves the workflows of another version to that version for ever."""

TESTED_DBOS = "3.4."
POLLING_SECONDS = 0.1

_WORKFLOW = "generate"
_LIVE = ("ENQUEUED", "DELAYED", "PENDING")
_OVER = ("SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")
_PAGE = 500
_NO_LIMIT = 1_000
"""Slots of a queue. DBOS has one limit for all workers of a queue; ours differ by worker."""


class DispatchReturned(BaseException):
    """A dispatch is left to another worker.

    DBOS would record an `Exception` as the outcome of the workflow, so this is not one.
    """


RunDispatch = Callable[[Dispatch], None]


def queue_name(model: str) -> str:
    """Return the queue of an engine; a worker listens to the queues of the engines it can run."""
    return f"generations.{model}"


class QueueManager:
    """The queue in the open database."""

    def __init__(self) -> None:
        _require_tested_dbos()
        self._prepared = False

    def prepare(self) -> None:
        """Create DBOS's tables if they are missing: schema `dbos` on PostgreSQL, else beside ours.

        Raises:
            SettingsError: the installed DBOS is not one this release was tested with.
        """
        if not self._prepared:
            with storage.database_errors():
                self._system_database.run_migrations()
            self._prepared = True
            # Otherwise the first transaction that enqueues would wait for the library to load.
            _ = self._client

    def enqueue(
        self, session: Session, dispatch: Dispatch, *, model: str, place: int, delay: float = 0.0
    ) -> None:
        """Add a dispatch to the queue when the session's transaction commits.

        Args:
            session: an open session that may write.
            dispatch: never enqueued before.
            model: the engine that renders it.
            place: lower starts earlier, 1 to 2**31 - 1.
            delay: seconds before it may start.
        """
        options: EnqueueOptions = {
            "workflow_name": _WORKFLOW,
            "queue_name": queue_name(model),
            "workflow_id": dispatch.workflow_id,
            "priority": place,
        }
        if delay:
            options["delay_seconds"] = delay
        self._client.enqueue_in_transaction(
            session, options, dispatch.generation_id, dispatch.attempt
        )

    def cancel(self, dispatches: Collection[Dispatch]) -> None:
        """Remove dispatches from the queue; finished ones are left alone."""
        if dispatches:
            with storage.database_errors():
                self._client.cancel_workflows([one.workflow_id for one in dispatches])

    def find_lost(self, dispatches: Sequence[Dispatch]) -> list[Dispatch]:
        """Return the dispatches that no worker will ever pick up."""
        if not dispatches:
            return []
        names = [one.workflow_id for one in dispatches]
        with storage.database_errors():
            found = self._client.list_workflows(
                workflow_ids=names, status=list(_LIVE), load_input=False, load_output=False
            )
        live = {workflow.workflow_id for workflow in found}
        return [one for one in dispatches if one.workflow_id not in live]

    def workers_with_dispatches(self) -> set[str]:
        """Return the ids of the workers that hold dispatches, whether alive or dead."""
        return {str(workflow.executor_id) for workflow in self._picked_up()}

    def dispatches_of(self, worker_id: str) -> set[Dispatch]:
        """Return the dispatches that the queue says a worker has picked up."""
        return {Dispatch.parse(workflow.workflow_id) for workflow in self._picked_up([worker_id])}

    def give_back(self, worker_ids: Collection[str]) -> int:
        """Return the dispatches of these workers to the queue, and their number.

        A dispatch that another worker holds by now stays where it is, so any number of callers
        may try at once.
        """
        gone = list(worker_ids)
        # The public `resume_workflow` ignores the worker that holds the dispatch: it would start
        # one again that another worker has picked up meanwhile.
        with storage.database_errors():
            return sum(
                self._system_database.reenqueue_for_recovery(
                    workflow.workflow_id, gone, workflow.queue_name or queue_name("lost")
                )
                for workflow in self._picked_up(gone)
            )

    def delete_finished(self, *, older_than_seconds: float) -> int:
        """Delete DBOS's records of finished dispatches; return their number."""
        end = datetime.now(UTC) - timedelta(seconds=older_than_seconds)
        deleted = 0
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
            deleted += len(over)
            if len(over) < _PAGE:
                return deleted

    def register_queues(self, names: Collection[str]) -> None:
        """Record the queues in the database, where listeners find them."""
        with storage.database_errors():
            for name in names:
                self._client.register_queue(
                    name,
                    worker_concurrency=_NO_LIMIT,
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
        return storage.get_queue_engine()

    @cached_property
    def _client(self) -> DBOSClient:
        _configure_dbos_logger()
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
        _configure_dbos_logger()
        from dbos._sys_db import SystemDatabase

        return SystemDatabase.create(
            system_database_url=_dialect_url(self._engine),
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
        run: RunDispatch,
    ) -> None:
        """Start to listen.

        Args:
            queue: prepared.
            worker_id: unique among all workers that ever ran.
            models: engines whose queues to listen to.
            free_slots: returns the number of dispatches for an engine that may be picked up now.
            run: called in a thread of its own for each dispatch. The dispatch is finished when
                it returns, and goes to another worker when it raises `DispatchReturned`.
        """
        _configure_dbos_logger()
        from dbos import DBOS

        def generate(generation_id: str, attempt: int) -> None:
            run(Dispatch(generation_id, attempt))

        engine = storage.get_queue_engine()
        # By default DBOS gives a workflow up after some crashes, even if the one beside it caused
        # them. `Claims` counts the crashes of each job instead.
        DBOS.workflow(name=_WORKFLOW, max_recovery_attempts=None)(generate)
        self._dbos = DBOS(
            config={
                "name": APPLICATION,
                "system_database_url": _dialect_url(engine),
                "system_database_engine": engine,
                "application_version": APPLICATION_VERSION,
                "executor_id": worker_id,
                "serializer": _serializer(),
                "use_listen_notify": False,
                "log_level": "WARNING",
            }
        )
        names = [queue_name(model) for model in models]
        queue.register_queues(names)
        DBOS.listen_queues(names)
        self._count_slots(free_slots, dict(zip(names, models, strict=True)))
        DBOS.launch()

    def _count_slots(self, free_slots: Callable[[str], int], models: Mapping[str, str]) -> None:
        """Make DBOS use `free_slots`: it counts each queue by itself, a worker all its jobs."""

        def count_busy(name: str) -> int:
            return _NO_LIMIT - max(0, free_slots(models.get(name, name)))

        active: Any = self._dbos._active_workflows_set
        active.count_for_queue = count_busy

    def stop(self) -> None:
        """Pick up nothing more; record finished dispatches, and leave those that still run."""
        from dbos import DBOS

        ending = bool(self._dbos._active_workflows_set.activeList())
        DBOS.destroy(workflow_completion_timeout_sec=int(ending), destroy_registry=True)


def _require_tested_dbos() -> None:
    """Check that the installed DBOS is the one that the crash tests ran on.

    Raises:
        SettingsError: it is another version, or its proprietary part is installed.
    """
    version = importlib.metadata.version("dbos")
    if not version.startswith(TESTED_DBOS):
        raise SettingsError(
            f"dbos {version} is installed, but this release was tested with {TESTED_DBOS}x only. "
            f"Install the project again: {name_repair_command()}"
        )
    if find_spec("dbos_enterprise") is not None:
        raise SettingsError(
            "The package dbos-enterprise is installed. It is proprietary and changes how jobs are "
            "recovered; uninstall it: pip uninstall dbos-enterprise"
        )


def _serializer() -> Any:
    # JSON: data that another process wrote is never unpickled.
    from dbos._serialization import DBOSPortableJSON

    return DBOSPortableJSON


def _dialect_url(engine: Engine) -> str:
    # DBOS reads only the kind of database from the URL when it is given an engine.
    return "sqlite:///engine" if engine.dialect.name == "sqlite" else "postgresql://engine/engine"


def _configure_dbos_logger() -> None:
    # Without a handler of its own DBOS would add one that writes to stderr.
    logger = logging.getLogger("dbos")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
        logger.setLevel(logging.WARNING)
