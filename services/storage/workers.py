"""Register workers and their heartbeats, which use the database's clock."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import delete, insert, select, update

from services.storage.queue_models import WorkerRow, database_seconds

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerState:
    """A worker's row, and the age of its heartbeat."""

    id: str
    slot: str
    process: str
    host: str
    pid: int
    models: tuple[str, ...]
    concurrency: int
    draining: bool
    outage: str | None
    """Why it takes no jobs for now: what its machine lacks."""
    age: float
    """Seconds since the last heartbeat."""


def register_worker(
    session: Session,
    *,
    worker_id: str,
    slot: str,
    process: str,
    host: str,
    pid: int,
    models: Collection[str],
    concurrency: int,
) -> None:
    """Add a worker with its first heartbeat."""
    session.execute(
        insert(WorkerRow).values(
            id=worker_id,
            slot=slot,
            process=process,
            host=host,
            pid=pid,
            models=",".join(models),
            concurrency=concurrency,
            draining=0,
            beat_at=database_seconds(),
        )
    )


def record_heartbeat(
    session: Session, worker_id: str, *, draining: bool = False, outage: str | None = None
) -> bool:
    """Update a worker's heartbeat.

    Args:
        session: a session that can write.
        worker_id: of the worker.
        draining: whether it is shutting down and takes no new jobs.
        outage: why it takes no jobs for now.

    Returns:
        False when the worker's row is gone: its jobs were taken over, or the database was put back.
    """
    beaten = session.execute(
        update(WorkerRow)
        .where(WorkerRow.id == worker_id)
        .values(beat_at=database_seconds(), draining=int(draining), outage=outage)
        .returning(WorkerRow.id)
    )
    return beaten.scalar_one_or_none() is not None


def remove_workers(session: Session, worker_ids: Collection[str]) -> None:
    session.execute(delete(WorkerRow).where(WorkerRow.id.in_(worker_ids)))


def list_workers(session: Session) -> list[WorkerState]:
    """Return all workers that did not end properly yet, alive or dead, sorted by id."""
    age = (database_seconds() - WorkerRow.beat_at).label("age")
    rows = session.execute(select(WorkerRow, age).order_by(WorkerRow.id)).all()
    return [
        WorkerState(
            id=row.id,
            slot=row.slot,
            process=row.process,
            host=row.host,
            pid=row.pid,
            models=tuple(row.models.split(",")),
            concurrency=row.concurrency,
            draining=bool(row.draining),
            outage=row.outage,
            age=seconds,
        )
        for row, seconds in rows
    ]
