"""Queue entries: places, pages, progress and counts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from services import storage
from services.storage import Generation, Priority, QueueEntry

if TYPE_CHECKING:
    from services.storage.connection import Database

pytestmark = pytest.mark.integration


def add(
    client: str = "", priority: Priority = Priority.NORMAL, *, worker: str | None = None, **row: Any
) -> QueueEntry:
    with storage.get_session() as session:
        storage.lock_queue_order(session)
        job = storage.create_generation(session, "beat", "composer", 10.0, 8000, 1, "a.wav", **row)
        entry = storage.add_queue_entry(session, job, client=client, priority=priority)
        entry.worker_id = worker
    return entry


def read(generation_id: str) -> QueueEntry | None:
    with storage.get_session(read_only=True) as session:
        return storage.get_queue_entry(session, generation_id)


def test_new_entry_waits_for_its_first_attempt(database: Database) -> None:
    entry = read(add(client="key").generation_id)
    assert entry is not None
    assert (entry.client, entry.attempt, entry.crashes) == ("key", 1, 0)
    assert (entry.worker_id, entry.step, entry.progress) == (None, "queued", 0.0)
    assert entry.duration_seconds == 10.0


def test_entries_are_listed_in_the_order_of_their_start_in_pages(database: Database) -> None:
    made = [add(client, priority) for client, priority in (
        ("a", Priority.LOW), ("a", Priority.NORMAL), ("a", Priority.NORMAL),
        ("b", Priority.NORMAL), ("c", Priority.HIGH),
    )]  # fmt: skip
    expected = [made[number].generation_id for number in (4, 1, 3, 2, 0)]
    seen: list[str] = []
    after = None
    with storage.get_session(read_only=True) as session:
        while page := storage.list_queue_entries(session, after=after, limit=2):
            seen += [entry.generation_id for entry in page]
            after = page[-1]
    assert seen == expected


def test_simultaneous_submissions_get_different_places(database: Database) -> None:
    with ThreadPoolExecutor(6) as pool:
        entries = list(pool.map(lambda number: add(str(number % 2)), range(12)))
    assert len({entry.place for entry in entries}) == 12


@pytest.mark.parametrize("priority", Priority)
def test_place_is_counted_from_the_entries_of_its_class(
    sqlite_database: Database, priority: Priority
) -> None:
    for other in Priority:
        add("a", other)
    first, second = add("b", priority), add("c", priority)
    assert second.place == first.place + 1
    assert first.rank == second.rank == 1


def test_removed_entry_is_gone_and_a_missing_one_is_no_error(database: Database) -> None:
    generation_id = add().generation_id
    for _ in range(2):
        with storage.get_session() as session:
            storage.remove_queue_entry(session, generation_id)
    assert read(generation_id) is None
    with storage.get_session(read_only=True) as session:
        assert storage.get_generation(session, generation_id) is not None


def test_progress_is_stored_only_for_the_worker_that_holds_the_job(database: Database) -> None:
    generation_id = add(worker="mine").generation_id
    with storage.get_session() as session:
        storage.record_progress(session, generation_id, "mine", step="generating", progress=0.5)
        storage.record_progress(session, generation_id, "lost", step="mastering", progress=0.9)
        storage.record_progress(session, "none", "mine", step="mastering", progress=0.9)
    entry = read(generation_id)
    assert entry is not None
    assert (entry.step, entry.progress) == ("generating", 0.5)


def test_entries_of_several_jobs_are_found_by_id(database: Database) -> None:
    ids = [add().generation_id for _ in range(3)]
    with storage.get_session(read_only=True) as session:
        found = storage.get_queue_entries(session, [*ids, "none"])
        assert storage.get_queue_entries(session, []) == {}
    assert set(found) == set(ids)
    assert all(entry.generation_id == key for key, entry in found.items())


def test_running_jobs_do_not_count_as_waiting(database: Database) -> None:
    add(worker="w")
    waiting = [add() for _ in range(3)]
    with storage.get_session(read_only=True) as session:
        count, oldest = storage.count_waiting(session)
        assert [storage.count_waiting_up_to(session, most) for most in (1, 3, 9)] == [1, 3, 3]
        assert storage.count_jobs_ahead(session, waiting[2].place) == (2, 20.0)
        assert storage.count_jobs_ahead(session, waiting[0].place) == (0, 0.0)
    assert (count, oldest) == (3, waiting[0].created_at)


def test_empty_queue_has_no_oldest_job(database: Database) -> None:
    with storage.get_session(read_only=True) as session:
        assert storage.count_waiting(session) == (0, None)
        assert storage.count_waiting_up_to(session, 5) == 0


def test_real_time_factor_covers_the_newest_completed_jobs_of_a_model(database: Database) -> None:
    figures = [("a", 100.0, 1.0), ("a", 3.0, 10.0), ("a", 5.0, 30.0), ("b", 50.0, 10.0)]
    with storage.get_session() as session:
        for model, work, music in figures:
            job = storage.create_generation(session, "p", model, music, 8000, 1, "a.wav")
            storage.complete_generation(session, job.id, work, 1)
        storage.create_generation(session, "p", "c", 1.0, 8000, 1, "a.wav")
    with storage.get_session(read_only=True) as session:
        assert storage.average_real_time_factor(session, "a", sample=2) == pytest.approx(8 / 40)
        assert storage.average_real_time_factor(session, "b") == pytest.approx(5.0)
        assert storage.average_real_time_factor(session, "c") is None


def test_only_tokens_of_running_attempts_are_current(database: Database) -> None:
    running, finished = add().generation_id, add().generation_id
    with storage.get_session() as session:
        storage.claim_generation(session, running, "one")
        storage.claim_generation(session, finished, "two")
        session.get_one(Generation, finished).mark_failed("no memory")
    with storage.get_session(read_only=True) as session:
        assert storage.find_current_tokens(session, ["one", "two", "old"]) == {"one"}
        assert storage.find_current_tokens(session, []) == set()
        assert storage.list_running_attempts(session) == {running: "one"}


def test_entry_for_update_is_read_again(sqlite_database: Database) -> None:
    generation_id = add().generation_id
    with storage.get_session() as session:
        entry = storage.get_queue_entry(session, generation_id)
        assert entry is not None
        statement = "UPDATE queue_entries SET crashes = 2"
        session.connection().exec_driver_sql(statement)
        assert entry.crashes == 0
        assert storage.get_queue_entry(session, generation_id, for_update=True) is entry
        assert entry.crashes == 2


def test_entry_for_update_waits_for_the_other_transaction(postgres_url: str) -> None:
    storage.init_db(postgres_url, busy_timeout_seconds=0.05)
    generation_id = add().generation_id
    with storage.get_session() as session:
        storage.get_queue_entry(session, generation_id, for_update=True)
        with pytest.raises(storage.DatabaseLockedError), storage.get_session() as other:
            storage.get_queue_entry(other, generation_id, for_update=True)
