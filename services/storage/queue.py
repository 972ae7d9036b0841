"""The queue's rows: adding, finding and ordering what waits."""

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

# One number that submitters ask PostgreSQL to lock. SQLite's writers take turns anyway.
_ORDER_LOCK = 0x0D68_4D75_7369_64


def lock_queue_order(session: Session) -> None:
    """Keep other submitters waiting until this transaction ends; its first statement.

    So that no two get one place, and two batches with the same prompts do not wait for each other.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.connection().exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ORDER_LOCK})")


def add_queue_entry(
    session: Session, generation: Generation, *, client: str, priority: Priority
) -> QueueEntry:
    """Put a pending generation at its place among those that wait.

    Args:
        session: an open session that may write, after `lock_queue_order`.
        generation: its row is in this transaction or before it.
        client: whose share of the workers it takes.
        priority: its class.
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
    """The client's last rank, the highest at work, the lowest that waits."""
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
    """Give the entry of a generation; None when it is finished, or never was in the queue."""
    return session.get(
        QueueEntry, generation_id, with_for_update=for_update or None, populate_existing=for_update
    )


def get_queue_entries(session: Session, generation_ids: Sequence[str]) -> dict[str, QueueEntry]:
    """Give the entries of several generations, by id; those without one are left out."""
    found = select(QueueEntry).where(QueueEntry.generation_id.in_(pad_values(generation_ids)))
    return {entry.generation_id: entry for entry in session.scalars(found)}


def list_queue_entries(
    session: Session, *, after: QueueEntry | None = None, limit: int = 500
) -> list[QueueEntry]:
    """Give entries in the order in which they start, from the one behind `after`."""
    order = (QueueEntry.place, QueueEntry.generation_id)
    found = select(QueueEntry)
    if after is not None:
        found = found.where(tuple_(*order) > (after.place, after.generation_id))
    return list(session.scalars(found.order_by(*order).limit(limit)))


def remove_queue_entry(session: Session, generation_id: str) -> None:
    """Take a generation out of the queue; nothing happens when it is in none."""
    session.execute(delete(QueueEntry).where(QueueEntry.generation_id == generation_id))


def record_progress(
    session: Session, generation_id: str, worker_id: str, *, step: str, progress: float
) -> None:
    """Note how far a job is, if that worker still has it."""
    session.execute(
        update(QueueEntry)
        .where(QueueEntry.generation_id == generation_id, QueueEntry.worker_id == worker_id)
        .values(step=step, progress=progress)
    )


def count_jobs_ahead(session: Session, place: int) -> tuple[int, float]:
    """Count the jobs that wait and start before a place, and the seconds of music in them."""
    ahead = select(func.count(), func.coalesce(func.sum(QueueEntry.duration_seconds), 0.0)).where(
        QueueEntry.worker_id.is_(None), QueueEntry.place < place
    )
    row = session.execute(ahead).one()
    return row[0], row[1]


def count_waiting(session: Session) -> tuple[int, datetime | None]:
    """Count the jobs that wait, and say since when the oldest of them does."""
    waiting = select(func.count(), func.min(QueueEntry.created_at)).where(
        QueueEntry.worker_id.is_(None)
    )
    row = session.execute(waiting).one()
    return row[0], row[1]


def count_waiting_up_to(session: Session, most: int) -> int:
    """Count the jobs that wait, but no further than `most`."""
    some = select(QueueEntry.generation_id).where(QueueEntry.worker_id.is_(None)).limit(most)
    return session.execute(select(func.count()).select_from(some.subquery())).scalar_one()


def average_real_time_factor(
    session: Session, model_name: str, *, sample: int = 20
) -> float | None:
    """Measure how many seconds of work a second of music takes; None when nothing is finished.

    Args:
        session: an open session.
        model_name: the engine.
        sample: how many of its last finished jobs to look at.
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
    """Give those of the tokens under which a row is processing now."""
    held = select(Generation.attempt_token).where(
        Generation.status == GenerationStatus.PROCESSING.value,
        Generation.attempt_token.in_(pad_values(tokens)),
    )
    return {str(token) for token in session.scalars(held)}


def lock_generation(session: Session, generation_id: str) -> Generation | None:
    """Read a row afresh and keep others from changing it until the transaction ends."""
    return session.get(Generation, generation_id, with_for_update=True, populate_existing=True)
