"""Figures for operators: number of jobs, times they took, jobs that wait for each model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Double, case, func, literal_column, or_, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from services.storage.generations import match_status
from services.storage.models import Attachment, Generation
from services.storage.queue_models import QueueEntry
from services.storage.schema import FINISHED_STATUSES, GenerationStatus

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session
    from sqlalchemy.sql.compiler import SQLCompiler

_COMPLETED = GenerationStatus.COMPLETED.value


class seconds_between(FunctionElement[float]):  # noqa: N801 - written as a function in queries
    """Seconds from the first moment to the second."""

    type = Double()
    inherit_cache = True


@compiles(seconds_between, "sqlite")
def _sqlite_between(element: Any, compiler: SQLCompiler, **options: Any) -> str:
    start, end = (compiler.process(one, **options) for one in element.clauses)
    return f"((julianday({end}) - julianday({start})) * 86400.0)"


@compiles(seconds_between, "postgresql")
def _postgres_between(element: Any, compiler: SQLCompiler, **options: Any) -> str:
    start, end = (compiler.process(one, **options) for one in element.clauses)
    return f"extract(epoch from ({end} - {start}))::double precision"


@dataclass(frozen=True, slots=True)
class WaitingJobs:
    """The jobs that wait for workers with one model."""

    model: str
    jobs: int
    oldest: datetime
    """When the oldest of them was queued."""


@dataclass(slots=True)
class Histogram:
    """The number of durations between each two bounds, and their sum."""

    counts: list[int]
    """One more than the bounds: the last counts durations above all of them."""
    seconds: float = 0.0

    def add(self, other: Histogram) -> None:
        self.counts = [mine + more for mine, more in zip(self.counts, other.counts, strict=True)]
        self.seconds += other.seconds


@dataclass(slots=True)
class JobTotals:
    """Figures of finished jobs; durations count completed jobs only."""

    bounds: tuple[float, ...]
    """Upper bounds of the histograms in seconds, ascending."""
    jobs: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(model, status) -> number of jobs."""
    audio_seconds: Counter[str] = field(default_factory=Counter)
    """Model -> seconds of music."""
    queued: Histogram = field(init=False)
    """From the request to the start of the successful attempt."""
    worked: Histogram = field(init=False)
    """Duration of the successful attempt."""

    def __post_init__(self) -> None:
        self.queued = Histogram([0] * (len(self.bounds) + 1))
        self.worked = Histogram([0] * (len(self.bounds) + 1))

    def add(self, other: JobTotals) -> None:
        self.jobs.update(other.jobs)
        self.audio_seconds.update(other.audio_seconds)
        self.queued.add(other.queued)
        self.worked.add(other.worked)


def count_statuses(session: Session, *, only: Collection[str] | None = None) -> dict[str, int]:
    """Return status -> number of generations, of all statuses or `only` some.

    A status without generations is left out.
    """
    counted = select(Generation.status, func.count()).group_by(Generation.status)
    if only is not None:
        counted = counted.where(Generation.status.in_(only))
    return {row[0]: row[1] for row in session.execute(counted)}


def count_finished(
    session: Session,
    bounds: Sequence[float],
    *,
    since: datetime | None = None,
    before: datetime | None = None,
) -> JobTotals:
    """Sum up the jobs that finished in a period.

    Args:
        session: an open session.
        bounds: upper bounds of the histograms in seconds, ascending.
        since: start of the period, included. None reads every row, also those without a
            `completed_at`.
        before: end of the period, excluded.
    """
    # The empty text keeps SQLite from using the index of the status, where most rows match.
    conditions: list[ColumnElement[bool]] = [
        literal_column("generations.status || ''").in_(FINISHED_STATUSES)
    ]
    if since is not None:
        conditions.append(Generation.completed_at >= since)
    if before is not None:
        earlier = Generation.completed_at < before
        conditions.append(
            earlier if since is not None else or_(earlier, Generation.completed_at.is_(None))
        )
    is_timed = (Generation.status == _COMPLETED) & Generation.generation_time_seconds.is_not(None)
    waited: Any = seconds_between(Generation.created_at, Generation.completed_at)
    each = (
        select(
            Generation.model_name,
            Generation.status,
            Generation.duration_seconds,
            case((is_timed, Generation.generation_time_seconds)).label("worked"),
            case((is_timed, waited - Generation.generation_time_seconds)).label("queued"),
        )
        .where(*conditions)
        .subquery()
    )
    # A subquery lets both databases see that the selected expressions are those they group by.
    classed = select(
        each,
        _pick_bucket(each.c.worked, bounds).label("worked_class"),
        _pick_bucket(each.c.queued, bounds).label("queued_class"),
    ).subquery()
    keys = [classed.c[name] for name in ("model_name", "status", "worked_class", "queued_class")]
    sums = [func.sum(classed.c[name]) for name in ("duration_seconds", "worked", "queued")]
    rows = session.execute(select(*keys, func.count(), *sums).group_by(*keys))
    return _add_up(rows.all(), bounds)


def _pick_bucket(seconds: Any, bounds: Sequence[float]) -> Any:
    """Build the index of the first bound that is not below; -1 for a job without the duration."""
    steps = [(seconds <= bound, number) for number, bound in enumerate(bounds)]
    return case((seconds.is_(None), -1), *steps, else_=len(bounds))


def _add_up(rows: Sequence[Any], bounds: Sequence[float]) -> JobTotals:
    totals = JobTotals(tuple(bounds))
    for model, status, worked, queued, jobs, audio, worked_seconds, queued_seconds in rows:
        totals.jobs[model, status] += jobs
        if status == _COMPLETED:
            totals.audio_seconds[model] += audio
        if worked >= 0:
            totals.worked.counts[worked] += jobs
            totals.worked.seconds += worked_seconds
        if queued >= 0:
            totals.queued.counts[queued] += jobs
            # Negative where the clocks of two machines differ by more than a short wait.
            totals.queued.seconds += max(0.0, queued_seconds)
    return totals


def list_waiting(session: Session) -> list[WaitingJobs]:
    """Return the waiting jobs, sorted by model; a job in retry waits since its request."""
    # The empty text keeps SQLite from using the index of the models, which holds all rows.
    model: Any = literal_column("generations.model_name || ''")
    found = (
        select(model, func.count(), func.min(QueueEntry.created_at))
        .join(Generation, QueueEntry.generation_id == Generation.id)
        .where(QueueEntry.worker_id.is_(None))
        .group_by(model)
        .order_by(model)
    )
    return [WaitingJobs(model, jobs, oldest) for model, jobs, oldest in session.execute(found)]


def average_work_seconds(session: Session, *, sample: int = 100) -> float | None:
    """Return the mean duration of the last `sample` completed jobs in seconds; None for none."""
    last = (
        select(Generation.generation_time_seconds.label("seconds"))
        .where(*match_status(_COMPLETED), Generation.generation_time_seconds.is_not(None))
        .order_by(Generation.completed_at.desc())
        .limit(sample)
        .subquery()
    )
    average: float | None = session.execute(select(func.avg(last.c.seconds))).scalar_one()
    return average


def sum_file_bytes(session: Session) -> int:
    """Return the total size of all takes and what belongs to them in bytes; reads every row."""
    sizes = (Generation.file_size_bytes, Attachment.bytes)
    return sum(int(session.execute(select(func.sum(size))).scalar_one() or 0) for size in sizes)
