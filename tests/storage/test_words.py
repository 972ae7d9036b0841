"""Words as search compares them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.storage.words import fold, split_marked_words, split_words, strip_plural


@given(st.text())
def test_words_are_split_into_themselves(text: str) -> None:
    words = split_words(text)
    assert split_words(" ".join(words)) == words


@given(st.text())
def test_case_and_separators_change_no_word(text: str) -> None:
    assert split_words(text) == split_words(f" {text.lower()}\n!")


@given(st.lists(st.text(st.characters(categories=["Ll", "Nd"]), min_size=1), max_size=5))
def test_folded_text_contains_each_word_between_spaces(words: list[str]) -> None:
    folded = fold("-".join(words))
    for word in split_words(" ".join(words)):
        assert f" {word} " in folded


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Café d'Été", ["Café", "d", "Été"]),
        ("cafe\u0301", ["café"]),
        ("हिन्दी", ["हिन्दी"]),
        ("a\u200bb", ["a", "b"]),
        ("", []),
    ],
)
def test_marked_words_keep_case_and_accents(text: str, words: list[str]) -> None:
    assert split_marked_words(text) == words


@pytest.mark.parametrize(
    ("word", "prefix"),
    [("pads", "pad"), ("gas", "gas"), ("s", "s"), ("", ""), ("bass", "bas"), ("beat", "beat")],
)
def test_only_words_of_four_letters_or_more_lose_an_s(word: str, prefix: str) -> None:
    assert strip_plural(word) == prefix
    assert word.startswith(strip_plural(word))
