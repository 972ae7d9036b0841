"""The errors of the storage, one tree. Each message says what is wrong and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy.exc import DBAPIError


class StorageError(Exception):
    """The database cannot be used."""


class DatabaseNotInitialisedError(StorageError, RuntimeError):
    """`init_db` has not been called in this process."""


class InvalidDatabaseURLError(StorageError, ValueError):
    """The database URL is not valid, or its database is not supported."""


class MissingDriverError(StorageError):
    """The Python package for this kind of database is not installed."""


class NotADatabaseError(StorageError):
    """The file is not an SQLite database."""


class DatabaseCorruptError(StorageError):
    """The database file is damaged."""


class DatabaseReadOnlyError(StorageError):
    """The database can be read but not written to."""


class DatabasePermissionError(StorageError):
    """This user is not allowed to open the database."""


class DatabaseLockedError(StorageError):
    """Another process held the database locked for longer than the timeout."""


class DatabaseFullError(StorageError):
    """The disk is full, a size limit is reached, or the write failed; nothing was changed."""


class DatabaseUnreachableError(StorageError):
    """The database server does not answer, or refuses the connection."""


class DatabaseTooNewError(StorageError):
    """The database was written by a later release."""


class MigrationError(StorageError):
    """The database could not be migrated to the current revision; nothing was changed."""


class ReadOnlySessionError(StorageError):
    """A session opened with `read_only=True` tried to write."""


class BackupError(StorageError):
    """A backup could not be written, or is not usable."""


class OverwriteRefusedError(BackupError):
    """The destination exists and `force` was not given."""


class TransferError(StorageError):
    """The rows could not be moved; both databases are unchanged."""


class InvalidCursorError(StorageError, ValueError):
    """The cursor does not come from this list."""


class InvalidSearchError(StorageError, ValueError):
    """The text searched for is longer than any prompt."""


class UnknownApiKeyError(StorageError, LookupError):
    """The text matches no key, or more than one."""


_SQLITE_PRIMARY_CODE = 0xFF

_SQLITE_ERRORS: dict[int, tuple[type[StorageError], str]] = {
    5: (DatabaseLockedError, "Another process is using the database {name}. Try again."),
    6: (DatabaseLockedError, "Another connection is using the database {name}. Try again."),
    8: (
        DatabaseReadOnlyError,
        "The database {name} cannot be written. "
        "Check the permissions of the file and of its folder.",
    ),
    10: (
        DatabaseFullError,
        "Reading or writing the database {name} failed. Check the free space and the disk.",
    ),
    11: (
        DatabaseCorruptError,
        "The database {name} is damaged. Restore a backup with 'dgx-music db restore FILE'.",
    ),
    13: (DatabaseFullError, "There is no space left for the database {name}. Free some space."),
    14: (
        DatabasePermissionError,
        "The database {name} cannot be opened. Check that its folder exists and belongs to you.",
    ),
    23: (DatabasePermissionError, "This user is not allowed to access the database {name}."),
    26: (
        NotADatabaseError,
        "{name} is not an SQLite database. Move it away, or set DATABASE_URL to another file.",
    ),
}

_POSTGRES_ERRORS: dict[str, tuple[type[StorageError], str]] = {
    "08": (DatabaseUnreachableError, "The connection to {name} was lost."),
    "28": (DatabasePermissionError, "{name} refuses this user or password."),
    "3D": (DatabaseUnreachableError, "{name} does not exist. Create it with 'createdb'."),
    "40": (DatabaseLockedError, "Another process changed {name} at the same time. Try again."),
    "53": (DatabaseFullError, "{name} has no disk space, memory or connections left."),
    "57": (DatabaseUnreachableError, "{name} is shutting down or starting up. Try again."),
    "42501": (
        DatabasePermissionError,
        "This user does not have the permission for that in {name}.",
    ),
    "25P03": (DatabaseUnreachableError, "{name} ended a transaction that was idle for too long."),
    "25006": (DatabaseReadOnlyError, "{name} is read-only."),
    "55P03": (DatabaseLockedError, "Another process is using {name}. Try again."),
}


def translate(error: DBAPIError, name: str) -> StorageError | None:
    """Translate an error of SQLAlchemy into one of this tree.

    Args:
        error: the error that SQLAlchemy raised.
        name: the database as messages show it, without a password.

    Returns:
        None for an error that is not about the database's condition, such as a broken constraint.
    """
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        found = _SQLITE_ERRORS.get(code & _SQLITE_PRIMARY_CODE)
    else:
        found = _postgres_error(error)
    if found is None:
        return None
    kind, message = found
    return kind(message.format(name=name))


def _postgres_error(error: DBAPIError) -> tuple[type[StorageError], str] | None:
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        return _POSTGRES_ERRORS.get(state) or _POSTGRES_ERRORS.get(state[:2])
    if type(error.orig).__name__ in {"OperationalError", "ConnectionTimeout"}:
        reason = " ".join(str(error.orig).split()) or "no reason given"
        escaped = reason.replace("{", "{{").replace("}", "}}")
        return DatabaseUnreachableError, "{name} does not answer: " + escaped
    return None
