"""The choice of the SQLite library, and its write-ahead log."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from services import storage
from services.storage import sqlite, sqlite_driver
from services.storage.sqlite_driver import BUNDLED, get_library_version, load_library
from tests.conftest import LIMIT_SECONDS

if TYPE_CHECKING:
    from services.storage.connection import Database

pytestmark = pytest.mark.integration

MEGABYTE = 1024 * 1024


def write(prompt: str = "beat", times: int = 1) -> None:
    with storage.get_session() as session:
        for _ in range(times):
            storage.create_generation(session, prompt, "m", 1.0, 8000, 1, "p.wav")


def count() -> int:
    with storage.get_session(read_only=True) as session:
        return storage.count_generations(session)


def get_sqlite_file(database: Database) -> Path:
    assert database.file is not None
    return database.file


def beside(file: Path) -> set[str]:
    return {path.name.removeprefix(file.name) for path in file.parent.iterdir()}


def test_bundled_library_is_used_and_has_the_fix() -> None:
    facts = storage.describe_sqlite_library()
    assert facts["library"] == "sqlcipher3"
    assert facts["wal_is_safe"]
    assert facts["fts5"]
    assert get_library_version() >= (3, 53, 0)


def test_library_of_python_is_used_without_the_bundled_one(standard_library: None) -> None:
    facts = storage.describe_sqlite_library()
    assert facts["library"] == "sqlite3"
    assert facts["wal_is_safe"] == sqlite_driver.wal_is_safe(get_library_version())


@pytest.mark.parametrize(
    ("bundled", "name"), [((3, 99, 0), BUNDLED), ((3, 0, 1), sqlite_driver.STANDARD)]
)
def test_newer_library_is_used_when_neither_is_safe(
    monkeypatch: pytest.MonkeyPatch, bundled: tuple[int, int, int], name: str
) -> None:
    other = SimpleNamespace(__name__=BUNDLED, sqlite_version_info=bundled)
    with monkeypatch.context() as patch:
        patch.setattr(sqlite_driver, "wal_is_safe", lambda _version: False)
        patch.setitem(sys.modules, BUNDLED, other)  # type: ignore[arg-type] - stands for a module
        load_library.cache_clear()
        assert load_library().__name__ == name
    load_library.cache_clear()


def test_process_loads_one_library_only(sqlite_url: str) -> None:
    program = (
        "import sys; from services import storage; storage.init_db(sys.argv[1]); "
        "print(sorted({'_sqlite3', 'sqlcipher3._sqlite3'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, sqlite_url], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "['sqlcipher3._sqlite3']"


def test_importing_the_storage_loads_no_library() -> None:
    program = "import sys, services.storage; print('sqlcipher3' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_log_and_its_index_are_readable_by_their_owner_only(sqlite_database: Database) -> None:
    write()
    file = get_sqlite_file(sqlite_database)
    assert beside(file) == {"", "-wal", "-shm"}
    assert {path.stat().st_mode & 0o777 for path in file.parent.iterdir()} == {0o600}


def test_last_connection_removes_the_log(sqlite_database: Database) -> None:
    write()
    storage.close_db()
    assert beside(get_sqlite_file(sqlite_database)) == {""}


def test_log_is_truncated_after_a_large_transaction(sqlite_database: Database) -> None:
    log = Path(f"{get_sqlite_file(sqlite_database)}-wal")
    write("x" * 3 * MEGABYTE, 8)
    assert log.stat().st_size > 1.2 * sqlite.JOURNAL_SIZE_LIMIT
    for _ in range(3):
        write()
    assert log.stat().st_size <= sqlite.JOURNAL_SIZE_LIMIT


def test_readers_do_not_wait_for_a_writer(sqlite_url: str) -> None:
    storage.init_db(sqlite_url, busy_timeout_seconds=0.01)
    with storage.get_session() as session:
        storage.create_generation(session, "beat", "m", 1.0, 8000, 1, "p.wav")
        assert count() == 0
    assert count() == 1


def test_both_libraries_can_use_one_file_in_turn(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, hidden in enumerate([False, True, False], start=1):
        with monkeypatch.context() as patch:
            if hidden:
                patch.setitem(sys.modules, BUNDLED, None)  # type: ignore[arg-type] - "not there"
            load_library.cache_clear()
            storage.init_db(sqlite_url)
            write()
            assert count() == number
            assert storage.check_database().ok
            facts = storage.describe_database()
            assert facts["journal_mode"] == storage.describe_sqlite_library()["journal_mode"]
            storage.close_db()
    load_library.cache_clear()


def test_old_library_leaves_checkpoints_to_other_connections(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.init_db(sqlite_url)
    file = storage.get_engine().url.database or ""
    with closing(load_library().connect(file, isolation_level=None)) as keeper:
        keeper.execute("SELECT count(*) FROM generations").fetchone()
        monkeypatch.setattr(sqlite, "get_library_version", lambda: (3, 45, 1))
        storage.init_db(sqlite_url)
        write()
        assert storage.describe_database()["journal_mode"] == "wal"
        with storage.get_engine().connect() as connection:
            checkpoints = connection.exec_driver_sql("PRAGMA wal_autocheckpoint").scalar_one()
        assert checkpoints == 0


def test_existing_file_is_not_opened_while_it_is_prepared(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> int:
        raise AssertionError

    monkeypatch.setattr("services.storage.sqlite.os.open", refuse)
    sqlite.prepare_file(get_sqlite_file(sqlite_database))


def write_in_a_child(times: int) -> None:
    for _ in range(times):
        write("from the child")
    storage.close_db()
    os._exit(0)


def test_parent_and_forked_children_lose_no_row(sqlite_database: Database) -> None:
    write()
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=write_in_a_child, args=(20,)) for _ in range(3)]
    for child in children:
        child.start()
        write("from the parent")
    storage.close_db()
    for child in children:
        child.join(timeout=LIMIT_SECONDS)
    assert [child.exitcode for child in children] == [0, 0, 0]
    storage.init_db(f"sqlite:///{sqlite_database.file}")
    assert count() == 1 + 3 + 60
    assert storage.check_database().ok


def test_no_connection_is_open_during_a_fork(sqlite_database: Database) -> None:
    write()
    child = os.fork()
    if child == 0:
        opened = {str(link.resolve()) for link in Path("/proc/self/fd").iterdir()}
        os._exit(any(name.startswith(str(sqlite_database.file)) for name in opened))
    assert os.waitpid(child, 0)[1] == 0
    assert count() == 1


def test_backup_with_another_page_size_is_restored(sqlite_url: str, tmp_path: Path) -> None:
    with closing(load_library().connect(tmp_path / "small.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA page_size = 1024")
        connection.execute("CREATE TABLE other (a)")
    storage.init_db(f"sqlite:///{tmp_path}/small.db")
    write("kept")
    backup = storage.backup_database(tmp_path / "backup.db")
    storage.init_db(sqlite_url)
    write("replaced", 3)
    storage.restore_database(backup, force=True)
    assert count() == 1
    assert storage.check_database().ok
    assert storage.describe_database()["journal_mode"] == "wal"


def test_digest_takes_32_bytes_in_the_database(sqlite_database: Database) -> None:
    with storage.get_session() as session:
        made = storage.create_generation(session, "beat", "m", 1.0, 8000, 1, "p.wav")
        made.file_sha256 = "0f" * 32
    with storage.get_session(read_only=True) as session:
        kept = session.connection().exec_driver_sql(
            "SELECT typeof(file_sha256), length(file_sha256) FROM generations"
        )
        assert kept.one() == ("blob", 32)
        (row,) = storage.get_all_generations(session)
    assert row.to_dict()["file_sha256"] == "0f" * 32
