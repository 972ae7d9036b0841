"""Engines for SQLite: journal, durability, transactions, and the permissions of the file."""

from __future__ import annotations

import os
from contextlib import ExitStack, closing
from errno import EISDIR
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, event
from sqlalchemy.pool import QueuePool

from services.storage.errors import DatabasePermissionError, DatabaseReadOnlyError
from services.storage.sqlite_driver import choose_journal_mode, get_library_version, load_library
from services.storage.words import fold

if TYPE_CHECKING:
    from sqlite3 import Connection as DriverConnection

    from sqlalchemy.engine import URL, Connection, Engine

DATABASE_FILE_MODE = 0o600
CACHE_KIB = 32_768
"""Page cache of a connection. The first look-up by id fills the 2 MB of SQLite's default."""

PAGE_SIZE = 8192
"""Bytes, for new files. A row takes 600 bytes: SQLite's default of 4096 wastes an eighth."""

JOURNAL_SIZE_LIMIT = 16 * 1024 * 1024
"""Bytes, to which a log is truncated after a large transaction. This is twice its size between two
checkpoints (wal_autocheckpoint, 1000 pages), so truncation is rare."""

MAX_CONNECTIONS = 15
"""Connections stay open once opened: a new one has to be set up and to prepare its statements, and
opening and closing them fragments memory. The pool hands out the most recently used one first."""

CACHED_STATEMENTS = 24
"""Prepared statements that a connection keeps, about 10 KB each. With the driver's default of 128 a
process grows for hours, until each connection has prepared even the rare statements."""

READ_ONLY_OPTION = "dgx_music_read_only"
MIGRATING_OPTION = "dgx_music_migrating"

_ON_CHECKIN = "dgx_music_on_checkin"
_BUSY, _READ_ONLY = 5, 8
_MODE_KEPT_BY_OTHERS = frozenset({_BUSY, _READ_ONLY})


def get_sqlite_file(url: URL) -> Path | None:
    """Return the file of an SQLite URL; None for a database in memory or a `file:` URI."""
    name = url.database
    if not name or name == ":memory:" or name.startswith("file:"):
        return None
    return Path(name)


def prepare_file(path: Path) -> None:
    """Create the folder and an empty file of mode 0600, unless they exist.

    An existing file is not opened: closing it would drop this process's locks on it.

    Raises:
        DatabasePermissionError: this user cannot create or read the file, or it is a folder.
        DatabaseReadOnlyError: the file exists and this user cannot write to it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(EISDIR, os.strerror(EISDIR))
        if not path.exists():
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, DATABASE_FILE_MODE))
    except OSError as error:
        raise DatabasePermissionError(
            f"The database {path} cannot be opened ({error.strerror}). "
            "Check that its folder exists and belongs to you, or set DATABASE_URL to another file."
        ) from error
    if not os.access(path, os.R_OK, effective_ids=True):
        raise DatabasePermissionError(
            f"The database {path} cannot be read by this user. "
            "Check the permissions of the file, or set DATABASE_URL to another file."
        )
    if not os.access(path, os.W_OK, effective_ids=True):
        raise DatabaseReadOnlyError(
            f"The database {path} cannot be written. "
            "Check the permissions of the file and of its folder."
        )


def create_sqlite_engine(
    url: URL,
    busy_timeout_seconds: float,
    *,
    cache_kib: int = CACHE_KIB,
    driver_begins: bool = False,
) -> Engine:
    """Create an engine that follows the rules of docs/database.md.

    A database in memory has one connection, which threads use in turn.

    Args:
        url: URL of the database.
        busy_timeout_seconds: longest wait for another process's write.
        cache_kib: page cache of each connection.
        driver_begins: the driver, not this engine, begins a transaction (IMMEDIATE too) at the
            first statement that writes; for a library that sometimes sends its own BEGIN.
    """
    options: dict[str, Any] = {
        "connect_args": {"timeout": busy_timeout_seconds, "cached_statements": CACHED_STATEMENTS}
    }
    options |= {"pool_size": MAX_CONNECTIONS, "max_overflow": 0, "pool_use_lifo": True}
    if get_sqlite_file(url) is None and not (url.database or "").startswith("file:"):
        options |= {"pool_size": 1}
        options["connect_args"]["check_same_thread"] = False
    engine = create_engine(
        url, poolclass=QueuePool, module=load_library(), hide_parameters=True, **options
    )
    event.listen(engine, "connect", partial(_on_connect, cache_kib))
    if driver_begins:
        event.listen(engine, "connect", _let_driver_begin)
        return engine
    event.listen(engine, "begin", _on_begin)
    event.listen(engine, "checkin", _on_checkin)
    return engine


def open_connections(engine: Engine) -> None:
    """Open all connections of the pool and let each read the schema.

    Otherwise the memory of a long-lived process grows with each new peak of concurrent use.
    """
    with ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS):
            connection = stack.enter_context(closing(engine.raw_connection()))
            connection.cursor().execute("SELECT count(*) FROM sqlite_master").fetchall()


def _on_connect(cache_kib: int, connection: DriverConnection, _record: object) -> None:
    connection.isolation_level = None
    connection.create_function("dgx_music_fold", 1, fold, deterministic=True)
    connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
    connection.execute(f"PRAGMA cache_size = -{cache_kib}")
    connection.execute(f"PRAGMA journal_size_limit = {JOURNAL_SIZE_LIMIT}")
    # The triggers of the text index write to an FTS5 table, which requires a trusted schema.
    for statement in ("foreign_keys = ON", "synchronous = FULL", "trusted_schema = ON"):
        connection.execute(f"PRAGMA {statement}")
    _choose_journal(connection, choose_journal_mode(get_library_version()))


def _let_driver_begin(connection: DriverConnection, _record: object) -> None:
    connection.isolation_level = "IMMEDIATE"


def _choose_journal(connection: DriverConnection, wanted: str) -> None:
    """Set the journal mode, unless other connections keep the file in its present mode.

    PERSIST is a property of the connection, but WAL is one of the file. Entering or leaving WAL
    needs exclusive access; without it the connection uses the present mode.
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
    except load_library().OperationalError as error:
        if error.sqlite_errorcode not in _MODE_KEPT_BY_OTHERS:
            raise
        if current == "WAL":
            # A library without the WAL fix leaves checkpoints to the other connections.
            connection.execute("PRAGMA wal_autocheckpoint = 0")
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
        # With foreign keys on, rebuilding a parent table would delete its children (CASCADE).
        connection.info[_ON_CHECKIN] = "PRAGMA foreign_keys = ON"
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
    # A transaction that reads and then writes fails at once, whatever the timeout, if another one
    # has written in between. One that begins as a writer waits for its turn.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _on_checkin(connection: DriverConnection | None, record: Any) -> None:
    statement = record.info.pop(_ON_CHECKIN, None)
    if connection is not None and statement is not None:
        connection.execute(statement)
