"""Figures of jobs: the first count, its failure, and what is cached."""

from __future__ import annotations

import threading

import pytest

from services import storage
from services.operations.figures import BOUNDS, RECOUNTED, FinishedJobs, make_figures_reader
from services.storage import Generation
from tests.conftest import LIMIT_SECONDS


@pytest.fixture
def gate(monkeypatch):
    """Hold every count of finished jobs until the gate is set."""
    opened = threading.Event()
    count_finished = storage.count_finished

    def wait_and_count(*arguments, **options):
        assert opened.wait(LIMIT_SECONDS)
        return count_finished(*arguments, **options)

    monkeypatch.setattr(storage, "count_finished", wait_and_count)
    yield opened
    opened.set()


def add_finished(completed_at, status="completed", seconds=2.0):
    with storage.get_session() as session:
        session.add(
            Generation(
                prompt="a tone",
                model_name="here",
                duration_seconds=16.0,
                sample_rate=48_000,
                channels=2,
                file_path="a.wav",
                status=status,
                created_at=completed_at,
                completed_at=completed_at,
                generation_time_seconds=seconds,
            )
        )


def test_slow_first_count_is_none_and_continues(sqlite_rig, gate):
    sqlite_rig.complete()
    finished = FinishedJobs()
    assert finished.count(patience=0.0) is None
    gate.set()
    totals = finished.count(LIMIT_SECONDS)
    assert totals.jobs == {("here", "completed"): 1}


def test_failed_first_count_is_none_and_is_repeated(sqlite_rig, monkeypatch):
    sqlite_rig.complete()
    finished = FinishedJobs()

    def fail(*_arguments, **_options):
        raise storage.DatabaseLockedError("in use")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "count_finished", fail)
        assert finished.count(LIMIT_SECONDS) is None
    assert finished.count(LIMIT_SECONDS).jobs == {("here", "completed"): 1}


def test_later_count_raises_if_the_database_does_not_answer(sqlite_rig, monkeypatch):
    finished = FinishedJobs()
    assert finished.count(LIMIT_SECONDS).jobs == {}

    def fail(*_arguments, **_options):
        raise storage.DatabaseLockedError("in use")

    monkeypatch.setattr(storage, "count_finished", fail)
    with pytest.raises(storage.DatabaseLockedError):
        finished.count(LIMIT_SECONDS)


def test_caller_gets_a_copy_of_the_totals(sqlite_rig):
    add_finished(storage.utc_now() - 3 * RECOUNTED)
    finished = FinishedJobs()
    totals = finished.count(LIMIT_SECONDS)
    totals.add(totals)
    assert finished.count(LIMIT_SECONDS).jobs == {("here", "completed"): 1}


def test_deleted_row_stays_counted_once_it_is_settled(sqlite_rig):
    add_finished(storage.utc_now() - 3 * RECOUNTED)
    add_finished(storage.utc_now())
    finished = FinishedJobs()
    assert finished.count(LIMIT_SECONDS).jobs == {("here", "completed"): 2}
    with storage.get_session() as session:
        for row in storage.get_all_generations(session):
            storage.delete_generation(session, row.id)
    assert finished.count(LIMIT_SECONDS).jobs == {("here", "completed"): 1}


def test_settled_rows_are_not_read_again(sqlite_rig, monkeypatch):
    clock = {"now": storage.utc_now()}
    finished = FinishedJobs(now=lambda: clock["now"])
    finished.count(LIMIT_SECONDS)
    ranges = []
    count_finished = storage.count_finished

    def note(session, bounds, **between):
        ranges.append(between)
        return count_finished(session, bounds, **between)

    monkeypatch.setattr(storage, "count_finished", note)
    start = clock["now"]
    clock["now"] += RECOUNTED / 2
    finished.count()
    assert ranges == [{"since": start - RECOUNTED}]
    ranges.clear()
    clock["now"] = start + 2 * RECOUNTED
    finished.count()
    assert ranges == [
        {"since": start - RECOUNTED, "before": start + RECOUNTED},
        {"since": start + RECOUNTED},
    ]


def test_figures_of_an_empty_database_are_zero(sqlite_rig):
    figures = make_figures_reader(sqlite_rig.state.settings)()
    assert figures.totals.jobs == {}
    assert sum(figures.totals.worked.counts) == 0
    assert len(figures.totals.worked.counts) == len(BOUNDS) + 1
    assert figures.statuses == dict.fromkeys(storage.STATUSES, 0.0)
    assert figures.workers == {"taking": 0.0, "draining": 0.0, "outage": 0.0}
    assert (figures.realtime, figures.store_bytes, figures.oldest_waiting_seconds) == ({}, 0, 0.0)


def test_figures_count_workers_by_state_and_the_oldest_wait(sqlite_rig):
    for name in ("one", "two", "three"):
        sqlite_rig.start_worker(name, "here")
    with storage.get_session() as session:
        storage.record_heartbeat(session, "two", draining=True, outage="A disk is full.")
        storage.record_heartbeat(session, "three", outage="A disk is full.")
    sqlite_rig.queue_up()
    figures = make_figures_reader(sqlite_rig.state.settings)()
    assert figures.workers == {"taking": 1.0, "draining": 1.0, "outage": 1.0}
    assert figures.statuses["pending"] == 1
    assert figures.oldest_waiting_seconds > 0


def test_only_unfinished_jobs_are_counted_at_each_reading(sqlite_rig):
    read = make_figures_reader(sqlite_rig.state.settings)
    assert (read().statuses["completed"], read().store_bytes) == (0, 0)
    sqlite_rig.complete()
    sqlite_rig.add()
    figures = read()
    assert (figures.statuses["completed"], figures.store_bytes) == (0, 0)
    assert figures.statuses["pending"] == 1
    assert figures.totals.jobs == {("here", "completed"): 1}


def test_figures_without_the_first_count_have_no_ratio(sqlite_rig, gate, monkeypatch):
    sqlite_rig.complete()
    monkeypatch.setattr(FinishedJobs.count, "__defaults__", (0.0,))
    figures = make_figures_reader(sqlite_rig.state.settings)()
    assert (figures.totals, figures.realtime) == (None, {})
    assert figures.statuses["completed"] == 1
