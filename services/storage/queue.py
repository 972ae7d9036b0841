"""Add, find and remove queue entries, and count the jobs that wait."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, select, tuple_, update

from services.storage.columns import pad_values, utc_now
from services.storage.generations import match_status
from services.storage.models import Generation
from services.storage.queue_models import QueueEntry
from services.storage.queue_order import Priority, compute_place, compute_rank
from services.storage.schema import GenerationStatus

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

# The advisory lock of submitters on PostgreSQL. SQLite allows only one writer anyway.
_ORDER_LOCK = 0x0D68_4D75_7369_64


def lock_queue_order(session: Session) -> None:
    """Make other submitters wait until this transaction ends. Must be its first statement.

    Otherwise two jobs could get the same place, and two batches with the same prompts could
    deadlock.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.connection().exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ORDER_LOCK})")


def add_queue_entry(
    session: Session, generation: Generation, *, client: str, priority: Priority
) -> QueueEntry:
    """Add a pending job to the queue at its place.

    Args:
        session: a session that can write, after `lock_queue_order`.
        generation: the job, whose row exists.
        client: the client whose share of the workers the job uses.
        priority: class of the job.
    """
    rank = compute_rank(*_read_ranks(session, client, priority))
    of_rank = select(func.max(QueueEntry.place)).where(
        QueueEntry.priority == priority.order, QueueEntry.rank == rank
    )
    entry = QueueEntry(
        generation_id=generation.id,
        client=client,
        priority=priority.order,
        rank=rank,
        place=compute_place(priority, rank, session.execute(of_rank).scalar()),
        duration_seconds=generation.duration_seconds,
        attempt=1,
        crashes=0,
        step="queued",
        progress=0.0,
        created_at=utc_now(),
    )
    session.add(entry)
    session.flush()
    return entry


def _read_ranks(
    session: Session, client: str, priority: Priority
) -> tuple[int | None, int | None, int | None]:
    """Return the client's highest rank, the highest running rank and the lowest waiting rank."""
    of_class = QueueEntry.priority == priority.order
    own = select(func.max(QueueEntry.rank)).where(of_class, QueueEntry.client == client)
    started = select(func.max(QueueEntry.rank)).where(of_class, QueueEntry.worker_id.is_not(None))
    waiting = select(func.min(QueueEntry.rank)).where(of_class, QueueEntry.worker_id.is_(None))
    ranks = session.execute(
        select(own.scalar_subquery(), started.scalar_subquery(), waiting.scalar_subquery())
    ).one()
    return ranks[0], ranks[1], ranks[2]


def get_queue_entry(
    session: Session, generation_id: str, *, for_update: bool = False
) -> QueueEntry | None:
    """Return the entry of a job; None when it is finished or was never queued.

    `for_update` reads it again and locks it until the transaction ends.
    """
    return session.get(
        QueueEntry, generation_id, with_for_update=for_update or None, populate_existing=for_update
    )


def get_queue_entries(session: Session, generation_ids: Sequence[str]) -> dict[str, QueueEntry]:
    """Return id -> entry for jobs; ids without an entry are left out."""
    found = select(QueueEntry).where(QueueEntry.generation_id.in_(pad_values(generation_ids)))
    return {entry.generation_id: entry for entry in session.scalars(found)}


def list_queue_entries(
    session: Session, *, after: QueueEntry | None = None, limit: int = 500
) -> list[QueueEntry]:
    """Return entries in the order in which they start, beginning behind `after`."""
    order = (QueueEntry.place, QueueEntry.generation_id)
    found = select(QueueEntry)
    if after is not None:
        found = found.where(tuple_(*order) > (after.place, after.generation_id))
    return list(session.scalars(found.order_by(*order).limit(limit)))


def remove_queue_entry(session: Session, generation_id: str) -> None:
    """Remove a job from the queue, if it is there."""
    session.execute(delete(QueueEntry).where(QueueEntry.generation_id == generation_id))


def record_progress(
    session: Session, generation_id: str, worker_id: str, *, step: str, progress: float
) -> None:
    """Store step and progress (0..1) of a job, if this worker still holds it."""
    session.execute(
        update(QueueEntry)
        .where(QueueEntry.generation_id == generation_id, QueueEntry.worker_id == worker_id)
        .values(step=step, progress=progress)
    )


def count_jobs_ahead(session: Session, place: int) -> tuple[int, float]:
    """Return the number of jobs that wait before a place, and their total seconds of music."""
    ahead = select(func.count(), func.coalesce(func.sum(QueueEntry.duration_seconds), 0.0)).where(
        QueueEntry.worker_id.is_(None), QueueEntry.place < place
    )
    row = session.execute(ahead).one()
    return row[0], row[1]


def count_waiting(session: Session) -> tuple[int, datetime | None]:
    """Return the number of waiting jobs, and when the oldest was queued; None without one."""
    waiting = select(func.count(), func.min(QueueEntry.created_at)).where(
        QueueEntry.worker_id.is_(None)
    )
    row = session.execute(waiting).one()
    return row[0], row[1]


def count_waiting_up_to(session: Session, most: int) -> int:
    """Return the number of waiting jobs, or `most` where there are more."""
    some = select(QueueEntry.generation_id).where(QueueEntry.worker_id.is_(None)).limit(most)
    return session.execute(select(func.count()).select_from(some.subquery())).scalar_one()


def average_real_time_factor(
    session: Session, model_name: str, *, sample: int = 20
) -> float | None:
    """Return the seconds of work for a second of music, over a model's newest completed jobs.

    None without a completed job.
    """
    last: Any = (
        select(Generation.generation_time_seconds, Generation.duration_seconds)
        .where(
            *match_status(GenerationStatus.COMPLETED),
            Generation.model_name == model_name,
            Generation.generation_time_seconds.is_not(None),
        )
        .order_by(Generation.created_at.desc())
        .limit(sample)
        .subquery()
    )
    work, music = session.execute(
        select(func.sum(last.c.generation_time_seconds), func.sum(last.c.duration_seconds))
    ).one()
    return work / music if music else None


def find_current_tokens(session: Session, tokens: Sequence[str]) -> set[str]:
    """Return those of the tokens under which a row is processing."""
    held = select(Generation.attempt_token).where(
        Generation.status == GenerationStatus.PROCESSING.value,
        Generation.attempt_token.in_(pad_values(tokens)),
    )
    return {str(token) for token in session.scalars(held)}
