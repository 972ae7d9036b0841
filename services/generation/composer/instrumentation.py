"""Reads the instruments of a prompt: requested, excluded, and those that play alone."""

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
_PERFORMERS = re.compile(
    r"\bfor\s+(?:the\s+|my\s+|your\s+|lead\s+)?(?:rap\s+)?(?:vocals?|voices|vox)\b"
)
"""Vocals that the music is for; they are not part of it."""
_JOINED = re.compile(r"^\s*(?:,?\s*(?:or|nor|and|&)|/)\s*(?:any\s+|the\s+|a\s+)?$")
_COMMA = re.compile(r"^\s*,\s*(?:the\s+|any\s+)?$")
_LATER_OR = re.compile(r"^[\w', -]{0,40}?\b(?:or|nor)\b")
_EMPHASIS = re.compile(rf"\b(?:({MORE})|({LESS}))(?:\s+\w+)?\s+$")
_DRUMLESS = re.compile(
    r"\b(?:drum|beat|percussion)[ -]?less\b|\b(?:no|without)\s+(?:an?\s+|any\s+)?beats?\b"
)
_NO_PERCUSSION = re.compile(r"\b(?:no|without)\s+(?:any\s+)?percussion\b")
_BASSLESS = re.compile(r"\bbass[ -]?less\b")

_WORD = {
    name: re.compile(rf"(?<![\w-])(?:{instrument.words})(?![\w])")
    for name, instrument in INSTRUMENTS.items()
}

_SLOT_WORDS = {"lead": "lead", "chords": "chords", "arpeggio": "arp"}
"""Words for a role, not a sound -> the slot they mean."""


@dataclass(frozen=True, slots=True)
class Instrumentation:
    """Names of `vocabulary.INSTRUMENTS`, in the order of the prompt."""

    requested: tuple[str, ...]
    excluded: tuple[str, ...]
    only: tuple[str, ...]
    """The only instruments that play; empty when others may join."""
    emphasis: tuple[tuple[str, float], ...]
    """(instrument, dB) for "heavy 808", "subtle hats"."""
    slots: tuple[tuple[str, str], ...] = ()
    """(instrument, slot) where the prompt states both: "piano melody", "guitar chords"."""


@dataclass(frozen=True, slots=True)
class _Mention:
    name: str
    start: int
    end: int


def read_instrumentation(text: str) -> Instrumentation:
    """Read lower-case text in which the words of the genre are blanked out with "·"."""
    text = _PERFORMERS.sub(lambda match: "·" * len(match[0]), text)
    mentions = _find_mentions(text)
    slots, mentions = _find_slots(text, mentions)
    excluded = _find_excluded(text, mentions)
    alone = _find_solo(text, mentions, excluded)
    names: dict[str, None] = {}
    only: dict[str, None] = {}
    emphasis: dict[str, float] = {}
    for mention in mentions:
        if mention in excluded:
            continue
        names[mention.name] = None
        if mention in alone:
            only[mention.name] = None
        if match := _EMPHASIS.search(text[: mention.start]):
            emphasis[mention.name] = 2.0 if match[1] else -3.0
    out = {mention.name: None for mention in excluded}
    if _DRUMLESS.search(text):
        out["drums"] = None
    names_drums = any(INSTRUMENTS[name].slots == ("drums",) for name in names)
    if _NO_PERCUSSION.search(text) and not names_drums:
        out["drums"] = None
    if _BASSLESS.search(text):
        out["bass"] = None
    return Instrumentation(
        tuple(name for name in names if name not in out),
        tuple(out),
        tuple(name for name in only if name not in out),
        tuple(emphasis.items()),
        tuple((name, slot) for name, slot in slots.items() if name in names and name not in out),
    )


def _find_mentions(text: str) -> list[_Mention]:
    """Return the instruments named, in order; of overlapping matches the longest counts."""
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


def _find_excluded(text: str, mentions: list[_Mention]) -> list[_Mention]:
    """Return the mentions after a "no".

    It covers "no a or b", "no a and b", and a list with commas that ends in "or".
    """
    excluded: list[_Mention] = []
    for index, mention in enumerate(mentions):
        before = text[: mention.start]
        if _NEGATION.search(before) or _SUFFIX_NEGATION.match(text[mention.end :]):
            excluded.append(mention)
        elif index and mentions[index - 1] in excluded:
            between = text[mentions[index - 1].end : mention.start]
            if _JOINED.match(between) or (
                _COMMA.match(between) and _LATER_OR.match(text[mention.end :])
            ):
                excluded.append(mention)
    return excluded


def _find_slots(text: str, mentions: list[_Mention]) -> tuple[dict[str, str], list[_Mention]]:
    """Read "piano melody" and "melody for cello" as an instrument in a slot.

    Returns:
        Instrument -> slot, and the mentions without the words that only name the slot.
    """
    slots: dict[str, str] = {}
    left = list(mentions)
    for first, second in pairwise(mentions):
        between = text[first.end : second.start]
        sound, role = first, second
        if _PLAYED_BY.match(between) and first.name == "lead":
            sound, role = second, first
        elif between.strip():
            continue
        pitched = INSTRUMENTS[sound.name].slots[0] in ("chords", "pad", "lead", "arp")
        has_sound = pitched and INSTRUMENTS[sound.name].patch
        if role.name in _SLOT_WORDS and role in left and has_sound:
            slots[sound.name] = _SLOT_WORDS[role.name]
            left.remove(role)
    for mention in left:
        before, after = text[: mention.start], text[mention.end :]
        if _SOLO_AFTER.match(after) and _BESIDE.search(before):
            slots.setdefault(mention.name, "lead")
    return slots, left


def _find_solo(text: str, mentions: list[_Mention], excluded: list[_Mention]) -> list[_Mention]:
    """Return the mentions that play alone ("only a and b", "a and b only"), or a drum loop."""
    requested = [mention for mention in mentions if mention not in excluded]
    alone: list[_Mention] = []
    for index, mention in enumerate(requested):
        before = text[: mention.start]
        previous = requested[index - 1] if index else None
        joined = previous in alone and _are_listed_together(text, previous, mention)
        if _ONLY_BEFORE.search(before) or joined:
            alone.append(mention)
    for index, mention in reversed(list(enumerate(requested))):
        before, after = text[: mention.start], text[mention.end :]
        beside = _SOLO_AFTER.match(after) and _BESIDE.search(before)
        following = requested[index + 1] if index + 1 < len(requested) else None
        joined = following in alone and _are_listed_together(text, mention, following)
        if mention not in alone and ((_ONLY_AFTER.match(after) and not beside) or joined):
            alone.append(mention)
    if not alone and _is_drum_loop(text, requested):
        return requested
    return sorted(alone, key=lambda mention: mention.start)


def _are_listed_together(text: str, first: _Mention, second: _Mention) -> bool:
    """Whether two mentions are neighbours in a list: "a and b", "a, b and c"."""
    between = text[first.end : second.start]
    return bool(
        _TOGETHER.match(between) or (_ITEM.match(between) and _LATER_AND.match(text[second.end :]))
    )


def _is_drum_loop(text: str, requested: list[_Mention]) -> bool:
    """Whether the text names drums only, as a loop, and does not add them to something else."""
    return (
        bool(requested)
        and all(INSTRUMENTS[mention.name].slots == ("drums",) for mention in requested)
        and any(
            _LOOPED.search(text[mention.start : mention.end]) or _LOOPED.match(text[mention.end :])
            for mention in requested
        )
        and not _BESIDE.search(text[: requested[0].start])
    )
