"""Writes the drums: the patterns of a groove with variation, rolls, fills and section changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.generation.composer.grooves import (
    CLAP,
    COWBELL,
    CRASH,
    GHOST,
    HAT,
    HIGH_TOM,
    KICK,
    LOW_TOM,
    MID_TOM,
    OPEN,
    PERC,
    RIDE,
    RIM,
    SHAKER,
    SNARE,
    TAMBOURINE,
    VELOCITY,
    Groove,
    Pattern,
)
from services.generation.composer.random_streams import RandomStream
from services.generation.composer.rhythm import STEP
from services.generation.score import Note

if TYPE_CHECKING:
    from services.generation.composer.arrangement import Passage

BAR = 4.0

_REQUESTED: dict[int, Pattern] = {
    COWBELL: ("x...x...x...x...", "x...x...x..x.x.."),
    SHAKER: ("o-x-o-x-o-x-o-x-",),
    TAMBOURINE: ("....x.......x...",),
    MID_TOM: ("..........o..o..", "......o...o..o.."),
    RIDE: ("x.o.x.o.x.o.x.o.",),
    CRASH: ("", "", "", ""),
    CLAP: ("....x.......x...",),
    RIM: ("...o..o....o....",),
    PERC: ("..o..o....o..o..",),
}
"""Pattern of a requested drum that the groove does not use."""

_ALONE: dict[int, Pattern] = {
    **_REQUESTED,
    KICK: ("x...x...x...x...",),
    SNARE: ("....x.......x...",),
    HAT: ("x.o.x.o.x.o.x.o.",),
    CRASH: ("x...............",),
}
"""Pattern of a drum that plays alone in a genre whose groove does not use it."""


@dataclass(frozen=True, slots=True)
class DrumPatterns:
    """The patterns that a piece takes from its groove; pairs hold one for each theme."""

    groove: Groove
    kick: tuple[Pattern, Pattern]
    snare: Pattern
    hat: tuple[Pattern, Pattern]
    open_hat: Pattern
    ghosts: Pattern
    extra: tuple[tuple[int, Pattern], ...]
    density: float
    seed: int

    def kicks(self, bar_in_phrase: int, theme: int) -> list[int]:
        """Return the sixteenths of a bar on which the kick plays."""
        pattern = _bar_of(self.kick[theme], bar_in_phrase)
        played = [index for index, mark in enumerate(pattern) if mark != "."]
        rng = RandomStream(self.seed, "kick", theme, bar_in_phrase % 4)
        if bar_in_phrase % 4 in (1, 3) and rng.chance(self.groove.kick_freedom):
            free = [step for step in played if step % 4]
            if free and rng.chance(0.5):
                played.remove(rng.choice(free))
            else:
                backbeats = {
                    i for i, mark in enumerate(_bar_of(self.snare, bar_in_phrase)) if mark != "."
                }
                open_steps = {3, 7, 10, 11, 14} - set(played) - backbeats
                played.append(rng.choice(sorted(open_steps)))
        return sorted(played)


def choose_patterns(
    groove: Groove, *, seed: int, density: float, requested: tuple[int, ...]
) -> DrumPatterns:
    """Choose one of each alternative; the second theme has other kicks and hats where it can."""
    rng = RandomStream(seed, "kit")
    kicks = _choose_two(groove.kick, rng)
    hats = _choose_two(groove.hat, rng)
    count = 1 if density < -0.2 else 2
    extra = rng.sample(groove.extra, min(count, len(groove.extra)))
    missing = [pitch for pitch in requested if pitch not in {drum for drum, _ in extra}]
    extra += [(pitch, _REQUESTED[pitch]) for pitch in missing if pitch in _REQUESTED]
    return DrumPatterns(
        groove,
        kicks,
        rng.choice(groove.snare),
        hats,
        rng.choice(groove.open_hat),
        rng.choice(groove.ghosts),
        tuple(extra),
        density,
        seed,
    )


def play_drums(
    patterns: DrumPatterns, passages: tuple[Passage, ...], *, steady: bool
) -> list[Note]:
    """Return every hit of the piece, without swing.

    `steady` plays the groove in every section, for a piece of drums only.
    """
    hits: list[Note] = []
    for number, passage in enumerate(passages):
        level = max(passage.kind.drum_level, 2 if steady else 0)
        if level:
            hits.extend(_play_passage(patterns, passage, level, first=number == 0))
    return hits


def play_drums_alone(pitches: frozenset[int], bars: int) -> list[Note]:
    """Return a plain pattern of these drums, for a genre whose groove has none of them."""
    return [
        _shift(note, bar * BAR)
        for bar in range(bars)
        for pitch in sorted(pitches & _ALONE.keys())
        for note in _play_marks(pitch, _bar_of(_ALONE[pitch], bar))
    ]


def _play_passage(
    patterns: DrumPatterns, passage: Passage, level: int, *, first: bool
) -> list[Note]:
    section, kind = passage.section, passage.kind
    hits: list[Note] = []
    for bar in passage.bars_of("drums") or range(section.start_bar, passage.end_bar):
        index = bar - section.start_bar
        final = index == section.bars - 1
        if passage.resolves and final and section.name == "ending":
            notes = _play_ending(patterns, half=False)
        else:
            notes = _play_bar(patterns, passage, index, level)
            if kind.is_build:
                notes = _play_build(notes, section.bars - index)
            elif passage.resolves and final:
                notes = [note for note in notes if note.start < 2.0]
                notes += _play_ending(patterns, half=True)
            elif _has_fill(patterns, passage, index):
                leads_on = final and passage.next_kind is not None
                notes = _add_fill(patterns, notes, section.name, bar, long=leads_on)
        if index == 0 and level >= 2 and kind.energy > 0.55 and patterns.groove.crash and not first:
            notes.append(Note(0.0, 3.0, CRASH, 0.8))
        hits.extend(_shift(note, bar * BAR) for note in notes)
    return hits


def _play_bar(patterns: DrumPatterns, passage: Passage, index: int, level: int) -> list[Note]:
    """Return one bar without fills."""
    groove, kind = patterns.groove, passage.kind
    theme, energy = kind.theme, passage.section.energy
    dance_intro = level == 2 and passage.section.name == "intro"
    halfway = passage.section.start_bar + index >= passage.midpoint_bar
    notes = _play_hats(patterns, passage, index, level)
    if level >= 2:
        kicks = patterns.kicks(index, theme)
        pattern = _bar_of(patterns.kick[theme], index).ljust(16, ".")
        velocities = [VELOCITY.get(pattern[step], 0.7) for step in kicks]
        notes += [
            Note(step * STEP, 0.3, groove.kick_pitch, velocity)
            for step, velocity in zip(kicks, velocities, strict=True)
        ]
        if not (dance_intro and index < passage.section.bars // 2):
            for pitch in groove.snare_pitches:
                scale = 1.0 if pitch == SNARE else 0.9
                notes += _play_marks(pitch, _bar_of(patterns.snare, index), scale=scale)
    if level >= 3 or (level == 2 and halfway and not dance_intro and passage.next_kind is not None):
        notes += _play_marks(OPEN, _bar_of(patterns.open_hat, index), length=0.4)
    if level >= 3:
        if patterns.density > -0.4:
            notes += _play_marks(GHOST, _bar_of(patterns.ghosts, index))
        if groove.ride and energy >= 0.95:
            notes += _play_marks(RIDE, _bar_of(groove.ride, index), scale=0.75)
    if level != 2:
        for rank, (pitch, extra) in enumerate(patterns.extra):
            if rank == 0 or (level >= 3 and halfway):
                notes += _play_marks(pitch, _bar_of(extra, index), scale=0.9)
    rng = RandomStream(patterns.seed, "sway", theme, index % 4)
    strength = 0.9 + 0.12 * energy
    return [
        Note(n.start, n.duration, n.pitch, n.velocity * strength + rng.uniform(-0.04, 0.03))
        for n in notes
    ]


def _play_hats(patterns: DrumPatterns, passage: Passage, index: int, level: int) -> list[Note]:
    """Return the hats of a bar, softer below the full groove, sometimes with a roll."""
    theme = passage.kind.theme
    scale = 0.85 if level >= 3 else 0.7
    notes = _play_marks(patterns.groove.hat_pitch, _bar_of(patterns.hat[theme], index), scale=scale)
    rng = RandomStream(patterns.seed, "roll", theme, index % 8)
    rate = patterns.groove.rolls * (1.0 + 0.5 * patterns.density) * (1.0 if level >= 2 else 0.5)
    if patterns.groove.rolls and rng.chance(rate):
        start = rng.choice((2, 4, 6, 10, 12, 14, 14)) * STEP
        length = rng.choice((0.5, 0.5, 1.0)) if start <= 3.0 else 0.5
        per_beat = rng.choice((8, 8, 6, 6, 12))
        notes = [note for note in notes if not start <= note.start < start + length]
        notes += _make_roll(
            HAT, start, length, per_beat, rng.choice(((0.35, 0.8), (0.8, 0.4), (0.6, 0.6)))
        )
    return notes


def _make_roll(
    pitch: int, start: float, length: float, per_beat: int, swell: tuple[float, float]
) -> list[Note]:
    count = round(length * per_beat)
    first, final = swell
    return [
        Note(
            start + hit / per_beat,
            0.9 / per_beat,
            pitch,
            first + (final - first) * hit / max(1, count - 1),
        )
        for hit in range(count)
    ]


def _play_build(notes: list[Note], bars_left: int) -> list[Note]:
    """Replace kick and snare by a snare roll that doubles its pace towards the end."""
    per_beat = {1: 4, 2: 2, 3: 2}.get(bars_left, 1)
    loud = max(0.3, 0.75 - 0.08 * bars_left)
    rolled = _make_roll(SNARE, 0.0, 4.0, per_beat, (loud - 0.08, loud))
    if bars_left == 1:
        rolled = [note for note in rolled if note.start < 2.0]
        rolled += _make_roll(SNARE, 2.0, 1.5, 8, (loud, 0.9))
    return [note for note in notes if note.pitch not in (KICK, SNARE)] + rolled


def _play_ending(patterns: DrumPatterns, *, half: bool) -> list[Note]:
    """Return the final hit of a piece, on the first beat, or with `half` on the third."""
    at = 2.0 if half else 0.0
    notes = [Note(at, 0.5, patterns.groove.kick_pitch, 0.95)]
    if patterns.groove.crash:
        notes.append(Note(at, 4.0 - at, CRASH, 0.75))
    else:
        notes.append(Note(at, 4.0 - at, RIDE, 0.5))
    return notes


def _has_fill(patterns: DrumPatterns, passage: Passage, index: int) -> bool:
    """Whether a bar has a fill: the last of a section, and often the last of four."""
    if passage.kind.drum_level < 2 or patterns.groove.fills == ("none",):
        return False
    if index == passage.section.bars - 1:
        # A loop of a single bar keeps its groove.
        return not (passage.turns_around and passage.section.bars == 1)
    rng = RandomStream(patterns.seed, "phrase", passage.section.start_bar + index)
    return index % 4 == 3 and rng.chance(0.9 if index % 8 == 7 else 0.6)


Fill = Callable[[float, RandomStream], list[Note]]


def _fill_snare(start: float, rng: RandomStream) -> list[Note]:
    count = round((4.0 - start) / STEP)
    hits = [step for step in range(count) if step >= count - 2 or rng.chance(0.75)]
    return [Note(start + step * STEP, 0.2, SNARE, 0.5 + 0.4 * step / count) for step in hits]


def _fill_toms(start: float, rng: RandomStream) -> list[Note]:
    count = round((4.0 - start) / STEP)
    toms = (HIGH_TOM, HIGH_TOM, MID_TOM, MID_TOM, LOW_TOM, LOW_TOM)
    gap = rng.choice((0, 3, 6))
    return [
        Note(start + step * STEP, 0.3, toms[step * len(toms) // count], 0.7 + 0.2 * step / count)
        for step in range(count)
        if step == 0 or step % 8 != gap
    ]


def _roll_fast(start: float, rng: RandomStream) -> list[Note]:
    return _make_roll(rng.choice((SNARE, HAT, RIM)), start, 4.0 - start, 8, (0.4, 0.9))


def _roll_triplets(start: float, rng: RandomStream) -> list[Note]:
    return _make_roll(rng.choice((SNARE, PERC)), start, 4.0 - start, 6, (0.5, 0.85))


def _play_break(start: float, rng: RandomStream) -> list[Note]:
    """Return a chopped break on the snare."""
    count = round((4.0 - start) / STEP)
    marks = rng.choice(("X.o-X.XX", "X.-XX.-X", "..X-X.oX", "XoX.X-XX"))[-count:]
    return _play_marks(SNARE, marks, offset=start)


def _fill_kick(_start: float, rng: RandomStream) -> list[Note]:
    marks = rng.choice(("..XX", ".X.X", "X.XX"))
    return _play_marks(KICK, marks, offset=3.0) + _play_marks(GHOST, ".-.-", offset=3.0)


def _fill_claps(start: float, rng: RandomStream) -> list[Note]:
    return _play_marks(
        CLAP,
        rng.choice(("...x..xx", "..x..x.x", "x..x..xx"))[-round((4.0 - start) / STEP) :],
        offset=start,
    )


def _fill_hats(start: float, rng: RandomStream) -> list[Note]:
    return _make_roll(OPEN, start, 4.0 - start, rng.choice((2, 4)), (0.5, 0.8))


def _play_cut(_start: float, rng: RandomStream) -> list[Note]:
    """Return silence, or one hit on the last sixteenth."""
    return [Note(3.75, 0.2, rng.choice((SNARE, OPEN, CLAP)), 0.7)] if rng.chance(0.6) else []


FILLS: dict[str, Fill] = {
    "snare": _fill_snare,
    "toms": _fill_toms,
    "roll": _roll_fast,
    "triplets": _roll_triplets,
    "break": _play_break,
    "kick": _fill_kick,
    "clap": _fill_claps,
    "hats": _fill_hats,
    "cut": _play_cut,
}
"""Name -> the hits from a beat to the end of its bar."""


def _add_fill(
    patterns: DrumPatterns, notes: list[Note], section: str, bar: int, *, long: bool
) -> list[Note]:
    rng = RandomStream(patterns.seed, "fill", section, bar)
    name = rng.choice(patterns.groove.fills)
    start = 2.0 if long and name in ("toms", "snare", "break", "clap") else 3.0
    if name in ("roll", "triplets") and not long:
        start = 3.5
    keep = [note for note in notes if note.start < start]
    if name in ("clap", "hats", "kick"):
        keep = notes
    return keep + FILLS[name](start, rng)


def _play_marks(
    pitch: int, marks: str, *, scale: float = 1.0, length: float = 0.2, offset: float = 0.0
) -> list[Note]:
    return [
        Note(offset + step * STEP, length, pitch, VELOCITY[mark] * scale)
        for step, mark in enumerate(marks)
        if mark != "."
    ]


def _bar_of(pattern: Pattern, index: int) -> str:
    return pattern[index % len(pattern)] if pattern else ""


def _choose_two(alternatives: tuple[Pattern, ...], rng: RandomStream) -> tuple[Pattern, Pattern]:
    first, second = rng.sample(alternatives, 2) if len(alternatives) > 1 else alternatives * 2
    return first, second


def _shift(note: Note, beat: float) -> Note:
    return Note(note.start + beat, note.duration, note.pitch, note.velocity)
