"""Pages of prompts by use."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services import storage
from services.storage import Generation, InvalidCursorError, PromptUse
from services.storage.paging import decode_use, encode_number, encode_use

if TYPE_CHECKING:
    from services.storage.connection import Database

START = datetime(2026, 1, 1, tzinfo=UTC)


def add(prompt: str, uses: int = 1, **options: Any) -> None:
    with storage.get_session() as session:
        for _ in range(uses):
            storage.create_generation(session, prompt, "m", 1.0, 8000, 1, "a.wav", **options)


def pages(limit: int = 100, **options: Any) -> list[list[PromptUse]]:
    found = []
    cursor = None
    while True:
        with storage.get_session(read_only=True) as session:
            page = storage.list_prompts(session, limit=limit, cursor=cursor, **options)
        found.append(list(page.items))
        cursor = page.next_cursor
        if cursor is None:
            return found


def texts(**options: Any) -> list[tuple[str, int]]:
    return [(row.text, row.used_count) for page in pages(**options) for row in page]


@pytest.mark.integration
def test_prompts_are_listed_by_uses_in_pages(database: Database) -> None:
    for prompt, uses in (("once", 1), ("thrice", 3), ("twice", 2), ("again", 2), ("last", 1)):
        add(prompt, uses)
    assert [len(page) for page in pages(limit=2)] == [2, 2, 1]
    assert texts(limit=2) == texts() == [
        ("thrice", 3), ("again", 2), ("twice", 2), ("last", 1), ("once", 1),
    ]  # fmt: skip


@pytest.mark.integration
def test_pages_part_prompts_of_equal_use_by_time_and_number(database: Database) -> None:
    moments = [START, START, START + timedelta(microseconds=1)]
    with storage.get_session() as session:
        session.add_all(
            storage.Prompt(text=str(number), first_used_at=moment)
            for number, moment in enumerate(moments)
        )
    assert [row.text for page in pages(limit=1) for row in page] == ["2", "1", "0"]


@pytest.mark.integration
def test_owner_sees_own_prompts_with_own_uses(database: Database) -> None:
    add("shared", 3, owner="a")
    add("shared", 1, owner="b")
    add("private", 2, owner="b")
    add("open", 4)
    assert texts(owner="b") == [("private", 2), ("shared", 1)]
    assert texts(owner="nobody") == []
    assert dict(texts()) == {"shared": 4, "open": 4, "private": 2}


@pytest.mark.integration
def test_owner_sees_the_time_of_own_uses(database: Database) -> None:
    with storage.get_session() as session:
        for days, owner in ((0, "a"), (1, "b"), (2, "b"), (3, "a")):
            row = storage.create_generation(session, "p", "m", 1.0, 8000, 1, "a.wav", owner=owner)
            row.created_at = START + timedelta(days=days)
    ((own,),) = pages(owner="b")
    assert own.first_used_at == START + timedelta(days=1)
    assert own.last_used_at == START + timedelta(days=2)


@pytest.mark.integration
def test_search_limits_the_list_to_matching_prompts(database: Database) -> None:
    add("calm piano", 2, owner="a")
    add("calm guitar", owner="a")
    add("loud piano", owner="b")
    assert texts(search="calm") == [("calm piano", 2), ("calm guitar", 1)]
    assert texts(search="piano", owner="b") == [("loud piano", 1)]
    assert texts(search="!?") == texts(search="drums") == []


@pytest.mark.integration
def test_prompt_without_generations_is_not_found_by_search(database: Database) -> None:
    with storage.get_session() as session:
        storage.track_prompt_usage(session, "calm piano")
    assert texts(search="calm") == []
    assert texts() == [("calm piano", 1)]


@pytest.mark.integration
def test_deleted_prompt_leaves_the_list_of_its_owner(database: Database) -> None:
    add("gone", owner="a")
    with storage.get_session() as session:
        session.delete(storage.get_prompt_by_text(session, "gone"))
    assert texts(owner="a") == []
    with storage.get_session(read_only=True) as session:
        assert session.query(Generation).count() == 1


@pytest.mark.integration
def test_cursor_of_another_list_and_long_search_are_refused(sqlite_database: Database) -> None:
    with storage.get_session(read_only=True) as session:
        with pytest.raises(InvalidCursorError):
            storage.list_prompts(session, cursor=encode_number(1))
        with pytest.raises(storage.InvalidSearchError):
            storage.list_prompts(session, search="x" * 10_001)


@given(st.integers(0, 2**31), st.datetimes(timezones=st.just(UTC)), st.integers(1, 2**63 - 1))
def test_cursor_of_a_use_round_trips(count: int, moment: datetime, number: int) -> None:
    assert decode_use(encode_use(count, moment, number)) == (count, moment, number)


@given(st.text(max_size=60))
def test_other_text_is_an_invalid_cursor_of_a_use(text: str) -> None:
    with pytest.raises(InvalidCursorError):
        decode_use(text)


@pytest.mark.parametrize(
    ("count", "moment", "number"), [(2**63, START, 1), (1, START, 2**63), (-(2**63) - 1, START, 1)]
)
def test_cursor_with_a_number_that_no_database_holds_is_refused(
    count: int, moment: datetime, number: int
) -> None:
    with pytest.raises(InvalidCursorError):
        decode_use(encode_use(count, moment, number))
