"""Which instruments a prompt asks for, which it refuses, and which it wants alone."""

from __future__ import annotations

import re
from dataclasses import dataclass

from services.generation.composer.vocabulary import INSTRUMENTS, LESS, MORE

_NEGATION = re.compile(
    r"(?:\b(?:no|without(?: any)?|w/o|minus|sans|remove|excluding|exclude|except|zero|skip|omit"
    r"|(?:don'?t|do not) (?:use|include|add|want)(?: any)?|free of|lacks?|lacking|never)"
    r"|\bnot? any)\s+(?:the\s+|any\s+|a\s+|use of\s+)?$"
)
_SUFFIX_NEGATION = re.compile(r"^\s*-?\s*(?:less|free)\b")
_ONLY_BEFORE = re.compile(
    r"\b(?:only|just|solo|nothing but|purely|isolated|unaccompanied)\s+(?:a\s+|the\s+)?(?:\w+\s+)?$"
)
_ONLY_AFTER = re.compile(r"^\s+(?:only|solo|alone|by itself)\b")
_JOINED = re.compile(r"^\s*(?:,?\s*(?:or|nor|and|&)|/)\s*(?:any\s+|the\s+|a\s+)?$")
_COMMA = re.compile(r"^\s*,\s*(?:the\s+|any\s+)?$")
_LATER_OR = re.compile(r"^[\w', -]{0,40}?\b(?:or|nor)\b")
_EMPHASIS = re.compile(rf"\b(?:({MORE})|({LESS}))(?:\s+\w+)?\s+$")
_DRUMLESS = re.compile(
    r"\b(?:drum|beat|percussion)[ -]?less\b|\b(?:no|without)\s+(?:an?\s+|any\s+)?beats?\b"
)
_BASSLESS = re.compile(r"\bbass[ -]?less\b")

_WORD = {
    name: re.compile(rf"(?<![\w-])(?:{instrument.words})(?![\w])")
    for name, instrument in INSTRUMENTS.items()
}


@dataclass(frozen=True, slots=True)
class Wishes:
    """Names of `vocabulary.INSTRUMENTS`, in the order of the prompt."""

    wanted: tuple[str, ...]
    refused: tuple[str, ...]
    only: tuple[str, ...]
    """What shall play alone; empty: anything may join."""
    emphasis: tuple[tuple[str, float], ...]
    """(instrument, dB) for "heavy 808", "subtle hats"."""


@dataclass(frozen=True, slots=True)
class _Mention:
    name: str
    start: int
    end: int


def read_wishes(text: str) -> Wishes:
    """Read lower-case text in which the words of the genre have been blanked out."""
    mentions = _mentions(text)
    refused = _refused(text, mentions)
    names: dict[str, None] = {}
    only: dict[str, None] = {}
    emphasis: dict[str, float] = {}
    for mention in mentions:
        if mention in refused:
            continue
        names[mention.name] = None
        if _alone(text, mention):
            only[mention.name] = None
        if match := _EMPHASIS.search(text[: mention.start]):
            emphasis[mention.name] = 2.0 if match[1] else -3.0
    out = {mention.name: None for mention in refused}
    if _DRUMLESS.search(text):
        out["drums"] = None
    if _BASSLESS.search(text):
        out["bass"] = None
    return Wishes(
        tuple(name for name in names if name not in out),
        tuple(out),
        tuple(name for name in only if name not in out),
        tuple(emphasis.items()),
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


def _alone(text: str, mention: _Mention) -> bool:
    before, after = text[: mention.start], text[mention.end :]
    return bool(_ONLY_BEFORE.search(before) or _ONLY_AFTER.match(after))
