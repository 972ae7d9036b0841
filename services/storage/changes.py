"""Jobs by what changed: for event streams and lists of unfinished jobs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, cast

from sqlalchemy import select

from services.storage.columns import pad_values
from services.storage.generations import match_status
from services.storage.models import GENERATIONS, Generation
from services.storage.queue_models import QueueEntry
from services.storage.schema import GenerationStatus

if TYPE_CHECKING:
    from sqlalchemy import Table
    from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True)
class JobState:
    """The state of a job, without its request."""

    id: str
    status: str
    attempts: int
    created_at: datetime
    completed_at: datetime | None
    step: str | None
    """From the queue entry; None without one."""
    progress: float | None
    """0..1, from the queue entry."""


_ROWS, _ENTRIES = GENERATIONS.c, cast("Table", QueueEntry.__table__).c
_STATES = select(
    _ROWS.id,
    _ROWS.status,
    _ROWS.attempts,
    _ROWS.created_at,
    _ROWS.completed_at,
    _ENTRIES.step,
    _ENTRIES.progress,
).select_from(GENERATIONS.outerjoin(QueueEntry.__table__))


def list_changed_states(
    session: Session, *, since: datetime, also: Collection[str] = (), limit: int = 1000
) -> list[JobState]:
    """Return the state of jobs that were created or finished since a moment, or are running.

    Args:
        session: an open session.
        since: compared with times that the writing processes took from their own clocks.
        also: ids of further jobs to return.
        limit: largest number of created and of finished jobs, oldest first.
    """
    found: dict[str, JobState] = {}
    asked_for = _STATES.where(_ROWS.created_at >= since)
    finished = _STATES.where(_ROWS.completed_at >= since)
    queries = [
        asked_for.order_by(_ROWS.created_at).limit(limit),
        finished.order_by(_ROWS.completed_at).limit(limit),
        _STATES.where(_ENTRIES.worker_id.is_not(None)),
    ]
    for query in queries:
        found |= {row[0]: JobState(*row) for row in session.execute(query)}
    missing = [each for each in also if each not in found]
    if missing:
        of_those = _STATES.where(_ROWS.id.in_(pad_values(missing)))
        found |= {row[0]: JobState(*row) for row in session.execute(of_those)}
    return list(found.values())


def get_generations(session: Session, generation_ids: Collection[str]) -> list[Generation]:
    """Return the jobs with these ids in the given order; ids without a row are left out."""
    if not generation_ids:
        return []
    query = select(Generation).where(Generation.id.in_(pad_values(generation_ids)))
    rows = {row.id: row for row in session.scalars(query)}
    return [rows[each] for each in generation_ids if each in rows]


def list_unfinished_generations(
    session: Session, *, owner: str | None = None, limit: int = 100
) -> list[Generation]:
    """Return running jobs and then pending ones, each newest first; of one owner if given."""
    found: list[Generation] = []
    for status in (GenerationStatus.PROCESSING, GenerationStatus.PENDING):
        query = select(Generation).where(*match_status(status))
        if owner is not None:
            query = query.where(Generation.owner == owner)
        newest = query.order_by(Generation.created_at.desc()).limit(limit)
        found += session.scalars(newest).all()
    return found[:limit]
