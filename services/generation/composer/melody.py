"""Writes the melody: a motif of two bars that is repeated, varied and answered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from services.generation.composer.harmony import BAR
from services.generation.composer.random_streams import RandomStream
from services.generation.composer.rhythm import make_monophonic
from services.generation.composer.voicing import tones_without_clashes
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
"""Patch -> lowest and highest note (MIDI) of a melody."""

MOTIF_BEATS = 2 * BAR

_CELLS: tuple[tuple[float, tuple[tuple[int, ...], ...]], ...] = (
    (0.25, ((0,), (0, 6), (4,), (0, 3), (2, 6))),
    (0.5, ((0, 3, 6), (0, 4), (0, 2, 4), (0, 6), (2, 4, 6), (0, 3, 4), (0, 4, 6))),
    (1.0, ((0, 2, 4, 6), (0, 2, 3, 6), (0, 3, 5, 6), (0, 1, 2, 4), (0, 2, 4, 5, 6), (0, 3, 6, 7))),
)
"""(highest density, rhythms of half a bar as onsets in sixteenths)."""

_MOVES = {0: 0.14, 1: 0.28, -1: 0.32, 2: 0.1, -2: 0.1, 3: 0.03, -3: 0.03, 4: 0.02}
"""Scale steps from one note to the next -> weight."""


@dataclass(frozen=True, slots=True)
class Motif:
    """Two bars of melody before its pitches are chosen: rhythm and contour."""

    onsets: tuple[float, ...]
    """Beats from the start of the motif."""
    lengths: tuple[float, ...]
    """Beats."""
    line: tuple[int, ...]
    """Contour: scale steps above the first note."""

    def invert(self) -> Motif:
        """Return the same rhythm with the contour upside down."""
        return replace(self, line=tuple(-step for step in self.line))

    def answer(self) -> Motif:
        """Return the first bar followed by one long note."""
        half = [index for index, onset in enumerate(self.onsets) if onset < BAR]
        onsets = [self.onsets[index] for index in half]
        lengths = [self.lengths[index] for index in half]
        line = [self.line[index] for index in half]
        return Motif((*onsets, BAR), (*lengths, 3.0), (*line, line[-1]))

    def vary(self, rng: RandomStream) -> Motif:
        """Return the motif with its second bar moved by a step or two."""
        turn = rng.choice((-2, -1, 1, 2))
        line = tuple(
            step + turn if onset >= BAR else step
            for onset, step in zip(self.onsets, self.line, strict=True)
        )
        return replace(self, line=line)


def make_motif(rng: RandomStream, density: float) -> Motif:
    """Make a motif of half-bar rhythms (as a b a c) that ends with a rest.

    `density` 0..1 is how many notes it has.
    """
    cells = [_choose_cell(rng, density) for _ in range(3)]
    shape = rng.choice(
        ((0, 1, 0, 2), (0, 1, 2, None), (0, 1, 0, None), (0, 0, 1, 2), (0, None, 1, 2))
    )
    onsets = [
        half * 2.0 + step * 0.25
        for half, cell in enumerate(shape)
        if cell is not None
        for step in cells[cell]
    ]
    if onsets[-1] > MOTIF_BEATS - 1.0 and len(onsets) > 2:
        onsets.pop()
    gaps = [after - at for at, after in zip(onsets, [*onsets[1:], MOTIF_BEATS], strict=True)]
    lengths = [min(gap * rng.choice((0.9, 0.95, 0.6)), 2.0) for gap in gaps]
    return Motif(tuple(onsets), tuple(lengths), _walk_scale(rng, len(onsets)))


def _choose_cell(rng: RandomStream, density: float) -> tuple[int, ...]:
    near = min(1.0, max(0.0, density + rng.uniform(-0.2, 0.2)))
    return rng.choice(next(cells for limit, cells in _CELLS if near <= limit))


def _walk_scale(rng: RandomStream, count: int) -> tuple[int, ...]:
    """Return a random walk in scale steps, at most 5 from its start, that turns after a leap."""
    line, leapt = [0], 0
    while len(line) < count:
        move = rng.weighted_choice(_MOVES)
        if abs(leapt) > 2:
            move = -1 if leapt > 0 else 1
        if abs(line[-1] + move) > 5:
            move = -move
        line.append(line[-1] + move)
        leapt = move
    return tuple(line)


def play_lead(plan: Plan, voice: Voice) -> list[Note]:
    """Return the melody of a piece; a countermelody plays in the gaps of the lead."""
    low, high = REGISTERS.get(voice.patch, (62, 84))
    shift = plan.register if not voice.is_countermelody else 0
    home = (low + high) // 2 + shift + RandomStream(plan.seed, "home", voice.name).randint(-5, 5)
    writer = _MelodyWriter(plan.key, low + shift, high + shift, home)
    density = plan.density * (0.7 if voice.is_countermelody else 1.0)
    first = make_motif(RandomStream(plan.seed, "motif", voice.name), density)
    second = _make_hook(plan, voice, first, density)
    notes: list[Note] = []
    for passage, bars in plan.passages_of(voice):
        line = _play_passage(plan, voice, passage, (first, second)[passage.kind.theme], writer)
        notes += [note for note in line if note.start >= bars.start * BAR]
    return make_monophonic(notes)


def _make_hook(plan: Plan, voice: Voice, first: Motif, density: float) -> Motif:
    """Return the motif of the second theme: the first upside down, or a new, busier one."""
    rng = RandomStream(plan.seed, "hook", voice.name)
    if rng.chance(0.35):
        return first.invert()
    return make_motif(rng, min(1.0, density + 0.12))


def _play_passage(
    plan: Plan, voice: Voice, passage: Passage, motif: Motif, writer: _MelodyWriter
) -> list[Note]:
    """Play a section in units of two bars: A A' A B, and again."""
    section = passage.section
    end = passage.end_bar * BAR
    amount = passage.kind.melody if not voice.plays_throughout else "full"
    notes: list[Note] = []
    for unit in range((section.bars + 1) // 2):
        start = section.start_bar * BAR + unit * MOTIF_BEATS
        closing = start + MOTIF_BEATS >= end
        rng = RandomStream(plan.seed, "variation", voice.name, section.name, unit)
        shape = (motif, motif.vary(rng), motif, motif.answer())[unit % 4]
        if closing and (passage.resolves or unit):
            shape = motif.answer()
        plays = {
            "full": True,
            "call": unit % 2 == 0,
            "hint": unit % 4 == 0,
            "none": False,
        }[amount]
        if voice.is_countermelody:
            plays = unit % 2 == 1 or section.bars <= 2
        if voice.plays_throughout or plays:
            loud = 0.55 + 0.25 * section.energy
            notes += writer.realise(plan, shape, start, min(end, start + MOTIF_BEATS), loud)
    if passage.resolves and amount == "full":
        notes = [note for note in notes if note.start < end - BAR]
        notes.append(writer.resolve(plan, notes, end - BAR, 0.55 + 0.25 * section.energy))
    return notes


class _MelodyWriter:
    """Chooses the pitches of a motif inside a register, on the harmony."""

    def __init__(self, key: Key, low: int, high: int, home: int) -> None:
        self._low, self._high = low, high
        self._scale = [pitch for pitch in range(low, high + 1) if pitch % 12 in key.pitch_classes]
        self._home = home
        self._tonic = key.tonic

    def realise(
        self, plan: Plan, motif: Motif, start: float, end: float, loud: float
    ) -> list[Note]:
        """Return the notes of a motif from beat `start`, cut at beat `end`."""
        anchor = self._index_of(self._find_anchor(plan.harmony.at(start)))
        notes: list[Note] = []
        for onset, length, step in zip(motif.onsets, motif.lengths, motif.line, strict=True):
            at = start + onset
            if at >= end:
                break
            chord = plan.harmony.at(at)
            pitch = self._scale[self._reflect(anchor + step)]
            if onset % 2.0 == 0.0 or length >= 1.0:
                last = notes[-1].pitch if notes else None
                pitch = self._nearest_chord_tone(chord, pitch, last)
            else:
                pitch = _avoid_clashing_third(pitch, chord)
            accent = 0.06 if onset % 1.0 == 0.0 else -0.04
            notes.append(Note(at, min(length, end - at), pitch, loud + accent))
        return notes

    def resolve(self, plan: Plan, before: list[Note], at: float, loud: float) -> Note:
        """Return the held last note: root or fifth, the nearest to the note before."""
        chord = plan.harmony.at(at)
        near = before[-1].pitch if before else self._home
        rest = {chord.root, (chord.root + 7) % 12}
        tones = [p for p in range(self._low, self._high + 1) if p % 12 in rest]
        return Note(at, 3.0, min(tones, key=lambda pitch: (abs(pitch - near), pitch)), loud)

    def _reflect(self, index: int) -> int:
        """Return an index into the scale, reflected at the edges of the register."""
        top = len(self._scale) - 1
        index = abs(index)
        return index if index <= top else max(0, 2 * top - index)

    def _find_anchor(self, chord: Chord) -> int:
        """Return the pitch a motif starts on: the root or fifth nearest to the home pitch."""
        tones = {chord.root, chord.pitch_classes[min(2, len(chord.pitch_classes) - 1)]}
        pitches = [pitch for pitch in range(self._low, self._high + 1) if pitch % 12 in tones]
        return min(pitches, key=lambda pitch: (abs(pitch - self._home), pitch))

    def _index_of(self, pitch: int) -> int:
        return min(range(len(self._scale)), key=lambda index: abs(self._scale[index] - pitch))

    def _nearest_chord_tone(self, chord: Chord, near: int, last: int | None = None) -> int:
        """Return the nearest pitch of the triad, with a penalty for repeating the last one."""
        triad = chord.pitch_classes[:3]
        if chord.root != self._tonic:
            clear = tones_without_clashes(chord)
            triad = tuple(tone for tone in triad if tone in clear) or clear
        tones = [pitch for pitch in range(self._low, self._high + 1) if pitch % 12 in triad]
        return min(tones, key=lambda pitch: (abs(pitch - near) + 2.5 * (pitch == last), pitch))


def _avoid_clashing_third(pitch: int, chord: Chord) -> int:
    """Raise a scale tone a semitone below the raised third of the chord, where they clash."""
    above = (pitch + 1) % 12
    third = chord.pitch_classes[1]
    clash = above == third and (third - chord.root) % 12 == 4
    return pitch + 1 if clash and pitch % 12 not in chord.pitch_classes else pitch
