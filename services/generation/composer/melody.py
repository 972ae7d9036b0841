"""The tune: a motif of two bars, repeated, moved along the scale, varied and answered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from services.generation.composer.dice import Dice
from services.generation.composer.harmony import BAR
from services.generation.composer.rhythm import one_at_a_time
from services.generation.composer.voicing import clear_tones
from services.generation.score import Chord, Key, Note

if TYPE_CHECKING:
    from services.generation.composer.arrangement import Passage
    from services.generation.composer.plan import Plan
    from services.generation.composer.voices import Voice

REGISTERS: dict[str, tuple[int, int]] = {
    "lead-pluck": (65, 86),
    "lead-bell": (69, 91),
    "lead-saw": (62, 84),
    "lead-square": (62, 84),
    "lead-flute": (70, 90),
    "guitar-pluck": (60, 81),
    "brass-synth": (60, 79),
    "keys-piano": (64, 86),
    "keys-rhodes": (62, 82),
    "strings": (60, 82),
}
"""Patch -> lowest and highest note of a tune."""

UNIT = 2 * BAR
"""A motif's length in beats."""

_CELLS: tuple[tuple[float, tuple[tuple[int, ...], ...]], ...] = (
    (0.25, ((0,), (0, 6), (4,), (0, 3), (2, 6))),
    (0.5, ((0, 3, 6), (0, 4), (0, 2, 4), (0, 6), (2, 4, 6), (0, 3, 4), (0, 4, 6))),
    (1.0, ((0, 2, 4, 6), (0, 2, 3, 6), (0, 3, 5, 6), (0, 1, 2, 4), (0, 2, 4, 5, 6), (0, 3, 6, 7))),
)
"""Up to a density: onsets, in sixteenths, of half a bar."""

_MOVES = {0: 0.14, 1: 0.28, -1: 0.32, 2: 0.1, -2: 0.1, 3: 0.03, -3: 0.03, 4: 0.02}
"""Steps of the scale from one note to the next, and how often."""


@dataclass(frozen=True, slots=True)
class Motif:
    """Two bars of tune without pitches: where notes fall, how long they are, how the line moves."""

    onsets: tuple[float, ...]
    """Beats."""
    lengths: tuple[float, ...]
    line: tuple[int, ...]
    """Steps of the scale above the first note."""

    def inverted(self) -> Motif:
        """The same rhythm with the line upside down."""
        return replace(self, line=tuple(-step for step in self.line))

    def closed(self) -> Motif:
        """The first half, then one long note: an answer."""
        half = [index for index, onset in enumerate(self.onsets) if onset < BAR]
        onsets = [self.onsets[index] for index in half]
        lengths = [self.lengths[index] for index in half]
        line = [self.line[index] for index in half]
        return Motif((*onsets, BAR), (*lengths, 3.0), (*line, line[-1]))

    def varied(self, dice: Dice) -> Motif:
        """Its second bar moves elsewhere."""
        turn = dice.choice((-2, -1, 1, 2))
        line = tuple(
            step + turn if onset >= BAR else step
            for onset, step in zip(self.onsets, self.line, strict=True)
        )
        return replace(self, line=line)


def make_motif(dice: Dice, density: float) -> Motif:
    """Half-bar cells as a b a c, the last with a breath; mostly steps, leaps come back."""
    cells = [_cell(dice, density) for _ in range(3)]
    shape = dice.choice(
        ((0, 1, 0, 2), (0, 1, 2, None), (0, 1, 0, None), (0, 0, 1, 2), (0, None, 1, 2))
    )
    onsets = [
        half * 2.0 + step * 0.25
        for half, cell in enumerate(shape)
        if cell is not None
        for step in cells[cell]
    ]
    if onsets[-1] > UNIT - 1.0 and len(onsets) > 2:
        onsets.pop()
    gaps = [after - at for at, after in zip(onsets, [*onsets[1:], UNIT], strict=True)]
    lengths = [min(gap * dice.choice((0.9, 0.95, 0.6)), 2.0) for gap in gaps]
    return Motif(tuple(onsets), tuple(lengths), _line(dice, len(onsets)))


def _cell(dice: Dice, density: float) -> tuple[int, ...]:
    near = min(1.0, max(0.0, density + dice.uniform(-0.2, 0.2)))
    return dice.choice(next(cells for limit, cells in _CELLS if near <= limit))


def _line(dice: Dice, count: int) -> tuple[int, ...]:
    """A walk along the scale that turns round after a leap and stays within a sixth or so."""
    line, leapt = [0], 0
    while len(line) < count:
        move = dice.pick(_MOVES)
        if abs(leapt) > 2:
            move = -1 if leapt > 0 else 1
        if abs(line[-1] + move) > 5:
            move = -move
        line.append(line[-1] + move)
        leapt = move
    return tuple(line)


def play_lead(plan: Plan, voice: Voice) -> list[Note]:
    """The tune through the piece; an answering voice plays where the first one rests."""
    low, high = REGISTERS.get(voice.patch, (62, 84))
    shift = plan.register if not voice.answers else 0
    home = (low + high) // 2 + shift + Dice(plan.seed, "home", voice.name).randint(-5, 5)
    singer = _Singer(plan.key, low + shift, high + shift, home)
    density = plan.density * (0.7 if voice.answers else 1.0)
    first = make_motif(Dice(plan.seed, "motif", voice.name), density)
    second = _second_theme(plan, voice, first, density)
    notes: list[Note] = []
    for passage, bars in plan.playing(voice):
        tune = _passage(plan, voice, passage, (first, second)[passage.shape.theme], singer)
        notes += [note for note in tune if note.start >= bars.start * BAR]
    return one_at_a_time(notes)


def _second_theme(plan: Plan, voice: Voice, first: Motif, density: float) -> Motif:
    """The hook: the first motif upside down, or a new line that is a little busier."""
    dice = Dice(plan.seed, "hook", voice.name)
    if dice.chance(0.35):
        return first.inverted()
    return make_motif(dice, min(1.0, density + 0.12))


def _passage(
    plan: Plan, voice: Voice, passage: Passage, motif: Motif, singer: _Singer
) -> list[Note]:
    """A section in units of two bars: A A' A B, and again."""
    section = passage.section
    end = passage.end_bar * BAR
    tune = passage.shape.tune if not voice.everywhere else "full"
    notes: list[Note] = []
    for unit in range((section.bars + 1) // 2):
        start = section.start_bar * BAR + unit * UNIT
        closing = start + UNIT >= end
        dice = Dice(plan.seed, "variation", voice.name, section.name, unit)
        shape = (motif, motif.varied(dice), motif, motif.closed())[unit % 4]
        if closing and (passage.lands or unit):
            shape = motif.closed()
        sounds = {
            "full": True,
            "call": unit % 2 == 0,
            "hint": unit % 4 == 0,
            "none": False,
        }[tune]
        if voice.answers:
            sounds = unit % 2 == 1 or section.bars <= 2
        if voice.everywhere or sounds:
            loud = 0.55 + 0.25 * section.energy
            notes += singer.sing(plan, shape, start, min(end, start + UNIT), loud)
    if passage.lands and tune == "full":
        notes = [note for note in notes if note.start < end - BAR]
        notes.append(singer.close(plan, notes, end - BAR, 0.55 + 0.25 * section.energy))
    return notes


class _Singer:
    """Gives a motif its pitches, inside a register, on the chords that sound."""

    def __init__(self, key: Key, low: int, high: int, home: int) -> None:
        self._low, self._high = low, high
        self._scale = [pitch for pitch in range(low, high + 1) if pitch % 12 in key.pitch_classes]
        self._home = home
        self._tonic = key.tonic

    def sing(self, plan: Plan, motif: Motif, start: float, end: float, loud: float) -> list[Note]:
        """The motif from a beat on, cut at `end`."""
        anchor = self._index(self._anchor(plan.harmony.at(start)))
        notes: list[Note] = []
        for onset, length, step in zip(motif.onsets, motif.lengths, motif.line, strict=True):
            at = start + onset
            if at >= end:
                break
            chord = plan.harmony.at(at)
            pitch = self._scale[self._fold(anchor + step)]
            strong = onset % 2.0 == 0.0 or length >= 1.0
            last = notes[-1].pitch if notes else None
            pitch = self._chord_tone(chord, pitch, last) if strong else _in_harmony(pitch, chord)
            accent = 0.06 if onset % 1.0 == 0.0 else -0.04
            notes.append(Note(at, min(length, end - at), pitch, loud + accent))
        return notes

    def close(self, plan: Plan, before: list[Note], at: float, loud: float) -> Note:
        """The last note: the tonic or the fifth nearest to where the line was, held."""
        chord = plan.harmony.at(at)
        near = before[-1].pitch if before else self._home
        rest = {chord.root, (chord.root + 7) % 12}
        tones = [p for p in range(self._low, self._high + 1) if p % 12 in rest]
        return Note(at, 3.0, min(tones, key=lambda pitch: (abs(pitch - near), pitch)), loud)

    def _fold(self, index: int) -> int:
        """Turn back at the edges of the register."""
        top = len(self._scale) - 1
        index = abs(index)
        return index if index <= top else max(0, 2 * top - index)

    def _anchor(self, chord: Chord) -> int:
        """Where a motif starts: the root or the fifth nearest to where the tune is at home."""
        tones = {chord.root, chord.pitch_classes[min(2, len(chord.pitch_classes) - 1)]}
        pitches = [pitch for pitch in range(self._low, self._high + 1) if pitch % 12 in tones]
        return min(pitches, key=lambda pitch: (abs(pitch - self._home), pitch))

    def _index(self, pitch: int) -> int:
        return min(range(len(self._scale)), key=lambda index: abs(self._scale[index] - pitch))

    def _chord_tone(self, chord: Chord, near: int, last: int | None = None) -> int:
        """The nearest of the triad; rather another than the note before once more."""
        triad = chord.pitch_classes[:3]
        if chord.root != self._tonic:
            clear = clear_tones(chord)
            triad = tuple(tone for tone in triad if tone in clear) or clear
        tones = [pitch for pitch in range(self._low, self._high + 1) if pitch % 12 in triad]
        return min(tones, key=lambda pitch: (abs(pitch - near) + 2.5 * (pitch == last), pitch))


def _in_harmony(pitch: int, chord: Chord) -> int:
    """Follow a raised third of the chord: the scale's own tone a semitone below would clash."""
    above = (pitch + 1) % 12
    third = chord.pitch_classes[1]
    clash = above == third and (third - chord.root) % 12 == 4
    return pitch + 1 if clash and pitch % 12 not in chord.pitch_classes else pitch
