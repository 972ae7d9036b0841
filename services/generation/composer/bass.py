"""Writes the bass: the root wherever the chord changes, and a playing style for the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.generation.composer.harmony import BAR
from services.generation.composer.random_streams import RandomStream
from services.generation.composer.rhythm import STEP, make_monophonic
from services.generation.score import Chord, Key, Note

if TYPE_CHECKING:
    from services.generation.composer.plan import Plan
    from services.generation.composer.voices import Voice

_LOWEST = {"bass-808": 27, "bass-sub": 27, "bass-reese": 28, "bass-upright": 29}
_USUAL_LOWEST = 31
"""Lowest root (MIDI) of a patch, and of the other patches."""
_BOTTOM = 26
"""Lowest note (MIDI) of any patch."""


@dataclass(frozen=True, slots=True)
class BassBar:
    """What a playing style reads to write one bar; times are beats from its start."""

    chords: tuple[tuple[float, float, Chord], ...]
    """(start, duration, chord)."""
    next_chord: Chord
    """The chord of the next bar."""
    kicks: tuple[float, ...]
    index: int
    """In its section."""
    energy: float
    key: Key
    low: int
    """Lowest root, MIDI."""
    rng: RandomStream

    def root(self, chord: Chord) -> int:
        """Return the MIDI pitch of the chord's root in the register."""
        return self.low + (chord.root - self.low) % 12

    def chord_at(self, beat: float) -> Chord:
        return [chord for start, _, chord in self.chords if start <= beat + 1e-6][-1]

    def chord_starts(self) -> list[float]:
        return [start for start, _, _ in self.chords]

    def next_root(self) -> int:
        """Return the root of the next bar in the octave nearest to this bar's last root."""
        target = self.root(self.next_chord)
        here = self.root(self.chords[-1][2])
        near = (pitch for pitch in (target - 12, target, target + 12) if pitch >= _BOTTOM)
        return min(near, key=lambda pitch: (abs(pitch - here), pitch))


def play_bass(plan: Plan, voice: Voice) -> list[Note]:
    """Return the bass line, monophonic and without swing."""
    low = _LOWEST.get(voice.patch, _USUAL_LOWEST)
    play_bar = BASS_STYLES[voice.style]
    notes: list[Note] = []
    for passage, bars in plan.passages_of(voice):
        section = passage.section
        for number in bars:
            index = number - section.start_bar
            start = number * BAR
            final = number == passage.end_bar - 1
            theme = passage.kind.theme
            turn = (section.name, index) if index % 4 == 3 else ()
            bar = BassBar(
                tuple(
                    (at - start, length, chord)
                    for at, length, chord in plan.harmony.between(start, start + BAR)
                ),
                plan.harmony.at(start + BAR),
                tuple(step * STEP for step in plan.drum_patterns.kicks(index, theme)),
                index,
                section.energy,
                plan.key,
                low,
                RandomStream(plan.seed, "bass", voice.name, theme, index % 4, *turn),
            )
            written = _play_final(bar) if passage.resolves and final else play_bar(bar)
            notes += [_shift(note, start) for note in make_monophonic(written)]
    return make_monophonic(notes)


def _play_final(bar: BassBar) -> list[Note]:
    """Hold the root in the last bar of a piece."""
    return [Note(start, length, bar.root(chord), 0.85) for start, length, chord in bar.chords]


def _play_roots(
    bar: BassBar, onsets: list[float], *, longest: float = 4.0, gate: float = 1.0
) -> list[Note]:
    """Play the root at each onset and at each chord change, until the next one."""
    times = sorted(set(onsets) | set(bar.chord_starts()))
    out = []
    for time, following in zip(times, [*times[1:], BAR], strict=True):
        length = min(longest, (following - time) * gate)
        pitch = bar.root(bar.chord_at(time))
        out.append(Note(time, length, pitch, 0.85 if time in (0.0, 2.0) else 0.78))
    return out


def _play_808(bar: BassBar) -> list[Note]:
    """808: long notes with the kick; the last one of a bar may slide."""
    notes = _play_roots(bar, list(bar.kicks), longest=2.5, gate=0.97)
    last = notes[-1]
    chord = bar.chord_at(last.start)
    if len(notes) > 1 and bar.rng.chance(0.35) and last.start not in bar.chord_starts():
        up = last.pitch + (12 if bar.rng.chance(0.6) else _fifth_of(chord))
        last = Note(last.start, last.duration, up, last.velocity)
    if bar.index % 2 == 1 and bar.rng.chance(0.45):
        target = bar.next_root() if bar.next_root() != last.pitch else last.pitch + 12
        last = Note(last.start, BAR - last.start, last.pitch, last.velocity, target)
    return [*notes[:-1], last]


def _play_boom(bar: BassBar) -> list[Note]:
    """Hip-hop: with the kick, and a pickup into the next bar."""
    notes = _play_roots(bar, list(bar.kicks), longest=1.5, gate=0.9)
    notes = [_vary_pitch(bar, note, 0.3) for note in notes]
    if bar.index % 2 == 1 and bar.rng.chance(0.7):
        notes.append(Note(3.5, 0.45, _approach_note(bar), 0.7))
    return notes


def _play_upright(bar: BassBar) -> list[Note]:
    """Upright: root, then fifth or octave, and a step into the next chord."""
    onsets = bar.rng.choice(([0.0, 1.5, 2.0], [0.0, 2.5], [0.0, 1.75, 2.5], [0.0, 2.0, 2.75]))
    notes = [
        _vary_pitch(bar, note, 0.5) for note in _play_roots(bar, onsets, longest=1.8, gate=0.92)
    ]
    if bar.rng.chance(0.7):
        notes.append(Note(3.5, 0.45, _approach_note(bar), 0.68))
    return notes


def _play_walking(bar: BassBar) -> list[Note]:
    """Walking: quarters on root and chord tones, and a step into the next bar."""
    out = []
    for beat in range(4):
        chord = bar.chord_at(float(beat))
        pitch = bar.root(chord)
        if beat == 3:
            pitch = _approach_note(bar)
        elif float(beat) not in bar.chord_starts():
            tone = bar.rng.choice(chord.pitch_classes[1:])
            pitch += (tone - chord.root) % 12
        out.append(Note(float(beat), 0.92, pitch, 0.82 if beat % 2 == 0 else 0.74))
    return out


def _play_offbeat(bar: BassBar) -> list[Note]:
    """House: off the beat, sometimes an octave up."""
    onsets = [0.5, 1.5, 2.5, 3.5]
    if bar.index % 2 == 1:
        onsets += bar.rng.choice(([3.75], [2.75], [3.25], [1.75]))
    notes = _play_off_changes(bar, onsets, gate=0.85, longest=0.45)
    return [_vary_pitch(bar, note, 0.2, octave=True) for note in notes]


def _play_off_changes(
    bar: BassBar, onsets: list[float], *, gate: float, longest: float
) -> list[Note]:
    """Play the root at each onset but not at chord changes, which are left to the kick."""
    notes = []
    times = sorted(onsets)
    for time, following in zip(times, [*times[1:], BAR], strict=True):
        length = min(longest, (following - time) * gate)
        notes.append(Note(time, length, bar.root(bar.chord_at(time)), 0.8))
    return notes


def _play_groove(bar: BassBar) -> list[Note]:
    """Deep house: syncopated roots, fifths and octaves."""
    onsets = _choose_onsets(
        bar,
        ([0, 3, 6, 10, 12, 14], [0, 3, 7, 10, 11, 14], [0, 2, 6, 9, 12, 14], [0, 3, 6, 8, 11, 14]),
    )
    notes = _play_roots(bar, onsets, longest=0.6, gate=0.8)
    return [_vary_pitch(bar, note, 0.35, octave=True) for note in notes]


def _play_rolling(bar: BassBar) -> list[Note]:
    """Rolling: the three sixteenths after each beat."""
    onsets = [beat + step * STEP for beat in range(4) for step in (1, 2, 3)]
    notes = _play_off_changes(bar, onsets, gate=0.85, longest=0.22)
    return [
        Note(n.start, n.duration, n.pitch, 0.68 + 0.08 * (round(n.start * 4) % 4 == 2))
        for n in notes
    ]


def _play_rumble(bar: BassBar) -> list[Note]:
    """Techno rumble: the three sixteenths after each beat, each louder than the last."""
    onsets = [beat + step * STEP for beat in range(4) for step in (1, 2, 3)]
    notes = _play_off_changes(bar, onsets, gate=0.95, longest=0.25)
    return [Note(n.start, n.duration, n.pitch, 0.5 + 0.1 * (round(n.start * 4) % 4)) for n in notes]


def _play_acid(bar: BassBar) -> list[Note]:
    """Acid: a sequence of sixteenths with accents, octaves and slides."""
    rng = bar.rng
    notes = []
    for step in range(16):
        time = step * STEP
        chord = bar.chord_at(time)
        root = bar.root(chord)
        sounds = rng.chance(0.72)
        leap = rng.choice((0, 0, 0, 12, 12, _fifth_of(chord), _scale_second(bar, chord)))
        accent, slide = rng.chance(0.3), rng.chance(0.2)
        if time in bar.chord_starts():
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


def _scale_second(bar: BassBar, chord: Chord) -> int:
    """Return the semitones from the chord's root to the next note of the scale or chord."""
    tones = bar.key.pitch_classes | set(chord.pitch_classes)
    return next(step for step in range(1, 12) if (chord.root + step) % 12 in tones)


def _play_reese(bar: BassBar) -> list[Note]:
    """Reese: long notes, and a pickup at the end of every second bar."""
    notes = _play_roots(bar, [0.0], gate=1.0)
    if bar.index % 2 == 1:
        onset = bar.rng.choice((2.5, 3.0, 3.5))
        notes += [Note(onset, BAR - onset, _approach_note(bar), 0.78)]
    elif bar.energy > 0.7 and bar.rng.chance(0.5):
        notes = _play_roots(bar, [0.0, bar.rng.choice((1.5, 2.5))], gate=0.95)
    return notes


def _play_syncopated(bar: BassBar) -> list[Note]:
    """Drum and bass: short syncopated notes."""
    onsets = _choose_onsets(
        bar, ([0, 3, 6, 10], [0, 6, 7, 10, 14], [0, 2, 7, 10, 13], [0, 3, 10, 11])
    )
    notes = _play_roots(bar, onsets, longest=0.9, gate=0.9)
    return [_vary_pitch(bar, note, 0.25) for note in notes]


def _play_octaves(bar: BassBar) -> list[Note]:
    """Eighths that alternate between the root and its octave."""
    notes = _play_roots(bar, [step * 0.5 for step in range(8)], gate=0.85)
    return [
        Note(
            n.start,
            n.duration,
            n.pitch + 12 * (round(n.start * 2) % 2),
            0.84 - 0.12 * (round(n.start * 2) % 2),
        )
        for n in notes
    ]


def _play_eighths(bar: BassBar) -> list[Note]:
    """Eighths on the root, and a step into the next chord."""
    notes = _play_roots(bar, [step * 0.5 for step in range(8)], gate=0.85)
    if bar.index % 2 == 1:
        notes[-1] = Note(3.5, 0.42, _approach_note(bar), 0.78)
    return notes


def _play_drone(bar: BassBar) -> list[Note]:
    """Hold the root for as long as the chord lasts."""
    return [Note(start, length, bar.root(chord), 0.7) for start, length, chord in bar.chords]


BASS_STYLES: dict[str, Callable[[BassBar], list[Note]]] = {
    "808": _play_808,
    "boom": _play_boom,
    "upright": _play_upright,
    "walking": _play_walking,
    "offbeat": _play_offbeat,
    "groove": _play_groove,
    "rolling": _play_rolling,
    "rumble": _play_rumble,
    "acid": _play_acid,
    "reese": _play_reese,
    "syncopated": _play_syncopated,
    "octaves": _play_octaves,
    "eighths": _play_eighths,
    "drone": _play_drone,
}
"""Playing style -> the function that writes a bar."""


def _choose_onsets(bar: BassBar, choices: tuple[list[int], ...]) -> list[float]:
    return [step * STEP for step in bar.rng.choice(choices)]


def _vary_pitch(bar: BassBar, note: Note, probability: float, *, octave: bool = False) -> Note:
    """Replace the root by fifth or octave with this probability, except at a chord change."""
    if note.start in bar.chord_starts() or not bar.rng.chance(probability):
        return note
    chord = bar.chord_at(note.start)
    leap = 12 if octave or bar.rng.chance(0.4) else _fifth_of(chord)
    return Note(note.start, note.duration, note.pitch + leap, note.velocity)


def _fifth_of(chord: Chord) -> int:
    """Return the semitones from the root to the fifth of the chord."""
    return (chord.pitch_classes[min(2, len(chord.pitch_classes) - 1)] - chord.root) % 12


def _approach_note(bar: BassBar) -> int:
    """Return a scale note a step away from the next root, on the side of the present one."""
    target = bar.next_root()
    around = [
        target + step
        for step in (-2, -1, 1, 2)
        if (target + step) % 12 in bar.key.pitch_classes and target + step >= _BOTTOM
    ]
    here = bar.root(bar.chords[-1][2])
    return min(around or [target], key=lambda pitch: (abs(pitch - here), pitch))


def _shift(note: Note, beat: float) -> Note:
    return Note(note.start + beat, note.duration, note.pitch, note.velocity, note.glide_to)
