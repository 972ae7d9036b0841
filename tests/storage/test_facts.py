"""Measurements, models, and the cleanup of old rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy.exc import IntegrityError

from services import storage
from services.storage import Generation, Measurements

if TYPE_CHECKING:
    from services.storage.connection import Database

pytestmark = pytest.mark.integration

NOW = datetime.now(UTC)
MODEL: dict[str, Any] = {
    "revision": "abc123", "licence": "CC-BY-NC-4.0", "sample_rate": 32000, "channels": 1,
    "longest_seconds": 30.0, "size_bytes": 2_400_000_000, "path": "musicgen-small",
}  # fmt: skip


def add(name: str, **changes: Any) -> str:
    with storage.get_session() as session:
        values: dict[str, Any] = {
            "prompt": "p", "model_name": "m", "duration_seconds": 1.0, "sample_rate": 8000,
            "channels": 1, "file_path": f"{name}.wav", "id": name,
        }  # fmt: skip
        session.add(Generation(**(values | changes)))
    return name


def remaining() -> set[str]:
    with storage.get_session(read_only=True) as session:
        return {row.id for row in storage.get_all_generations(session)}


def test_measurements_are_stored_and_replaced(database: Database) -> None:
    add("a")
    with storage.get_session() as session:
        storage.record_analysis(session, "a", Measurements(bpm=90.0, key="A minor"))
        again = storage.record_analysis(
            session, "a", Measurements(bpm=91.5, integrated_lufs=-16.02, true_peak_dbtp=-1.1)
        )
        assert (again.bpm, again.key) == (91.5, None)
    with storage.get_session(read_only=True) as session:
        kept = storage.get_analysis(session, "a")
        assert storage.get_analysis(session, "none") is None
    assert kept is not None
    assert (kept.integrated_lufs, kept.true_peak_dbtp) == (-16.02, -1.1)
    assert kept.analysed_at >= NOW


def test_measurements_need_a_generation_and_are_deleted_with_it(database: Database) -> None:
    with pytest.raises(IntegrityError), storage.get_session() as session:
        storage.record_analysis(session, "none", Measurements())
    add("a")
    with storage.get_session() as session:
        storage.record_analysis(session, "a", Measurements())
    with storage.get_session() as session:
        storage.delete_generation(session, "a")
    with storage.get_session() as session:
        assert storage.get_analysis(session, "a") is None


def test_models_are_stored_replaced_and_listed(database: Database) -> None:
    with storage.get_session() as session:
        storage.record_model(session, "small", **MODEL)
        storage.record_model(session, "large", **MODEL)
        storage.record_model(session, "small", **(MODEL | {"revision": "def"}))
    with storage.get_session() as session:
        listed = [(model.name, model.revision) for model in storage.get_models(session)]
        assert listed == [("large", "abc123"), ("small", "def")]
        assert storage.get_models(session)[0].size_bytes == 2_400_000_000


@pytest.mark.parametrize("wrong", [{"channels": 3}, {"sample_rate": 0}, {"longest_seconds": 0.0}])
def test_database_refuses_impossible_models(database: Database, wrong: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError), storage.get_session() as session:
        storage.record_model(session, "m", **(MODEL | wrong))


@pytest.fixture
def aged(database: Database) -> None:
    for days in (1, 40, 50):
        moment = NOW - timedelta(days=days)
        for status in ("completed", "failed", "pending"):
            finished = None if status == "pending" else moment
            add(
                f"{status}-{days}", status=status, created_at=moment, completed_at=finished,
                file_size_bytes=100 if status == "completed" else None,
            )  # fmt: skip


def test_dry_run_lists_expired_rows_and_deletes_none(aged: None) -> None:
    with storage.get_session(read_only=True) as session:
        found = storage.cleanup_generations(session)
    assert [row.id for row in found.expired] == [
        "completed-50", "failed-50", "completed-40", "failed-40",
    ]  # fmt: skip
    assert found.file_paths[0] == "completed-50.wav"
    assert found.total_bytes == 200
    assert not found.deleted
    assert len(remaining()) == 9


def test_cleanup_deletes_finished_rows_of_that_age(aged: None) -> None:
    with storage.get_session() as session:
        found = storage.cleanup_generations(session, older_than_days=45, dry_run=False)
    assert found.deleted
    assert [row.id for row in found.expired] == ["completed-50", "failed-50"]
    assert found.expired[0].finished_at.tzinfo is UTC
    assert not remaining() & {"completed-50", "failed-50"}
    assert len(remaining()) == 7


def test_cleanup_can_be_limited_to_some_statuses(aged: None) -> None:
    with storage.get_session() as session:
        found = storage.cleanup_generations(session, statuses=["failed"], dry_run=False)
    assert {row.id for row in found.expired} == {"failed-40", "failed-50"}


@pytest.mark.parametrize("wrong", [{"statuses": ["pending"]}, {"older_than_days": -1}])
def test_cleanup_refuses_unfinished_statuses_and_negative_ages(
    database: Database, wrong: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="Only completed"), storage.get_session() as session:
        storage.cleanup_generations(session, **wrong)


def test_rows_without_completion_time_age_from_their_creation(database: Database) -> None:
    add("old", status="completed", created_at=NOW - timedelta(days=90))
    with storage.get_session() as session:
        found = storage.cleanup_generations(session, dry_run=False)
    assert [row.id for row in found.expired] == ["old"]


def test_cleanup_deletes_more_rows_than_one_statement_takes(sqlite_database: Database) -> None:
    long_ago = NOW - timedelta(days=90)
    with storage.get_session() as session:
        session.add_all(
            Generation(
                prompt="p", model_name="m", duration_seconds=1.0, sample_rate=8000, channels=1,
                file_path="p.wav", status="failed", created_at=long_ago,
            )
            for _ in range(1201)
        )  # fmt: skip
    with storage.get_session() as session:
        found = storage.cleanup_generations(session, dry_run=False)
        assert storage.count_generations(session) == 0
    assert len(found.expired) == 1201


def test_age_of_zero_days_expires_everything_finished(aged: None) -> None:
    with storage.get_session() as session:
        found = storage.cleanup_generations(session, older_than_days=0)
    assert {row.id for row in found.expired} == remaining() - {
        "pending-1",
        "pending-40",
        "pending-50",
    }


def test_cleanup_deletes_measurements_and_keeps_prompts(database: Database) -> None:
    with storage.get_session() as session:
        made = storage.create_generation(session, "kept prompt", "m", 1.0, 8000, 1, "a.wav")
        made.status, made.created_at = "failed", NOW - timedelta(days=90)
        session.flush()
        storage.record_analysis(session, made.id, Measurements(bpm=90.0))
    with storage.get_session() as session:
        storage.cleanup_generations(session, dry_run=False)
        assert storage.get_analysis(session, made.id) is None
        assert storage.get_prompt_by_text(session, "kept prompt") is not None
        assert storage.cleanup_generations(session).expired == ()
