"""Which finished generations are old enough to go. Files are the caller's to delete."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import delete, func, select

from services.storage.columns import utc_now
from services.storage.models import Generation
from services.storage.schema import FINISHED_STATUSES

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

_ROWS_A_STATEMENT = 500


@dataclass(frozen=True, slots=True)
class ExpiredGeneration:
    """A generation that is, or would be, deleted."""

    id: str
    file_path: str
    file_size_bytes: int
    finished_at: datetime


@dataclass(frozen=True, slots=True)
class Cleanup:
    """What a clean-up found, oldest first, and whether the rows are deleted."""

    expired: tuple[ExpiredGeneration, ...]
    deleted: bool

    @property
    def file_paths(self) -> tuple[str, ...]:
        """The files that now belong to no row, relative to the output folder."""
        return tuple(row.file_path for row in self.expired)

    @property
    def total_bytes(self) -> int:
        """What the files take together."""
        return sum(row.file_size_bytes for row in self.expired)


def cleanup_generations(
    session: Session,
    *,
    older_than_days: float = 30,
    statuses: Iterable[str] = FINISHED_STATUSES,
    dry_run: bool = True,
) -> Cleanup:
    """Find finished generations of long ago and, unless it is a dry run, delete their rows.

    Args:
        session: an open session; one that may write unless it is a dry run.
        older_than_days: age since they finished, 0 or more.
        statuses: which of the finished ones.
        dry_run: only say what would go.

    Raises:
        ValueError: a negative age, or a status that is not a finished one.
    """
    wanted = tuple(statuses)
    unfinished = [status for status in wanted if status not in FINISHED_STATUSES]
    if unfinished or older_than_days < 0:
        raise ValueError(
            f"Only {', '.join(FINISHED_STATUSES)} generations of an age of 0 days or more can go."
        )
    finished_at = func.coalesce(
        Generation.completed_at, Generation.created_at, type_=Generation.created_at.type
    )
    found = session.execute(
        select(Generation.id, Generation.file_path, Generation.file_size_bytes, finished_at)
        .where(Generation.status.in_(wanted))
        .where(finished_at < utc_now() - timedelta(days=older_than_days))
        .order_by(finished_at, Generation.id)
    )
    expired = tuple(
        ExpiredGeneration(row_id, path, size or 0, at) for row_id, path, size, at in found
    )
    if not dry_run:
        for start in range(0, len(expired), _ROWS_A_STATEMENT):
            chosen = [row.id for row in expired[start : start + _ROWS_A_STATEMENT]]
            session.execute(delete(Generation).where(Generation.id.in_(chosen)))
    return Cleanup(expired, deleted=not dry_run)
