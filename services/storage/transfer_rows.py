"""Read, check, write and checksum rows that move between databases.

The checksum of a table is the SHA-256 over one line of JSON for each row, sorted by primary key:
columns in the order of the model, times in UTC to the microsecond, digests in hexadecimal, floats
in the shortest form that reads back the same, text in ASCII with escapes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, Float, Integer, Text
from sqlalchemy.exc import DBAPIError

from services.storage.columns import Digest, UtcDateTime
from services.storage.errors import TransferError
from services.storage.models import GENERATIONS, Base
from services.storage.sqlite_driver import load_library

if TYPE_CHECKING:
    from sqlalchemy import Column, Table
    from sqlalchemy.engine import Connection, Dialect

NOT_MOVED = frozenset({"workers", "rate_counters"})
"""Tables that describe running processes and current rates, which do not move."""

_FETCHED = 1000
_SMALL, _LARGE = 2**31 - 1, 2**63 - 1

Row = tuple[Any, ...]
Check = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class TableChecksum:
    """The number of rows in a table, and the checksum over them."""

    name: str
    rows: int
    sha256: str


class _UnfitError(ValueError):
    """A value that cannot be moved; the message follows the name of its column."""


def list_moved_tables() -> list[Table]:
    """Return the tables whose rows are moved, each after those it refers to."""
    return [table for table in Base.metadata.sorted_tables if table.name not in NOT_MOVED]


def read_rows(connection: Connection, table: Table, *, by_key: bool) -> Iterator[Row]:
    """Yield the rows with the driver's values, reading a thousand at a time.

    Args:
        connection: a connection in the transaction to read in.
        table: one of our tables.
        by_key: sort by primary key; otherwise by insertion, where the database keeps that order.
    """
    columns = ", ".join(_select_column(connection, column) for column in table.columns)
    order = _order_by_key(connection, table)
    if connection.dialect.name == "sqlite" and not by_key:
        order = "rowid"
    return iter(
        connection.exec_driver_sql(
            f"SELECT {columns} FROM {table.name} ORDER BY {order}",  # noqa: S608 - our own names
            execution_options={"yield_per": _FETCHED},
        )
    )


def _select_column(connection: Connection, column: Column[Any]) -> str:
    """Return the column's SQL; rows that an SQLite without FTS5 left unnumbered get a number."""
    name = _quote(column)
    if column is not GENERATIONS.c.search_id:
        return name
    without = "SELECT count(*) FROM generations WHERE search_id IS NULL"
    if not connection.exec_driver_sql(without).scalar_one():
        return name
    return (
        "coalesce(search_id, (SELECT coalesce(max(search_id), 0) FROM generations) "
        "+ row_number() OVER (ORDER BY created_at, id)) AS search_id"
    )


def _order_by_key(connection: Connection, table: Table) -> str:
    bytewise = ' COLLATE "C"' if connection.dialect.name == "postgresql" else ""
    return ", ".join(
        _quote(column) + (bytewise if isinstance(column.type, Text) else "")
        for column in table.primary_key
    )


def _quote(column: Column[Any]) -> str:
    return f'"{column.name}"'


def check_rows(table: Table, rows: Iterable[Row], target: Dialect) -> Iterator[Row]:
    """Convert rows of any driver to str, int, float, naive UTC datetime, bytes and None.

    Args:
        table: the table of the rows.
        rows: rows from `read_rows`.
        target: dialect of the database that will store them.

    Raises:
        TransferError: a value does not have its column's type, or the target cannot store it.
    """
    checks = [_choose_check(column, target) for column in table.columns]
    for row in rows:
        try:
            yield tuple(
                None if value is None else check(value)
                for check, value in zip(checks, row, strict=True)
            )
        except _UnfitError:
            raise _explain_refusal(table, row, checks) from None


def _explain_refusal(table: Table, row: Row, checks: list[Check]) -> TransferError:
    for column, check, value in zip(table.columns, checks, row, strict=True):
        try:
            if value is not None:
                check(value)
        except _UnfitError as error:
            return TransferError(
                f"The row {name_row(table, row)} of {table.name} cannot be moved: {column.name} "
                f"{error}. Correct or delete it in the source, then move again."
            )
    raise AssertionError(f"every value of a refused row of {table.name} fits")


def name_row(table: Table, row: Row) -> str:
    """Return the row's primary key as messages show it."""
    values = dict(zip(table.columns.keys(), row, strict=True))
    return ", ".join(f"{column.name}={values[column.name]!a}" for column in table.primary_key)


def _choose_check(column: Column[Any], target: Dialect) -> Check:
    if isinstance(column.type, UtcDateTime):
        return _check_time
    if isinstance(column.type, Digest):
        return _check_digest
    if isinstance(column.type, Float):
        return _check_real if target.name == "postgresql" else _check_real_for_sqlite
    if isinstance(column.type, Integer):
        wide = target.name == "sqlite" or isinstance(column.type.dialect_impl(target), BigInteger)
        return _check_large_integer if wide else _check_small_integer
    return _check_text


def _check_text(value: object) -> str:
    if not isinstance(value, str):
        raise _UnfitError("is not text")
    if "\0" in value:
        raise _UnfitError("holds the character NUL, which PostgreSQL cannot store")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _UnfitError("holds bytes that are not UTF-8") from None
    return value


def _check_small_integer(value: object) -> int:
    return _check_integer(value, _SMALL)


def _check_large_integer(value: object) -> int:
    return _check_integer(value, _LARGE)


def _check_integer(value: object, largest: int) -> int:
    if not isinstance(value, int):
        raise _UnfitError("is not an integer")
    if not -largest - 1 <= value <= largest:
        raise _UnfitError(f"is {value}, which is out of the range of the column")
    return value


def _check_real(value: object) -> float:
    if not isinstance(value, float | int):
        raise _UnfitError("is not a number")
    # SQLite does not store a negative zero.
    return float(value) + 0.0


def _check_real_for_sqlite(value: object) -> float:
    number = _check_real(value)
    if number != number:  # noqa: PLR0124 - only NaN
        raise _UnfitError("is NaN, which SQLite cannot store")
    return number


def _check_time(value: object) -> datetime:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise _UnfitError("is not a time") from None
    if not isinstance(value, datetime):
        raise _UnfitError("is not a time")
    if value.tzinfo is not None:
        raise _UnfitError("is a time with a zone")
    return value


def _check_digest(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise _UnfitError("is not a digest")
    return value


def _encode_json(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat(timespec="microseconds") + "Z"
    assert isinstance(value, bytes)
    return value.hex()


_LINE = json.JSONEncoder(default=_encode_json, separators=(",", ":"))


def compute_checksum(table: Table, rows: Iterable[Row]) -> TableChecksum:
    """Compute the checksum of checked rows that are sorted by primary key."""
    digest = hashlib.sha256()
    count = 0
    for row in rows:
        digest.update(_LINE.encode(row).encode() + b"\n")
        count += 1
    return TableChecksum(table.name, count, digest.hexdigest())


def write_rows(connection: Connection, table: Table, rows: Iterable[Row]) -> None:
    """Insert checked rows into a table as they arrive, with few of them in memory.

    Raises:
        DBAPIError: the database refuses a row.
    """
    names = ", ".join(_quote(column) for column in table.columns)
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name == "postgresql":
        _copy_rows(driver, f"COPY {table.name} ({names}) FROM STDIN", rows)
        return
    marks = ", ".join("?" * len(table.columns))
    statement = f"INSERT INTO {table.name} ({names}) VALUES ({marks})"  # noqa: S608 - our own names
    try:
        driver.executemany(statement, (tuple(map(_for_sqlite, row)) for row in rows))
    except load_library().Error as error:
        raise DBAPIError(statement, None, error) from error


def _copy_rows(driver: Any, statement: str, rows: Iterable[Row]) -> None:
    import psycopg

    try:
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            for row in rows:
                copy.write_row(row)
    except psycopg.Error as error:
        raise DBAPIError(statement, None, error) from error


def _for_sqlite(value: Any) -> Any:
    return value.isoformat(" ", "microseconds") if isinstance(value, datetime) else value
