"""Figures for operators: totals add up, however the time is divided."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services import storage
from services.storage import Generation, Histogram, JobTotals, Priority

if TYPE_CHECKING:
    from services.storage.connection import Database

pytestmark = pytest.mark.integration

START = datetime(2026, 1, 1, tzinfo=UTC)
BOUNDS = (1.0, 10.0)
SHARED = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25
)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def row(**changes: Any) -> Generation:
    values: dict[str, Any] = {
        "prompt": "p", "model_name": "composer", "duration_seconds": 16.0, "sample_rate": 8000,
        "channels": 1, "file_path": "p.wav", "created_at": START,
    }  # fmt: skip
    return Generation(**(values | changes))


def add(*rows: Generation) -> None:
    with storage.get_session() as session:
        session.add_all(rows)


def count(**period: datetime) -> JobTotals:
    with storage.get_session(read_only=True) as session:
        return storage.count_finished(session, BOUNDS, **period)


def test_times_are_counted_below_their_bounds(database: Database) -> None:
    for work, end in ((1.0, 1.0), (1.5, 11.5), (20.0, 30.25)):
        add(row(status="completed", completed_at=at(end), generation_time_seconds=work))
    totals = count()
    assert totals.jobs == {("composer", "completed"): 3}
    assert totals.audio_seconds == {"composer": 48.0}
    assert (totals.worked.counts, totals.worked.seconds) == ([1, 1, 1], 22.5)
    assert totals.queued.counts == [1, 1, 1]
    assert totals.queued.seconds == pytest.approx(0.0 + 10.0 + 10.25, abs=1e-3)


def test_only_completed_jobs_with_a_duration_have_times(database: Database) -> None:
    add(
        row(status="failed", completed_at=at(5), generation_time_seconds=4.0),
        row(status="cancelled", completed_at=at(5)),
        row(status="completed", completed_at=at(5)),
        row(status="pending"),
        row(status="processing"),
    )
    totals = count()
    assert sum(totals.jobs.values()) == 3
    assert totals.audio_seconds == {"composer": 16.0}
    assert totals.worked == totals.queued == Histogram([0, 0, 0])


def test_clock_difference_between_machines_gives_no_negative_wait(database: Database) -> None:
    add(row(status="completed", completed_at=at(3), generation_time_seconds=5.0))
    assert (count().queued.counts, count().queued.seconds) == ([1, 0, 0], 0.0)


def test_rows_without_completion_time_count_only_without_a_start(database: Database) -> None:
    add(row(status="failed"))
    assert sum(count(before=at(0)).jobs.values()) == 1
    assert sum(count(since=at(-1000)).jobs.values()) == 0


def test_period_includes_its_start_and_excludes_its_end(database: Database) -> None:
    add(row(status="failed", completed_at=at(10)))
    assert sum(count(since=at(10), before=at(11)).jobs.values()) == 1
    assert sum(count(since=at(9), before=at(10)).jobs.values()) == 0


FINISHED = st.tuples(
    st.sampled_from(storage.FINISHED_STATUSES),
    st.sampled_from(["composer", "musicgen-small"]),
    st.integers(0, 40),
    st.none() | st.integers(0, 30),
)


@SHARED
@given(st.lists(FINISHED, max_size=12), st.integers(0, 40))
def test_totals_of_two_periods_add_up_to_the_whole(
    sqlite_database: Database, jobs: list[tuple[str, str, int, int | None]], middle: int
) -> None:
    with storage.get_session() as session:
        session.query(Generation).delete()
        session.add_all(
            row(status=status, model_name=model, completed_at=at(end), generation_time_seconds=work)
            for status, model, end, work in jobs
        )
    earlier, later, whole = count(before=at(middle)), count(since=at(middle)), count()
    earlier.add(later)
    assert (earlier.jobs, earlier.audio_seconds) == (whole.jobs, whole.audio_seconds)
    for both, one in ((earlier.worked, whole.worked), (earlier.queued, whole.queued)):
        assert both.counts == one.counts
        assert both.seconds == pytest.approx(one.seconds)


def test_histograms_of_different_bounds_cannot_be_added() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Histogram([0, 0]).add(Histogram([0]))


def test_statuses_are_counted_all_or_some(database: Database) -> None:
    add(row(status="failed"), row(status="failed"), row())
    with storage.get_session(read_only=True) as session:
        assert storage.count_statuses(session) == {"failed": 2, "pending": 1}
        assert storage.count_statuses(session, only=["pending", "completed"]) == {"pending": 1}


def test_waiting_jobs_are_listed_by_model(database: Database) -> None:
    with storage.get_session() as session:
        for number, model in enumerate(("b", "a", "b", "b")):
            job = row(id=str(number), model_name=model)
            session.add(job)
            session.flush()
            entry = storage.add_queue_entry(session, job, client="", priority=Priority.NORMAL)
            entry.created_at = at(number)
            entry.worker_id = "w" if number == 3 else None
    with storage.get_session(read_only=True) as session:
        assert storage.list_waiting(session) == [
            storage.WaitingJobs("a", 1, at(1)),
            storage.WaitingJobs("b", 2, at(0)),
        ]


def test_average_covers_the_last_completed_jobs(database: Database) -> None:
    with storage.get_session(read_only=True) as session:
        assert storage.average_work_seconds(session) is None
    for end, work in ((1, 100.0), (2, 4.0), (3, 8.0)):
        add(row(status="completed", completed_at=at(end), generation_time_seconds=work))
    add(row(status="failed", completed_at=at(4), generation_time_seconds=999.0))
    add(row(status="completed", completed_at=at(5)))
    with storage.get_session(read_only=True) as session:
        assert storage.average_work_seconds(session, sample=2) == pytest.approx(6.0)


def test_sizes_of_all_files_are_summed(database: Database) -> None:
    with storage.get_session(read_only=True) as session:
        assert storage.sum_file_bytes(session) == 0
    add(row(file_size_bytes=2**40), row(file_size_bytes=5), row())
    with storage.get_session(read_only=True) as session:
        assert storage.sum_file_bytes(session) == 2**40 + 5
