"""A sentence in, musical decisions out: what was read, and what was assumed."""

from __future__ import annotations

import itertools
import re
import unicodedata
from dataclasses import dataclass
from typing import Any

from services.generation.composer.dice import Dice
from services.generation.composer.figures import (
    read_bare_tempo,
    read_key,
    read_metre,
    read_tempo,
)
from services.generation.composer.genres import GENRES
from services.generation.composer.guess import guess_style
from services.generation.composer.styles import STYLE_WORDS, STYLES, Style
from services.generation.composer.vocabulary import (
    FASTER,
    LOOP,
    MOODS,
    SLOWER,
    STRAIGHT,
    STRUCTURE,
    SWUNG,
)
from services.generation.composer.wishes import Wishes, read_wishes
from services.generation.score import Key, Mode

_STYLE = {name: re.compile(rf"(?<!\w)(?:{words})(?!\w)") for name, words in STYLE_WORDS.items()}
_MOOD = {name: re.compile(rf"(?<!\w)(?:{mood.words})(?!\w)") for name, mood in MOODS.items()}
_SECTION = {name: re.compile(rf"(?<!\w)(?:{words})(?!\w)") for name, words in STRUCTURE.items()}
_FASTER, _SLOWER, _LOOP, _STRAIGHT, _SWUNG = (
    re.compile(rf"(?<!\w)(?:{words})(?!\w)") for words in (FASTER, SLOWER, LOOP, STRAIGHT, SWUNG)
)
_NOT = re.compile(r"\b(?:not|no|non|isn'?t|never|without|less|nothing)\s+(?:\w+\s+){0,1}$")
_APART = re.compile(r"^[\s,/&+-]*$")

_FAMILY = {"major": "major", "lydian": "major", "mixolydian": "major"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Understood:
    """Everything a piece starts from; `read` names the fields that the prompt stated."""

    prompt: str
    genre: str
    """One of `genres.GENRES`."""
    style: str
    """The style named, of `styles.STYLES`: the genre itself, or a neighbour played as it."""
    tempo_bpm: float
    key: Key
    moods: tuple[str, ...]
    energy: float
    """0..1, 0.5 the genre's own."""
    brightness: float
    """-1..1, 0 the genre's own; density likewise."""
    density: float
    register: int
    """Semitones up or down for what carries the tune."""
    wishes: Wishes
    structure: tuple[str, ...]
    loop: bool
    swing: float | None
    """The share of a pair of sixteenths that the first one takes; None: the genre's."""
    read: frozenset[str]
    notes: tuple[str, ...]
    """Sentences on what was taken differently from how it was said."""

    @property
    def summary(self) -> str:
        """One line for people, as "trap, 140 BPM, C minor (assumed), dark; 808 bass, hats"."""
        style = self.style if self.style == self.genre else f"{self.style} (as {self.genre})"
        facts = [
            style + self._mark("genre"),
            f"{self.tempo_bpm:g} BPM{self._mark('tempo_bpm')}",
            f"{self.key.name}{self._mark('key')}",
            *self.moods,
        ]
        tail = list(self.wishes.wanted)
        if self.wishes.only:
            tail = ["only " + " and ".join(self.wishes.only)]
        tail += [f"no {name}" for name in self.wishes.refused]
        return ", ".join(facts) + ("; " + ", ".join(tail) if tail else "")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: {"read": {...}, "assumed": {...}, "summary": ..., "notes": [...]}."""
        facts: dict[str, Any] = {
            "genre": self.genre,
            "style": self.style,
            "tempo_bpm": self.tempo_bpm,
            "key": self.key.name,
            "mode": self.key.mode,
            "mood": list(self.moods),
            "energy": round(self.energy, 3),
            "instruments": list(self.wishes.wanted),
            "without": list(self.wishes.refused),
            "only": list(self.wishes.only),
            "structure": list(self.structure),
            "loop": self.loop,
        }
        read = {name: value for name, value in facts.items() if name in self.read}
        return {
            "read": read,
            "assumed": {name: value for name, value in facts.items() if name not in read},
            "summary": self.summary,
            "notes": list(self.notes),
        }

    def _mark(self, name: str) -> str:
        return "" if name in self.read else " (assumed)"


@dataclass(frozen=True, slots=True)
class _Found:
    name: str
    start: int
    end: int


def understand(prompt: str) -> Understood:
    """Read a prompt in any script; what it leaves open is drawn from the prompt itself.

    The same prompt always gives the same answer, so takes with different seeds share tempo and key.
    """
    text = unicodedata.normalize("NFKC", prompt).replace("\u2019", "'")
    low = text.lower()
    dice = Dice("prompt", prompt)
    spans = _styles(low)
    wishes = read_wishes(_blank(low, spans))
    moods = _moods(low)
    tempo, complaint = read_tempo(text)
    style = spans[-1].name if spans else guess_style(wishes, moods, tempo, dice)
    if spans and not (tempo or complaint):
        slowest, _, fastest = _range(style)
        tempo = read_bare_tempo(text, 0.85 * slowest, 1.2 * fastest)
    words = read_key(text)
    mode = words.mode or _mode(STYLES[style], moods, dice)
    tonic = dice.randrange(12) if words.tonic is None else words.tonic
    structure = tuple(name for name, pattern in _SECTION.items() if pattern.search(low))
    read = {
        "genre": bool(spans), "style": bool(spans), "tempo_bpm": tempo is not None,
        "key": words.tonic is not None, "mode": words.mode is not None, "mood": bool(moods),
        "energy": bool(moods), "instruments": bool(wishes.wanted), "without": bool(wishes.refused),
        "only": bool(wishes.only), "structure": bool(structure), "loop": bool(_LOOP.search(low)),
    }  # fmt: skip
    return Understood(
        prompt=prompt,
        genre=STYLES[style].genre,
        style=style,
        tempo_bpm=tempo or _tempo(style, low, moods, dice),
        key=Key(tonic, mode),
        moods=moods,
        energy=_clamp(0.5 + sum(MOODS[name].energy for name in moods), 0.0, 1.0),
        brightness=_clamp(sum(MOODS[name].brightness for name in moods), -1.0, 1.0),
        density=_clamp(sum(MOODS[name].density for name in moods), -1.0, 1.0),
        register=round(_clamp(sum(MOODS[name].register for name in moods), -5, 5)),
        wishes=wishes,
        structure=structure,
        loop=read["loop"],
        swing=_swing(low),
        read=frozenset(name for name, stated in read.items() if stated),
        notes=_notes(style, complaint, read_metre(text), stated=read["genre"]),
    )


def _styles(low: str) -> list[_Found]:
    """The styles named and not refused, in order; longer words win over shorter inside them."""
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
    # Words that follow one another directly describe one thing; the last of them is the noun.
    group = taken[:1]
    for item, following in itertools.pairwise(taken):
        if not _APART.match(low[item.end : following.start]):
            break
        group.append(following)
    return group


def _blank(low: str, spans: list[_Found]) -> str:
    for span in spans:
        low = low[: span.start] + "·" * (span.end - span.start) + low[span.end :]
    return low


def _moods(low: str) -> tuple[str, ...]:
    """The moods named and not denied, in the order of the prompt."""
    starts: dict[str, int] = {}
    for name, pattern in _MOOD.items():
        match = pattern.search(low)
        if match and not _NOT.search(low[: match.start()]):
            starts[name] = match.start()
    return tuple(sorted(starts, key=starts.__getitem__))


def _mode(style: Style, moods: tuple[str, ...], dice: Dice) -> Mode:
    """The first mood that leans somewhere decides, in the shade of it that the genre uses."""
    usual = GENRES[style.genre].modes
    lean = next((mode for mode in (MOODS[name].mode for name in moods) if mode), style.mode)
    if lean is None:
        return dice.pick(usual)
    family = _FAMILY.get(lean, "minor")
    if lean in usual or lean in ("major", "minor", style.mode):
        return lean
    shades = {mode: often for mode, often in usual.items() if _FAMILY.get(mode, "minor") == family}
    return dice.pick(shades) if shades else lean


def _tempo(style: str, low: str, moods: tuple[str, ...], dice: Dice) -> float:
    """A whole BPM inside the style's range, moved by the words for speed and by the mood."""
    slowest, usual, fastest = _range(style)
    lean = 0.5 * sum(MOODS[name].energy for name in moods) + 0.25 * dice.uniform(-1, 1)
    if _FASTER.search(low):
        lean = max(lean, 0.6) + 0.2
    elif _SLOWER.search(low):
        lean = min(lean, -0.6) - 0.2
    lean = _clamp(lean, -1.0, 1.0)
    span = fastest - usual if lean > 0 else usual - slowest
    return float(round(usual + lean * span))


def _range(style: str) -> tuple[float, float, float]:
    return STYLES[style].tempo or GENRES[STYLES[style].genre].tempo


def _swing(low: str) -> float | None:
    if _STRAIGHT.search(low):
        return 0.5
    return 0.6 if _SWUNG.search(low) else None


def _notes(style: str, complaint: str, metre: str, *, stated: bool) -> tuple[str, ...]:
    notes = []
    if stated and STYLES[style].genre != style:
        notes.append(f"{style} is played as a kind of {STYLES[style].genre}.")
    if complaint:
        notes.append(f"{complaint} The genre's own tempo was taken.")
    if metre:
        notes.append(metre)
    return tuple(notes)


def _clamp(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
