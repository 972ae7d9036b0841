"""Find and delete the rows of old finished generations. The caller deletes the files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import delete, func, select

from services.storage.attachments import get_attachments
from services.storage.columns import utc_now
from services.storage.models import Generation
from services.storage.schema import FINISHED_STATUSES

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

_ROWS_A_STATEMENT = 500


@dataclass(frozen=True, slots=True)
class ExpiredGeneration:
    """A generation that was deleted, or would be."""

    id: str
    file_path: str
    file_size_bytes: int
    finished_at: datetime
    attachments: tuple[str, ...] = ()
    """Names of its stems and MIDI file."""
    attached_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Cleanup:
    """The expired generations, oldest first, and whether their rows were deleted."""

    expired: tuple[ExpiredGeneration, ...]
    deleted: bool

    @property
    def file_paths(self) -> tuple[str, ...]:
        """The files of these generations, relative to the output folder."""
        return tuple(path for row in self.expired for path in (row.file_path, *row.attachments))

    @property
    def total_bytes(self) -> int:
        """Total size of the files."""
        return sum(row.file_size_bytes + row.attached_bytes for row in self.expired)


def cleanup_generations(
    session: Session,
    *,
    older_than_days: float = 30,
    statuses: Iterable[str] = FINISHED_STATUSES,
    dry_run: bool = True,
) -> Cleanup:
    """Find old finished generations and delete their rows, unless this is a dry run.

    Args:
        session: an open session; it must be able to write unless this is a dry run.
        older_than_days: least age in days since they finished, 0 or more.
        statuses: the finished statuses to include.
        dry_run: delete nothing.

    Raises:
        ValueError: the age is negative, or a status is not a finished one.
    """
    wanted = tuple(statuses)
    unfinished = [status for status in wanted if status not in FINISHED_STATUSES]
    if unfinished or older_than_days < 0:
        raise ValueError(
            f"Only {', '.join(FINISHED_STATUSES)} generations can be deleted, "
            "and their age must be 0 days or more."
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
    rows = found.all()
    expired: list[ExpiredGeneration] = []
    for start in range(0, len(rows), _ROWS_A_STATEMENT):
        some = rows[start : start + _ROWS_A_STATEMENT]
        chosen = [row_id for row_id, *_ in some]
        attached = get_attachments(session, chosen)
        for row_id, path, size, at in some:
            files = attached.get(row_id, [])
            names, total = tuple(one.file_path for one in files), sum(one.bytes for one in files)
            expired.append(ExpiredGeneration(row_id, path, size or 0, at, names, total))
        if not dry_run:
            session.execute(delete(Generation).where(Generation.id.in_(chosen)))
    return Cleanup(tuple(expired), deleted=not dry_run)
