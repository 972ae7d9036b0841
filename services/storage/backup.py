"""Back up, check and restore the database."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError

from services.storage import postgres_tools, snapshot
from services.storage.connection import Database, resolve_url
from services.storage.database import close_db, get_database, get_open_database, init_db
from services.storage.errors import (
    BackupError,
    DatabaseCorruptError,
    DatabaseTooNewError,
    OverwriteRefusedError,
)
from services.storage.migrations import State, examine, read_schema_status, upgrade
from services.storage.schema import HEAD_REVISION, KNOWN_REVISIONS
from services.storage.search_index import SEARCH_TABLE
from services.storage.sqlite_driver import load_library

if TYPE_CHECKING:
    from sqlite3 import Connection as DriverConnection

    from sqlalchemy.engine import Connection

_SIDE_FILES = ("-journal", "-wal", "-shm")
_BUSY, _LOCKED = 5, 6


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of `check_database`; a sound database has no `problems`."""

    revision: str | None
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems


def backup_database(destination: str | Path, *, force: bool = False) -> Path:
    """Write a complete, checked copy of the open database while other processes use it.

    The file has mode 0600. SQLite: a compacted database file. PostgreSQL: a pg_dump archive of the
    whole database in the custom format.

    Raises:
        OverwriteRefusedError: the destination exists and `force` is False.
        BackupError: the backup failed, or the destination is the database or not a plain file.
    """
    database = get_database()
    path = Path(destination)
    if database.file is not None and path.exists() and path.samefile(database.file):
        raise BackupError(f"{path} is the database itself. Choose another name for the backup.")
    if not database.is_sqlite:
        postgres_tools.dump(database.url, path, force=force)
        return path
    with database.translate_errors(), closing(database.engine.raw_connection()) as pooled:
        connection = pooled.driver_connection
        if not isinstance(connection, load_library().Connection):
            raise BackupError("The connection to the database was lost.")
        snapshot.write_snapshot(connection, path, force=force)
    return path


def restore_database(
    source: str | Path, *, force: bool = False, database_url: str | None = None
) -> Path | None:
    """Replace the database by a backup, completely or not at all, and open it.

    The backup is checked, and upgraded when it is older. The replaced database is kept under a
    dated name beside the database (PostgreSQL: beside the backup); one that is too damaged to be
    opened is moved there. Processes that have an SQLite database open see the restored rows.

    Args:
        source: a file that `backup_database` wrote.
        force: replace a database that holds rows or is damaged.
        database_url: None means the open database, or else the one that `init_db` would open.

    Returns:
        The path of the replaced database, or None when it held nothing.

    Raises:
        BackupError: the source is missing, damaged, or not a backup of DGX Music.
        NotADatabaseError: the source is not a database.
        DatabaseTooNewError: a later release wrote the source.
        OverwriteRefusedError: the database holds rows and `force` is False.
    """
    path = Path(source)
    opened = get_open_database()
    url = opened.url if opened is not None and database_url is None else resolve_url(database_url)
    if url.drivername.startswith("postgresql"):
        kept = _restore_postgres(Database(url), path, force=force)
    else:
        target = Database(url).file
        if target is None:
            raise BackupError("A backup cannot be restored into a database in memory.")
        kept = _restore_sqlite(target, path, force=force)
    init_db(url.render_as_string(hide_password=False))
    return kept


def check_database() -> CheckResult:
    """Check structure, references, revision and text index of the open database.

    Raises:
        StorageError: the check could not run: the database is locked or unreachable.
    """
    database = get_database()
    problems: list[str] = []
    revision = None
    try:
        # Never committed: FTS5's integrity check is an INSERT that changes nothing.
        with database.translate_errors(), database.engine.connect() as connection:
            status = examine(connection)
            revision = status.revision
            if status.state is not State.CURRENT:
                problems.append(f"the revision is {revision}, this release has {HEAD_REVISION}")
            problems += _structure_problems(connection)
            problems += _search_problems(connection)
    except DatabaseCorruptError as error:
        problems.append(str(error))
    return CheckResult(revision, tuple(problems))


def _structure_problems(connection: Connection) -> list[str]:
    if connection.dialect.name == "sqlite":
        raw = connection.connection.driver_connection
        return snapshot.find_damage_in(raw) if isinstance(raw, load_library().Connection) else []
    invalid = connection.exec_driver_sql(
        "SELECT conrelid::regclass || ': ' || conname FROM pg_constraint "
        "WHERE NOT convalidated AND connamespace = current_schema()::regnamespace"
    ).scalars()
    broken = connection.exec_driver_sql(
        "SELECT indexrelid::regclass::text FROM pg_index JOIN pg_class ON oid = indexrelid "
        "WHERE NOT indisvalid AND relnamespace = current_schema()::regnamespace"
    ).scalars()
    return [f"the constraint {name} was never validated" for name in invalid] + [
        f"the index {name} is not valid" for name in broken
    ]


def _search_problems(connection: Connection) -> list[str]:
    unnumbered = "SELECT count(*) FROM generations WHERE search_id IS NULL"
    missing = connection.exec_driver_sql(unnumbered).scalar_one()
    if connection.dialect.name == "sqlite":
        present = connection.exec_driver_sql(
            f"SELECT count(*) FROM sqlite_master WHERE name = '{SEARCH_TABLE}'"  # noqa: S608 - a constant
        ).scalar_one()
        if not present:
            return []
        try:
            connection.exec_driver_sql(
                f"INSERT INTO {SEARCH_TABLE} ({SEARCH_TABLE}, rank) VALUES ('integrity-check', 1)"  # noqa: S608 - a constant
            )
        except DBAPIError as error:
            return [f"the text index does not match the prompts ({error.orig})"]
    return [f"{missing} generations are not in the text index"] if missing else []


def _restore_sqlite(target: Path, source: Path, *, force: bool) -> Path | None:
    if source.resolve() == target.resolve():
        raise BackupError("The backup and the database are the same file.")
    ready = target.with_name(f".{target.name}.restore.part")
    try:
        _prepare_restore(source, ready)
        return _put_in_place(ready, target, force=force)
    finally:
        for leftover in (ready, *(ready.with_name(ready.name + end) for end in _SIDE_FILES)):
            leftover.unlink(missing_ok=True)


def _prepare_restore(source: Path, ready: Path) -> None:
    """Copy the backup beside the database, check the copy, and upgrade it."""
    snapshot.require_sqlite_file(source)
    damage = snapshot.find_damage(source)
    if damage:
        raise BackupError(f"The backup {source} is damaged: {damage[0]}.")
    ready.unlink(missing_ok=True)
    with closing(snapshot.connect_to_file(source, read_only=True)) as connection:
        snapshot.write_snapshot(connection, ready)
    copy = Database(URL.create("sqlite", database=str(ready.absolute())))
    try:
        status = read_schema_status(copy)
        if status.state is State.NEWER:
            raise DatabaseTooNewError(
                f"The backup {source} has revision {status.revision}, this release knows up to "
                f"{HEAD_REVISION}. Restore it with the release that wrote it."
            )
        if status.state is State.EMPTY:
            raise BackupError(f"{source} is a database, but it is not a backup of DGX Music.")
        if status.state is not State.CURRENT:
            upgrade(copy)
    finally:
        copy.close()


def _put_in_place(ready: Path, target: Path, *, force: bool) -> Path | None:
    with closing(snapshot.connect_to_file(target)) as current:
        try:
            held = _count_rows(current)
            if held and not force:
                raise OverwriteRefusedError(
                    f"The database {target} holds {held} generations. Use --force to replace them."
                )
            kept = snapshot.name_dated_copy(target, "replaced") if held else None
            if kept is not None:
                snapshot.write_snapshot(current, kept)
            with closing(snapshot.connect_to_file(ready, read_only=True)) as copy:
                if _page_size(copy) != _page_size(current):
                    # SQLite cannot change the page size of a database in WAL mode.
                    close_db()
                    current.execute("PRAGMA journal_mode = DELETE")
                # SQLite does this in one transaction, so a crash leaves the old rows or the new.
                copy.backup(current, progress=_stop_when_locked)
            return kept
        except load_library().OperationalError as error:
            raise BackupError(f"The database {target} could not be replaced: {error}.") from error
        except (load_library().DatabaseError, BackupError) as error:
            if isinstance(error, OverwriteRefusedError):
                raise
    return _replace_damaged(ready, target, force=force)


def _page_size(connection: DriverConnection) -> int:
    return int(connection.execute("PRAGMA page_size").fetchone()[0])


def _stop_when_locked(status: int, _remaining: int, _total: int) -> None:
    # Each step has already waited for the busy timeout; the driver would retry for ever.
    if status in {_BUSY, _LOCKED}:
        raise load_library().OperationalError("database is locked")


def _count_rows(connection: DriverConnection) -> int:
    named = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'generations'"
    if not connection.execute(named).fetchone()[0]:
        return 0
    return int(connection.execute("SELECT count(*) FROM generations").fetchone()[0])


def _replace_damaged(ready: Path, target: Path, *, force: bool) -> Path:
    if not force:
        raise OverwriteRefusedError(
            f"The database {target} is damaged. Use --force to move it away and restore the backup."
        )
    close_db()
    kept = snapshot.name_dated_copy(target, "damaged")
    for end in _SIDE_FILES:
        side = target.with_name(target.name + end)
        if side.exists():
            side.replace(kept.with_name(kept.name + end))
    target.replace(kept)
    ready.replace(target)
    snapshot.sync_file(target.parent)
    return kept


def _restore_postgres(database: Database, source: Path, *, force: bool) -> Path | None:
    try:
        revision = postgres_tools.read_revision(source)
        if revision is None:
            raise BackupError(f"{source} is an archive, but it is not a backup of DGX Music.")
        if revision not in KNOWN_REVISIONS:
            raise DatabaseTooNewError(
                f"The backup {source} has revision {revision}, this release knows up to "
                f"{HEAD_REVISION}. Restore it with the release that wrote it."
            )
        kept = None
        if _count_postgres_rows(database):
            if not force:
                raise OverwriteRefusedError(
                    f"{database.name} holds generations. Use --force to replace them."
                )
            kept = snapshot.name_dated_copy(source, "replaced")
            postgres_tools.dump(database.url, kept, force=False)
    finally:
        database.close()
    postgres_tools.restore(database.url, source)
    return kept


def _count_postgres_rows(database: Database) -> int:
    if read_schema_status(database).state is State.EMPTY:
        return 0
    with database.session(read_only=True) as session:
        counted = session.connection().exec_driver_sql("SELECT count(*) FROM generations")
        return int(counted.scalar_one())
