"""The open database of this process: `init_db`, sessions on it, and its description."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from services.storage.connection import (
    BUSY_TIMEOUT_SECONDS,
    IDLE_TIMEOUT_SECONDS,
    Database,
    resolve_url,
)
from services.storage.errors import DatabaseNotInitialisedError
from services.storage.migrations import (
    State,
    create_schema,
    examine,
    migration_transaction,
    prepare_database,
)
from services.storage.models import Base, Prompt
from services.storage.overview import count_statuses
from services.storage.schema import STATUSES
from services.storage.search import search_backend
from services.storage.sqlite import CACHE_KIB
from services.storage.sqlite_driver import get_library_version, wal_is_safe

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine


class _Process:
    database: Database | None = None


@dataclass(frozen=True, slots=True)
class DatabaseStatus:
    """Kind and revision of the open database."""

    kind: str
    """`sqlite` or `postgresql`."""
    revision: str | None
    is_current: bool
    """True at the revision of this release."""


def init_db(
    database_url: str | None = None,
    *,
    busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS,
    idle_timeout_seconds: float = IDLE_TIMEOUT_SECONDS,
    cache_kib: int = CACHE_KIB,
) -> None:
    """Open the database; create or upgrade its tables where needed.

    Once the new database is open, the one that was open before is closed.

    Args:
        database_url: None means DATABASE_URL, else sqlite:///data/generations.db.
        busy_timeout_seconds: longest wait for another process's write.
        idle_timeout_seconds: time without a statement after which PostgreSQL rolls back an open
            transaction of this process. A frozen process would otherwise hold its locks for ever.
        cache_kib: page cache of each connection to an SQLite file.

    Raises:
        StorageError: the database cannot be used; one subclass for each cause (errors.py).
    """
    database = Database(
        resolve_url(database_url), busy_timeout_seconds, idle_timeout_seconds, cache_kib
    )
    with ExitStack() as undo:
        undo.callback(database.close)
        prepare_database(database)
        undo.pop_all()
    close_db()
    _Process.database = database


def close_db() -> None:
    """Close the database, if one is open."""
    if _Process.database is not None:
        _Process.database.close()
        _Process.database = None


def get_open_database() -> Database | None:
    """Return the open database, or None."""
    return _Process.database


def is_open(database_url: str | None = None) -> bool:
    """Return whether the database of this URL is the open one."""
    database = _Process.database
    return database is not None and database.url == resolve_url(database_url)


def get_database() -> Database:
    """Return the open database.

    Raises:
        RuntimeError: `init_db` has not been called.
    """
    if _Process.database is None:
        raise DatabaseNotInitialisedError("The database is not open. Call init_db() first.")
    return _Process.database


def get_engine() -> Engine:
    """Return the engine of the open database; every transaction it begins can write.

    Raises:
        RuntimeError: `init_db` has not been called.
    """
    return get_database().engine


def get_queue_engine() -> Engine:
    """Return the engine for the queue library, which begins its own transactions.

    `close_db` closes it with the database.

    Raises:
        RuntimeError: `init_db` has not been called.
    """
    return get_database().queue_engine


def open_connections() -> None:
    """Open all connections that a long-lived process can need.

    Raises:
        RuntimeError: `init_db` has not been called.
        StorageError: the database cannot be read.
    """
    database = get_database()
    with database.translate_errors():
        database.open_connections()


@contextmanager
def database_errors() -> Iterator[None]:
    """Replace errors of the driver about the database's condition by a `StorageError`."""
    with get_database().translate_errors():
        yield


@contextmanager
def get_session(*, read_only: bool = False) -> Iterator[Session]:
    """Open a session: commit on success, roll back on error, always close.

    Objects stay readable after it. On SQLite the first statement waits for the write lock and
    takes it; a read-only session takes none.

    Raises:
        RuntimeError: `init_db` has not been called.
        ReadOnlySessionError: a read-only session tried to write.
        StorageError: the database is locked, full, damaged or unreachable.
    """
    with get_database().session(read_only=read_only) as session:
        yield session


def reset_database(
    *, keep: Collection[str] = (), check: Callable[[Session], None] = lambda _session: None
) -> None:
    """Drop the tables of DGX Music with all their rows and create them again, empty.

    Tables of other programs stay.

    Args:
        keep: names of our tables that stay as they are.
        check: raises to refuse; called within the transaction that drops the tables.

    Raises:
        RuntimeError: `init_db` has not been called.
    """
    with migration_transaction(get_database()) as connection:
        with Session(connection) as session:
            check(session)
        dropped = [table for table in Base.metadata.sorted_tables if table.name not in keep]
        Base.metadata.drop_all(connection, tables=dropped)
        create_schema(connection)


def get_database_stats(session: Session) -> dict[str, Any]:
    """Count all generations, those of each status, and prompts.

    Keys: total_generations, `<status>_generations` of the five statuses, total_prompts.
    """
    by_status = count_statuses(session)
    prompts = session.execute(select(func.count()).select_from(Prompt)).scalar_one()
    return {
        "total_generations": sum(by_status.values()),
        **{f"{status}_generations": by_status.get(status, 0) for status in STATUSES},
        "total_prompts": prompts,
    }


def read_database_status() -> DatabaseStatus:
    """Read the revision of the open database.

    Raises:
        RuntimeError: `init_db` has not been called.
        StorageError: the database does not answer.
    """
    database = get_database()
    with database.session(read_only=True) as session:
        found = examine(session.connection())
    kind = "sqlite" if database.is_sqlite else "postgresql"
    return DatabaseStatus(kind, found.revision, found.state is State.CURRENT)


def describe_database() -> dict[str, Any]:
    """Describe the open database for `dgx-music doctor`.

    Keys: kind, name, revision, server_version, search; for SQLite also journal_mode, wal_is_safe.
    """
    database = get_database()
    facts: dict[str, Any] = {
        "kind": "sqlite" if database.is_sqlite else "postgresql",
        "name": database.name,
    }
    with database.session(read_only=True) as session:
        connection = session.connection()
        facts["revision"] = examine(connection).revision
        facts["search"] = search_backend(session)
        if database.is_sqlite:
            facts["server_version"] = ".".join(map(str, get_library_version()))
            facts["wal_is_safe"] = wal_is_safe(get_library_version())
            facts["journal_mode"] = str(
                connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
            ).lower()
        else:
            version = connection.exec_driver_sql("SHOW server_version")
            facts["server_version"] = str(version.scalar_one())
    return facts
