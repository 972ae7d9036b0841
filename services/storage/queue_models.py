"""Tables of the queue: entries of unfinished jobs, and workers."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import CheckConstraint, Double, ForeignKey, Index, Integer, Text
from sqlalchemy import text as sql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.sql.functions import FunctionElement

from services.storage.columns import Identifier, Real, UtcDateTime
from services.storage.models import Base

if TYPE_CHECKING:
    from sqlalchemy.sql.compiler import SQLCompiler


class database_seconds(FunctionElement[float]):  # noqa: N801 - written as a function in queries
    """Seconds since 1970 on the database's clock, which all workers share."""

    type = Double()
    inherit_cache = True


@compiles(database_seconds, "sqlite")
def _sqlite_seconds(_element: object, _compiler: SQLCompiler, **_options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(database_seconds, "postgresql")
def _postgres_seconds(_element: object, _compiler: SQLCompiler, **_options: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"


_PARTIAL_INDEXES = {
    "idx_queue_entries_started": sql("worker_id IS NOT NULL"),
    "idx_queue_entries_waiting": sql("worker_id IS NULL"),
}
"""Partial indexes: they find the few running jobs among thousands that wait, and count the jobs
before a place without reading the table."""


class QueueEntry(Base):
    """The queue's part of an unfinished job; deleted when the job is finished."""

    __tablename__ = "queue_entries"

    generation_id: Mapped[str] = mapped_column(
        Identifier, ForeignKey("generations.id", ondelete="CASCADE"), primary_key=True
    )
    client: Mapped[str] = mapped_column(Text)
    priority: Mapped[int] = mapped_column(Integer)
    rank: Mapped[int] = mapped_column(Integer)
    place: Mapped[int] = mapped_column(Integer)
    duration_seconds: Mapped[float] = mapped_column(Real)
    attempt: Mapped[int] = mapped_column(Integer, server_default=sql("1"))
    crashes: Mapped[int] = mapped_column(Integer, server_default=sql("0"))
    worker_id: Mapped[str | None] = mapped_column(Text)
    step: Mapped[str] = mapped_column(Text, server_default=sql("'queued'"))
    progress: Mapped[float] = mapped_column(Real, server_default=sql("0"))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)

    __table_args__ = (
        CheckConstraint("priority BETWEEN 0 AND 2", name="priority"),
        *(
            Index(name, *columns, sqlite_where=_PARTIAL_INDEXES[name])
            for name, columns in (
                ("idx_queue_entries_started", ("priority", "rank")),
                ("idx_queue_entries_waiting", ("place", "duration_seconds")),
            )
        ),
        Index("idx_queue_entries_rank", "priority", "rank"),
        Index("idx_queue_entries_client", "client", "priority", "rank"),
    )


class WorkerRow(Base):
    """A worker process; it counts as dead when its last heartbeat is too old."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    slot: Mapped[str] = mapped_column(Text)
    """The lock file it holds; a later worker may hold the same one."""
    process: Mapped[str] = mapped_column(Text)
    """Identity of the process, to check on the same machine whether it is alive."""
    host: Mapped[str] = mapped_column(Text)
    pid: Mapped[int] = mapped_column(Integer)
    models: Mapped[str] = mapped_column(Text)
    """Names, joined by commas."""
    concurrency: Mapped[int] = mapped_column(Integer)
    draining: Mapped[int] = mapped_column(Integer, server_default=sql("0"))
    outage: Mapped[str | None] = mapped_column(Text)
    """Why it takes no jobs for now, in a sentence without paths."""
    beat_at: Mapped[float] = mapped_column(Real)
    """The last heartbeat, in seconds since 1970 on the database's clock."""
