"""The drummer: a style's patterns become bars with variation, rolls, fills and section changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.generation.composer.dice import Dice
from services.generation.composer.drum_styles import (
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
    DrumStyle,
    Pattern,
)
from services.generation.composer.rhythm import STEP
from services.generation.score import Note

if TYPE_CHECKING:
    from services.generation.composer.arrangement import Passage

BAR = 4.0

_WANTED: dict[int, Pattern] = {
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
"""What a kit plays for a piece of it that was asked for and is not in the style."""


@dataclass(frozen=True, slots=True)
class Kit:
    """The patterns that this piece took from its style, one set a theme."""

    style: DrumStyle
    kick: tuple[Pattern, Pattern]
    snare: Pattern
    hat: tuple[Pattern, Pattern]
    open_hat: Pattern
    ghosts: Pattern
    extra: tuple[tuple[int, Pattern], ...]
    density: float
    seed: int

    def kicks(self, bar_in_phrase: int, theme: int) -> list[int]:
        """The sixteenths of a bar at which the kick falls."""
        pattern = _bar(self.kick[theme], bar_in_phrase)
        played = [index for index, mark in enumerate(pattern) if mark != "."]
        dice = Dice(self.seed, "kick", theme, bar_in_phrase % 4)
        if bar_in_phrase % 4 in (1, 3) and dice.chance(self.style.kick_freedom):
            free = [step for step in played if step % 4]
            if free and dice.chance(0.5):
                played.remove(dice.choice(free))
            else:
                backbeats = {
                    i for i, mark in enumerate(_bar(self.snare, bar_in_phrase)) if mark != "."
                }
                open_steps = {3, 7, 10, 11, 14} - set(played) - backbeats
                played.append(dice.choice(sorted(open_steps)))
        return sorted(played)


def choose_kit(style: DrumStyle, *, seed: int, density: float, wanted: tuple[int, ...]) -> Kit:
    """Take one of each alternative, and a different second set for the second theme."""
    dice = Dice(seed, "kit")
    kicks = _two(style.kick, dice)
    hats = _two(style.hat, dice)
    count = 1 if density < -0.2 else 2
    extra = dice.sample(style.extra, min(count, len(style.extra)))
    have = {pitch for pitch, _ in extra}
    extra += [(pitch, _WANTED[pitch]) for pitch in wanted if pitch in _WANTED and pitch not in have]
    return Kit(
        style,
        kicks,
        dice.choice(style.snare),
        hats,
        dice.choice(style.open_hat),
        dice.choice(style.ghosts),
        tuple(extra),
        density,
        seed,
    )


def play_drums(kit: Kit, passages: tuple[Passage, ...], *, steady: bool) -> list[Note]:
    """Every hit of the piece, as written.

    Args:
        kit: what is played.
        passages: where.
        steady: play the groove throughout, since nobody else does.
    """
    hits: list[Note] = []
    for number, passage in enumerate(passages):
        level = max(passage.shape.drums, 2 if steady else 0)
        if level:
            hits.extend(_passage(kit, passage, level, first=number == 0))
    return hits


def _passage(kit: Kit, passage: Passage, level: int, *, first: bool) -> list[Note]:
    section, shape = passage.section, passage.shape
    hits: list[Note] = []
    for bar in passage.bars_of("drums") or range(section.start_bar, passage.end_bar):
        index = bar - section.start_bar
        final = index == section.bars - 1
        if passage.lands and final and section.name == "ending":
            notes = _landing(kit, half=False)
        else:
            notes = _groove(kit, passage, index, level)
            if shape.rises:
                notes = _rise(notes, section.bars - index)
            elif passage.lands and final:
                notes = [note for note in notes if note.start < 2.0] + _landing(kit, half=True)
            elif _fills_here(kit, passage, index):
                notes = _fill(kit, notes, section.name, bar, big=final and passage.into is not None)
        if index == 0 and level >= 2 and shape.energy > 0.55 and kit.style.crash and not first:
            notes.append(Note(0.0, 3.0, CRASH, 0.8))
        hits.extend(_at(note, bar * BAR) for note in notes)
    return hits


def _groove(kit: Kit, passage: Passage, index: int, level: int) -> list[Note]:
    """One bar without fills."""
    style, shape = kit.style, passage.shape
    theme, energy = shape.theme, passage.section.energy
    dance_intro = level == 2 and passage.section.name == "intro"
    halfway = passage.section.start_bar + index >= passage.half_bar
    notes = _hats(kit, passage, index, level)
    if level >= 2:
        kicks = kit.kicks(index, theme)
        pattern = _bar(kit.kick[theme], index).ljust(16, ".")
        strength = [VELOCITY.get(pattern[step], 0.7) for step in kicks]
        notes += [
            Note(step * STEP, 0.3, style.kick_pitch, velocity)
            for step, velocity in zip(kicks, strength, strict=True)
        ]
        if not (dance_intro and index < passage.section.bars // 2):
            for pitch in style.snare_pitches:
                notes += _line(pitch, _bar(kit.snare, index), scale=1.0 if pitch == SNARE else 0.9)
    if level >= 3 or (level == 2 and halfway and not dance_intro and passage.into is not None):
        notes += _line(OPEN, _bar(kit.open_hat, index), length=0.4)
    if level >= 3:
        if kit.density > -0.4:
            notes += _line(GHOST, _bar(kit.ghosts, index))
        if style.ride and energy >= 0.95:
            notes += _line(RIDE, _bar(style.ride, index), scale=0.75)
    if level != 2:
        for rank, (pitch, extra) in enumerate(kit.extra):
            if rank == 0 or (level >= 3 and halfway):
                notes += _line(pitch, _bar(extra, index), scale=0.9)
    sway = Dice(kit.seed, "sway", theme, index % 4)
    force = 0.9 + 0.12 * energy
    return [
        Note(n.start, n.duration, n.pitch, n.velocity * force + sway.uniform(-0.04, 0.03))
        for n in notes
    ]


def _hats(kit: Kit, passage: Passage, index: int, level: int) -> list[Note]:
    """The hat's bar, softer where little else plays, with a roll now and then."""
    theme = passage.shape.theme
    scale = 0.85 if level >= 3 else 0.7
    notes = _line(kit.style.hat_pitch, _bar(kit.hat[theme], index), scale=scale)
    dice = Dice(kit.seed, "roll", theme, index % 8)
    rate = kit.style.rolls * (1.0 + 0.5 * kit.density) * (1.0 if level >= 2 else 0.5)
    if kit.style.rolls and dice.chance(rate):
        start = dice.choice((2, 4, 6, 10, 12, 14, 14)) * STEP
        length = dice.choice((0.5, 0.5, 1.0)) if start <= 3.0 else 0.5
        per_beat = dice.choice((8, 8, 6, 6, 12))
        notes = [note for note in notes if not start <= note.start < start + length]
        notes += _roll(
            HAT, start, length, per_beat, dice.choice(((0.35, 0.8), (0.8, 0.4), (0.6, 0.6)))
        )
    return notes


def _roll(
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


def _rise(notes: list[Note], bars_left: int) -> list[Note]:
    """A build: the snare doubles its pace towards the end, and the kick makes room."""
    per_beat = {1: 4, 2: 2, 3: 2}.get(bars_left, 1)
    loud = max(0.3, 0.75 - 0.08 * bars_left)
    rolled = _roll(SNARE, 0.0, 4.0, per_beat, (loud - 0.08, loud))
    if bars_left == 1:
        rolled = [note for note in rolled if note.start < 2.0]
        rolled += _roll(SNARE, 2.0, 1.5, 8, (loud, 0.9))
    return [note for note in notes if note.pitch not in (KICK, SNARE)] + rolled


def _landing(kit: Kit, *, half: bool) -> list[Note]:
    """The last downbeat of a piece; after half a bar of groove it falls on the third beat."""
    at = 2.0 if half else 0.0
    notes = [Note(at, 0.5, kit.style.kick_pitch, 0.95)]
    if kit.style.crash:
        notes.append(Note(at, 4.0 - at, CRASH, 0.75))
    else:
        notes.append(Note(at, 4.0 - at, RIDE, 0.5))
    return notes


def _fills_here(kit: Kit, passage: Passage, index: int) -> bool:
    """At the end of a section that leads on, and often at the end of a phrase of four."""
    if passage.shape.drums < 2 or kit.style.fills == ("none",):
        return False
    if index == passage.section.bars - 1:
        return True
    dice = Dice(kit.seed, "phrase", passage.section.start_bar + index)
    return index % 4 == 3 and dice.chance(0.9 if index % 8 == 7 else 0.6)


Fill = Callable[[float, Dice], list[Note]]


def _snare_fill(start: float, dice: Dice) -> list[Note]:
    count = round((4.0 - start) / STEP)
    hits = [step for step in range(count) if step >= count - 2 or dice.chance(0.75)]
    return [Note(start + step * STEP, 0.2, SNARE, 0.5 + 0.4 * step / count) for step in hits]


def _tom_fill(start: float, dice: Dice) -> list[Note]:
    count = round((4.0 - start) / STEP)
    toms = (HIGH_TOM, HIGH_TOM, MID_TOM, MID_TOM, LOW_TOM, LOW_TOM)
    gap = dice.choice((0, 3, 6))
    return [
        Note(start + step * STEP, 0.3, toms[step * len(toms) // count], 0.7 + 0.2 * step / count)
        for step in range(count)
        if step == 0 or step % 8 != gap
    ]


def _fast_roll(start: float, dice: Dice) -> list[Note]:
    return _roll(dice.choice((SNARE, HAT, RIM)), start, 4.0 - start, 8, (0.4, 0.9))


def _triplets(start: float, dice: Dice) -> list[Note]:
    return _roll(dice.choice((SNARE, PERC)), start, 4.0 - start, 6, (0.5, 0.85))


def _break(start: float, dice: Dice) -> list[Note]:
    """A chopped break: snares pushed around."""
    count = round((4.0 - start) / STEP)
    marks = dice.choice(("X.o-X.XX", "X.-XX.-X", "..X-X.oX", "XoX.X-XX"))[-count:]
    return _line(SNARE, marks, offset=start)


def _kick_fill(_start: float, dice: Dice) -> list[Note]:
    marks = dice.choice(("..XX", ".X.X", "X.XX"))
    return _line(KICK, marks, offset=3.0) + _line(GHOST, ".-.-", offset=3.0)


def _clap_fill(start: float, dice: Dice) -> list[Note]:
    return _line(
        CLAP,
        dice.choice(("...x..xx", "..x..x.x", "x..x..xx"))[-round((4.0 - start) / STEP) :],
        offset=start,
    )


def _hat_fill(start: float, dice: Dice) -> list[Note]:
    return _roll(OPEN, start, 4.0 - start, dice.choice((2, 4)), (0.5, 0.8))


def _cut(_start: float, dice: Dice) -> list[Note]:
    """Silence, and one hit back in."""
    return [Note(3.75, 0.2, dice.choice((SNARE, OPEN, CLAP)), 0.7)] if dice.chance(0.6) else []


FILLS: dict[str, Fill] = {
    "snare": _snare_fill,
    "toms": _tom_fill,
    "roll": _fast_roll,
    "triplets": _triplets,
    "break": _break,
    "kick": _kick_fill,
    "clap": _clap_fill,
    "hats": _hat_fill,
    "cut": _cut,
}
"""Name -> what replaces the end of a bar, from a beat on."""


def _fill(kit: Kit, notes: list[Note], section: str, bar: int, *, big: bool) -> list[Note]:
    dice = Dice(kit.seed, "fill", section, bar)
    name = dice.choice(kit.style.fills)
    start = 2.0 if big and name in ("toms", "snare", "break", "clap") else 3.0
    if name in ("roll", "triplets") and not big:
        start = 3.5
    keep = [note for note in notes if note.start < start]
    if name in ("clap", "hats", "kick"):
        keep = notes
    return keep + FILLS[name](start, dice)


def _line(
    pitch: int, marks: str, *, scale: float = 1.0, length: float = 0.2, offset: float = 0.0
) -> list[Note]:
    return [
        Note(offset + step * STEP, length, pitch, VELOCITY[mark] * scale)
        for step, mark in enumerate(marks)
        if mark != "."
    ]


def _bar(pattern: Pattern, index: int) -> str:
    return pattern[index % len(pattern)] if pattern else ""


def _two(alternatives: tuple[Pattern, ...], dice: Dice) -> tuple[Pattern, Pattern]:
    first, second = dice.sample(alternatives, 2) if len(alternatives) > 1 else alternatives * 2
    return first, second


def _at(note: Note, beat: float) -> Note:
    return Note(note.start + beat, note.duration, note.pitch, note.velocity)
