"""Column types that behave alike on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import DOUBLE_PRECISION, REAL, TIMESTAMP, BigInteger, Integer, LargeBinary, Text
from sqlalchemy.types import TypeDecorator, TypeEngine

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect


def utc_now() -> datetime:
    """Give the present moment, aware, in UTC."""
    return datetime.now(UTC)


def as_utc(moment: datetime) -> datetime:
    """Give `moment` in UTC; one without a zone is taken as UTC already."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def pad_values(values: Collection[str]) -> list[str]:
    """Repeat the last value up to a power of two, for `IN (...)`.

    Each number of values is a statement of its own, and connections keep those they prepared.
    """
    given = list(values)
    size = 1 << max(0, len(given) - 1).bit_length()
    return given + given[-1:] * (size - len(given))


class UtcDateTime(TypeDecorator[datetime]):
    """A moment: aware UTC in Python, TIMESTAMP without zone in UTC in the database.

    SQLite keeps it as the text "YYYY-MM-DD HH:MM:SS.ffffff", which sorts as the moments do.
    """

    impl = TIMESTAMP
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        """Drop the zone after moving the moment to UTC."""
        return None if value is None else as_utc(value).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        """Say that what the database keeps is UTC."""
        return None if value is None else value.replace(tzinfo=UTC)


class Digest(TypeDecorator[str]):
    """A digest: hexadecimal text in Python, half as many raw bytes in the database."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: str | None, _dialect: Dialect) -> bytes | None:
        """Pack the text; ValueError when it is not hexadecimal."""
        return None if value is None else bytes.fromhex(value)

    def process_result_value(self, value: bytes | None, _dialect: Dialect) -> str | None:
        """Unpack the bytes, in small letters."""
        return None if value is None else value.hex()


Identifier = Text().with_variant(Text(collation="C"), "postgresql")
"""Text compared byte by byte on both, so that a range over a prefix uses the index."""

Real: TypeEngine[float] = REAL().with_variant(DOUBLE_PRECISION(), "postgresql")
"""64-bit floating point: SQLite's REAL is, PostgreSQL's is not."""

Count = Integer().with_variant(BigInteger(), "postgresql")
"""64-bit integer: SQLite's INTEGER is, PostgreSQL's is not."""
