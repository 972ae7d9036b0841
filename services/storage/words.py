"""What a word is, wherever Python and not the database has to say it."""

from __future__ import annotations

import unicodedata

_SHORTEST_PLURAL = 4


def split_words(text: str) -> list[str]:
    """Cut text into words without case and accents, at everything that is no letter or digit."""
    marked = unicodedata.normalize("NFD", text.lower())
    return split_marked_words("".join(c for c in marked if unicodedata.category(c) != "Mn"))


def split_marked_words(text: str) -> list[str]:
    """Cut text into words at the same places, with their case and accents."""
    whole = unicodedata.normalize("NFC", text)
    return "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in whole).split()


def fold(text: str | None) -> str:
    """Give the words of a text, each with a space on both sides: " lo fi beats "."""
    return f" {' '.join(split_words(text or ''))} "


def strip_plural(word: str) -> str:
    """Give what a word and its plural begin with."""
    return word[:-1] if word.endswith("s") and len(word) >= _SHORTEST_PLURAL else word
