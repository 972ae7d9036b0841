"""Rate counters: a sliding window that all processes share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services import storage
from services.storage import RateCounter, RateWindow

if TYPE_CHECKING:
    from services.storage.connection import Database

YEAR = 3600 * 24 * 365
"""A window so long that no test crosses its end."""


def count(name: str, limit: int, amount: int = 1) -> bool:
    with storage.get_session() as session:
        return storage.count_hit(session, name, YEAR, limit, amount)


def read(name: str) -> RateWindow:
    with storage.get_session(read_only=True) as session:
        return storage.read_rate(session, name, YEAR)


@pytest.mark.integration
def test_hits_are_counted_up_to_the_limit(database: Database) -> None:
    assert [count("a", 3) for _ in range(5)] == [True, True, True, False, False]
    assert read("a").hits == 3


@pytest.mark.integration
def test_amount_is_counted_completely_or_not_at_all(database: Database) -> None:
    assert count("a", 5, amount=3)
    assert not count("a", 5, amount=3)
    assert count("a", 5, amount=2)
    assert read("a").hits == 5


@pytest.mark.integration
def test_names_are_counted_apart_and_reset_apart(database: Database) -> None:
    for name in ("a", "b"):
        assert count(name, 1)
    with storage.get_session() as session:
        storage.reset_rate(session, "a", YEAR)
    assert count("a", 1)
    assert not count("b", 1)


@pytest.mark.integration
def test_amount_above_the_limit_is_never_counted(database: Database) -> None:
    assert not count("a", 2, amount=3)
    assert read("a").hits == 0


@pytest.mark.integration
def test_previous_window_counts_in_proportion(sqlite_database: Database) -> None:
    window = read("a")
    with storage.get_session() as session:
        name = f"a/{window.index - 1}"
        session.add(RateCounter(name=name, hits=1000, expires_at=window.now + YEAR))
    now = read("a")
    assert (now.earlier, now.hits) == (1000, 0)
    assert now.carried == pytest.approx(1000 * now.left / YEAR)
    assert not count("a", int(now.carried) - 1)
    assert count("a", int(now.carried) + 2)


@pytest.mark.integration
def test_new_counter_removes_expired_ones(database: Database) -> None:
    now = read("a").now
    with storage.get_session() as session:
        session.add(RateCounter(name="old/1", hits=5, expires_at=now - 1))
        session.add(RateCounter(name="new/1", hits=5, expires_at=now + YEAR))
    assert count("a", 9)
    assert count("a", 9)
    with storage.get_session(read_only=True) as session:
        names = {row.name.partition("/")[0] for row in session.query(RateCounter)}
    assert names == {"a", "new"}


@given(st.integers(1, 3600), st.floats(0, 4e9), st.integers(0, 10**6))
def test_window_ends_within_its_length(seconds: int, now: float, earlier: int) -> None:
    window = RateWindow(name="a", seconds=seconds, now=now, earlier=earlier, hits=0)
    assert 0 <= window.left <= seconds
    assert window.index * seconds <= now
    assert 0 <= window.carried <= earlier
