"""Copies of an SQLite database, and files that are published as a whole."""

from __future__ import annotations

import os
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.storage import BackupError, NotADatabaseError, OverwriteRefusedError
from services.storage.snapshot import (
    connect_to_file,
    find_damage,
    name_dated_copy,
    publish,
    require_sqlite_file,
    write_snapshot,
)
from services.storage.sqlite_driver import load_library


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "songs.db"
    with closing(load_library().connect(path)) as connection:
        connection.executescript("CREATE TABLE songs (name TEXT); INSERT INTO songs VALUES ('a');")
    return path


def fail(_part: Path) -> None:
    raise OSError(28, "No space left on device")


def test_dated_copy_lies_beside_the_file() -> None:
    moment = datetime(2026, 11, 20, 10, 15, 0, 123456, UTC)
    expected = Path("/data/generations.before-004.20261120T101500123456Z.db")
    assert name_dated_copy(Path("/data/generations.db"), "before-004", moment) == expected
    assert name_dated_copy(Path("music"), "replaced", moment).name.startswith("music.replaced.")


def test_dated_copies_sort_by_time() -> None:
    moments = [datetime(2026, 1, 1, microsecond=number, tzinfo=UTC) for number in (1, 20, 300)]
    names = [name_dated_copy(Path("a.db"), "replaced", moment).name for moment in moments]
    assert names == sorted(names)


def test_snapshot_holds_the_rows_without_blocking_the_source(file: Path) -> None:
    copy = file.with_name("copy.db")
    with closing(connect_to_file(file)) as connection:
        write_snapshot(connection, copy)
        connection.execute("INSERT INTO songs VALUES ('later')")
    with closing(connect_to_file(copy, read_only=True)) as connection:
        assert connection.execute("SELECT name FROM songs").fetchall() == [("a",)]
    assert copy.stat().st_mode & 0o777 == 0o600


def test_failed_publication_keeps_the_old_file_and_leaves_no_part(tmp_path: Path) -> None:
    destination = tmp_path / "one.db"
    destination.write_text("old")
    with pytest.raises(BackupError, match="No space left"):
        publish(destination, fail, force=True)
    assert destination.read_text() == "old"
    assert list(tmp_path.iterdir()) == [destination]


def test_interrupted_publication_leaves_no_part(tmp_path: Path) -> None:
    def interrupt(_part: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(tmp_path / "one.db", interrupt, force=False)
    assert list(tmp_path.iterdir()) == []


def test_part_of_a_killed_process_is_overwritten(tmp_path: Path) -> None:
    part = tmp_path / f".backup.{os.getpid()}.part"
    part.write_text("left by a process that was killed")
    publish(tmp_path / "one.db", lambda path: path.write_text("new") and None, force=False)
    assert (tmp_path / "one.db").read_text() == "new"
    assert not part.exists()


def test_existing_file_is_replaced_only_by_force(tmp_path: Path) -> None:
    destination = tmp_path / "one.db"
    destination.write_text("old")
    with pytest.raises(OverwriteRefusedError, match="--force"):
        publish(destination, lambda path: path.write_text("new") and None, force=False)
    assert destination.read_text() == "old"
    publish(destination, lambda path: path.write_text("new") and None, force=True)
    assert destination.read_text() == "new"


@pytest.mark.parametrize("content", [b"", b"SQLite", b"SQLite format 2\x00 and more"])
def test_file_with_another_header_is_no_database(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(content)
    with pytest.raises(NotADatabaseError, match=r"x\.db is not an SQLite database"):
        require_sqlite_file(path)


def test_missing_file_and_folder_cannot_be_read(tmp_path: Path, file: Path) -> None:
    require_sqlite_file(file)
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(BackupError, match="cannot be read"):
            require_sqlite_file(path)


def test_missing_file_is_not_created_by_connecting(tmp_path: Path) -> None:
    with pytest.raises(load_library().OperationalError):
        connect_to_file(tmp_path / "missing.db").execute("SELECT 1")
    assert list(tmp_path.iterdir()) == []


def test_read_only_connection_cannot_write(file: Path) -> None:
    with (
        closing(connect_to_file(file, read_only=True)) as connection,
        pytest.raises(load_library().OperationalError, match="readonly"),
    ):
        connection.execute("DELETE FROM songs")


def test_name_with_special_characters_is_opened(file: Path) -> None:
    odd = file.rename(file.with_name("50% off?#1 é.db"))
    assert find_damage(odd) == []


def test_damage_is_described(file: Path) -> None:
    assert find_damage(file) == []
    whole = file.read_bytes()
    file.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    assert find_damage(file) != []
    file.write_bytes(b"no database at all")
    assert find_damage(file) == ["file is not a database"]


def test_reference_to_a_missing_row_is_damage(file: Path) -> None:
    with closing(connect_to_file(file)) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("CREATE TABLE albums (id INTEGER PRIMARY KEY)")
        connection.execute("CREATE TABLE tracks (album INTEGER REFERENCES albums (id))")
        connection.execute("INSERT INTO tracks VALUES (7)")
    assert find_damage(file) == ["row 1 of tracks refers to a missing row of albums"]
