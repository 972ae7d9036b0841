"""Backups are complete and checked, and are restored completely or not at all."""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from services import storage
from services.storage import postgres_tools, snapshot
from services.storage.connection import Database
from services.storage.database import get_database
from services.storage.migrations import set_revision
from services.storage.sqlite import PAGE_SIZE
from services.storage.sqlite_driver import load_library

pytestmark = pytest.mark.integration


def add(*prompts: str) -> None:
    with storage.get_session() as session:
        for prompt in prompts:
            storage.create_generation(session, prompt, "m", 1.0, 8000, 1, "p.wav")


def prompts() -> set[str]:
    with storage.get_session(read_only=True) as session:
        return {row.prompt for row in storage.get_all_generations(session, 1000)}


def test_backup_can_be_restored(database: Database, tmp_path: Path) -> None:
    add("kept one", "kept two")
    file = storage.backup_database(tmp_path / "backups" / "one.backup")
    assert file.stat().st_mode & 0o777 == 0o600
    add("lost")
    kept = storage.restore_database(file, force=True)
    assert prompts() == {"kept one", "kept two"}
    assert storage.check_database() == storage.CheckResult(storage.HEAD_REVISION, ())
    add("new")
    with storage.get_session(read_only=True) as session:
        assert len(storage.search_generations(session, "kept").items) == 2
        assert len(storage.search_generations(session, "new").items) == 1
        assert storage.search_generations(session, "lost").items == []
    assert kept is not None
    assert ".replaced." in kept.name
    storage.restore_database(kept, force=True)
    assert prompts() == {"kept one", "kept two", "lost"}


def test_backup_and_restore_overwrite_nothing_without_force(
    database: Database, tmp_path: Path
) -> None:
    add("mine")
    file = storage.backup_database(tmp_path / "one.backup")
    before = file.read_bytes()
    with pytest.raises(storage.OverwriteRefusedError, match="force"):
        storage.backup_database(file)
    assert file.read_bytes() == before
    add("newer")
    with pytest.raises(storage.OverwriteRefusedError, match="force"):
        storage.restore_database(file)
    assert prompts() == {"mine", "newer"}
    storage.backup_database(file, force=True)
    storage.restore_database(file, force=True)
    assert prompts() == {"mine", "newer"}


def test_empty_database_is_replaced_without_force(database: Database, tmp_path: Path) -> None:
    add("mine")
    file = storage.backup_database(tmp_path / "one.backup")
    storage.reset_database()
    assert storage.restore_database(file) is None
    assert prompts() == {"mine"}


def test_backup_of_a_later_release_is_refused(database: Database, tmp_path: Path) -> None:
    add("mine")
    with database.engine.begin() as connection:
        set_revision(connection, "999")
    file = storage.backup_database(tmp_path / "later.backup")
    with database.engine.begin() as connection:
        set_revision(connection, storage.HEAD_REVISION)
    with pytest.raises(storage.DatabaseTooNewError, match="999"):
        storage.restore_database(file, force=True)
    assert prompts() == {"mine"}


@pytest.mark.parametrize("content", [b"", b"notes", b"SQLite format 3\x00" + b"\x07" * 9000])
def test_file_that_is_no_backup_is_refused(
    database: Database, tmp_path: Path, content: bytes
) -> None:
    add("mine")
    file = tmp_path / "bad.backup"
    file.write_bytes(content)
    with pytest.raises((storage.BackupError, storage.NotADatabaseError)):
        storage.restore_database(file, force=True)
    with pytest.raises(storage.BackupError):
        storage.restore_database(tmp_path / "absent", force=True)
    assert prompts() == {"mine"}
    assert storage.check_database().ok


def test_database_of_another_program_is_no_backup(
    sqlite_database: Database, tmp_path: Path
) -> None:
    file = tmp_path / "other.db"
    with closing(load_library().connect(file)) as other:
        other.execute("CREATE TABLE songs (name TEXT)")
    with pytest.raises(storage.BackupError, match="not a backup"):
        storage.restore_database(file)


def test_archive_of_another_program_is_no_backup(
    postgres_database: Database, postgres_server: object, tmp_path: Path
) -> None:
    storage.close_db()
    empty = Database(postgres_database.url)
    with empty.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE alembic_version")
    postgres_tools.dump(postgres_database.url, tmp_path / "other.backup", force=False)
    empty.close()
    with pytest.raises(storage.BackupError, match="not a backup"):
        storage.restore_database(
            tmp_path / "other.backup",
            force=True,
            database_url=postgres_database.url.render_as_string(hide_password=False),
        )


def test_backups_during_writes_are_complete(sqlite_database: Database, tmp_path: Path) -> None:
    stop = threading.Event()
    written: list[int] = []

    def write() -> None:
        while not stop.is_set():
            add(f"beat {len(written)}")
            written.append(1)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        files = []
        for number in range(10):
            least = len(written)
            file = storage.backup_database(tmp_path / f"{number}.db")
            files.append((least, file, len(written) + 1))
    finally:
        stop.set()
        writer.join()
    for least, file, most in files:
        assert snapshot.find_damage(file) == []
        with closing(load_library().connect(file)) as copy:
            rows = copy.execute("SELECT count(*), count(search_id) FROM generations").fetchone()
        assert rows[0] == rows[1]
        assert least <= rows[0] <= most


def test_open_connection_of_another_process_sees_the_restored_rows(
    sqlite_database: Database, tmp_path: Path
) -> None:
    add("kept")
    file = storage.backup_database(tmp_path / "one.db")
    add("lost")
    assert sqlite_database.file is not None
    with closing(load_library().connect(sqlite_database.file)) as other:
        assert other.execute("SELECT count(*) FROM generations").fetchone() == (2,)
        storage.restore_database(file, force=True)
        assert other.execute("SELECT prompt FROM generations").fetchall() == [("kept",)]


@pytest.mark.parametrize("damage", [b"not a database at all " * 999, None])
def test_damaged_database_is_moved_away_and_replaced(
    sqlite_database: Database, tmp_path: Path, damage: bytes | None
) -> None:
    add("kept", *(f"beat {number}" for number in range(100)))
    backup = storage.backup_database(tmp_path / "one.db")
    file = sqlite_database.file
    assert file is not None
    storage.close_db()
    whole = file.read_bytes()
    file.write_bytes(damage or whole[:PAGE_SIZE] + b"\xff" * (len(whole) - PAGE_SIZE))
    (file.parent / f"{file.name}-wal").write_bytes(b"left over")
    url = f"sqlite:///{file}"
    with pytest.raises(storage.OverwriteRefusedError, match="damaged"):
        storage.restore_database(backup, database_url=url)
    kept = storage.restore_database(backup, force=True, database_url=url)
    assert kept is not None
    assert ".damaged." in kept.name
    assert len(prompts()) == 101
    assert storage.check_database().ok
    assert [left.name for left in file.parent.iterdir() if left.name.endswith(".part")] == []


def test_restore_creates_a_missing_database(sqlite_database: Database, tmp_path: Path) -> None:
    add("kept")
    backup = storage.backup_database(tmp_path / "one.db")
    storage.close_db()
    storage.restore_database(backup, database_url=f"sqlite:///{tmp_path}/new/place.db")
    assert prompts() == {"kept"}
    opened = get_database().file
    assert opened == tmp_path / "new" / "place.db"


def test_backup_is_restored_to_a_path_with_a_percent_sign(
    sqlite_database: Database, tmp_path: Path
) -> None:
    backup = storage.backup_database(tmp_path / "backup.db")
    storage.close_db()
    target = tmp_path / "r%41" / "generations.db"
    storage.restore_database(backup, database_url=f"sqlite:///{tmp_path}/r%2541/generations.db")
    assert target.is_file()
    assert not (tmp_path / "rA").exists()


def test_database_is_not_restored_from_itself(sqlite_database: Database) -> None:
    add("kept")
    assert sqlite_database.file is not None
    with pytest.raises(storage.BackupError, match="same file"):
        storage.restore_database(sqlite_database.file, force=True)
    assert prompts() == {"kept"}


def test_database_in_memory_can_be_backed_up_but_not_restored(tmp_path: Path) -> None:
    storage.init_db("sqlite://")
    add("kept")
    backup = storage.backup_database(tmp_path / "one.db")
    assert snapshot.find_damage(backup) == []
    with pytest.raises(storage.BackupError, match="memory"):
        storage.restore_database(backup)


def test_restore_gives_up_at_a_lock_after_the_timeout(
    sqlite_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add("kept")
    backup = storage.backup_database(tmp_path / "one.db")
    add("later")
    real = snapshot.connect_to_file

    def impatient(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
        connection = real(path, read_only=read_only)
        connection.execute("PRAGMA busy_timeout = 20")
        return connection

    monkeypatch.setattr(snapshot, "connect_to_file", impatient)
    assert sqlite_database.file is not None
    with closing(load_library().connect(sqlite_database.file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(storage.BackupError, match="locked"):
            storage.restore_database(backup, force=True)
        other.execute("ROLLBACK")
    assert prompts() == {"kept", "later"}


def test_failed_backup_leaves_no_file(database: Database, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(storage.BackupError):
        storage.backup_database(tmp_path / "file" / "one.db")
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


def test_damaged_copy_is_not_published(
    sqlite_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "find_damage", lambda _path: ["row 1 missing"])
    with pytest.raises(storage.BackupError, match="row 1 missing"):
        storage.backup_database(tmp_path / "one.db")
    assert not (tmp_path / "one.db").exists()


def test_backup_is_synced_before_it_is_renamed(
    sqlite_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    real_replace = Path.replace

    def replace(self: Path, target: Path) -> Path:
        steps.append("rename")
        return real_replace(self, target)

    def sync(path: Path) -> None:
        steps.append("folder" if path.is_dir() else "file")

    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(snapshot, "sync_file", sync)
    storage.backup_database(tmp_path / "one.db")
    assert steps == ["file", "rename", "folder"]


def test_postgresql_programs_are_found_or_reported_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(postgres_tools, "_DEBIAN_SERVERS", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(storage.BackupError, match="pg_dump is not installed"):
        postgres_tools.find_tool("pg_dump")
    (tmp_path / "pg_dump").write_text("#!/bin/sh\n")
    (tmp_path / "pg_dump").chmod(0o755)
    assert postgres_tools.find_tool("pg_dump") == str(tmp_path / "pg_dump")
    for version in ("9", "15"):
        (tmp_path / version / "bin").mkdir(parents=True)
        (tmp_path / version / "bin" / "pg_dump").touch()
    assert postgres_tools.find_tool("pg_dump") == str(tmp_path / "15" / "bin" / "pg_dump")


def test_password_is_passed_in_the_environment(postgres_url: str) -> None:
    from services.storage.connection import resolve_url

    url = resolve_url("postgresql://me:sesame@db:5433/music?sslmode=require")
    assert postgres_tools._environment(url) == {
        "PGUSER": "me", "PGPASSWORD": "sesame", "PGHOST": "db", "PGPORT": "5433",
        "PGDATABASE": "music", "PGSSLMODE": "require",
    }  # fmt: skip


def test_check_reports_a_constraint_that_was_never_validated(postgres_database: Database) -> None:
    with postgres_database.engine.begin() as connection:
        connection.exec_driver_sql(
            "ALTER TABLE prompts ADD CONSTRAINT late CHECK (used_count > 0) NOT VALID"
        )
    assert "late" in storage.check_database().problems[0]


def test_check_reports_a_broken_reference(sqlite_database: Database) -> None:
    add("kept")
    assert sqlite_database.file is not None
    with closing(load_library().connect(sqlite_database.file)) as careless:
        careless.execute("DELETE FROM prompts")
        careless.commit()
    assert "refers to a missing row of prompts" in storage.check_database().problems[0]


@pytest.mark.parametrize("way", ["path", "link"])
def test_backup_never_replaces_the_database_it_copies(sqlite_url, tmp_path, way):
    storage.init_db(sqlite_url)
    file = get_database().file
    assert file is not None
    target = file
    if way == "link":
        target = tmp_path / "link.db"
        target.symlink_to(file)
    before = file.stat().st_ino
    with pytest.raises(storage.BackupError, match="the database itself"):
        storage.backup_database(target, force=True)
    assert file.stat().st_ino == before


def test_backup_never_replaces_a_folder_or_device(database_url, tmp_path):
    storage.init_db(database_url)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for target in (fifo, tmp_path):
        with pytest.raises(storage.BackupError, match="name of a file"):
            storage.backup_database(target, force=True)
    assert fifo.is_fifo()


def test_backup_can_have_the_longest_file_name(sqlite_url, tmp_path):
    storage.init_db(sqlite_url)
    target = tmp_path / ("x" * 252 + ".db")
    assert storage.backup_database(target) == target
