"""Choose a database by its URL, and open engines and sessions on it."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnectionError
from sqlalchemy.orm import Session

from services.storage.errors import (
    DatabaseLockedError,
    InvalidDatabaseURLError,
    ReadOnlySessionError,
    translate,
)
from services.storage.postgres import create_postgres_engine
from services.storage.sqlite import (
    CACHE_KIB,
    READ_ONLY_OPTION,
    create_sqlite_engine,
    get_sqlite_file,
    open_connections,
    prepare_file,
)

if TYPE_CHECKING:
    from sqlalchemy.engine import URL, Engine

DEFAULT_DATABASE_URL = "sqlite:///data/generations.db"
BUSY_TIMEOUT_SECONDS = 30.0
IDLE_TIMEOUT_SECONDS = 15.0

_SQLITE_DRIVERS = frozenset({"sqlite", "sqlite+pysqlite"})
_POSTGRES_DRIVERS = frozenset({"postgresql", "postgres", "postgresql+psycopg"})
_READ_ONLY_STATES = frozenset({"25006"})
_SQLITE_READONLY = 8


def resolve_url(database_url: str | None = None) -> URL:
    """Return the URL to use: the argument, else DATABASE_URL, else the default.

    A relative SQLite path becomes absolute, from the current working folder.

    Raises:
        InvalidDatabaseURLError: the text is not a URL, or its database is not supported.
    """
    chosen = database_url or os.environ.get("DATABASE_URL") or DEFAULT_DATABASE_URL
    try:
        url = make_url(chosen)
    except (ArgumentError, ValueError):
        # The message does not quote the text: it may hold a password.
        raise InvalidDatabaseURLError(
            "The database URL is not valid. Write it as sqlite:///path/to/file.db or "
            "postgresql://user:password@host/database."
        ) from None
    if url.drivername in _SQLITE_DRIVERS:
        if url.host:
            raise InvalidDatabaseURLError(
                "An SQLite URL has three slashes before its path. Write sqlite:///path/to/file.db."
            )
        file = get_sqlite_file(url)
        if file is not None and url.query:
            raise InvalidDatabaseURLError(
                "An SQLite URL takes no options after a question mark. Write sqlite:///path."
            )
        return url if file is None else url.set(database=str(file.expanduser().absolute()))
    if url.drivername in _POSTGRES_DRIVERS:
        if "@" in (url.host or ""):
            # An unescaped @ puts a part of the password into the host, which messages show.
            raise InvalidDatabaseURLError("Write an @ in the password of the database URL as %40.")
        return url.set(drivername="postgresql+psycopg")
    raise InvalidDatabaseURLError(
        f"Databases of the kind {url.drivername!r} are not supported. "
        "Use sqlite:/// or postgresql://."
    )


def database_file(database_url: str | None = None) -> Path | None:
    """Return the SQLite file that `init_db` would open; None for PostgreSQL or memory.

    Raises:
        InvalidDatabaseURLError: as `resolve_url`.
    """
    url = resolve_url(database_url)
    return get_sqlite_file(url) if url.drivername in _SQLITE_DRIVERS else None


class Database:
    """A database with its connections; sessions come from here."""

    def __init__(
        self,
        url: URL,
        busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS,
        idle_timeout_seconds: float = IDLE_TIMEOUT_SECONDS,
        cache_kib: int = CACHE_KIB,
    ) -> None:
        self.url = url
        self.is_sqlite = url.drivername in _SQLITE_DRIVERS
        self.file: Path | None = get_sqlite_file(url) if self.is_sqlite else None
        if self.file is not None:
            prepare_file(self.file)
        self.engine: Engine
        self._reader: Engine
        if self.is_sqlite:
            self.engine = create_sqlite_engine(url, busy_timeout_seconds, cache_kib=cache_kib)
            self._reader = self.engine.execution_options(**{READ_ONLY_OPTION: True})
        else:
            self.engine = create_postgres_engine(url, busy_timeout_seconds, idle_timeout_seconds)
            self._reader = create_postgres_engine(
                url, busy_timeout_seconds, idle_timeout_seconds, read_only=True
            )
        self._busy_timeout_seconds = busy_timeout_seconds
        self._idle_timeout_seconds = idle_timeout_seconds
        self._cache_kib = cache_kib
        _OPEN.add(self)

    @cached_property
    def queue_engine(self) -> Engine:
        """Connections for the queue library, which begins its own transactions."""
        if self.is_sqlite:
            return create_sqlite_engine(
                self.url,
                self._busy_timeout_seconds,
                cache_kib=self._cache_kib,
                driver_begins=True,
            )
        return create_postgres_engine(
            self.url, self._busy_timeout_seconds, self._idle_timeout_seconds
        )

    def open_connections(self) -> None:
        """Open all connections to an SQLite file; PostgreSQL's are opened when needed."""
        if self.file is not None:
            for engine in (self.engine, self.queue_engine):
                open_connections(engine)

    @property
    def name(self) -> str:
        """The database as messages show it, without a password."""
        if self.is_sqlite:
            return str(self.file or self.url.database or "in memory")
        return f"the PostgreSQL database {self.url.database!r} at {self.url.host or 'this machine'}"

    @contextmanager
    def session(self, *, read_only: bool = False) -> Iterator[Session]:
        """Open a session; see `services.storage.get_session`."""
        bind = self._reader if read_only else self.engine
        session = Session(bind, expire_on_commit=False)
        try:
            with self.translate_errors(read_only=read_only):
                yield session
                session.commit()
        finally:
            # close() detaches the objects before it rolls back, so they keep their values.
            session.close()

    @contextmanager
    def translate_errors(self, *, read_only: bool = False) -> Iterator[None]:
        """Replace errors of the driver about the database's condition by a `StorageError`."""
        try:
            yield
        except DBAPIError as error:
            if read_only and _is_write_refused(error):
                raise ReadOnlySessionError(
                    "This session is read-only. Open one with get_session() to write."
                ) from error
            translated = translate(error, self.name)
            if translated is None:
                raise
            raise translated from error
        except NoConnectionError as error:
            raise DatabaseLockedError(
                f"All connections of this process to {self.name} are in use. Try again."
            ) from error

    def close(self) -> None:
        """Close every idle connection; those in use close when they are returned."""
        self.engine.dispose()
        self._reader.dispose()
        if "queue_engine" in self.__dict__:
            self.queue_engine.dispose()


_OPEN: weakref.WeakSet[Database] = weakref.WeakSet()


def _close_before_fork() -> None:
    """Close idle connections so that a child process does not inherit them.

    SQLite records in memory which locks it holds. A child would inherit this record without the
    locks, and in WAL mode its parent could then delete the log that the child writes to.
    """
    for database in list(_OPEN):
        if database.file is not None or not database.is_sqlite:
            database.close()


os.register_at_fork(before=_close_before_fork)


def _is_write_refused(error: DBAPIError) -> bool:
    code = getattr(error.orig, "sqlite_errorcode", None)
    state = getattr(error.orig, "sqlstate", None)
    return code == _SQLITE_READONLY or state in _READ_ONLY_STATES
