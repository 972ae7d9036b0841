"""Move all rows to another database: read one snapshot, write one transaction, compare checksums.

The purpose is a move from SQLite to PostgreSQL, but any pair works. Tables of the queue library are
not moved: waiting jobs are dispatched again at the target. docs/database.md gives the steps.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from services.storage.connection import (
    BUSY_TIMEOUT_SECONDS,
    Database,
    database_file,
    resolve_url,
)
from services.storage.errors import DatabaseReadOnlyError, TransferError, translate
from services.storage.filling import finish_filling, prepare_filling
from services.storage.migrations import (
    SchemaStatus,
    State,
    create_schema,
    examine,
    migration_transaction,
    read_schema_status,
)
from services.storage.openers import find_other_openers
from services.storage.schema import HEAD_REVISION
from services.storage.transfer_rows import (
    Row,
    TableChecksum,
    check_rows,
    compute_checksum,
    list_moved_tables,
    name_row,
    read_rows,
    write_rows,
)

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Table
    from sqlalchemy.engine import URL, Connection

Report = Callable[[str, str, float], None]
"""Called with a stage (check, copy, verify, commit), a table, and the progress of all, 0..1."""

_REPORTED = 1000
_COPY_LINE = re.compile(r"COPY \w+, \D*(\d+)")
_BROKEN_REFERENCE = "23503"


@dataclass(frozen=True, slots=True)
class Move:
    """The result of a move or of a dry run."""

    source: str
    """The database as messages show it; so is `target`."""
    target: str
    tables: tuple[TableChecksum, ...]
    database_url: str
    """URL of the target, without a password."""
    seconds: float
    moved: bool
    """False after a dry run."""

    @property
    def rows(self) -> int:
        """Number of rows in all tables."""
        return sum(table.rows for table in self.tables)


def move_database(
    target_url: str,
    source_url: str | None = None,
    *,
    refuse_in_use: Callable[[Session], None] = lambda _session: None,
    report: Report = lambda _stage, _table, _share: None,
    dry_run: bool = False,
    busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS,
) -> Move:
    """Copy every row to a database without rows, and compare. The source is not changed.

    The source is locked against writes meanwhile, so the target misses nothing. The target gets
    all rows or none, even if the process is killed.

    Args:
        target_url: a database without our tables, or with empty ones.
        source_url: None means DATABASE_URL, else the default.
        refuse_in_use: called with a session on the snapshot; raises if the source is in use.
        report: called with the progress.
        dry_run: check the target and every row of the source, but copy nothing.
        busy_timeout_seconds: longest wait for another process's write.

    Raises:
        TransferError: a row cannot be moved, the target holds rows, or the copy differs.
        StorageError: one of the databases cannot be used.
    """
    began = time.monotonic()
    source, target = _open_both(source_url, target_url, busy_timeout_seconds)
    with closing(source), closing(target), _freeze(source) as reading:
        with Session(reading) as session:
            refuse_in_use(session)
        _refuse_openers(source)
        _refuse_same_server_database(reading, target)
        _refuse_target(target)
        transfer = _Transfer(reading, target, report)
        sums = transfer.check()
        if not dry_run:
            transfer.fill(sums)
    return Move(
        source=source.name,
        target=target.name,
        tables=tuple(sums),
        database_url=_strip_password(target.url),
        seconds=time.monotonic() - began,
        moved=not dry_run,
    )


def _open_both(
    source_url: str | None, target_url: str, busy_timeout_seconds: float
) -> tuple[Database, Database]:
    of_source, of_target = database_file(source_url), database_file(target_url)
    if of_source is not None and not of_source.is_file():
        raise TransferError(f"There is no database {of_source} to move.")
    if of_source is not None and of_target is not None and _is_same(of_source, of_target):
        raise TransferError(f"{of_target} is the source itself. Choose another database.")
    source = Database(resolve_url(source_url), busy_timeout_seconds)
    with ExitStack() as undo:
        undo.callback(source.close)
        target = Database(resolve_url(target_url), busy_timeout_seconds)
        undo.pop_all()
    return source, target


def _is_same(source: Path, target: Path) -> bool:
    return target.exists() and target.samefile(source)


@contextmanager
def _freeze(source: Database) -> Iterator[Connection]:
    """Open a connection to a current database, and lock the database against changes."""
    status = read_schema_status(source)
    if status.state is State.EMPTY:
        raise TransferError(f"{source.name} has no tables of DGX Music.")
    if status.state is not State.CURRENT:
        raise TransferError(f"{source.name} {_explain_revision(status)}")
    level: dict[str, Any] = {} if source.is_sqlite else {"isolation_level": "REPEATABLE READ"}
    with source.translate_errors(), source.engine.connect() as plain:
        connection = plain.execution_options(**level)
        # On SQLite this takes the write lock.
        with connection.begin() as transaction:
            if source.is_sqlite:
                driver: Any = connection.connection.driver_connection
                # Invalid text must not end the reading: a check finds it and names its row.
                driver.text_factory = _decode_text
            else:
                _disable_idle_timeout(connection)
                # The first query fixes the snapshot, so the lock must come before it.
                connection.exec_driver_sql(
                    f"LOCK TABLE {_list_table_names()}, workers IN SHARE MODE"
                )
            yield connection
            transaction.rollback()


def _decode_text(stored: bytes) -> str:
    return stored.decode(errors="surrogateescape")


def _refuse_openers(source: Database) -> None:
    openers = [] if source.file is None else find_other_openers(source.file)
    if openers:
        named = ", ".join(f"{name} ({number})" for number, name in openers)
        raise TransferError(
            f"{source.name} is open in other processes, and what they write later would not be "
            f"moved. Stop them first: {named}."
        )


def _explain_revision(status: SchemaStatus) -> str:
    if status.state is State.NEWER:
        return (
            f"has revision {status.revision}, this release knows up to {HEAD_REVISION}. "
            "Use the release that wrote it, or a later one."
        )
    return (
        f"has revision {status.revision}, this release has {HEAD_REVISION}. "
        "Set DATABASE_URL to it and run 'dgx-music db migrate' first."
    )


def _list_table_names() -> str:
    return ", ".join(table.name for table in list_moved_tables())


def _disable_idle_timeout(connection: Connection) -> None:
    """Let this side of the move be idle while the other one is read."""
    connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")


def _refuse_same_server_database(reading: Connection, target: Database) -> None:
    """Refuse a target that sees a lock of the source; one database can have several addresses."""
    if reading.dialect.name != "postgresql" or target.is_sqlite:
        return
    high, low = secrets.randbits(31), secrets.randbits(31)
    reading.exec_driver_sql(f"SELECT pg_advisory_xact_lock({high}, {low})")
    schema = reading.exec_driver_sql("SELECT current_schema()").scalar_one()
    with target.session(read_only=True) as session:
        seen = session.connection().exec_driver_sql(
            "SELECT current_schema() FROM pg_locks WHERE locktype = 'advisory' "  # noqa: S608 - numbers
            f"AND classid = {high} AND objid = {low} AND objsubid = 2 AND database = "
            "(SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        if schema in seen.scalars().all():
            raise TransferError(f"{target.name} is the source itself. Choose another database.")


def _refuse_target(target: Database) -> None:
    """Refuse a target that cannot be filled, before the checks that take long."""
    with target.translate_errors(), target.engine.connect() as connection:
        if not target.is_sqlite:
            encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
            if encoding != "UTF8":
                raise TransferError(
                    f"{target.name} stores text as {encoding}. "
                    "Create one with 'createdb --encoding=UTF8 --template=template0 NAME'."
                )
            if connection.exec_driver_sql("SHOW transaction_read_only").scalar_one() == "on":
                raise DatabaseReadOnlyError(f"{target.name} is read-only.")
        _refuse_rows(target, connection)


def _refuse_rows(target: Database, connection: Connection) -> bool:
    """Refuse a target with rows or tables of another program; return whether it has our tables."""
    status = examine(connection)
    if status.state is State.EMPTY:
        return False
    if status.state is State.UNVERSIONED:
        raise TransferError(
            f"{target.name} has other tables named generations or prompts. Choose another database."
        )
    if status.state is not State.CURRENT:
        raise TransferError(f"{target.name} {_explain_revision(status)}")
    for table in list_moved_tables():
        found = connection.exec_driver_sql(f"SELECT 1 FROM {table.name} LIMIT 1")  # noqa: S608 - our own name
        if found.first() is not None:
            raise TransferError(
                f"{target.name} already holds rows in {table.name}. Choose an empty database: "
                "a move does not merge."
            )
    return True


class _Transfer:
    """A copy of the rows of a snapshot into an empty database."""

    def __init__(self, reading: Connection, target: Database, report: Report) -> None:
        self._reading = reading
        self._target = target
        self._tables = list_moved_tables()
        self._report = report
        self._total = 3 * sum(
            reading.exec_driver_sql(f"SELECT count(*) FROM {table.name}").scalar_one()  # noqa: S608 - our own name
            for table in self._tables
        )
        self._done = 0

    def check(self) -> list[TableChecksum]:
        """Read every row; raises TransferError for one that cannot be moved."""
        return [self._compute_checksum(self._reading, table, "check") for table in self._tables]

    def fill(self, sums: list[TableChecksum]) -> None:
        """Copy the rows in one transaction, and commit it if the copy has these checksums."""
        with migration_transaction(self._target) as writing:
            if not self._target.is_sqlite:
                _disable_idle_timeout(writing)
            if not _refuse_rows(self._target, writing):
                create_schema(writing)
            if not self._target.is_sqlite:
                # Another program that is connected already could otherwise add rows.
                writing.exec_driver_sql(f"LOCK TABLE {_list_table_names()} IN EXCLUSIVE MODE")
                _refuse_rows(self._target, writing)
            self._write(writing)
            for table, wanted in zip(self._tables, sums, strict=True):
                _require_same(
                    self._compute_checksum(writing, table, "verify"), wanted, self._target.name
                )
            self._report("commit", "", 1.0)

    def _write(self, writing: Connection) -> None:
        prepare_filling(writing)
        for table in self._tables:
            try:
                write_rows(writing, table, self._read_checked_rows(self._reading, table, "copy"))
            except DBAPIError as error:
                raise translate(error, self._target.name) or self._explain_refusal(
                    table, error
                ) from error
        try:
            finish_filling(writing, self._reading)
        except DBAPIError as error:
            raise translate(error, self._target.name) or _explain_failure(
                self._target, error
            ) from error

    def _compute_checksum(self, connection: Connection, table: Table, stage: str) -> TableChecksum:
        return compute_checksum(table, self._read_checked_rows(connection, table, stage))

    def _read_checked_rows(self, connection: Connection, table: Table, stage: str) -> Iterator[Row]:
        rows = read_rows(connection, table, by_key=stage != "copy")
        checked = check_rows(table, rows, self._target.engine.dialect)
        for number, row in enumerate(checked):
            if number % _REPORTED == 0:
                self._report(stage, table.name, self._done / max(1, self._total))
            yield row
            self._done += 1

    def _explain_refusal(self, table: Table, error: DBAPIError) -> TransferError:
        """Name the row that the target refused, if its error has the line of the COPY."""
        report: Any = getattr(error.orig, "diag", None)
        line = _COPY_LINE.search(getattr(report, "context", None) or "")
        if line is None:
            return _explain_failure(self._target, error)
        rows = read_rows(self._reading, table, by_key=False)
        row = next(islice(rows, int(line[1]) - 1, None))
        return TransferError(
            f"{self._target.name} refuses the row {name_row(table, row)} of {table.name}: "
            f"{report.message_primary}. Correct or delete it in the source, then move again."
        )


def _explain_failure(target: Database, error: DBAPIError) -> TransferError:
    report: Any = getattr(error.orig, "diag", None)
    # The details of other errors can contain whole rows.
    detail = report.message_detail if report and report.sqlstate == _BROKEN_REFERENCE else None
    reason = (report and report.message_primary) or str(error.orig)
    return TransferError(f"{target.name} could not be filled and is unchanged: {detail or reason}")


def _require_same(found: TableChecksum, wanted: TableChecksum, name: str) -> None:
    if found.rows != wanted.rows:
        raise TransferError(
            f"{name} would have {found.rows} rows in {found.name}, the source has {wanted.rows}. "
            "Nothing was moved. Check it for triggers and rules, or choose another database."
        )
    if found.sha256 != wanted.sha256:
        raise TransferError(
            f"The rows of {found.name} in {name} differ from those of the source "
            f"(checksum {found.sha256[:16]}, not {wanted.sha256[:16]}). Nothing was moved. "
            "Check it for triggers and rules, or choose another database."
        )


def _strip_password(url: URL) -> str:
    kind = url.drivername.partition("+")[0]
    bare = url._replace(drivername=kind, password=None).difference_update_query(["password"])
    return bare.render_as_string(hide_password=False)
