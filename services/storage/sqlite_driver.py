"""Choose the SQLite library of this process, and the journal mode that is safe with it.

A process uses a single library. Two libraries with the same file open would destroy each other's
locks, because the system drops all locks of a process on a file when any descriptor of it is closed
(fcntl(2), "Advisory record locking"; sqlite.org/howtocorrupt.html, section 2.2).
"""

from __future__ import annotations

from contextlib import closing
from functools import cache
from importlib import import_module
from typing import Any

BUNDLED = "sqlcipher3.dbapi2"
"""Contains an SQLite that is newer than those of the long-term Linux releases. Without a key it
reads and writes plain SQLite files."""

STANDARD = "sqlite3.dbapi2"
"""Python's own module, linked with the system's SQLite."""

_WAL_FIXED_IN = ((3, 44, 6), (3, 50, 7), (3, 51, 3))
_WITHDRAWN = (3, 52, 0)

Version = tuple[int, int, int]


def wal_is_safe(version: Version) -> bool:
    """Return whether this SQLite has the fix of the WAL-reset bug.

    See sqlite.org/wal.html#walresetbug.

    Versions 3.7.0 to 3.51.2 can corrupt a database in WAL mode when two connections write and
    checkpoint at once. 3.44.6 and 3.50.7 carry the fix too; 3.52.0 was withdrawn.
    """
    if version == _WITHDRAWN:
        return False
    if version >= _WAL_FIXED_IN[-1]:
        return True
    return any(version[:2] == fixed[:2] and version >= fixed for fixed in _WAL_FIXED_IN)


def choose_journal_mode(version: Version) -> str:
    """Return WAL where it is safe, else PERSIST, the fastest rollback journal.

    PERSIST keeps the journal file and overwrites its header. Compared with DELETE this saves two
    changes of the directory for each commit.
    """
    return "WAL" if wal_is_safe(version) else "PERSIST"


@cache
def load_library() -> Any:
    """Return the DB-API module of this process, with the interface of `sqlite3`.

    This is the bundled library if it is installed and has the WAL fix, else the newer of the two.
    """
    try:
        bundled = import_module(BUNDLED)
    except ImportError:
        return import_module(STANDARD)
    if wal_is_safe(_read_version(bundled)):
        return bundled
    return max(import_module(STANDARD), bundled, key=_read_version)


def get_library_version() -> Version:
    return _read_version(load_library())


def describe_sqlite_library() -> dict[str, Any]:
    """Describe the SQLite in use. Keys: library, version, wal_is_safe, journal_mode, fts5."""
    with closing(load_library().connect(":memory:")) as connection:
        modules = connection.execute("SELECT name FROM pragma_module_list WHERE name = 'fts5'")
        fts5 = modules.fetchone() is not None
    version = get_library_version()
    return {
        "library": load_library().__name__.partition(".")[0],
        "version": ".".join(map(str, version)),
        "wal_is_safe": wal_is_safe(version),
        "journal_mode": choose_journal_mode(version).lower(),
        "fts5": fts5,
    }


def _read_version(module: Any) -> Version:
    major, minor, patch = module.sqlite_version_info[:3]
    return major, minor, patch
