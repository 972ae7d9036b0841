"""Cursors and words."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.storage import InvalidCursorError
from services.storage.paging import (
    MAX_LIMIT,
    clamp_limit,
    decode_moment,
    decode_number,
    encode_moment,
    encode_number,
    make_page,
)
from services.storage.words import fold, split_words, strip_plural

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=40)


@given(st.datetimes(timezones=st.just(UTC)), TEXT)
def test_cursor_of_a_moment_round_trips(moment: datetime, row_id: str) -> None:
    assert decode_moment(encode_moment(moment, row_id)) == (moment, row_id)


@given(st.integers(-(2**63), 2**63 - 1))
def test_cursor_of_a_number_round_trips(number: int) -> None:
    assert decode_number(encode_number(number)) == number


@given(
    st.text(max_size=60)
    | st.binary(max_size=60).map(lambda raw: base64.urlsafe_b64encode(raw).decode())
)
def test_other_text_is_an_invalid_cursor(text: str) -> None:
    for decode in (decode_moment, decode_number):
        with pytest.raises(InvalidCursorError, match="Start again"):
            decode(text)


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "é",
        "A" * 501,
        encode_number(5),
        base64.urlsafe_b64encode(b"t|12").decode(),
        base64.urlsafe_b64encode(b"t|x|id").decode(),
        base64.urlsafe_b64encode(b"t|99999999999999999999999|id").decode(),
        base64.urlsafe_b64encode(b"t|12|a\x00b").decode(),
    ],
)
def test_malformed_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidCursorError):
        decode_moment(cursor)


@pytest.mark.parametrize("raw", [b"n|x|", b"n|9223372036854775808|"])
def test_number_out_of_range_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidCursorError):
        decode_number(base64.urlsafe_b64encode(raw).decode().rstrip("="))


def test_cursor_is_safe_in_a_url() -> None:
    cursor = encode_moment(datetime(2026, 1, 1, tzinfo=UTC), "??>>~~")
    assert cursor.replace("-", "").replace("_", "").isalnum()


@given(st.integers())
def test_limit_is_clamped(limit: int) -> None:
    assert 1 <= clamp_limit(limit) <= MAX_LIMIT
    assert clamp_limit(limit) == limit or not 1 <= limit <= MAX_LIMIT


@pytest.mark.parametrize(("rows", "cursor"), [(0, None), (2, None), (3, "1")])
def test_page_has_a_cursor_only_when_another_follows(rows: int, cursor: str | None) -> None:
    page = make_page(list(range(rows)), 2, str)
    assert page.next_cursor == cursor
    assert list(page.items) == list(range(min(rows, 2)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Lo-Fi BEATS", ["lo", "fi", "beats"]),
        ("café\tCAFE\u0301", ["cafe", "cafe"]),
        ('a "quoted" AND (b* OR NEAR)', ["a", "quoted", "and", "b", "or", "near"]),
        ("140bpm 🎵 8x8", ["140bpm", "8x8"]),
        ("Грустный вальс", ["грустныи", "вальс"]),
        ("한국 노래", ["한국", "노래"]),
        ("\x00'--;\ud800", []),
        ("", []),
    ],
)
def test_text_is_split_into_plain_words(text: str, words: list[str]) -> None:
    assert split_words(text) == words


@given(st.text())
def test_words_contain_no_operator_of_a_query(text: str) -> None:
    assert all(word.isalnum() or word.isprintable() for word in split_words(text))
    assert not set('"*^:()\x00 ') & set("".join(split_words(text)))


def test_folded_text_has_spaces_around_its_words() -> None:
    assert fold("Lo-fi Beats!") == " lo fi beats "
    assert fold(None) == "  "


@pytest.mark.parametrize(("word", "start"), [("beats", "beat"), ("bas", "bas"), ("pad", "pad")])
def test_plural_has_the_prefix_of_its_singular(word: str, start: str) -> None:
    assert strip_plural(word) == start
