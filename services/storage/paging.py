"""Keyset pages and their cursors: a page starts after the last row of the previous one.

Rows inserted between two pages neither repeat nor hide a row.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Generic, TypeVar

from services.storage.columns import as_utc
from services.storage.errors import InvalidCursorError

Row = TypeVar("Row")

MAX_LIMIT = 1000
"""Largest number of rows of a page."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST_CURSOR = 500
_ROW_NUMBER_LIMIT = 2**63


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """Rows, and the cursor of the next page; None on the last page."""

    items: Sequence[Row]
    next_cursor: str | None


def make_page(rows: Sequence[Row], limit: int, cursor_of: Callable[[Row], str]) -> Page[Row]:
    """Make a page from up to `limit` + 1 rows; the extra one shows that a page follows."""
    if len(rows) <= limit:
        return Page(rows, None)
    shown = rows[:limit]
    return Page(shown, cursor_of(shown[-1]))


def clamp_limit(limit: int) -> int:
    """Clamp a number of rows to 1..MAX_LIMIT."""
    return max(1, min(limit, MAX_LIMIT))


def encode_moment(moment: datetime, row_id: str) -> str:
    """Encode the position of a row in a list sorted by time, then id."""
    return _encode("t", str((as_utc(moment) - _EPOCH) // timedelta(microseconds=1)), row_id)


def decode_moment(cursor: str) -> tuple[datetime, str]:
    """Decode a cursor of `encode_moment`.

    Raises:
        InvalidCursorError: the text is not such a cursor.
    """
    microseconds, row_id = _decode("t", cursor)
    try:
        return _EPOCH + timedelta(microseconds=int(microseconds)), row_id
    except (ValueError, OverflowError):
        raise _invalid() from None


def encode_number(number: int) -> str:
    """Encode the position of a row in a list sorted by number."""
    return _encode("n", str(number), "")


def decode_number(cursor: str) -> int:
    """Decode a cursor of `encode_number`; raises as `decode_moment`."""
    number, _ = _decode("n", cursor)
    try:
        value = int(number)
    except ValueError:
        raise _invalid() from None
    if not -_ROW_NUMBER_LIMIT <= value < _ROW_NUMBER_LIMIT:
        raise _invalid()
    return value


def encode_use(count: int, moment: datetime, number: int) -> str:
    """Encode the position of a row in a list sorted by uses, time of the last use, and number."""
    microseconds = (as_utc(moment) - _EPOCH) // timedelta(microseconds=1)
    return _encode("u", f"{count}.{microseconds}", str(number))


def decode_use(cursor: str) -> tuple[int, datetime, int]:
    """Decode a cursor of `encode_use`; raises as `decode_moment`."""
    place, number = _decode("u", cursor)
    count, _, microseconds = place.partition(".")
    try:
        values = int(count), int(microseconds), int(number)
        moment = _EPOCH + timedelta(microseconds=values[1])
    except (ValueError, OverflowError):
        raise _invalid() from None
    if not all(-_ROW_NUMBER_LIMIT <= value < _ROW_NUMBER_LIMIT for value in values):
        raise _invalid()
    return values[0], moment, values[2]


def _encode(kind: str, place: str, row_id: str) -> str:
    raw = f"{kind}|{place}|{row_id}".encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _decode(kind: str, cursor: str) -> tuple[str, str]:
    if len(cursor) > _LONGEST_CURSOR:
        raise _invalid()
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        raw = base64.b64decode(padded, altchars=b"-_", validate=True).decode()
    except (UnicodeError, binascii.Error):
        raise _invalid() from None
    found, _, rest = raw.partition("|")
    place, separator, row_id = rest.partition("|")
    if found != kind or not separator or "\x00" in row_id:
        raise _invalid()
    return place, row_id


def _invalid() -> InvalidCursorError:
    return InvalidCursorError("This cursor is not from this list. Start again without a cursor.")
