"""Reads the tempo and the key that a prompt states."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.generation.score import Mode

SLOWEST, FASTEST = 40.0, 240.0
"""BPM that a piece may have."""

_NUMBER = r"(\d{1,4}(?:[.,]\d{1,3})?)"
_RANGE = rf"{_NUMBER}(?:\s*(?:[-\u2013\u2014]|\bto\b)\s*{_NUMBER})?"
_UNIT = r"(?:b\.?\s?p\.?\s?m\b\.?|beats? (?:per|a) minute)"
_TEMPO = re.compile(
    rf"{_RANGE}\s*-?\s*{_UNIT}"
    rf"|{_UNIT}\s*(?:of|at|is|around|about|[:=~@])?\s*{_RANGE}"
    rf"|\btempo\s*(?:of|at|is|around|about|[:=~@])?\s*{_RANGE}"
    rf"|@\s*{_RANGE}",
    re.IGNORECASE,
)

_BARE = re.compile(
    r"(?<![\w.,:/#$-])(?:\bat\s+)?(\d{2,3}(?:[.,]\d{1,3})?)(?![\w%])(?!'s)"
    r"(?!\s*(?:bars?|beats?|sec|min|hours?|k?hz|notes?|years?|layers?|percent|[ap]\.?m\b))",
    re.IGNORECASE,
)

MODES: dict[str, Mode] = {
    "major": "major", "maj": "major", "ionian": "major", "dur": "major", "majeur": "major",
    "mayor": "major", "maggiore": "major",
    "minor": "minor", "min": "minor", "m": "minor", "aeolian": "minor", "moll": "minor",
    "mineur": "minor", "menor": "minor", "minore": "minor",
    "dorian": "dorian", "phrygian": "phrygian", "locrian": "phrygian",
    "mixolydian": "mixolydian", "lydian": "lydian",
}  # fmt: skip
"""The words for a mode, lower case."""

_LETTER = r"([A-Ga-g])"
_ACCIDENTAL = (
    r"(#|♯|♭|b(?=m(?:aj(?:or)?|in(?:or)?)?(?![a-z])|[^a-zA-Z]|$)|[ -]?sharp\b|[ -]?flat\b)?"
)
_LONG = "|".join(sorted((word for word in MODES if len(word) > 1), key=len, reverse=True))
_LETTER_KEY = re.compile(
    rf"(?<![^\W_])(?<!'){_LETTER}{_ACCIDENTAL}[ -]*"
    rf"(?:(?i:natural|harmonic|melodic)[ -]+)?((?i:{_LONG})|(?<! )m|(?<! )M(?=aj))(?![^\W_])"
)
_KEY_OF = re.compile(
    rf"\b(?i:key(?:\s+(?:of|is)|\s*[:=])?|tuned to)\s+{_LETTER}{_ACCIDENTAL}(?![^\W_])"
)
_IN = re.compile(rf"\b(?i:in)\s+([A-G]){_ACCIDENTAL}(?![^\W_])(?!\s+[a-z]+ (?:of|that))")
_MODE_ALONE = re.compile(
    r"\b(dorian|phrygian|mixolydian|lydian|aeolian|ionian)\b"
    r"|\b(minor|major)\b(?=[ -]*(?:keys?|scales?|chords?|mode|tonality|melod|progression|harmon"
    r"|[,.;!)]|$))"
    r"|(?<=\bin )(minor|major)\b",
    re.IGNORECASE,
)

_SOLFEGE = {"do": 0, "re": 2, "ré": 2, "mi": 4, "fa": 5, "sol": 7, "la": 9, "si": 11}
_SOLFEGE_KEY = re.compile(
    r"\b(do|r[eé]|mi|fa|sol|la|si)"
    r"(?:\s*(#|♯|\bsostenido|\bdi[eè]se|\bdiesis)|\s*(♭|\bb[eé]mol(?:le)?))?"
    r"\s+(menor|mayor|mineur|majeur|minore|maggiore)\b",
    re.IGNORECASE,
)
_METRE = re.compile(
    r"(?<![\d/])(?:[235679]|1[0-9])\s*/\s*(?:4|8|16)(?![\d/])|\bwaltz(?:es)?\b", re.IGNORECASE
)

_PITCH = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}
_ARTICLE_NOUNS = re.compile(
    r"[ -]*(?:chords?|change|key|detail|issue|tweak|drop|feel|mood|touch|shift|hint|bit|variation"
    r"|tune|song|piece|melod|vibe|mode|tonality|one|thing|third|scale|progression|sound)\b",
    re.IGNORECASE,
)
_KEY_FOLLOWS = re.compile(
    r"\s*(?:$|[^\w\s]|\d|(?:at|with|and|for|by|using|scale|key|bpm|then|featuring|plus)\b)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class StatedKey:
    """The key a prompt states; tonic (pitch class 0..11) and mode may each be missing."""

    tonic: int | None
    mode: Mode | None


def read_tempo(text: str) -> tuple[float | None, str]:
    """Return the first tempo within 40..240 BPM (of a range its middle), or None.

    The second value is a sentence about a tempo out of range when no other was found, else "".
    """
    refused = ""
    for match in _TEMPO.finditer(text):
        figures = [float(figure.replace(",", ".")) for figure in match.groups() if figure]
        tempo = sum(figures) / len(figures)
        if SLOWEST <= tempo <= FASTEST:
            return tempo, ""
        refused = f"{tempo:g} BPM is outside {SLOWEST:g} to {FASTEST:g}."
    return None, refused


def read_bare_tempo(text: str, slowest: float, fastest: float) -> float | None:
    """Return the number without a unit that can only be a tempo: the only one in range."""
    figures = [float(figure.replace(",", ".")) for figure in _BARE.findall(text)]
    fitting = [figure for figure in figures if slowest <= figure <= fastest]
    return fitting[0] if len(fitting) == 1 else None


def note_unplayed_metre(text: str) -> str:
    """Return a sentence about a stated time signature other than 4/4, else ""."""
    match = _METRE.search(text)
    return f"Everything is played in 4/4; {match[0].lower()} was asked for." if match else ""


def read_key(text: str) -> StatedKey:
    """Return the stated tonic and mode.

    `text` keeps its case: a lone "a" is mostly an article.
    """
    if match := _SOLFEGE_KEY.search(text):
        shift = bool(match[2]) - bool(match[3])
        return StatedKey((_SOLFEGE[match[1].lower()] + shift) % 12, MODES[match[4].lower()])
    is_upper_case = text.upper() == text
    for match in _LETTER_KEY.finditer(text):
        if _is_key(text, match, is_upper_case=is_upper_case):
            mode = MODES[match[3].lower()]
            return StatedKey(_tonic(match[1], match[2]), mode)
    alone = _read_mode(text)
    if stated := _KEY_OF.search(text):
        return StatedKey(_tonic(stated[1], stated[2]), alone)
    if not is_upper_case and (letter := _IN.search(text)) and _is_lone_key(text, letter):
        return StatedKey(_tonic(letter[1], letter[2]), alone)
    return StatedKey(None, alone)


def _is_key(text: str, match: re.Match[str], *, is_upper_case: bool) -> bool:
    """Whether "<letter> <mode>" is a key and its letter not the article "a"."""
    letter, accidental, mode = match[1], match[2], match[3]
    before, after = text[: match.start()].rstrip(), text[match.end() :]
    glued = match.end(1) == match.start(3)
    if glued and mode == "m":
        return letter.isupper() and not re.match(r"\s+I\b", after)
    if accidental or letter not in "Aa":
        return True
    starts = not before or before[-1] in ".!?"
    if letter == "a" or is_upper_case:
        wanted = bool(re.search(r"(?:\bin|\bkey of|[,;:(-])$", before, re.IGNORECASE)) or not before
        return wanted and bool(_KEY_FOLLOWS.match(after)) and not _ARTICLE_NOUNS.match(after)
    return not (starts and _ARTICLE_NOUNS.match(after))


def _is_lone_key(text: str, match: re.Match[str]) -> bool:
    if match[1] == "A" and not match[2]:
        return bool(_KEY_FOLLOWS.match(text[match.end() :]))
    return True


def _read_mode(text: str) -> Mode | None:
    match = _MODE_ALONE.search(text)
    if not match:
        return None
    return MODES[match[0].lower()]


def _tonic(letter: str, accidental: str | None) -> int:
    mark = (accidental or "").strip(" -").lower()
    shift = {"": 0, "#": 1, "♯": 1, "sharp": 1}.get(mark, -1)
    return (_PITCH[letter.lower()] + shift) % 12
