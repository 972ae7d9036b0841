"""Attempts, also of many workers at once."""

from __future__ import annotations

import multiprocessing
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services import storage
from services.storage import Generation
from tests.conftest import LIMIT_SECONDS

if TYPE_CHECKING:
    from services.storage.connection import Database

pytestmark = pytest.mark.integration

DONE: dict[str, Any] = {
    "generation_time": 2.5, "file_size_bytes": 1000, "file_sha256": "ab" * 32,
}  # fmt: skip


def add(**changes: Any) -> str:
    with storage.get_session() as session:
        generation = storage.create_generation(session, "beat", "m", 1.0, 8000, 1, "p.wav")
        for name, value in changes.items():
            setattr(generation, name, value)
        return generation.id


def read(generation_id: str) -> Generation:
    with storage.get_session(read_only=True) as session:
        return session.get_one(Generation, generation_id)


def claim(generation_id: str, token: str, **options: Any) -> bool:
    with storage.get_session() as session:
        return storage.claim_generation(session, generation_id, token, **options)


def test_claim_starts_an_attempt(database: Database) -> None:
    generation_id = add()
    assert claim(generation_id, "one")
    row = read(generation_id)
    assert (row.status, row.attempts, row.attempt_token) == ("processing", 1, "one")


def test_claimed_finished_and_unknown_jobs_cannot_be_claimed(database: Database) -> None:
    taken = add()
    assert claim(taken, "one")
    assert not claim(taken, "two")
    assert not claim(add(status="completed"), "one")
    assert not claim(add(status="cancelled"), "one")
    assert not claim("unknown", "one")
    assert read(taken).attempt_token == "one"


def test_takeover_needs_the_token_of_the_dead_attempt(database: Database) -> None:
    generation_id = add()
    claim(generation_id, "dead")
    assert not claim(generation_id, "new", taking_over="another")
    assert claim(generation_id, "new", taking_over="dead")
    row = read(generation_id)
    assert (row.attempts, row.attempt_token) == (2, "new")


def test_claim_updates_an_object_that_is_already_loaded(database: Database) -> None:
    generation_id = add()
    with storage.get_session() as session:
        row = session.get_one(Generation, generation_id)
        storage.claim_generation(session, generation_id, "one")
        assert (row.status, row.attempts) == ("processing", 1)


def test_publishing_stores_size_digest_and_metadata(database: Database) -> None:
    generation_id = add(metadata_json='{"seed": 7}')
    claim(generation_id, "one")
    with storage.get_session() as session:
        published = storage.publish_generation(
            session, generation_id, "one", **DONE, metadata={"bpm": 90}
        )
    row = read(generation_id)
    assert published
    assert row.is_complete
    assert row.completed_at is not None
    assert (row.file_size_bytes, row.file_sha256) == (1000, "ab" * 32)
    assert row.generation_time_seconds == 2.5
    assert row.get_metadata() == {"seed": 7, "bpm": 90}
    assert row.attempt_token is None


def test_publishing_replaces_the_model_version_when_one_is_given(database: Database) -> None:
    versions = []
    for made_by in ("2+installed", None):
        generation_id = add(model_version="1+pinned")
        claim(generation_id, "one")
        with storage.get_session() as session:
            storage.publish_generation(session, generation_id, "one", **DONE, model_version=made_by)
        versions.append(read(generation_id).model_version)
    assert versions == ["2+installed", "1+pinned"]


def test_attempt_that_lost_its_job_changes_nothing(database: Database) -> None:
    generation_id = add()
    claim(generation_id, "old")
    claim(generation_id, "new", taking_over="old")
    before = read(generation_id).to_dict()
    with storage.get_session() as session:
        assert not storage.publish_generation(session, generation_id, "old", **DONE)
        assert not storage.fail_generation(session, generation_id, "old", "no")
        assert not storage.release_generation(session, generation_id, "old", "no")
        assert not storage.publish_generation(session, "unknown", "old", **DONE)
    assert read(generation_id).to_dict() == before


def test_second_publication_is_refused(database: Database) -> None:
    generation_id = add()
    claim(generation_id, "one")
    with storage.get_session() as session:
        assert storage.publish_generation(session, generation_id, "one", **DONE)
        assert not storage.publish_generation(session, generation_id, "one", **DONE)


def test_failure_stores_its_message(database: Database) -> None:
    generation_id = add()
    claim(generation_id, "one")
    with storage.get_session() as session:
        assert storage.fail_generation(session, generation_id, "one", "no memory")
    row = read(generation_id)
    assert (row.status, row.error_message, row.attempt_token) == ("failed", "no memory", None)


def test_released_job_can_be_claimed_again(database: Database) -> None:
    generation_id = add()
    claim(generation_id, "one")
    with storage.get_session() as session:
        assert storage.release_generation(session, generation_id, "one", "try again")
    assert read(generation_id).error_message == "try again"
    assert claim(generation_id, "two")
    assert read(generation_id).attempts == 2


@pytest.mark.parametrize(
    ("status", "cancelled"),
    [("pending", True), ("processing", True), ("completed", False), ("failed", False),
     ("cancelled", False)],
)  # fmt: skip
def test_only_unfinished_jobs_can_be_cancelled(
    database: Database, status: str, cancelled: bool
) -> None:
    generation_id = add(status=status, attempt_token="one")
    with storage.get_session() as session:
        assert storage.cancel_generation(session, generation_id) is cancelled
        assert storage.cancel_generation(session, "unknown") is False
    assert read(generation_id).status == ("cancelled" if cancelled else status)


def test_cancelled_attempt_cannot_publish(database: Database) -> None:
    generation_id = add()
    claim(generation_id, "one")
    with storage.get_session() as session:
        storage.cancel_generation(session, generation_id)
        assert not storage.publish_generation(session, generation_id, "one", **DONE)


def test_eight_threads_claim_each_row_once(database: Database) -> None:
    rows = 80
    with storage.get_session() as session:
        for _ in range(rows):
            storage.create_generation(session, "beat", "m", 1.0, 8000, 1, "p.wav")

    def work(_worker: int) -> list[str]:
        mine = []
        while True:
            with storage.get_session() as session:
                waiting = storage.get_pending_generations(session, limit=8)
                if not waiting:
                    return mine
                for row in waiting:
                    if storage.claim_generation(session, row.id, uuid.uuid4().hex):
                        mine.append(row.id)
                        break

    with ThreadPoolExecutor(8) as pool:
        claims = Counter(claimed for mine in pool.map(work, range(8)) for claimed in mine)
    assert len(claims) == rows
    assert set(claims.values()) == {1}
    with storage.get_session(read_only=True) as session:
        assert {row.attempts for row in storage.get_all_generations(session, rows)} == {1}


def test_transactions_that_read_and_then_write_never_fail_on_a_lock(
    sqlite_database: Database,
) -> None:
    """With deferred transactions this would fail more often than not."""
    generation_id = add()

    def work(_worker: int) -> None:
        for _ in range(40):
            with storage.get_session() as session:
                row = session.get_one(Generation, generation_id)
                row.attempts += 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert read(generation_id).attempts == 320


def count_in_a_process(url: str, times: int) -> None:
    storage.init_db(url)
    for _ in range(times):
        with storage.get_session() as session:
            storage.create_generation(session, "the same prompt", "m", 1.0, 8000, 1, "p.wav")
    storage.close_db()


def test_processes_that_count_one_prompt_lose_no_count(database_url: str) -> None:
    storage.init_db(database_url)
    context = multiprocessing.get_context("fork")
    storage.close_db()
    processes = [
        context.Process(target=count_in_a_process, args=(database_url, 25)) for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=LIMIT_SECONDS)
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    storage.init_db(database_url)
    with storage.get_session(read_only=True) as session:
        (prompt,) = storage.get_all_prompts(session)
        assert prompt.used_count == 100
        assert storage.count_generations(session) == 100
        assert len(storage.search_generations(session, "same", limit=1000).items) == 100


def test_sessions_that_complete_at_once_keep_all_metadata(postgres_database: Database) -> None:
    generation_id = add()

    def complete(name: str) -> None:
        with storage.get_session() as session:
            storage.complete_generation(session, generation_id, 1.0, 1, {name: 1})

    names = [f"n{number}" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(complete, names))
    assert sorted(read(generation_id).get_metadata()) == names


def test_publishing_can_rename_the_file(database: Database) -> None:
    generation_id = add()
    claim(generation_id, "one")
    with storage.get_session() as session:
        storage.publish_generation(session, generation_id, "one", **DONE, file_path="b-2.wav")
    assert read(generation_id).file_path == "b-2.wav"


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["claim", "take over", "publish", "fail", "release", "cancel"]),
        st.sampled_from(["one", "two", "three"]),
    ),
    max_size=12,
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40
)
@given(STEPS)
def test_any_sequence_of_steps_leaves_a_consistent_row(
    sqlite_database: Database, steps: list[tuple[str, str]]
) -> None:
    generation_id = add()
    holder, finished, attempts = None, None, 0
    for step, token in steps:
        with storage.get_session() as session:
            if step == "claim":
                done = storage.claim_generation(session, generation_id, token)
                assert done == (holder is None and finished is None)
            elif step == "take over":
                done = storage.claim_generation(session, generation_id, "new", taking_over=token)
                assert done == (finished is None and holder in {None, token})
            elif step == "publish":
                done = storage.publish_generation(session, generation_id, token, **DONE)
                assert done == (holder == token)
            elif step == "fail":
                done = storage.fail_generation(session, generation_id, token, "no memory")
                assert done == (holder == token)
            elif step == "release":
                done = storage.release_generation(session, generation_id, token)
                assert done == (holder == token)
            else:
                done = storage.cancel_generation(session, generation_id)
                assert done == (finished is None)
        if done:
            attempts += step in {"claim", "take over"}
            holder = {"claim": token, "take over": "new"}.get(step)
            finished = {"publish": "completed", "fail": "failed", "cancel": "cancelled"}.get(step)
    row = read(generation_id)
    status = finished or ("pending" if holder is None else "processing")
    assert (row.status, row.attempt_token, row.attempts) == (status, holder, attempts)
    assert (row.completed_at is not None) == row.is_finished
