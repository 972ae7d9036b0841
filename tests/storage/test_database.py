"""The open database of the process, and its description."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from services import storage
from services.storage.database import get_database, get_open_database

if TYPE_CHECKING:
    from services.storage.connection import Database

pytestmark = pytest.mark.integration


def test_status_of_a_current_database(database: Database) -> None:
    kind = "sqlite" if database.is_sqlite else "postgresql"
    expected = storage.DatabaseStatus(kind, storage.HEAD_REVISION, is_current=True)
    assert storage.read_database_status() == expected


def test_status_follows_a_change_of_the_revision(database: Database) -> None:
    with storage.get_session() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '002'"))
    status = storage.read_database_status()
    assert (status.revision, status.is_current) == ("002", False)


def test_open_database_is_recognised_by_its_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert not storage.is_open("sqlite:///a.db")
    storage.init_db("sqlite:///a.db")
    assert storage.is_open(f"sqlite:///{tmp_path}/a.db")
    assert not storage.is_open("sqlite:///b.db")
    assert not storage.is_open()
    monkeypatch.setenv("DATABASE_URL", "sqlite:///a.db")
    assert storage.is_open()
    storage.close_db()
    assert not storage.is_open()


def test_second_init_closes_the_first_database(tmp_path: Path) -> None:
    storage.init_db(f"sqlite:///{tmp_path}/a.db")
    first = get_database()
    with storage.get_session(read_only=True) as session:
        storage.count_generations(session)
    storage.init_db(f"sqlite:///{tmp_path}/b.db")
    assert get_open_database() is not first
    assert first.engine.pool.status().startswith("Pool size: 15  Connections in pool: 0")


def test_close_without_an_open_database_is_no_error() -> None:
    storage.close_db()
    storage.close_db()
    assert get_open_database() is None


@pytest.mark.parametrize(
    "action",
    [storage.get_queue_engine, storage.open_connections, storage.read_database_status,
     storage.describe_database, storage.check_database,
     lambda: storage.database_errors().__enter__()],
)  # fmt: skip
def test_every_entry_needs_an_open_database(action) -> None:
    with pytest.raises(storage.DatabaseNotInitialisedError, match="init_db"):
        action()


def test_queue_engine_is_created_once_and_shares_the_database(database: Database) -> None:
    with storage.get_session() as session:
        storage.create_generation(session, "beat", "m", 1.0, 8000, 1, "a.wav")
    engine = storage.get_queue_engine()
    assert storage.get_queue_engine() is engine
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM generations")).scalar_one() == 1


def test_queue_engine_rolls_back_what_is_not_committed(database: Database) -> None:
    with storage.get_queue_engine().connect() as connection:
        connection.execute(text("DELETE FROM alembic_version"))
    assert storage.read_database_status().is_current


def test_database_errors_translates_only_errors_of_the_database(sqlite_url: str) -> None:
    storage.init_db(sqlite_url, busy_timeout_seconds=0.01)
    with (
        storage.get_engine().begin(),
        storage.get_queue_engine().connect() as other,
        pytest.raises(storage.DatabaseLockedError),
        storage.database_errors(),
    ):
        other.execute(text("DELETE FROM prompts"))
    with pytest.raises(KeyError), storage.database_errors():
        raise KeyError


def test_exhausted_pool_is_reported_as_locked(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_database.engine.pool, "_timeout", 0.01)
    sessions = [storage.get_session(read_only=True) for _ in range(16)]
    opened = [session.__enter__() for session in sessions]
    try:
        for session in opened[:15]:
            session.execute(text("SELECT 1"))
        with (
            pytest.raises(storage.DatabaseLockedError, match="All connections of this process"),
            storage.get_session(read_only=True) as session,
        ):
            session.execute(text("SELECT 1"))
    finally:
        for session in opened:
            session.close()


def test_statistics_of_an_empty_database_are_zero(database: Database) -> None:
    with storage.get_session(read_only=True) as session:
        stats = storage.get_database_stats(session)
    assert set(stats.values()) == {0}
    assert set(stats) == {"total_generations", "total_prompts"} | {
        f"{status}_generations" for status in storage.STATUSES
    }
