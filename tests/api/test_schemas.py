"""Validation of requests: whole numbers, times, and the priority."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from services.api.schemas import GenerateRequest, HistoryQuery, Moment
from services.generation.engine import SEED_LIMIT

MOMENT: TypeAdapter[datetime] = TypeAdapter(Moment)
ZONES = st.integers(-14 * 60, 14 * 60).map(lambda each: timezone(timedelta(minutes=each)))


@given(st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=ZONES))
def test_time_is_the_same_instant_in_utc(moment: datetime) -> None:
    found = MOMENT.validate_python(moment.isoformat())
    assert found == moment
    assert found.tzinfo == UTC


@pytest.mark.parametrize(
    "text",
    ["2026-01-31", "12:00:00Z", "2026-01-31T12:00:00", "1767225600", "0001-01-01T00:00:00+14:00",
     "9999-12-31T23:59:59-14:00", "2026-02-30T12:00:00Z", ""],
)  # fmt: skip
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        MOMENT.validate_python(text)


@given(st.integers(0, 500))
def test_whole_number_may_have_a_fraction_of_zero(number: int) -> None:
    request = GenerateRequest.model_validate({"prompt": "beat", "top_k": float(number)})
    assert (request.top_k, type(request.top_k)) == (number, int)


@pytest.mark.parametrize("seed", [0.5, -1.0, float(SEED_LIMIT), "7", True, [7]])
def test_other_seeds_are_refused(seed: object) -> None:
    with pytest.raises(ValidationError):
        GenerateRequest.model_validate({"prompt": "beat", "seed": seed})


@pytest.mark.parametrize("priority", ["HIGH", "", None, 1])
def test_other_priorities_are_refused(priority: object) -> None:
    with pytest.raises(ValidationError):
        GenerateRequest.model_validate({"prompt": "beat", "priority": priority})


def test_equal_history_queries_are_one_key() -> None:
    one, other = (
        HistoryQuery.model_validate({"created_after": text, "search": "beat"})
        for text in ("2026-01-31T12:00:00Z", "2026-01-31T13:00:00+01:00")
    )
    assert len({one, other, HistoryQuery()}) == 2
