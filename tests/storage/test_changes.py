"""How far jobs are, in short: the same as what the rows in full say."""

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
        "old and at work": add("processing", created=AGO, attempts=1, worker="w"),
        "sent again": add("pending", created=AGO, attempts=2),
        "just finished": add("completed", created=AGO, finished=NOW, attempts=3),
        "just failed": add("failed", created=AGO, finished=NOW, attempts=4),
        "long finished": add("cancelled", created=AGO, finished=AGO),
    }


def test_what_changed_lately_or_is_at_work_is_told(database: Database) -> None:
    ids = some_of_every_kind()
    names = {job_id: name for name, job_id in ids.items()}
    since = NOW - timedelta(minutes=1)
    with storage.get_session(read_only=True) as session:
        lately = storage.list_changed_states(session, since=since)
        more = storage.list_changed_states(session, since=since, also=[ids["sent again"], "none"])
    told = {"new", "old and at work", "just finished", "just failed"}
    assert {names[state.id] for state in lately} == told
    assert {names[state.id] for state in more} == told | {"sent again"}


def test_in_short_a_job_is_as_far_as_in_full(database: Database, tmp_path: Path) -> None:
    ids = list(some_of_every_kind().values())
    store = FolderStore(tmp_path)
    with storage.get_session(read_only=True) as session:
        states = storage.list_changed_states(session, since=NOW + timedelta(hours=1), also=ids)
        entries = storage.get_queue_entries(session, ids)
        rows = storage.get_generations(session, ids)
    full = {row.id: rank_job(build_job(row, entries.get(row.id), store)) for row in rows}
    assert {state.id: rank_state(state) for state in states} == full
    assert len(set(full.values())) == len({"new and old", "at work", "again", "c", "f", "x"})


def test_several_are_found_in_the_order_they_are_asked_for(database: Database) -> None:
    ids = [add("pending") for _ in range(5)]
    with storage.get_session(read_only=True) as session:
        found = storage.get_generations(session, [*reversed(ids), "none"])
        assert storage.get_generations(session, []) == []
    assert [row.id for row in found] == list(reversed(ids))


@given(st.lists(st.text(max_size=3)))
def test_padded_values_are_the_same_in_few_different_numbers(values: list[str]) -> None:
    found = pad_values(values)
    assert set(found) == set(values)
    assert found[: len(values)] == values
    assert len(found).bit_count() <= 1
    assert len(found) < 2 * max(1, len(values))
