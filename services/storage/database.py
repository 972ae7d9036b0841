"""The database of this process: opened once by `init_db`, used by everything else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

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
    from sqlalchemy.orm import Session


class _Process:
    """What `init_db` opened."""

    database: Database | None = None


@dataclass(frozen=True, slots=True)
class DatabaseStatus:
    """The open database, in short."""

    kind: str
    """sqlite or postgresql."""
    revision: str | None
    is_current: bool
    """Whether it is at the revision of this release."""


def init_db(
    database_url: str | None = None,
    *,
    busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS,
    idle_timeout_seconds: float = IDLE_TIMEOUT_SECONDS,
    cache_kib: int = CACHE_KIB,
) -> None:
    """Open the database, create what is missing, and upgrade what is old.

    Called again, it closes the database that was open and opens the one now named.

    Args:
        database_url: None takes DATABASE_URL, else sqlite:///data/generations.db.
        busy_timeout_seconds: how long to wait for another process to finish its write.
        idle_timeout_seconds: after how long without a statement PostgreSQL undoes a transaction
            of this process, which else keeps its locks for as long as the process is stopped.
        cache_kib: what each connection to an SQLite file keeps of it in memory.

    Raises:
        StorageError: one subclass for each thing that can be wrong (services/storage/errors.py).
    """
    database = Database(
        resolve_url(database_url), busy_timeout_seconds, idle_timeout_seconds, cache_kib
    )
    try:
        prepare_database(database)
    except BaseException:
        database.close()
        raise
    close_db()
    _Process.database = database


def close_db() -> None:
    """Close the database; nothing happens when none is open."""
    if _Process.database is not None:
        _Process.database.close()
        _Process.database = None


def get_open_database() -> Database | None:
    """Give the open database, None when `init_db` has not been called."""
    return _Process.database


def is_open(database_url: str | None = None) -> bool:
    """Whether `init_db` opened this database, and it was not closed since."""
    database = _Process.database
    return database is not None and database.url == resolve_url(database_url)


def get_database() -> Database:
    """Give the open database.

    Raises:
        RuntimeError: `init_db` has not been called.
    """
    if _Process.database is None:
        raise DatabaseNotInitialisedError("The database is not open; call init_db() first.")
    return _Process.database


def get_engine() -> Engine:
    """Give the engine of the open database; every transaction it begins may write.

    Raises:
        RuntimeError: `init_db` has not been called.
    """
    return get_database().engine


def get_queue_engine() -> Engine:
    """Give an engine on the open database for the queue library, which begins its own transactions.

    It goes with the database: `close_db` closes it.

    Raises:
        RuntimeError: `init_db` has not been called.
    """
    return get_database().queue_engine


def open_connections() -> None:
    """Open all connections that this process may need, for one that stays.

    Raises:
        RuntimeError: `init_db` has not been called.
        StorageError: the database cannot be read.
    """
    database = get_database()
    with database.translate_errors():
        database.open_connections()


@contextmanager
def database_errors() -> Iterator[None]:
    """Turn what the driver says about the open database's condition into a `StorageError`."""
    with get_database().translate_errors():
        yield


@contextmanager
def get_session(*, read_only: bool = False) -> Iterator[Session]:
    """Give a session: commit on success, roll back on error, always close.

    Objects read in it stay readable after it. On SQLite the first statement takes the write lock,
    and waits for it; a read-only session takes none.

    Raises:
        RuntimeError: `init_db` has not been called.
        ReadOnlySessionError: a read-only session was asked to write.
        StorageError: the database is locked, full, damaged or away.
    """
    with get_database().session(read_only=read_only) as session:
        yield session


def reset_database() -> None:
    """Drop our tables with all their rows, and make them anew; other tables stay.

    Raises:
        RuntimeError: `init_db` has not been called.
    """
    with migration_transaction(get_database()) as connection:
        Base.metadata.drop_all(connection)
        create_schema(connection)


def get_database_stats(session: Session) -> dict[str, Any]:
    """Count the generations, in all and by status, and the prompts."""
    by_status = count_statuses(session)
    prompts = session.execute(select(func.count()).select_from(Prompt)).scalar_one()
    return {
        "total_generations": sum(by_status.values()),
        **{f"{status}_generations": by_status.get(status, 0) for status in STATUSES},
        "total_prompts": prompts,
    }


def read_database_status() -> DatabaseStatus:
    """Say which kind of database is open, and how it stands against this release.

    Raises:
        RuntimeError: `init_db` has not been called.
        StorageError: it does not answer.
    """
    database = get_database()
    with database.session(read_only=True) as session:
        found = examine(session.connection())
    kind = "sqlite" if database.is_sqlite else "postgresql"
    return DatabaseStatus(kind, found.revision, found.state is State.CURRENT)


def describe_database() -> dict[str, Any]:
    """Say how the open database is kept, for `dgx-music doctor`.

    Keys: kind, name, revision, server_version, search; on SQLite journal_mode and wal_is_safe too.
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
