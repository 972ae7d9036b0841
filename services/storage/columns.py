"""Column types that behave the same on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import DOUBLE_PRECISION, REAL, TIMESTAMP, BigInteger, Integer, LargeBinary, Text
from sqlalchemy.types import TypeDecorator, TypeEngine

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect


def utc_now() -> datetime:
    return datetime.now(UTC)


def as_utc(moment: datetime) -> datetime:
    """Convert a moment to UTC; one without a zone is taken to be UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def pad_values(values: Collection[str]) -> list[str]:
    """Repeat the last value until the length is a power of two, for `IN (...)`.

    Each length is a different SQL statement, and a connection keeps every statement it prepared.
    """
    given = list(values)
    size = 1 << max(0, len(given) - 1).bit_length()
    return given + given[-1:] * (size - len(given))


class UtcDateTime(TypeDecorator[datetime]):
    """A moment: aware UTC in Python, a TIMESTAMP without zone in UTC in the database.

    SQLite stores the text "YYYY-MM-DD HH:MM:SS.ffffff", whose order is the order of the moments.
    """

    impl = TIMESTAMP
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        return None if value is None else as_utc(value).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


class Digest(TypeDecorator[str]):
    """A digest: lower-case hexadecimal text in Python, raw bytes in the database."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: str | None, _dialect: Dialect) -> bytes | None:
        """Raise ValueError for text that is not hexadecimal."""
        return None if value is None else bytes.fromhex(value)

    def process_result_value(self, value: bytes | None, _dialect: Dialect) -> str | None:
        return None if value is None else value.hex()


Identifier = Text().with_variant(Text(collation="C"), "postgresql")
"""Text compared byte by byte on both databases, so a search by prefix can use the index."""

Real: TypeEngine[float] = REAL().with_variant(DOUBLE_PRECISION(), "postgresql")
"""64-bit floating point. PostgreSQL's REAL has 32 bits, SQLite's has 64."""

Count = Integer().with_variant(BigInteger(), "postgresql")
"""64-bit integer. PostgreSQL's INTEGER has 32 bits, SQLite's has up to 64."""
