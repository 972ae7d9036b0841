"""The storage, opened under the settings, with its errors in the one tree of errors."""

from __future__ import annotations

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
"""A server or a worker has a dozen connections. Every write of another empties their caches, and
what counts rows fills them again as far as they go: memory that would grow with the rows."""

MIN_IDLE_SECONDS = 3.0
"""A busy machine may keep a process waiting for so long within a transaction."""


@contextmanager
def storage_errors() -> Iterator[None]:
    """Bring what the storage says into the one tree of errors."""
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
    """Open the database of the settings; make it where there is none, upgrade an old one.

    One that is open already stays so, with everything that uses it.

    Args:
        settings: of the process.
        long_lived: the process stays, with many connections: each keeps less in memory.

    Raises:
        StorageError: it cannot be used.
    """
    with storage_errors():
        if storage.is_open(settings.database_url):
            return
        storage.init_db(
            settings.database_url,
            busy_timeout_seconds=settings.database_timeout_seconds,
            # A worker that freezes within a transaction has let go when it is taken for dead.
            cache_kib=LONG_LIVED_CACHE_KIB if long_lived else storage.CACHE_KIB,
            idle_timeout_seconds=max(MIN_IDLE_SECONDS, settings.worker_ttl_seconds / 2),
        )
        if long_lived:
            storage.open_connections()
