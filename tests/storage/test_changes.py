"""States of jobs agree with their whole rows."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services import storage
from services.jobs.view import build_job, rank_job, rank_state
from services.library.store.folder import FolderStore
from services.storage.columns import pad_values
from services.storage.queue_order import Priority

if TYPE_CHECKING:
    from services.storage.connection import Database

pytestmark = pytest.mark.integration

NOW = storage.utc_now()
AGO = NOW - timedelta(hours=1)


def add(status: str, *, created=NOW, finished=None, attempts=0, worker=None) -> str:
    with storage.get_session() as session:
        row = storage.create_generation(session, "a beat", "composer", 16.0, 48000, 2, "a.wav")
        row.status, row.created_at, row.completed_at = status, created, finished
        row.attempts = attempts
        session.flush()
        if finished is None:
            entry = storage.add_queue_entry(session, row, client="", priority=Priority.NORMAL)
            entry.worker_id = worker
            if worker:
                entry.step, entry.progress = "generating", 0.25
        return row.id


def some_of_every_kind() -> dict[str, str]:
    return {
        "new": add("pending"),
        "old and waiting": add("pending", created=AGO),
        "old and running": add("processing", created=AGO, attempts=1, worker="w"),
        "sent again": add("pending", created=AGO, attempts=2),
        "just finished": add("completed", created=AGO, finished=NOW, attempts=3),
        "just failed": add("failed", created=AGO, finished=NOW, attempts=4),
        "long finished": add("cancelled", created=AGO, finished=AGO),
    }


def test_changed_and_running_jobs_are_listed(database: Database) -> None:
    ids = some_of_every_kind()
    names = {job_id: name for name, job_id in ids.items()}
    since = NOW - timedelta(minutes=1)
    with storage.get_session(read_only=True) as session:
        changed = storage.list_changed_states(session, since=since)
        more = storage.list_changed_states(session, since=since, also=[ids["sent again"], "none"])
    expected = {"new", "old and running", "just finished", "just failed"}
    assert {names[state.id] for state in changed} == expected
    assert {names[state.id] for state in more} == expected | {"sent again"}


def test_rank_from_a_state_equals_the_rank_from_the_whole_row(
    database: Database, tmp_path: Path
) -> None:
    ids = list(some_of_every_kind().values())
    store = FolderStore(tmp_path)
    with storage.get_session(read_only=True) as session:
        states = storage.list_changed_states(session, since=NOW + timedelta(hours=1), also=ids)
        entries = storage.get_queue_entries(session, ids)
        rows = storage.get_generations(session, ids)
    full = {row.id: rank_job(build_job(row, entries.get(row.id), store)) for row in rows}
    assert {state.id: rank_state(state) for state in states} == full
    assert len(set(full.values())) == len({"new and old", "running", "again", "c", "f", "x"})


def test_generations_come_in_the_order_of_their_ids_in_the_call(database: Database) -> None:
    ids = [add("pending") for _ in range(5)]
    with storage.get_session(read_only=True) as session:
        found = storage.get_generations(session, [*reversed(ids), "none"])
        assert storage.get_generations(session, []) == []
    assert [row.id for row in found] == list(reversed(ids))


@given(st.lists(st.text(max_size=3)))
def test_padding_keeps_the_values_and_gives_a_power_of_two(values: list[str]) -> None:
    found = pad_values(values)
    assert set(found) == set(values)
    assert found[: len(values)] == values
    assert len(found).bit_count() <= 1
    assert len(found) < 2 * max(1, len(values))


def test_unfinished_jobs_are_running_ones_and_then_pending_ones(database: Database) -> None:
    older = add("pending", created=AGO)
    newer = add("pending")
    running = add("processing", created=AGO, worker="w")
    add("completed", finished=NOW)
    with storage.get_session(read_only=True) as session:
        found = storage.list_unfinished_generations(session)
        shortened = storage.list_unfinished_generations(session, limit=2)
    assert [row.id for row in found] == [running, newer, older]
    assert [row.id for row in shortened] == [running, newer]


def test_unfinished_jobs_can_be_those_of_one_owner(database: Database) -> None:
    mine, _ = add("pending"), add("pending")
    with storage.get_session() as session:
        session.get_one(storage.Generation, mine).owner = "key"
    with storage.get_session(read_only=True) as session:
        found = storage.list_unfinished_generations(session, owner="key")
        assert storage.list_unfinished_generations(session, owner="other") == []
    assert [row.id for row in found] == [mine]


def test_limit_keeps_the_oldest_changes(sqlite_database: Database) -> None:
    ids = [add("pending", created=NOW + timedelta(seconds=number)) for number in range(4)]
    with storage.get_session(read_only=True) as session:
        found = storage.list_changed_states(session, since=AGO, limit=2)
    assert [state.id for state in found] == ids[:2]
