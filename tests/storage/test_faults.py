"""Each kind of fault has its own error class."""

from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from services import storage
from services.storage.connection import Database
from services.storage.migrations import set_revision
from services.storage.sqlite import MIGRATING_OPTION, PAGE_SIZE
from services.storage.sqlite_driver import load_library

pytestmark = pytest.mark.integration

NOBODY = 65534


def write_one() -> None:
    with storage.get_session() as session:
        storage.create_generation(session, "beat", "m", 1.0, 8000, 1, "p.wav")


def count() -> int:
    with storage.get_session(read_only=True) as session:
        return storage.count_generations(session)


def test_file_that_is_no_database_is_refused_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "notes.db"
    file.write_text("these are my notes, not a database\n" * 100)
    with pytest.raises(storage.NotADatabaseError, match=r"notes\.db is not an SQLite database"):
        storage.init_db(f"sqlite:///{file}")
    assert file.read_text().startswith("these are my notes")


def test_damaged_database_is_reported(sqlite_database: Database) -> None:
    for _ in range(50):
        write_one()
    storage.close_db()
    file = sqlite_database.file
    assert file is not None
    whole = file.read_bytes()
    file.write_bytes(whole[:PAGE_SIZE] + b"\xff" * (len(whole) - PAGE_SIZE))
    with pytest.raises(storage.DatabaseCorruptError, match="restore"):
        storage.init_db(f"sqlite:///{file}")


def test_damage_found_while_reading_is_reported(sqlite_database: Database) -> None:
    for _ in range(200):
        write_one()
    file = sqlite_database.file
    assert file is not None
    storage.close_db()
    with closing(load_library().connect(file)) as connection:
        page = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'generations'"
        ).fetchone()[0]
    with file.open("r+b") as raw:
        raw.seek((page - 1) * PAGE_SIZE)
        raw.write(b"\xff" * PAGE_SIZE)
    storage.init_db(f"sqlite:///{file}")
    assert not storage.check_database().ok
    with pytest.raises(storage.DatabaseCorruptError), storage.get_session() as session:
        storage.get_all_generations(session)


def test_locked_database_is_reported_after_the_timeout(sqlite_url: str) -> None:
    storage.init_db(sqlite_url, busy_timeout_seconds=0.05)
    with closing(load_library().connect(storage.get_engine().url.database or "")) as other:
        other.isolation_level = None
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(storage.DatabaseLockedError, match="Try again"):
            write_one()
        with pytest.raises(storage.DatabaseLockedError):
            storage.check_database()
        assert count() == 0
        other.execute("ROLLBACK")
    write_one()
    assert count() == 1


def test_database_locked_at_the_start_is_reported(sqlite_url: str) -> None:
    storage.init_db(sqlite_url)
    file = storage.get_engine().url.database or ""
    storage.close_db()
    with closing(load_library().connect(file, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(storage.DatabaseLockedError):
            storage.init_db(sqlite_url, busy_timeout_seconds=0.05)


def test_locked_row_is_reported_after_the_timeout(postgres_url: str) -> None:
    storage.init_db(postgres_url, busy_timeout_seconds=0.1)
    write_one()
    with storage.get_session() as session:
        (row,) = storage.get_all_generations(session)
        storage.update_generation_status(session, row.id, "processing")
        with pytest.raises(storage.DatabaseLockedError), storage.get_session() as other:
            storage.update_generation_status(other, row.id, "failed")


def test_write_to_a_read_only_file_is_refused(sqlite_url: str) -> None:
    storage.init_db(sqlite_url)
    write_one()
    file = storage.get_engine().url.database
    storage.init_db(f"sqlite:///file:{file}?mode=ro&uri=true")
    assert count() == 1
    with pytest.raises(storage.DatabaseReadOnlyError, match="cannot be written"):
        write_one()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_database_of_another_user_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.db"
    storage.init_db(f"sqlite:///{file}")
    storage.close_db()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        outcome = b"something else"
        try:
            os.setuid(NOBODY)
            storage.init_db(f"sqlite:///{file}")
            outcome = b"opened"
        except storage.StorageError as error:
            outcome = type(error).__name__.encode()
        finally:
            os.write(writer, outcome)
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as answer:
        assert answer.read() == b"DatabasePermissionError"


def test_newer_database_is_refused(database_url: str) -> None:
    storage.init_db(database_url)
    with storage.get_engine().begin() as connection:
        set_revision(connection, "999")
    with pytest.raises(storage.DatabaseTooNewError, match="revision 999"):
        storage.init_db(database_url)
    result = storage.check_database()
    assert result.revision == "999"
    assert "999" in result.problems[0]


def test_failed_init_db_leaves_the_open_database_open(
    sqlite_database: Database, tmp_path: Path
) -> None:
    write_one()
    (tmp_path / "bad.db").write_text("x" * 5000)
    with pytest.raises(storage.NotADatabaseError):
        storage.init_db(f"sqlite:///{tmp_path}/bad.db")
    assert count() == 1


def test_missing_server_socket_is_reported(tmp_path: Path) -> None:
    with pytest.raises(storage.DatabaseUnreachableError, match="music"):
        storage.init_db(f"postgresql://me:sesame@/music?host={tmp_path}")


def test_missing_database_on_the_server_is_reported(postgres_url: str) -> None:
    with pytest.raises(storage.DatabaseUnreachableError) as caught:
        storage.init_db(postgres_url.replace("/music_", "/absent_"))
    assert "sesame" not in str(caught.value)


def test_lost_connections_are_replaced(postgres_database: Database) -> None:
    write_one()
    assert count() == 1
    second = Database(postgres_database.url)
    with second.engine.connect() as other:
        ended = other.exec_driver_sql(
            "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid, 5000)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert ended.scalar_one() == 2  # one that writes, one that reads
    second.close()
    assert count() == 1
    write_one()
    assert count() == 2


FULL_DISK = """
import resource, sys
from services import storage
storage.init_db(sys.argv[1])
def write():
    with storage.get_session() as session:
        for _ in range(20):
            storage.create_generation(session, "beat " * 200, "m", 1.0, 8000, 1, "p.wav")
write()
import os
size = os.stat(storage.get_engine().url.database).st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 8192, resource.RLIM_INFINITY))
try:
    for _ in range(100):
        write()
except storage.DatabaseFullError as error:
    print("reported:", error)
with storage.get_session(read_only=True) as session:
    before = storage.count_generations(session)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
write()
with storage.get_session(read_only=True) as session:
    after = storage.count_generations(session)
print(after - before, storage.check_database().ok)
"""


def test_full_disk_is_reported_and_loses_nothing(sqlite_url: str) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, sqlite_url], capture_output=True, text=True, check=True
    )
    outcome, rest = done.stdout.splitlines()
    assert outcome.startswith("reported: Reading or writing the database")
    assert rest == "20 True"
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == soft


def test_connections_have_the_documented_settings(sqlite_database: Database) -> None:
    with sqlite_database.engine.connect() as connection:

        def pragma(name: str) -> object:
            return connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()

        assert pragma("foreign_keys") == 1
        assert pragma("synchronous") == 2
        assert pragma("busy_timeout") == 30_000
        assert pragma("journal_mode") == storage.describe_sqlite_library()["journal_mode"]
        assert pragma("query_only") == 0


def test_returned_connection_is_reset(sqlite_database: Database) -> None:
    engine = sqlite_database.engine
    with storage.get_session(read_only=True) as session:
        assert session.connection().exec_driver_sql("PRAGMA query_only").scalar_one() == 1
    with engine.connect().execution_options(**{MIGRATING_OPTION: True}) as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar_one() == 0
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA query_only").scalar_one() == 0
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar_one() == 1


def test_wal_is_used_only_with_a_safe_library(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.storage.sqlite.get_library_version", lambda: (3, 53, 0))
    storage.init_db(sqlite_url)
    write_one()
    assert storage.describe_database()["journal_mode"] == "wal"
    monkeypatch.setattr("services.storage.sqlite.get_library_version", lambda: (3, 45, 1))
    storage.init_db(sqlite_url)
    assert storage.describe_database()["journal_mode"] == "wal", "another connection keeps it"
    storage.close_db()
    storage.init_db(sqlite_url)
    assert storage.describe_database()["journal_mode"] == "persist"
    assert count() == 1


def test_open_database_is_described(database: Database) -> None:
    facts = storage.describe_database()
    assert facts["kind"] == ("sqlite" if database.is_sqlite else "postgresql")
    assert facts["revision"] == storage.HEAD_REVISION
    assert facts["server_version"][0].isdigit()
    assert ("journal_mode" in facts) == database.is_sqlite


def test_tables_of_another_program_are_kept_and_reported_without_sql(sqlite_url, tmp_path) -> None:
    file = tmp_path / "data" / "generations.db"
    file.parent.mkdir()
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE TABLE generations (shape TEXT)")
        connection.execute("INSERT INTO generations VALUES ('mine')")
    with pytest.raises(storage.MigrationError, match="another database") as caught:
        storage.init_db(sqlite_url)
    assert "SELECT" not in str(caught.value)
    assert "sqlalche" not in str(caught.value)
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT * FROM generations").fetchall() == [("mine",)]


def test_refused_connection_is_reported_with_the_reason() -> None:
    with pytest.raises(storage.DatabaseUnreachableError, match="refused") as caught:
        storage.init_db("postgresql://nobody@127.0.0.1:9/nothing")
    assert "\n" not in str(caught.value)
    assert "\t" not in str(caught.value)
