"""Open the storage with the settings, and translate its errors into those of `services.errors`."""

from __future__ import annotations

import atexit
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from services import storage
from services.errors import (
    InvalidRequestError,
    StorageError,
    UnknownKeyError,
    UnknownPageError,
)

if TYPE_CHECKING:
    from services.config import Settings

LONG_LIVED_CACHE_KIB = 512
"""Page cache of each connection. A server or worker has many connections, and queries that count
rows would fill larger caches: memory that grows with the number of rows."""

MIN_IDLE_SECONDS = 3.0
"""A process on a busy machine can be idle for this long inside a transaction."""


@contextmanager
def storage_errors() -> Iterator[None]:
    """Translate errors of the storage into those of `services.errors`."""
    try:
        yield
    except storage.InvalidCursorError as error:
        raise UnknownPageError(str(error)) from error
    except storage.InvalidSearchError as error:
        raise InvalidRequestError(str(error)) from error
    except storage.InvalidDatabaseURLError as error:
        raise StorageError(f"DATABASE_URL: {error}") from error
    except storage.UnknownApiKeyError as error:
        raise UnknownKeyError(str(error)) from error
    except storage.StorageError as error:
        raise StorageError(str(error)) from error


def open_database(settings: Settings, *, long_lived: bool = False) -> None:
    """Open the database of the settings, creating or upgrading it where needed.

    If it is open already, nothing changes. It is closed when the process ends, after which an
    SQLite database is one file again.

    Args:
        settings: settings of this process.
        long_lived: open all connections now, each with a smaller cache.

    Raises:
        StorageError: the database cannot be used.
    """
    with storage_errors():
        if storage.is_open(settings.database_url):
            return
        storage.init_db(
            settings.database_url,
            busy_timeout_seconds=settings.database_timeout_seconds,
            cache_kib=LONG_LIVED_CACHE_KIB if long_lived else storage.CACHE_KIB,
            # The locks of a frozen worker are released before it is taken for dead.
            idle_timeout_seconds=max(MIN_IDLE_SECONDS, settings.worker_ttl_seconds / 2),
        )
        atexit.unregister(storage.close_db)
        atexit.register(storage.close_db)
        if long_lived:
            storage.open_connections()
