"""What changed lately, for those who show it to people."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import select

from services.storage.generations import has_status
from services.storage.models import Generation
from services.storage.queue_models import QueueEntry
from services.storage.schema import GenerationStatus

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


def changed_generations(
    session: Session, *, since: datetime, also: Collection[str] = (), limit: int = 1000
) -> list[Generation]:
    """Give generations that were asked for or finished since then, or are at work in the queue.

    Args:
        session: an open session.
        since: compared with the clocks of those who wrote the rows.
        also: ids of others to give.
        limit: of each kind, the oldest first.
    """
    found: dict[str, Generation] = {}
    asked_for = select(Generation).where(Generation.created_at >= since)
    finished = select(Generation).where(Generation.completed_at >= since)
    working = select(Generation).join(QueueEntry).where(QueueEntry.worker_id.is_not(None))
    queries = [
        asked_for.order_by(Generation.created_at).limit(limit),
        finished.order_by(Generation.completed_at).limit(limit),
        working,
    ]
    for query in queries:
        found |= {row.id: row for row in session.scalars(query)}
    missing = [each for each in also if each not in found]
    if missing:
        of_those = select(Generation).where(Generation.id.in_(missing))
        found |= {row.id: row for row in session.scalars(of_those)}
    return list(found.values())


def unfinished_generations(
    session: Session, *, owner: str | None = None, limit: int = 100
) -> list[Generation]:
    """Give generations that wait or are at work, the newest first.

    Args:
        session: an open session.
        owner: only of this one.
        limit: at most so many.
    """
    found: list[Generation] = []
    for status in (GenerationStatus.PROCESSING, GenerationStatus.PENDING):
        query = select(Generation).where(*has_status(status))
        if owner is not None:
            query = query.where(Generation.owner == owner)
        newest = query.order_by(Generation.created_at.desc()).limit(limit)
        found += session.scalars(newest).all()
    return found[:limit]
