"""The parts of the storage that no release changes, on both databases."""

from __future__ import annotations

import uuid
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, inspect, select
from sqlalchemy.exc import IntegrityError

from services import storage
from services.storage import Generation, GenerationStatus, Prompt
from services.storage.sqlite_driver import load_library

if TYPE_CHECKING:
    from services.storage.connection import Database

pytestmark = pytest.mark.integration

CONTRACT_COLUMNS = {
    "generations": {
        "id": False, "prompt": False, "model_name": False, "model_version": True,
        "duration_seconds": False, "sample_rate": False, "channels": False, "file_path": False,
        "file_size_bytes": True, "status": False, "created_at": False, "completed_at": True,
        "generation_time_seconds": True, "error_message": True, "metadata": True,
    },
    "prompts": {
        "id": False, "text": False, "used_count": False, "first_used_at": False,
        "last_used_at": False,
    },
}  # fmt: skip


def make(session: Any, prompt: str = "trap beat", **changes: Any) -> Generation:
    values: dict[str, Any] = {
        "prompt": prompt,
        "model_name": "composer",
        "duration_seconds": 16.0,
        "sample_rate": 32000,
        "channels": 2,
        "file_path": "2026/11/20/a.wav",
    }
    return storage.create_generation(session, **(values | changes))


def insert_raw(engine: Engine, **changes: Any) -> None:
    values = {
        "id": f"'{uuid.uuid4()}'", "prompt": "'raw beat'", "model_name": "'m'",
        "duration_seconds": "16.0", "sample_rate": "32000", "channels": "2",
        "file_path": "'a.wav'", "status": "'pending'", "created_at": "'2025-11-07 10:00:00'",
    } | changes  # fmt: skip
    names, literals = ", ".join(values), ", ".join(values.values())
    with engine.begin() as connection:
        connection.exec_driver_sql(f"INSERT INTO generations ({names}) VALUES ({literals})")


@pytest.mark.parametrize("table", CONTRACT_COLUMNS)
def test_tables_have_the_columns_of_the_contract(database: Database, table: str) -> None:
    found = {
        column["name"]: column["nullable"] for column in inspect(database.engine).get_columns(table)
    }
    assert found | CONTRACT_COLUMNS[table] == found


def test_prompts_table_has_no_other_columns(database: Database) -> None:
    names = [column["name"] for column in inspect(database.engine).get_columns("prompts")]
    assert names == list(CONTRACT_COLUMNS["prompts"])


@pytest.mark.parametrize(
    ("table", "index", "ending"),
    [
        ("generations", "idx_generations_status", "(status)"),
        ("generations", "idx_generations_created_at", "(created_at DESC)"),
        ("generations", "idx_generations_model_name", "(model_name)"),
        ("generations", "idx_generations_completed_at", "(completed_at DESC)"),
        ("prompts", "idx_prompts_text", "(text)"),
    ],
)
def test_indexes_of_the_contract_exist(
    database: Database, table: str, index: str, ending: str
) -> None:
    statement = (
        f"SELECT sql FROM sqlite_master WHERE name = '{index}' AND tbl_name = '{table}'"
        if database.is_sqlite
        else f"SELECT indexdef FROM pg_indexes WHERE indexname = '{index}' "
        f"AND tablename = '{table}'"
    )
    with database.engine.connect() as connection:
        assert connection.exec_driver_sql(statement).scalar_one().endswith(ending)


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "'done'"},
        {"status": "NULL"},
        {"channels": "0"},
        {"channels": "3"},
        {"duration_seconds": "0"},
        {"duration_seconds": "-1.5"},
        {"sample_rate": "0"},
        {"sample_rate": "-44100"},
        {"prompt": "NULL"},
        {"file_path": "NULL"},
        {"prompt_id": "424242"},
    ],
)
def test_database_refuses_wrong_values(database: Database, changes: dict[str, str]) -> None:
    with pytest.raises(IntegrityError):
        insert_raw(database.engine, **changes)


def test_rows_inserted_by_sql_are_read_as_objects(database: Database) -> None:
    insert_raw(database.engine, id="'abc-123'", metadata="'{\"bpm\": 90}'")
    with storage.get_session() as session:
        generation = storage.get_generation(session, "abc-123")
        assert generation is not None
        assert generation.created_at == datetime(2025, 11, 7, 10, tzinfo=UTC)
        assert (generation.attempts, generation.get_metadata()) == (0, {"bpm": 90})


def test_example_prompt_row_is_read_as_an_object(sqlite_database: Database) -> None:
    with sqlite_database.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO prompts VALUES (1, 'trap beat', 3, '2025-11-07 09:00:00', "
            "'2025-11-07 11:30:00')"
        )
    with storage.get_session() as session:
        prompt = storage.get_prompt(session, 1)
        assert prompt is not None
        assert prompt.last_used_at == datetime(2025, 11, 7, 11, 30, tzinfo=UTC)


def test_documented_workflow_completes_a_generation(database: Database) -> None:
    with storage.get_session() as session:
        generation_id = make(session, "trap beat 140 BPM", metadata={"genre": "trap"}).id
    with storage.get_session() as session:
        generation = storage.get_generation(session, generation_id)
        assert generation is not None
        generation.mark_processing()
    with storage.get_session() as session:
        storage.complete_generation(
            session, generation_id, generation_time=18.5, file_size_bytes=5_242_880,
            metadata={"bpm": 140, "key": "Cm"},
        )  # fmt: skip
    with storage.get_session() as session:
        generation = storage.get_generation(session, generation_id)
    assert generation is not None
    assert generation.is_complete
    assert generation.generation_time_seconds == 18.5
    assert generation.file_size_bytes == 5_242_880
    assert generation.get_metadata() == {"genre": "trap", "bpm": 140, "key": "Cm"}
    assert generation.completed_at is not None
    assert generation.completed_at.tzinfo is UTC


def test_created_generation_is_pending_and_counts_its_prompt(database: Database) -> None:
    with storage.get_session() as session:
        first, second = make(session, "calm loop"), make(session, "calm loop")
        prompt = storage.get_prompt_by_text(session, "calm loop")
    assert prompt is not None
    assert prompt.used_count == 2
    assert first.prompt_id == second.prompt_id == prompt.id
    assert first.is_pending
    assert uuid.UUID(first.id).version == 4


def test_caller_can_choose_the_id(database: Database) -> None:
    with storage.get_session() as session:
        assert make(session, generation_id="chosen").id == "chosen"
    with storage.get_session() as session:
        assert storage.get_generation(session, "chosen") is not None


def test_stored_moments_are_read_as_the_same_moment_in_utc(database: Database) -> None:
    eastern = datetime(2026, 3, 4, 5, 6, 7, 890123, timezone(timedelta(hours=5)))
    naive = datetime(2026, 3, 4, 5, 6, 7, 1)
    with storage.get_session() as session:
        session.add(Generation(**RAW, id="zoned", created_at=eastern))
        session.add(Generation(**RAW, id="naive", created_at=naive))
    with storage.get_session() as session:
        zoned, plain = session.get_one(Generation, "zoned"), session.get_one(Generation, "naive")
    assert zoned.created_at == eastern
    assert zoned.created_at.tzinfo is UTC
    assert plain.created_at == naive.replace(tzinfo=UTC)


RAW: dict[str, Any] = {
    "prompt": "p", "model_name": "m", "duration_seconds": 1.0, "sample_rate": 8000, "channels": 1,
    "file_path": "p.wav",
}  # fmt: skip


def test_sqlite_stores_times_as_sortable_text(sqlite_database: Database) -> None:
    moment = datetime(2026, 3, 4, 5, 6, 7, 1, timezone(timedelta(hours=2)))
    with storage.get_session() as session:
        session.add(Generation(**RAW, created_at=moment))
    with sqlite_database.engine.connect() as connection:
        text = connection.exec_driver_sql("SELECT created_at FROM generations").scalar_one()
    assert text == "2026-03-04 03:06:07.000001"


def test_lists_are_newest_first_and_paged(database: Database) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    with storage.get_session() as session:
        for number in (3, 1, 4, 0, 2):
            moment = start + timedelta(hours=number)
            session.add(Generation(**RAW, id=str(number), created_at=moment))
    with storage.get_session() as session:
        assert [row.id for row in storage.get_all_generations(session)] == list("43210")
        page = storage.get_all_generations(session, limit=2, offset=1)
        assert [row.id for row in page] == ["3", "2"]
        assert [row.id for row in storage.get_pending_generations(session, 2)] == ["0", "1"]


def test_lists_are_filtered_by_status(database: Database) -> None:
    with storage.get_session() as session:
        for number, status in enumerate(GenerationStatus):
            session.add(Generation(**RAW, id=str(number), status=status))
    with storage.get_session() as session:
        for number, status in enumerate(GenerationStatus):
            expected = [str(number)]
            listed = storage.get_all_generations(session, status=status)
            assert [row.id for row in listed] == expected
            by_status = storage.get_generations_by_status(session, status.value, limit=5)
            assert [row.id for row in by_status] == expected
            assert storage.count_generations(session, status) == 1
        assert storage.count_generations(session) == 5


def test_unknown_status_is_a_value_error(database: Database) -> None:
    with storage.get_session() as session:
        generation = make(session)
        with pytest.raises(ValueError, match="'done'"):
            storage.get_all_generations(session, status="done")
        with pytest.raises(ValueError, match="'done'"):
            storage.count_generations(session, "done")
        with pytest.raises(ValueError, match="'done'"):
            storage.update_generation_status(session, generation.id, "done")


@pytest.mark.parametrize("status", GenerationStatus)
def test_update_sets_status_message_and_time(database: Database, status: str) -> None:
    with storage.get_session() as session:
        generation_id = make(session).id
    with storage.get_session() as session:
        storage.update_generation_status(session, generation_id, status, "why")
    with storage.get_session() as session:
        generation = session.get_one(Generation, generation_id)
    assert (generation.status, generation.error_message) == (status.value, "why")
    assert (generation.completed_at is not None) == generation.is_finished


def test_status_constants_may_be_assigned_and_compared(database: Database) -> None:
    with storage.get_session() as session:
        generation = make(session)
        generation.status = GenerationStatus.PROCESSING
    with storage.get_session() as session:
        found = select(Generation).where(Generation.status == GenerationStatus.PROCESSING)
        assert session.scalars(found).one().is_processing


def test_completing_by_status_sets_no_duration(database: Database) -> None:
    with storage.get_session() as session:
        generation_id = make(session).id
        storage.update_generation_status(session, generation_id, "completed")
    with storage.get_session() as session:
        assert session.get_one(Generation, generation_id).generation_time_seconds is None


def test_unknown_ids_are_none_or_false(database: Database) -> None:
    with storage.get_session() as session:
        assert storage.get_generation(session, "none") is None
        assert storage.update_generation_status(session, "none", "failed") is None
        assert storage.complete_generation(session, "none", 1.0, 1) is None
        assert storage.delete_generation(session, "none") is False
        assert storage.get_prompt(session, 999) is None
        assert storage.get_prompt_by_text(session, "none") is None


def test_delete_removes_one_row(database: Database) -> None:
    with storage.get_session() as session:
        kept, gone = make(session).id, make(session).id
    with storage.get_session() as session:
        assert storage.delete_generation(session, gone) is True
    with storage.get_session() as session:
        assert [row.id for row in storage.get_all_generations(session)] == [kept]


def test_prompts_are_most_used_first(database: Database) -> None:
    with storage.get_session() as session:
        for text, uses in (("once", 1), ("thrice", 3), ("twice", 2)):
            for _ in range(uses):
                prompt = storage.track_prompt_usage(session, text)
            assert (prompt.text, prompt.used_count) == (text, uses)
    with storage.get_session() as session:
        ordered = [prompt.text for prompt in storage.get_all_prompts(session)]
        assert ordered == ["thrice", "twice", "once"]
        assert [p.text for p in storage.get_all_prompts(session, 1, offset=1)] == ["twice"]
        assert [p.text for p in storage.get_most_used_prompts(session, 2)] == ["thrice", "twice"]


def test_prompt_text_is_unique(database: Database) -> None:
    with storage.get_session() as session:
        session.add(Prompt(text="same"))
    with pytest.raises(IntegrityError), storage.get_session() as session:
        session.add(Prompt(text="same"))


def test_deleting_a_prompt_keeps_its_generations(database: Database) -> None:
    with storage.get_session() as session:
        generation_id = make(session, "short-lived").id
        prompt = storage.get_prompt_by_text(session, "short-lived")
        session.delete(prompt)
    with storage.get_session() as session:
        assert session.get_one(Generation, generation_id).prompt_id is None


def test_statistics_count_by_status(database: Database) -> None:
    with storage.get_session() as session:
        for status in ("pending", "completed", "completed", "failed"):
            session.add(Generation(**RAW, status=status))
        storage.track_prompt_usage(session, "p")
    with storage.get_session(read_only=True) as session:
        assert storage.get_database_stats(session) == {
            "total_generations": 4,
            "pending_generations": 1,
            "processing_generations": 0,
            "completed_generations": 2,
            "failed_generations": 1,
            "cancelled_generations": 0,
            "total_prompts": 1,
        }


def test_error_rolls_back_and_objects_stay_readable(database: Database) -> None:
    made = []

    def fail_after_writing() -> None:
        with storage.get_session() as session:
            made.append(make(session, "never kept"))
            raise KeyError

    with pytest.raises(KeyError):
        fail_after_writing()
    assert made[0].prompt == "never kept"
    with storage.get_session() as session:
        assert storage.count_generations(session) == 0
        assert storage.get_all_prompts(session) == []


def test_objects_stay_readable_after_a_read_only_session(database: Database) -> None:
    with storage.get_session() as session:
        make(session, metadata={"a": 1})
    with storage.get_session(read_only=True) as session:
        (generation,) = storage.get_all_generations(session)
    assert generation.to_dict()["metadata"] == {"a": 1}


def test_read_only_session_refuses_to_write(database: Database) -> None:
    with (
        pytest.raises(storage.ReadOnlySessionError),
        storage.get_session(read_only=True) as session,
    ):
        make(session)
    with storage.get_session() as session:
        make(session)
        assert storage.count_generations(session) == 1


def test_reset_empties_our_tables_and_no_others(database: Database) -> None:
    with database.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE of_others (number INTEGER)")
        connection.exec_driver_sql("INSERT INTO of_others VALUES (7)")
    with storage.get_session() as session:
        make(session, "beat")
    storage.reset_database()
    with storage.get_session() as session:
        assert storage.count_generations(session) == 0
        assert storage.search_generations(session, "beat").items == []
        make(session, "beat again")
        others = session.connection().exec_driver_sql("SELECT number FROM of_others")
        assert others.scalar_one() == 7
    with storage.get_session(read_only=True) as session:
        assert len(storage.search_generations(session, "beat").items) == 1
    assert storage.check_database().ok


@pytest.mark.parametrize(
    "action",
    [storage.get_engine, storage.reset_database, lambda: storage.get_session().__enter__()],
)
def test_use_before_init_db_is_refused(action: Any) -> None:
    with pytest.raises(RuntimeError, match="init_db"):
        action()


def test_default_database_is_in_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    storage.init_db()
    assert (tmp_path / "data" / "generations.db").is_file()


def test_environment_overrides_the_default_and_the_argument_overrides_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/deep/er/environment.db")
    storage.init_db()
    storage.init_db(f"sqlite:///{tmp_path}/argument.db")
    made = sorted(file.name for file in tmp_path.rglob("*.db"))
    assert made == ["argument.db", "environment.db"]
    assert str(storage.get_engine().url.database).endswith("argument.db")


def test_relative_path_is_resolved_when_the_database_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    storage.init_db("sqlite:///here.db")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with storage.get_session() as session:
        make(session)
    with closing(load_library().connect(tmp_path / "here.db")) as connection:
        assert connection.execute("SELECT count(*) FROM generations").fetchone() == (1,)


def test_sessions_share_a_database_in_memory(tmp_path: Path) -> None:
    storage.init_db("sqlite://")
    with storage.get_session() as session:
        make(session)
    with storage.get_session(read_only=True) as session:
        assert storage.count_generations(session) == 1


def test_new_generation_belongs_to_its_session_until_rollback(database: Database) -> None:
    with storage.get_session() as session:
        made = make(session)
        assert made in session
        assert storage.get_generation(session, made.id) is made
        made.mark_processing()
        made_id = made.id
        session.commit()
        lost = make(session)
        lost_id = lost.id
        session.rollback()
        assert storage.get_generation(session, lost_id) is None
        assert storage.get_generation(session, made_id) is made
    assert made.status == "processing"
    assert made.completed_at is None
    assert made.error_message is None
