"""Parses a prompt into musical decisions, and separates what it states from what is assumed."""

from __future__ import annotations

import itertools
import re
import unicodedata
from dataclasses import dataclass
from typing import Any

from services.generation.composer.genre_choice import choose_genre
from services.generation.composer.genres import GENRES
from services.generation.composer.instrumentation import Instrumentation, read_instrumentation
from services.generation.composer.random_streams import RandomStream
from services.generation.composer.styles import STYLE_WORDS, STYLES, Style
from services.generation.composer.tempo_and_key import (
    note_unplayed_metre,
    read_bare_tempo,
    read_key,
    read_tempo,
)
from services.generation.composer.vocabulary import (
    BARS,
    COUNTS,
    FASTER,
    LOOP,
    MOODS,
    SLOWER,
    STRAIGHT,
    STRUCTURE,
    SWUNG,
)
from services.generation.length import MOST_BARS
from services.generation.score import Key, Mode

_STYLE = {name: re.compile(rf"(?<!\w)(?:{words})(?!\w)") for name, words in STYLE_WORDS.items()}
_MOOD = {name: re.compile(rf"(?<!\w)(?:{mood.words})(?!\w)") for name, mood in MOODS.items()}
_SECTION = {name: re.compile(rf"(?<!\w)(?:{words})(?!\w)") for name, words in STRUCTURE.items()}
_FASTER, _SLOWER, _LOOP, _STRAIGHT, _SWUNG = (
    re.compile(rf"(?<!\w)(?:{words})(?!\w)") for words in (FASTER, SLOWER, LOOP, STRAIGHT, SWUNG)
)
_BARS = re.compile(rf"(?<![\w.,/#-]){BARS}(?!\w)")
_NOT = re.compile(r"\b(?:not|no|non|isn'?t|never|without|less|nothing)\s+(?:\w+\s+){0,1}$")
_APART = re.compile(r"^[\s,/&+-]*$")

_FAMILY = {"major": "major", "lydian": "major", "mixolydian": "major"}
"""Mode -> major or minor, by its third; minor for the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedPrompt:
    """What the prompt decides about a piece; the seed decides the rest."""

    genre: str
    """One of `genres.GENRES`."""
    style: str
    """One of `styles.STYLES`: the genre itself, or a style that is played as it."""
    tempo_bpm: float
    key: Key
    moods: tuple[str, ...]
    energy: float
    """0..1; 0.5 is the genre's own."""
    brightness: float
    """-1..1; 0 is the genre's own."""
    density: float
    """-1..1; 0 is the genre's own."""
    register: int
    """Semitones by which lead and arpeggio are shifted."""
    instrumentation: Instrumentation
    structure: tuple[str, ...]
    loop: bool
    bars: int | None
    """Length that the prompt states."""
    swing: float | None
    """Length of the first of two sixteenths as a share of both; None for the genre's."""
    stated: frozenset[str]
    """The keys of `to_dict` that the prompt states; the others are assumed."""
    notes: tuple[str, ...]
    """Sentences about what is played differently from what the prompt states."""

    @property
    def summary(self) -> str:
        """One line, as "trap, 140 BPM, C minor (assumed), dark; 808 bass, hats"."""
        style = self.style if self.style == self.genre else f"{self.style} (as {self.genre})"
        facts = [
            style + self._mark_assumed("genre"),
            f"{self.tempo_bpm:g} BPM{self._mark_assumed('tempo_bpm')}",
            f"{self.key.name}{self._mark_assumed('key')}",
            *self.moods,
        ]
        tail = list(self.instrumentation.requested)
        if self.instrumentation.only:
            tail = ["only " + " and ".join(self.instrumentation.only)]
        tail += [f"no {name}" for name in self.instrumentation.excluded]
        return ", ".join(facts) + ("; " + ", ".join(tail) if tail else "")

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready {"read": {...}, "assumed": {...}, "summary": ..., "notes": [...]}."""
        facts: dict[str, Any] = {
            "genre": self.genre,
            "style": self.style,
            "tempo_bpm": self.tempo_bpm,
            "key": self.key.name,
            "mode": self.key.mode,
            "mood": list(self.moods),
            "energy": round(self.energy, 3),
            "instruments": list(self.instrumentation.requested),
            "without": list(self.instrumentation.excluded),
            "only": list(self.instrumentation.only),
            "structure": list(self.structure),
            "loop": self.loop,
            "bars": self.bars,
        }
        read = {name: value for name, value in facts.items() if name in self.stated}
        return {
            "read": read,
            "assumed": {name: value for name, value in facts.items() if name not in read},
            "summary": self.summary,
            "notes": list(self.notes),
        }

    def _mark_assumed(self, name: str) -> str:
        return "" if name in self.stated else " (assumed)"


@dataclass(frozen=True, slots=True)
class _Found:
    name: str
    start: int
    end: int


def parse_prompt(prompt: str) -> ParsedPrompt:
    """Parse a prompt in any script; anything it leaves open is drawn with the prompt as the seed.

    The same prompt always gives the same result, so takes with other seeds share tempo and key.
    """
    text = unicodedata.normalize("NFKC", prompt).replace("\u2019", "'")
    low = text.lower()
    rng = RandomStream("prompt", prompt)
    spans = _find_styles(low)
    instrumentation = read_instrumentation(_blank_out(low, spans))
    moods = _find_moods(low)
    tempo, complaint = read_tempo(text)
    style = spans[-1].name if spans else choose_genre(instrumentation, moods, tempo, rng)
    if spans and not (tempo or complaint):
        slowest, _, fastest = _tempo_range(style)
        tempo = read_bare_tempo(text, 0.85 * slowest, 1.2 * fastest)
    key = read_key(text)
    mode = key.mode or _choose_mode(STYLES[style], moods, rng)
    tonic = rng.randrange(12) if key.tonic is None else key.tonic
    structure = tuple(name for name, pattern in _SECTION.items() if pattern.search(low))
    loop = bool(_LOOP.search(low))
    bars = _find_bars(low)
    stated = {
        "genre": spans, "style": spans, "tempo_bpm": tempo is not None,
        "key": key.tonic is not None, "mode": key.mode is not None, "mood": moods, "energy": moods,
        "instruments": instrumentation.requested, "without": instrumentation.excluded,
        "only": instrumentation.only, "structure": structure, "loop": loop, "bars": bars,
    }  # fmt: skip
    return ParsedPrompt(
        genre=STYLES[style].genre,
        style=style,
        tempo_bpm=tempo or _choose_tempo(style, low, moods, rng),
        key=Key(tonic, mode),
        moods=moods,
        energy=_clamp(0.5 + sum(MOODS[name].energy for name in moods), 0.0, 1.0),
        brightness=_clamp(sum(MOODS[name].brightness for name in moods), -1.0, 1.0),
        density=_clamp(sum(MOODS[name].density for name in moods), -1.0, 1.0),
        register=round(_clamp(sum(MOODS[name].register for name in moods), -5, 5)),
        instrumentation=instrumentation,
        structure=structure,
        loop=loop,
        bars=bars,
        swing=_find_swing(low),
        stated=frozenset(name for name, evidence in stated.items() if evidence),
        notes=_collect_notes(style, complaint, note_unplayed_metre(text), named=bool(spans)),
    )


def _find_styles(low: str) -> list[_Found]:
    """Return the first group of adjacent style names that are not negated, in order.

    Of overlapping names the longest counts. The last of a group is its noun: "lo-fi house".
    """
    found = [
        _Found(name, match.start(), match.end())
        for name, pattern in _STYLE.items()
        for match in pattern.finditer(low)
        if not _NOT.search(low[: match.start()])
    ]
    taken: list[_Found] = []
    for item in sorted(found, key=lambda one: (one.start - one.end, one.start)):
        if all(item.end <= other.start or item.start >= other.end for other in taken):
            taken.append(item)
    taken.sort(key=lambda one: one.start)
    group = taken[:1]
    for item, following in itertools.pairwise(taken):
        if not _APART.match(low[item.end : following.start]):
            break
        group.append(following)
    return group


def _blank_out(low: str, spans: list[_Found]) -> str:
    for span in spans:
        low = low[: span.start] + "·" * (span.end - span.start) + low[span.end :]
    return low


def _find_moods(low: str) -> tuple[str, ...]:
    """Return the moods named and not negated, in the order of the prompt."""
    starts: dict[str, int] = {}
    for name, pattern in _MOOD.items():
        match = pattern.search(low)
        if match and not _NOT.search(low[: match.start()]):
            starts[name] = match.start()
    return tuple(sorted(starts, key=starts.__getitem__))


def _choose_mode(style: Style, moods: tuple[str, ...], rng: RandomStream) -> Mode:
    """Return the mode of the first mood that has one, in the variant that the genre uses."""
    usual = GENRES[style.genre].modes
    lean = next((mode for mode in (MOODS[name].mode for name in moods) if mode), style.mode)
    if lean is None:
        return rng.weighted_choice(usual)
    family = _FAMILY.get(lean, "minor")
    if lean in usual or lean in ("major", "minor", style.mode):
        return lean
    related = {mode: w for mode, w in usual.items() if _FAMILY.get(mode, "minor") == family}
    return rng.weighted_choice(related) if related else lean


def _choose_tempo(style: str, low: str, moods: tuple[str, ...], rng: RandomStream) -> float:
    """Return a whole BPM in the style's range, moved by the words for speed and by the moods."""
    slowest, usual, fastest = _tempo_range(style)
    lean = 0.5 * sum(MOODS[name].energy for name in moods) + 0.25 * rng.uniform(-1, 1)
    if _FASTER.search(low):
        lean = max(lean, 0.6) + 0.2
    elif _SLOWER.search(low):
        lean = min(lean, -0.6) - 0.2
    lean = _clamp(lean, -1.0, 1.0)
    span = fastest - usual if lean > 0 else usual - slowest
    return float(round(usual + lean * span))


def _tempo_range(style: str) -> tuple[float, float, float]:
    return STYLES[style].tempo or GENRES[STYLES[style].genre].tempo


def _find_bars(low: str) -> int | None:
    """Return the length in bars if the prompt states one only, as in "8 bar loop"."""
    stated = {
        COUNTS[match[1]] if match[1] in COUNTS else int(match[1]) for match in _BARS.finditer(low)
    }
    bars = stated.pop() if len(stated) == 1 else 0
    return bars if 1 <= bars <= MOST_BARS else None


def _find_swing(low: str) -> float | None:
    if _STRAIGHT.search(low):
        return 0.5
    return 0.6 if _SWUNG.search(low) else None


def _collect_notes(style: str, complaint: str, metre: str, *, named: bool) -> tuple[str, ...]:
    notes = []
    if named and STYLES[style].genre != style:
        notes.append(f"{style} is played as a kind of {STYLES[style].genre}.")
    if complaint:
        notes.append(f"{complaint} The genre's own tempo was taken.")
    if metre:
        notes.append(metre)
    return tuple(notes)


def _clamp(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
