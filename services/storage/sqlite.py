"""How SQLite is opened: journal, durability, transactions, and the rights of the file."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, event
from sqlalchemy.pool import QueuePool

from services.storage.errors import DatabasePermissionError, DatabaseReadOnlyError
from services.storage.words import fold

if TYPE_CHECKING:
    from sqlalchemy.engine import URL, Connection, Engine

DATABASE_FILE_MODE = 0o600
CACHE_KIB = 32_768
"""Pages a connection keeps; the 2 MB of SQLite's own default go at the first look-up by id."""

READ_ONLY_OPTION = "dgx_music_read_only"
MIGRATING_OPTION = "dgx_music_migrating"

_ON_CHECKIN = "dgx_music_on_checkin"
_WAL_FIXED_IN = ((3, 44, 6), (3, 50, 7), (3, 51, 3))
_WITHDRAWN = (3, 52, 0)
_MODE_KEPT_BY_OTHERS = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_READONLY})


def wal_is_safe(version: tuple[int, int, int]) -> bool:
    """Say whether this SQLite has the fix of the WAL-reset bug (sqlite.org/wal.html#walresetbug).

    Versions 3.7.0 to 3.51.2 can corrupt a database in WAL mode when two connections write and
    checkpoint at once. 3.44.6 and 3.50.7 carry the fix too; 3.52.0 was withdrawn.
    """
    if version == _WITHDRAWN:
        return False
    if version >= _WAL_FIXED_IN[-1]:
        return True
    return any(version[:2] == fixed[:2] and version >= fixed for fixed in _WAL_FIXED_IN)


def journal_mode(version: tuple[int, int, int]) -> str:
    """Name the journal for this SQLite: WAL where it is safe, else the fastest rollback journal.

    PERSIST keeps the journal file and overwrites its header, which saves two directory changes a
    commit against DELETE.
    """
    return "WAL" if wal_is_safe(version) else "PERSIST"


def library_version() -> tuple[int, int, int]:
    """Give the version of the SQLite library that Python is linked with."""
    major, minor, patch = sqlite3.sqlite_version_info[:3]
    return major, minor, patch


def describe_sqlite_library() -> dict[str, Any]:
    """Say which SQLite Python is linked with: version, wal_is_safe, journal_mode, fts5."""
    with closing(sqlite3.connect(":memory:")) as connection:
        modules = connection.execute("SELECT name FROM pragma_module_list WHERE name = 'fts5'")
        fts5 = modules.fetchone() is not None
    version = library_version()
    return {
        "version": ".".join(map(str, version)),
        "wal_is_safe": wal_is_safe(version),
        "journal_mode": journal_mode(version).lower(),
        "fts5": fts5,
    }


def file_of(url: URL) -> Path | None:
    """Give the file behind an SQLite URL; None for a database in memory or a `file:` URI."""
    name = url.database
    if not name or name == ":memory:" or name.startswith("file:"):
        return None
    return Path(name)


def prepare_file(path: Path) -> None:
    """Make the folder and an empty file that only its owner may read, where there is none.

    Raises:
        DatabasePermissionError: the system does not allow it, or the path is no file.
        DatabaseReadOnlyError: the file is there and cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, DATABASE_FILE_MODE))
    except OSError as error:
        if os.access(path, os.R_OK) and path.is_file():
            raise DatabaseReadOnlyError(
                f"The database {path} cannot be written ({error.strerror}). "
                "Check the rights of the file and its folder."
            ) from error
        raise DatabasePermissionError(
            f"The database {path} cannot be opened ({error.strerror}). "
            "Check that its folder exists and is yours, or set DATABASE_URL to another file."
        ) from error


def create_sqlite_engine(url: URL, busy_timeout_seconds: float) -> Engine:
    """Open an SQLite database under the rules of docs/database.md.

    A database in memory lives in one connection, which its users take in turns.
    """
    options: dict[str, Any] = {"connect_args": {"timeout": busy_timeout_seconds}}
    if file_of(url) is None and not (url.database or "").startswith("file:"):
        options |= {"pool_size": 1, "max_overflow": 0}
        options["connect_args"]["check_same_thread"] = False
    engine = create_engine(url, poolclass=QueuePool, **options)
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    event.listen(engine, "checkin", _on_checkin)
    return engine


def _on_connect(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None
    connection.create_function("dgx_music_fold", 1, fold, deterministic=True)
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    # The triggers of the text index write to an FTS5 table, which needs a trusted schema.
    for statement in ("foreign_keys = ON", "synchronous = FULL", "trusted_schema = ON"):
        connection.execute(f"PRAGMA {statement}")
    _choose_journal(connection, journal_mode(library_version()))


def _choose_journal(connection: sqlite3.Connection, wanted: str) -> None:
    """Set the journal mode, unless others keep the file in the mode it has.

    PERSIST is a matter of the connection, but WAL stands in the file: entering or leaving it needs
    the database for oneself, and until then every connection has to go along.
    """
    current = connection.execute("PRAGMA journal_mode").fetchone()[0].upper()
    if current in {wanted, "MEMORY"}:
        return
    timeout = connection.execute("PRAGMA busy_timeout").fetchone()[0]
    changes_file = "WAL" in {wanted, current}
    try:
        if changes_file:
            connection.execute("PRAGMA busy_timeout = 0")
        connection.execute(f"PRAGMA journal_mode = {wanted}")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode not in _MODE_KEPT_BY_OTHERS:
            raise
    finally:
        connection.execute(f"PRAGMA busy_timeout = {timeout}")


def _on_begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get(READ_ONLY_OPTION):
        connection.info[_ON_CHECKIN] = "PRAGMA query_only = OFF"
        connection.exec_driver_sql("PRAGMA query_only = ON")
        connection.exec_driver_sql("BEGIN")
        return
    if options.get(MIGRATING_OPTION):
        # Rebuilding a parent table would otherwise delete its children through ON DELETE CASCADE.
        connection.info[_ON_CHECKIN] = "PRAGMA foreign_keys = ON"
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
    # A transaction that starts as a reader and then writes fails at once when another one has
    # written meanwhile, whatever the time-out; one that starts as a writer waits its turn.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _on_checkin(connection: sqlite3.Connection | None, record: Any) -> None:
    statement = record.info.pop(_ON_CHECKIN, None)
    if connection is not None and statement is not None:
        connection.execute(statement)
