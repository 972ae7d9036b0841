"""The bass: roots where the harmony changes, locked to the kick, in fourteen ways of playing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.generation.composer.dice import Dice
from services.generation.composer.harmony import BAR
from services.generation.composer.rhythm import STEP, one_at_a_time
from services.generation.score import Chord, Key, Note

if TYPE_CHECKING:
    from services.generation.composer.plan import Plan
    from services.generation.composer.voices import Voice

_LOWEST = {"bass-808": 27, "bass-sub": 27, "bass-reese": 28, "bass-upright": 29}
_USUAL_LOWEST = 31
"""Lowest root (MIDI) of a patch; that of the others, an octave above which is at most F#3."""
_BOTTOM = 26
"""Nothing goes below."""


@dataclass(frozen=True, slots=True)
class Bar:
    """What a bassist knows while playing one bar; times are beats from its start."""

    chords: tuple[tuple[float, float, Chord], ...]
    """(start, duration, chord)."""
    following: Chord
    """The chord of the next bar."""
    kicks: tuple[float, ...]
    number: int
    """In its section."""
    closing: bool
    """The last bar of its section."""
    energy: float
    key: Key
    low: int
    dice: Dice

    def root(self, chord: Chord) -> int:
        """The chord's root in the register."""
        return self.low + (chord.root - self.low) % 12

    def chord_at(self, beat: float) -> Chord:
        """The chord that sounds at a beat of the bar."""
        return [chord for start, _, chord in self.chords if start <= beat + 1e-6][-1]

    def changes(self) -> list[float]:
        """Where chords begin."""
        return [start for start, _, _ in self.chords]

    def next_root(self) -> int:
        """The root of the next bar, nearest to where this one ends."""
        target = self.root(self.following)
        here = self.root(self.chords[-1][2])
        near = (pitch for pitch in (target - 12, target, target + 12) if pitch >= _BOTTOM)
        return min(near, key=lambda pitch: (abs(pitch - here), pitch))


def play_bass(plan: Plan, voice: Voice) -> list[Note]:
    """The whole line, one note at a time, as written."""
    low = _LOWEST.get(voice.patch, _USUAL_LOWEST)
    way = STYLES[voice.playing]
    notes: list[Note] = []
    for passage, bars in plan.playing(voice):
        section = passage.section
        for number in bars:
            index = number - section.start_bar
            start = number * BAR
            final = number == passage.end_bar - 1
            theme = passage.shape.theme
            turn = (section.name, index) if index % 4 == 3 else ()
            bar = Bar(
                tuple(
                    (at - start, length, chord)
                    for at, length, chord in plan.harmony.between(start, start + BAR)
                ),
                plan.harmony.at(start + BAR),
                tuple(step * STEP for step in plan.kit.kicks(index, theme)),
                index,
                final,
                section.energy,
                plan.key,
                low,
                Dice(plan.seed, "bass", voice.name, theme, index % 4, *turn),
            )
            written = _held(bar) if passage.lands and final else way(bar)
            notes += [_at(note, start) for note in one_at_a_time(written)]
    return one_at_a_time(notes)


def _held(bar: Bar) -> list[Note]:
    """The last bar: its root, held."""
    return [Note(start, length, bar.root(chord), 0.85) for start, length, chord in bar.chords]


def _hits(bar: Bar, onsets: list[float], *, longest: float = 4.0, gate: float = 1.0) -> list[Note]:
    """The root at each onset and wherever the chord changes, until the next one."""
    times = sorted(set(onsets) | set(bar.changes()))
    out = []
    for time, following in zip(times, [*times[1:], BAR], strict=True):
        length = min(longest, (following - time) * gate)
        pitch = bar.root(bar.chord_at(time))
        out.append(Note(time, length, pitch, 0.85 if time in (0.0, 2.0) else 0.78))
    return out


def _eight_oh_eight(bar: Bar) -> list[Note]:
    """Long notes under the kick; the last one of a bar may slide."""
    notes = _hits(bar, list(bar.kicks), longest=2.5, gate=0.97)
    last = notes[-1]
    chord = bar.chord_at(last.start)
    if len(notes) > 1 and bar.dice.chance(0.35) and last.start not in bar.changes():
        up = last.pitch + (12 if bar.dice.chance(0.6) else _fifth(chord))
        last = Note(last.start, last.duration, up, last.velocity)
    if bar.number % 2 == 1 and bar.dice.chance(0.45):
        target = bar.next_root() if bar.next_root() != last.pitch else last.pitch + 12
        last = Note(last.start, BAR - last.start, last.pitch, last.velocity, target)
    return [*notes[:-1], last]


def _boom(bar: Bar) -> list[Note]:
    """Hip-hop: with the kick, a pickup into the next bar."""
    notes = _hits(bar, list(bar.kicks), longest=1.5, gate=0.9)
    notes = [_colour(bar, note, 0.3) for note in notes]
    if bar.number % 2 == 1 and bar.dice.chance(0.7):
        notes.append(Note(3.5, 0.45, _approach(bar), 0.7))
    return notes


def _upright(bar: Bar) -> list[Note]:
    """Plucked: root, fifth or octave in the middle, a step into the next chord."""
    onsets = bar.dice.choice(([0.0, 1.5, 2.0], [0.0, 2.5], [0.0, 1.75, 2.5], [0.0, 2.0, 2.75]))
    notes = [_colour(bar, note, 0.5) for note in _hits(bar, onsets, longest=1.8, gate=0.92)]
    if bar.dice.chance(0.7):
        notes.append(Note(3.5, 0.45, _approach(bar), 0.68))
    return notes


def _walking(bar: Bar) -> list[Note]:
    """Quarters: root, chord tones, and a step into the next bar."""
    out = []
    for beat in range(4):
        chord = bar.chord_at(float(beat))
        pitch = bar.root(chord)
        if beat == 3:
            pitch = _approach(bar)
        elif float(beat) not in bar.changes():
            tone = bar.dice.choice(chord.pitch_classes[1:])
            pitch += (tone - chord.root) % 12
        out.append(Note(float(beat), 0.92, pitch, 0.82 if beat % 2 == 0 else 0.74))
    return out


def _offbeat(bar: Bar) -> list[Note]:
    """House: between the kicks, now and then an octave up."""
    onsets = [0.5, 1.5, 2.5, 3.5]
    if bar.number % 2 == 1:
        onsets += bar.dice.choice(([3.75], [2.75], [3.25], [1.75]))
    notes = _with_changes(bar, onsets, gate=0.85, longest=0.45)
    return [_colour(bar, note, 0.2, octave=True) for note in notes]


def _with_changes(bar: Bar, onsets: list[float], *, gate: float, longest: float) -> list[Note]:
    """Like `_hits`, without a note where a chord begins: the kick has that place."""
    notes = []
    times = sorted(onsets)
    for time, following in zip(times, [*times[1:], BAR], strict=True):
        length = min(longest, (following - time) * gate)
        notes.append(Note(time, length, bar.root(bar.chord_at(time)), 0.8))
    return notes


def _groove(bar: Bar) -> list[Note]:
    """Deep house: syncopated, root, fifth and octave."""
    onsets = _phrase(
        bar,
        ([0, 3, 6, 10, 12, 14], [0, 3, 7, 10, 11, 14], [0, 2, 6, 9, 12, 14], [0, 3, 6, 8, 11, 14]),
    )
    notes = _hits(bar, onsets, longest=0.6, gate=0.8)
    return [_colour(bar, note, 0.35, octave=True) for note in notes]


def _rolling(bar: Bar) -> list[Note]:
    """Three sixteenths after each kick."""
    onsets = [beat + step * STEP for beat in range(4) for step in (1, 2, 3)]
    notes = _with_changes(bar, onsets, gate=0.85, longest=0.22)
    return [
        Note(n.start, n.duration, n.pitch, 0.68 + 0.08 * (round(n.start * 4) % 4 == 2))
        for n in notes
    ]


def _rumble(bar: Bar) -> list[Note]:
    """Techno: a low murmur that swells towards each kick."""
    onsets = [beat + step * STEP for beat in range(4) for step in (1, 2, 3)]
    notes = _with_changes(bar, onsets, gate=0.95, longest=0.25)
    return [Note(n.start, n.duration, n.pitch, 0.5 + 0.1 * (round(n.start * 4) % 4)) for n in notes]


def _acid(bar: Bar) -> list[Note]:
    """A sequence of sixteenths with accents, octaves and slides, the same every other bar."""
    dice = bar.dice
    notes = []
    for step in range(16):
        time = step * STEP
        chord = bar.chord_at(time)
        root = bar.root(chord)
        sounds = dice.chance(0.72)
        leap = dice.choice((0, 0, 0, 12, 12, _fifth(chord), _scale_second(bar, chord)))
        accent, slide = dice.chance(0.3), dice.chance(0.2)
        if time in bar.changes():
            sounds, leap = True, 0
        if sounds:
            notes.append(Note(time, 0.25 if slide else 0.16, root + leap, 0.95 if accent else 0.68))
    return [
        Note(note.start, note.duration, note.pitch, note.velocity, following.pitch)
        if note.duration == 0.25
        and following.start - note.start == 0.25
        and following.pitch != note.pitch
        else note
        for note, following in zip(notes, [*notes[1:], notes[0]], strict=True)
    ]


def _scale_second(bar: Bar, chord: Chord) -> int:
    """Semitones from the chord's root to the next note of the scale or of the chord."""
    tones = bar.key.pitch_classes | set(chord.pitch_classes)
    return next(step for step in range(1, 12) if (chord.root + step) % 12 in tones)


def _reese(bar: Bar) -> list[Note]:
    """Long notes; a pickup at the end of every second bar."""
    notes = _hits(bar, [0.0], gate=1.0)
    if bar.number % 2 == 1:
        onset = bar.dice.choice((2.5, 3.0, 3.5))
        notes += [Note(onset, BAR - onset, _approach(bar), 0.78)]
    elif bar.energy > 0.7 and bar.dice.chance(0.5):
        notes = _hits(bar, [0.0, bar.dice.choice((1.5, 2.5))], gate=0.95)
    return notes


def _syncopated(bar: Bar) -> list[Note]:
    """Drum and bass: short notes around the break."""
    onsets = _phrase(bar, ([0, 3, 6, 10], [0, 6, 7, 10, 14], [0, 2, 7, 10, 13], [0, 3, 10, 11]))
    notes = _hits(bar, onsets, longest=0.9, gate=0.9)
    return [_colour(bar, note, 0.25) for note in notes]


def _octaves(bar: Bar) -> list[Note]:
    """Eighths, low and high in turn."""
    notes = _hits(bar, [step * 0.5 for step in range(8)], gate=0.85)
    return [
        Note(
            n.start,
            n.duration,
            n.pitch + 12 * (round(n.start * 2) % 2),
            0.84 - 0.12 * (round(n.start * 2) % 2),
        )
        for n in notes
    ]


def _eighths(bar: Bar) -> list[Note]:
    """Eighths on the root, a push into the next chord."""
    notes = _hits(bar, [step * 0.5 for step in range(8)], gate=0.85)
    if bar.number % 2 == 1:
        notes[-1] = Note(3.5, 0.42, _approach(bar), 0.78)
    return notes


def _drone(bar: Bar) -> list[Note]:
    """The root for as long as the chord lasts."""
    return [Note(start, length, bar.root(chord), 0.7) for start, length, chord in bar.chords]


STYLES: dict[str, Callable[[Bar], list[Note]]] = {
    "808": _eight_oh_eight,
    "boom": _boom,
    "upright": _upright,
    "walking": _walking,
    "offbeat": _offbeat,
    "groove": _groove,
    "rolling": _rolling,
    "rumble": _rumble,
    "acid": _acid,
    "reese": _reese,
    "syncopated": _syncopated,
    "octaves": _octaves,
    "eighths": _eighths,
    "drone": _drone,
}
"""Name -> a bar of it."""


def _phrase(bar: Bar, choices: tuple[list[int], ...]) -> list[float]:
    return [step * STEP for step in bar.dice.choice(choices)]


def _colour(bar: Bar, note: Note, often: float, *, octave: bool = False) -> Note:
    """Sometimes the fifth or the octave in place of the root, never where a chord begins."""
    if note.start in bar.changes() or not bar.dice.chance(often):
        return note
    chord = bar.chord_at(note.start)
    leap = 12 if octave or bar.dice.chance(0.4) else _fifth(chord)
    return Note(note.start, note.duration, note.pitch + leap, note.velocity)


def _fifth(chord: Chord) -> int:
    """Semitones from the root to the chord's own fifth."""
    return (chord.pitch_classes[min(2, len(chord.pitch_classes) - 1)] - chord.root) % 12


def _approach(bar: Bar) -> int:
    """A note of the scale next to the root that follows."""
    target = bar.next_root()
    around = [
        target + step
        for step in (-2, -1, 1, 2)
        if (target + step) % 12 in bar.key.pitch_classes and target + step >= _BOTTOM
    ]
    here = bar.root(bar.chords[-1][2])
    return min(around or [target], key=lambda pitch: (abs(pitch - here), pitch))


def _at(note: Note, beat: float) -> Note:
    return Note(note.start + beat, note.duration, note.pitch, note.velocity, note.glide_to)
