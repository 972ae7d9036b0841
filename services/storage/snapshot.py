"""Complete, checked copies of an SQLite database while other processes write to it.

A plain copy of the file would be stale or damaged under a writer (docs/database.md).
"""

from __future__ import annotations

import os
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from services.storage.columns import utc_now
from services.storage.errors import BackupError, NotADatabaseError, OverwriteRefusedError
from services.storage.sqlite import DATABASE_FILE_MODE
from services.storage.sqlite_driver import load_library

if TYPE_CHECKING:
    from collections.abc import Callable
    from sqlite3 import Connection as DriverConnection

_HEADER = b"SQLite format 3\x00"


def name_dated_copy(path: Path, reason: str, moment: datetime | None = None) -> Path:
    """Return the path of a copy beside `path`: generations.before-002.20261120T101500123456Z.db."""
    stamp = (moment or utc_now()).strftime("%Y%m%dT%H%M%S%fZ")
    return path.with_name(f"{path.stem}.{reason}.{stamp}{path.suffix}")


def write_snapshot(source: DriverConnection, destination: Path, *, force: bool = False) -> None:
    """Copy the database of a connection to a file of mode 0600, completely or not at all.

    Raises:
        OverwriteRefusedError: `destination` exists and `force` is False.
        BackupError: the copy cannot be written, or is damaged.
    """

    def vacuum_into(part: Path) -> None:
        with closing(source.cursor()) as cursor:
            cursor.execute("VACUUM INTO ?", (str(part),))
        problems = find_damage(part)
        if problems:
            raise BackupError(f"The copy of the database is damaged: {problems[0]}.")

    publish(destination, vacuum_into, force=force)


def publish(destination: Path, write: Callable[[Path], None], *, force: bool) -> None:
    """Let `write` fill a temporary file, sync it, and rename it; raises as `write_snapshot`."""
    if destination.exists() and not force:
        raise OverwriteRefusedError(
            f"{destination} exists. Choose another name, or use --force to replace it."
        )
    if destination.exists() and not destination.is_file():
        raise BackupError(f"{destination} is a folder or a device. Choose the name of a file.")
    part = destination.with_name(f".backup.{os.getpid()}.part")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BackupError(f"The folder of {destination} cannot be created: {error}.") from error
    try:
        os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC, DATABASE_FILE_MODE))
        write(part)
        sync_file(part)
        part.replace(destination)
        sync_file(destination.parent)
    except (OSError, load_library().Error) as error:
        raise BackupError(f"The backup {destination} could not be written: {error}.") from error
    finally:
        part.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_sqlite_file(path: Path) -> None:
    """Check the header of a file.

    Raises:
        BackupError: the file does not exist or cannot be read.
        NotADatabaseError: the file is not an SQLite database.
    """
    try:
        with path.open("rb") as file:
            header = file.read(len(_HEADER))
    except OSError as error:
        raise BackupError(f"{path} cannot be read: {error.strerror}.") from error
    if header != _HEADER:
        raise NotADatabaseError(f"{path} is not an SQLite database.")


def connect_to_file(path: Path, *, read_only: bool = False) -> DriverConnection:
    """Open an existing database file in autocommit mode."""
    mode = "ro" if read_only else "rw"
    connection: DriverConnection = load_library().connect(
        f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None, timeout=30.0
    )
    return connection


def find_damage(path: Path) -> list[str]:
    """Return the problems in the structure and the references of a database file.

    SQLite keeps no checksums, so a changed byte that leaves the structure intact is not found.
    """
    try:
        with closing(connect_to_file(path, read_only=True)) as connection:
            return find_damage_in(connection)
    except load_library().DatabaseError as error:
        return [str(error)]


def find_damage_in(connection: DriverConnection) -> list[str]:
    """Return the problems as `find_damage`, on an open connection."""
    try:
        found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check").fetchall()]
    except load_library().DatabaseError as error:
        return [str(error)]
    return [problem for problem in found if problem != "ok"] + [
        f"row {row} of {table} refers to a missing row of {parent}"
        for table, row, parent, _ in connection.execute("PRAGMA foreign_key_check").fetchall()
    ]
