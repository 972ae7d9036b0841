"""Checks and checksums of rows that move between databases."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql, sqlite

from services.storage import Base, TransferError
from services.storage.transfer_rows import (
    NOT_MOVED,
    check_rows,
    compute_checksum,
    list_moved_tables,
    name_row,
)

PROMPTS = Base.metadata.tables["prompts"]
GENERATIONS = Base.metadata.tables["generations"]
REQUESTS = Base.metadata.tables["idempotency_keys"]
SQLITE, POSTGRESQL = sqlite.dialect(), postgresql.dialect()
MOMENT = datetime(2026, 1, 2, 3, 4, 5, 6)
PROMPT = (1, "calm piano", 2, MOMENT, MOMENT)


def check(row: tuple[Any, ...], table=PROMPTS, target=POSTGRESQL) -> tuple[Any, ...]:
    (checked,) = check_rows(table, [row], target)
    return checked


def generation(**changes: Any) -> tuple[Any, ...]:
    values = dict.fromkeys(GENERATIONS.columns.keys()) | {
        "id": "job", "prompt": "p", "duration_seconds": 1.5, "created_at": MOMENT,
    }  # fmt: skip
    return tuple((values | changes).values())


def test_parents_are_moved_before_their_children() -> None:
    tables = list_moved_tables()
    names = [table.name for table in tables]
    for table in tables:
        for key in table.foreign_keys:
            assert names.index(key.column.table.name) < names.index(table.name)
    assert set(names) == set(Base.metadata.tables) - NOT_MOVED


def test_times_of_both_drivers_become_the_same_value() -> None:
    from_sqlite = (1, "calm piano", 2, "2026-01-02 03:04:05.000006", "2026-01-02 03:04:05.000006")
    assert check(from_sqlite) == check(PROMPT) == PROMPT


def test_time_without_fraction_is_read() -> None:
    assert check((1, "p", 1, "2026-01-02 03:04:05", MOMENT))[3] == datetime(2026, 1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("soon", "is not a time"),
        (7, "is not a time"),
        (MOMENT.replace(tzinfo=UTC), "is a time with a zone"),
    ],
)
def test_value_that_is_no_plain_time_is_refused(value: object, reason: str) -> None:
    with pytest.raises(TransferError, match=rf"row id=1 of prompts .*: last_used_at {reason}"):
        check((1, "p", 1, MOMENT, value))


@pytest.mark.parametrize(
    ("column", "largest"), [("file_size_bytes", 2**63 - 1), ("sample_rate", 2**31 - 1)]
)
def test_integers_must_fit_their_postgresql_column(column: str, largest: int) -> None:
    for value in (largest, -largest - 1):
        assert value in check(generation(**{column: value}), GENERATIONS)
    for value in (largest + 1, -largest - 2):
        with pytest.raises(TransferError, match=f"{column} is {value}, which is out of the range"):
            check(generation(**{column: value}), GENERATIONS)


def test_every_integer_of_sqlite_has_64_bits() -> None:
    large = generation(sample_rate=2**40)
    assert 2**40 in check(large, GENERATIONS, SQLITE)
    with pytest.raises(TransferError, match="out of the range"):
        check(generation(sample_rate=2**63), GENERATIONS, SQLITE)


def test_nan_moves_to_postgresql_only() -> None:
    row = generation(duration_seconds=math.nan)
    index = GENERATIONS.columns.keys().index("duration_seconds")
    assert math.isnan(check(row, GENERATIONS)[index])
    with pytest.raises(TransferError, match="duration_seconds is NaN"):
        check(row, GENERATIONS, SQLITE)


@pytest.mark.parametrize(("value", "expected"), [(3, 3.0), (-0.0, 0.0), (math.inf, math.inf)])
def test_numbers_become_floats_without_a_negative_zero(value: float, expected: float) -> None:
    index = GENERATIONS.columns.keys().index("duration_seconds")
    checked = check(generation(duration_seconds=value), GENERATIONS)[index]
    assert (checked, type(checked)) == (expected, float)
    assert math.copysign(1, checked) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [("a\0b", "holds the character NUL"), ("\udcff", "holds bytes that are not UTF-8"),
     (b"bytes", "is not text"), (5, "is not text")],
)  # fmt: skip
def test_text_that_postgresql_cannot_store_is_refused(text: object, reason: str) -> None:
    with pytest.raises(TransferError, match=f"text {reason}"):
        check((1, text, 1, MOMENT, MOMENT))


def test_refusal_names_each_part_of_the_primary_key() -> None:
    row = ("key", "é\n", b"\0", "[]", "never")
    with pytest.raises(TransferError, match=r"row owner='key', key='\\xe9\\n' of idempotency_keys"):
        check(row, REQUESTS)
    assert name_row(REQUESTS, row) == r"owner='key', key='\xe9\n'"


def test_rows_before_a_refused_one_are_yielded() -> None:
    rows = check_rows(PROMPTS, [PROMPT, (2, None, "many", MOMENT, MOMENT)], POSTGRESQL)
    assert next(rows) == PROMPT
    with pytest.raises(TransferError, match="used_count is not an integer"):
        next(rows)


ROWS = st.lists(
    st.tuples(
        st.integers(-(2**31), 2**31 - 1),
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
        st.integers(0, 2**31 - 1),
        st.datetimes(),
        st.datetimes(),
    ),
    max_size=6,
)


@settings(max_examples=25)
@given(ROWS)
def test_checked_rows_pass_the_check_unchanged_on_both_databases(rows: list[Any]) -> None:
    checked = list(check_rows(PROMPTS, rows, POSTGRESQL))
    assert checked == rows
    assert list(check_rows(PROMPTS, checked, SQLITE)) == checked


@settings(max_examples=25)
@given(ROWS, ROWS)
def test_checksums_are_equal_only_for_equal_rows(rows: list[Any], others: list[Any]) -> None:
    one, other = compute_checksum(PROMPTS, rows), compute_checksum(PROMPTS, others)
    assert (one == other) == (rows == others)
    assert one.rows == len(rows)
    assert compute_checksum(PROMPTS, iter(rows)) == one


def test_checksum_is_the_documented_one() -> None:
    # printf '[1,"caf\\u00e9",2,"2026-01-02T03:04:05.000006Z","2026-01-02T03:04:05.000006Z"]\n'
    # | sha256sum
    found = compute_checksum(PROMPTS, [(1, "café", 2, MOMENT, MOMENT)])
    assert found.sha256 == "f5c8e5b83ef60717855895b0f4e4aa44ee021e4e6af6f86b3fadcd337902bc00"
    assert (found.name, found.rows) == ("prompts", 1)
