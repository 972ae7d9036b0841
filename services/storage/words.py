"""Split text into words in Python, where the database does not do it."""

from __future__ import annotations

import unicodedata

_SHORTEST_PLURAL = 4


def split_words(text: str) -> list[str]:
    """Return the words of a text in lower case and without accents.

    All characters except letters and digits separate words.
    """
    marked = unicodedata.normalize("NFD", text.lower())
    return split_marked_words("".join(c for c in marked if unicodedata.category(c) != "Mn"))


def split_marked_words(text: str) -> list[str]:
    """Return the words of a text as `split_words`, but with their case and accents."""
    whole = unicodedata.normalize("NFC", text)
    return "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in whole).split()


def fold(text: str | None) -> str:
    """Return the words of a text, each with a space on both sides: " lo fi beats "."""
    return f" {' '.join(split_words(text or ''))} "


def strip_plural(word: str) -> str:
    """Return the common prefix of a word and its plural: "beat" for "beats" and "beat"."""
    return word[:-1] if word.endswith("s") and len(word) >= _SHORTEST_PLURAL else word
