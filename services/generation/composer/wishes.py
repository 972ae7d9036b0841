"""Which instruments a prompt asks for, which it refuses, and which it wants alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from services.generation.composer.vocabulary import INSTRUMENTS, LESS, MORE

_NEGATION = re.compile(
    r"(?:\b(?:no|without(?: any)?|w/o|minus|sans|remove|excluding|exclude|except|zero|skip|omit"
    r"|(?:don'?t|do not) (?:use|include|add|want)(?: any)?|free of|lacks?|lacking|never)"
    r"|\bnot? any)\s+(?:the\s+|any\s+|a\s+|use of\s+)?$"
)
_SUFFIX_NEGATION = re.compile(r"^\s*-?\s*(?:less|free)\b")
_ONLY_BEFORE = re.compile(
    r"\b(?:only|just|solo|nothing but|purely|isolated|unaccompanied)\s+(?:a\s+|the\s+)?"
    r"(?:[\w·]+\s+)?$"
)
_ONLY_AFTER = re.compile(
    r"^(?:\s+(?:loop|line|part|track|pattern|stem)s?)?\s+(?:only|solo|alone|by itself)\b"
)
_SOLO_AFTER = re.compile(r"^\s+solos?\b")
_BESIDE = re.compile(
    r"\b(?:with|and|plus|featuring|feat|then|into|over)\s+(?:an?\s+|the\s+)?(?:[\w·-]+\s+){0,2}$"
)
_TOGETHER = re.compile(
    r"^\s*(?:,?\s*(?:and|with|plus|&|\+))\s+(?:an?\s+|the\s+)?(?!no\b|not\b)(?:\w+\s+)?$"
)
_LATER_AND = re.compile(r"^[\w', -]{0,40}?\band\b")
_ITEM = re.compile(r"^\s*,\s*(?:the\s+|an?\s+)?$")
_LOOPED = re.compile(r"(?:loop|break|pattern)s?$|^\s+(?:loop|break|pattern)s?\b")
_PLAYED_BY = re.compile(
    r"^(?:\s+in\s+[a-g][#b]?(?:\s+\w+)?)?"
    r"\s+(?:for|on|by|played (?:by|on))\s+(?:an?\s+|the\s+)?(?:\w+\s+)?$"
)
_GUESTS = re.compile(
    r"\bfor\s+(?:the\s+|my\s+|your\s+|lead\s+)?(?:rap\s+)?(?:vocals?|voices|vox)\b"
)
"""Whom the music is for: they are not part of it."""
_JOINED = re.compile(r"^\s*(?:,?\s*(?:or|nor|and|&)|/)\s*(?:any\s+|the\s+|a\s+)?$")
_COMMA = re.compile(r"^\s*,\s*(?:the\s+|any\s+)?$")
_LATER_OR = re.compile(r"^[\w', -]{0,40}?\b(?:or|nor)\b")
_EMPHASIS = re.compile(rf"\b(?:({MORE})|({LESS}))(?:\s+\w+)?\s+$")
_DRUMLESS = re.compile(
    r"\b(?:drum|beat|percussion)[ -]?less\b|\b(?:no|without)\s+(?:an?\s+|any\s+)?beats?\b"
)
_UNACCENTED = re.compile(r"\b(?:no|without)\s+(?:any\s+)?percussion\b")
_BASSLESS = re.compile(r"\bbass[ -]?less\b")

_WORD = {
    name: re.compile(rf"(?<![\w-])(?:{instrument.words})(?![\w])")
    for name, instrument in INSTRUMENTS.items()
}

_JOBS = {"lead": "lead", "chords": "chords", "arpeggio": "arp"}
"""What names a job rather than a sound -> its slot."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """Names of `vocabulary.INSTRUMENTS`, in the order of the prompt."""

    wanted: tuple[str, ...]
    refused: tuple[str, ...]
    only: tuple[str, ...]
    """What shall play alone; empty: anything may join."""
    emphasis: tuple[tuple[str, float], ...]
    """(instrument, dB) for "heavy 808", "subtle hats"."""
    seats: tuple[tuple[str, str], ...] = ()
    """(instrument, slot) where the prompt says what it plays: "piano melody", "guitar chords"."""


@dataclass(frozen=True, slots=True)
class _Mention:
    name: str
    start: int
    end: int


def read_wishes(text: str) -> Wishes:
    """Read lower-case text in which the words of the genre have been blanked out."""
    text = _GUESTS.sub(lambda match: "·" * len(match[0]), text)
    mentions = _mentions(text)
    seats, mentions = _seats(text, mentions)
    refused = _refused(text, mentions)
    alone = _alone(text, mentions, refused)
    names: dict[str, None] = {}
    only: dict[str, None] = {}
    emphasis: dict[str, float] = {}
    for mention in mentions:
        if mention in refused:
            continue
        names[mention.name] = None
        if mention in alone:
            only[mention.name] = None
        if match := _EMPHASIS.search(text[: mention.start]):
            emphasis[mention.name] = 2.0 if match[1] else -3.0
    out = {mention.name: None for mention in refused}
    if _DRUMLESS.search(text):
        out["drums"] = None
    struck = any(INSTRUMENTS[name].slots == ("drums",) for name in names)
    if _UNACCENTED.search(text) and not struck:
        out["drums"] = None
    if _BASSLESS.search(text):
        out["bass"] = None
    return Wishes(
        tuple(name for name in names if name not in out),
        tuple(out),
        tuple(name for name in only if name not in out),
        tuple(emphasis.items()),
        tuple((name, slot) for name, slot in seats.items() if name in names and name not in out),
    )


def _mentions(text: str) -> list[_Mention]:
    """Where instruments are named: the longest match wins, nothing counts twice."""
    found = [
        _Mention(name, match.start(), match.end())
        for name, pattern in _WORD.items()
        for match in pattern.finditer(text)
    ]
    taken: list[_Mention] = []
    for mention in sorted(found, key=lambda item: (item.start - item.end, item.start)):
        if all(mention.end <= other.start or mention.start >= other.end for other in taken):
            taken.append(mention)
    return sorted(taken, key=lambda item: item.start)


def _refused(text: str, mentions: list[_Mention]) -> list[_Mention]:
    """What stands under a "no", which reaches along "or" and "and", and along commas to "or"."""
    refused: list[_Mention] = []
    for index, mention in enumerate(mentions):
        before = text[: mention.start]
        if _NEGATION.search(before) or _SUFFIX_NEGATION.match(text[mention.end :]):
            refused.append(mention)
        elif index and mentions[index - 1] in refused:
            between = text[mentions[index - 1].end : mention.start]
            if _JOINED.match(between) or (
                _COMMA.match(between) and _LATER_OR.match(text[mention.end :])
            ):
                refused.append(mention)
    return refused


def _seats(text: str, mentions: list[_Mention]) -> tuple[dict[str, str], list[_Mention]]:
    """Read "piano melody", "melody for cello" as one thing; return what is left to be read."""
    seats: dict[str, str] = {}
    left = list(mentions)
    for first, second in pairwise(mentions):
        between = text[first.end : second.start]
        sound, job = first, second
        if _PLAYED_BY.match(between) and first.name == "lead":
            sound, job = second, first
        elif between.strip():
            continue
        pitched = INSTRUMENTS[sound.name].slots[0] in ("chords", "pad", "lead", "arp")
        if job.name in _JOBS and job in left and pitched and INSTRUMENTS[sound.name].patch:
            seats[sound.name] = _JOBS[job.name]
            left.remove(job)
    for mention in left:
        before, after = text[: mention.start], text[mention.end :]
        if _SOLO_AFTER.match(after) and _BESIDE.search(before):
            seats.setdefault(mention.name, "lead")
    return seats, left


def _alone(text: str, mentions: list[_Mention], refused: list[_Mention]) -> list[_Mention]:
    """What plays without anybody else, along "and" in both directions; or a drum loop."""
    wanted = [mention for mention in mentions if mention not in refused]
    alone: list[_Mention] = []
    for index, mention in enumerate(wanted):
        before = text[: mention.start]
        joined = index and wanted[index - 1] in alone and _follows(text, wanted[index - 1], mention)
        if _ONLY_BEFORE.search(before) or joined:
            alone.append(mention)
    for index, mention in reversed(list(enumerate(wanted))):
        before, after = text[: mention.start], text[mention.end :]
        beside = _SOLO_AFTER.match(after) and _BESIDE.search(before)
        following = wanted[index + 1] if index + 1 < len(wanted) else None
        joined = following in alone and _follows(text, mention, following)
        if mention not in alone and ((_ONLY_AFTER.match(after) and not beside) or joined):
            alone.append(mention)
    if not alone and _is_drum_loop(text, wanted):
        return wanted
    return sorted(alone, key=lambda mention: mention.start)


def _follows(text: str, first: _Mention, second: _Mention) -> bool:
    """Whether two mentions are items of one list: "a and b", "a, b and c"."""
    between = text[first.end : second.start]
    return bool(
        _TOGETHER.match(between) or (_ITEM.match(between) and _LATER_AND.match(text[second.end :]))
    )


def _is_drum_loop(text: str, wanted: list[_Mention]) -> bool:
    """Whether drums are all that is named, as a loop, and not as something added to more."""
    return (
        bool(wanted)
        and all(INSTRUMENTS[mention.name].slots == ("drums",) for mention in wanted)
        and any(
            _LOOPED.search(text[mention.start : mention.end]) or _LOOPED.match(text[mention.end :])
            for mention in wanted
        )
        and not _BESIDE.search(text[: wanted[0].start])
    )
