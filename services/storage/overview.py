"""What an operator watches: how many jobs there are, how long they took, what waits for whom."""

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
from services.storage.models import Generation
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
    """What waits for the workers of one engine."""

    model: str
    jobs: int
    oldest: datetime


@dataclass(slots=True)
class Histogram:
    """How often a time fell between two bounds, and the sum of all."""

    counts: list[int]
    """One more than there are bounds: the last is of what lies above them all."""
    seconds: float = 0.0

    def add(self, other: Histogram) -> None:
        """Count what the other has too."""
        self.counts = [mine + more for mine, more in zip(self.counts, other.counts, strict=True)]
        self.seconds += other.seconds


@dataclass(slots=True)
class JobTotals:
    """Finished jobs, counted; times are of completed ones."""

    bounds: tuple[float, ...]
    """Upper bounds of the spreads, seconds, rising."""
    jobs: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(engine, status) -> how many."""
    audio_seconds: Counter[str] = field(default_factory=Counter)
    """Engine -> seconds of music."""
    queued: Histogram = field(init=False)
    """From the request until the attempt that made it began."""
    worked: Histogram = field(init=False)
    """That attempt."""

    def __post_init__(self) -> None:
        self.queued = Histogram([0] * (len(self.bounds) + 1))
        self.worked = Histogram([0] * (len(self.bounds) + 1))

    def add(self, other: JobTotals) -> None:
        """Count what the other has too."""
        self.jobs.update(other.jobs)
        self.audio_seconds.update(other.audio_seconds)
        self.queued.add(other.queued)
        self.worked.add(other.worked)


def count_statuses(session: Session, *, only: Collection[str] | None = None) -> dict[str, int]:
    """Count the generations by status, all or some; those that have none are left out."""
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
    """Count the jobs that finished within a time; without a beginning every row is read.

    Args:
        session: an open session.
        bounds: of the spreads, seconds, rising.
        since: the first moment; None also takes rows that do not say when they finished.
        before: the first moment that is not meant.
    """
    # The empty text keeps SQLite from walking the index of the status, in which most rows are.
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
    # A query of its own, so that both databases see that they group by what they show.
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
    """The number of the first bound that is not below; -1 of a job that was not completed."""
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
            # Two machines' clocks may differ by more than a short wait.
            totals.queued.seconds += max(0.0, queued_seconds)
    return totals


def list_waiting(session: Session) -> list[WaitingJobs]:
    """Give what waits, by engine; jobs that are tried again wait from their request on."""
    # The empty text keeps SQLite from walking the index of the engines, in which all rows are.
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
    """Average what the last completed jobs took; None when there is none.

    Args:
        session: an open session.
        sample: how many to look at.
    """
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
    """Sum the sizes of all finished files; reads every row."""
    return int(session.execute(select(func.sum(Generation.file_size_bytes))).scalar_one() or 0)
