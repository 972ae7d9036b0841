"""Everything the database can say no with, as one tree.

The message of each error is for a person: what is wrong, and what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy.exc import DBAPIError


class StorageError(Exception):
    """The database cannot be used as it is."""


class DatabaseNotInitialisedError(StorageError, RuntimeError):
    """`init_db` has not been called in this process."""


class InvalidDatabaseURLError(StorageError, ValueError):
    """The database URL cannot be read, or names a database that is not supported."""


class MissingDriverError(StorageError):
    """The Python package for this kind of database is not installed."""


class NotADatabaseError(StorageError):
    """The file holds something else than an SQLite database."""


class DatabaseCorruptError(StorageError):
    """The database file is damaged."""


class DatabaseReadOnlyError(StorageError):
    """The database can be read but not written."""


class DatabasePermissionError(StorageError):
    """The system does not let this user open the database."""


class DatabaseLockedError(StorageError):
    """Another process kept the database busy for longer than the time-out."""


class DatabaseFullError(StorageError):
    """The disk, or a size limit, refused the write; nothing was changed."""


class DatabaseUnreachableError(StorageError):
    """The database server does not answer, or refuses the connection."""


class DatabaseTooNewError(StorageError):
    """The database was written by a later release."""


class MigrationError(StorageError):
    """The database could not be brought to the current revision; nothing was changed."""


class ReadOnlySessionError(StorageError):
    """A session opened with `read_only=True` was asked to write."""


class BackupError(StorageError):
    """A backup could not be made, or is not usable."""


class OverwriteRefusedError(BackupError):
    """Something is already there and `force` was not given."""


class TransferError(StorageError):
    """The rows could not be moved to another database, which is as it was."""


class InvalidCursorError(StorageError, ValueError):
    """The cursor was not given out by this query."""


class InvalidSearchError(StorageError, ValueError):
    """The text searched for is longer than any prompt."""


class UnknownApiKeyError(StorageError, LookupError):
    """No key, or more than one, is meant."""


_SQLITE_PRIMARY_CODE = 0xFF

_SQLITE_ERRORS: dict[int, tuple[type[StorageError], str]] = {
    5: (DatabaseLockedError, "Another process is using the database {name}; try again."),
    6: (DatabaseLockedError, "Another connection is using the database {name}; try again."),
    8: (
        DatabaseReadOnlyError,
        "The database {name} cannot be written. Check the rights of the file and its folder.",
    ),
    10: (
        DatabaseFullError,
        "The database {name} could not be written or read. Check the free space and the disk.",
    ),
    11: (
        DatabaseCorruptError,
        "The database {name} is damaged. Restore a backup with 'dgx-music db restore FILE'.",
    ),
    13: (DatabaseFullError, "There is no space left for the database {name}. Free some space."),
    14: (
        DatabasePermissionError,
        "The database {name} cannot be opened. Check that its folder exists and is yours.",
    ),
    23: (DatabasePermissionError, "The database {name} may not be accessed by this user."),
    26: (
        NotADatabaseError,
        "{name} is not an SQLite database. Move it away, or set DATABASE_URL to another file.",
    ),
}

_POSTGRES_ERRORS: dict[str, tuple[type[StorageError], str]] = {
    "08": (DatabaseUnreachableError, "The connection to {name} was lost."),
    "28": (DatabasePermissionError, "{name} refuses this user or password."),
    "3D": (DatabaseUnreachableError, "{name} does not exist; create it with 'createdb'."),
    "40": (DatabaseLockedError, "Another process changed {name} at the same moment; try again."),
    "53": (DatabaseFullError, "{name} has no space, memory or connections left."),
    "57": (DatabaseUnreachableError, "{name} is shutting down or starting up."),
    "42501": (DatabasePermissionError, "This user may not do that in {name}."),
    "25P03": (DatabaseUnreachableError, "{name} ended a transaction that stood still too long."),
    "25006": (DatabaseReadOnlyError, "{name} is read-only."),
    "55P03": (DatabaseLockedError, "Another process is using {name}; try again."),
}


def translate(error: DBAPIError, name: str) -> StorageError | None:
    """Give the error of this tree that says the same as `error`.

    Args:
        error: what SQLAlchemy raised.
        name: the database in words, without a password.

    Returns:
        None for what is no matter of the database's condition, as a broken constraint.
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
        told = reason.replace("{", "{{").replace("}", "}}")
        return DatabaseUnreachableError, "{name} does not answer: " + told
    return None
