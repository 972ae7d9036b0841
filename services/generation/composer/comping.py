"""Chords, pads and arpeggios: the harmony as it is played."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.generation.composer.dice import Dice
from services.generation.composer.harmony import BAR
from services.generation.composer.rhythm import STEP
from services.generation.composer.voicing import Voicer, Voicing, clear_tones
from services.generation.score import Chord, Note

if TYPE_CHECKING:
    from services.generation.composer.plan import Plan
    from services.generation.composer.voices import Voice

_REGISTER: dict[str, tuple[int, int]] = {
    "chords": (50, 71),
    "pad": (53, 74),
    "arp": (57, 84),
}
"""Lowest and highest note of each slot."""
_FLOOR = 41
"""A pad puts the root below its voicing, in the octave from here."""

_LEFT_HAND = 36
"""The lowest root of a left hand."""

_RINGING = ("guitar-pluck", "keys-piano", "keys-rhodes", "lead-bell")

_STABS = (
    [2, 6, 10, 14],
    [0, 3, 6, 10],
    [2, 5, 10, 13],
    [0, 3, 8, 11],
    [3, 6, 11, 14],
    [2, 7, 10, 15],
)
_CHOPS = ([0, 6], [0, 10], [0, 7, 10], [2, 6, 10], [0, 3, 10])
_DUB = ([2], [6], [3, 11], [2, 10], [6, 9])


@dataclass(frozen=True, slots=True)
class Stretch:
    """A chord inside one bar; times are beats from the start of the piece."""

    start: float
    duration: float
    chord: Chord
    voicing: Voicing
    bar: int
    """In its section."""
    bar_start: float
    begins: bool
    """The chord starts here (it did not sound before)."""
    left: float
    """Beats that the chord goes on after this stretch."""
    energy: float
    onsets: Dice
    """Streams that are the same in every fourth bar of a theme."""


def play_chords(plan: Plan, voice: Voice) -> list[Note]:
    """A chord instrument, in the voice's way of playing."""
    way = CHORDS.get(voice.playing, _sustain)
    stretches = _stretches(plan, voice, 5)
    notes = [note for stretch in stretches for note in way(stretch)]
    if voice.everywhere and all(other.slot != "bass" for other in plan.voices):
        notes += [_left_hand(stretch) for stretch in stretches]
    return notes


def _left_hand(stretch: Stretch) -> Note:
    """The root an octave or two down, for a player who is alone."""
    low = _LEFT_HAND + (stretch.chord.root - _LEFT_HAND) % 12
    return Note(stretch.start, stretch.duration, low, 0.7)


def play_pad(plan: Plan, voice: Voice) -> list[Note]:
    """Each chord once, for as long as it lasts: the root low, the rest wide above it."""
    low, high = _REGISTER["pad"]
    voicer = Voicer(low, high, 3)
    shared = any(other.slot in ("chords", "arp") for other in plan.voices)
    notes = []
    for passage, bars in plan.playing(voice):
        start, end = bars.start * BAR, bars.stop * BAR
        for at, length, chord in plan.harmony.between(start, end):
            loud = 0.5 + 0.25 * passage.section.energy
            above = voicer.place(_pad_tones(chord, plan.key.tonic, shared=shared))
            pitches = {_FLOOR + (chord.root - _FLOOR) % 12, *above}
            notes += [Note(at, length, pitch, loud) for pitch in sorted(pitches)]
    return notes


def _pad_tones(chord: Chord, tonic: int, *, shared: bool) -> tuple[int, ...]:
    """What a pad holds above its root.

    The triad, with the colour only where it cannot blur which chord is home; away from home, beside
    another chord instrument (`shared`), nothing that would rub against what that one may play.
    """
    if chord.root == tonic or len(chord.pitch_classes) <= 3:
        return chord.pitch_classes[:3]
    colour = chord.pitch_classes[1:4]
    if not shared:
        return colour
    clear = clear_tones(chord, around=True)
    return tuple(tone for tone in colour if tone in clear) or clear[:2]


def play_arp(plan: Plan, voice: Voice) -> list[Note]:
    """Broken chords; direction and rhythm are the piece's own."""
    dice = Dice(plan.seed, "arp", voice.name)
    shape = dice.choice(("up", "down", "up-down", "leaps"))
    rings = voice.patch in _RINGING and plan.genre in ("ambient", "lo-fi")
    notes: list[Note] = []
    for stretch in _stretches(plan, voice, 3):
        ladder = [*stretch.voicing, stretch.voicing[0] + 12]
        order = _order(ladder, shape)
        for step, pitch, gate in _ticks(stretch, order, voice.playing):
            accent = 0.72 if step % 4 == 0 else 0.55 + 0.06 * (step % 2 == 0)
            at = stretch.bar_start + step * STEP
            room = stretch.start + stretch.duration - at
            notes.append(Note(at, max(gate, min(1.5, room)) if rings else gate, pitch, accent))
    return notes


def _order(ladder: list[int], shape: str) -> list[int]:
    if shape == "down":
        return ladder[::-1]
    if shape == "up-down":
        return ladder + ladder[-2:0:-1]
    if shape == "leaps":
        return ladder[::2] + ladder[1::2]
    return ladder


def _ticks(stretch: Stretch, order: list[int], way: str) -> list[tuple[int, int, float]]:
    """(sixteenth in the bar, pitch, length) of each note of an arpeggio in this stretch."""
    first = round((stretch.start - stretch.bar_start) / STEP)
    final = first + round(stretch.duration / STEP)
    grid = {
        "sixteenths": list(range(16)),
        "eighths": list(range(0, 16, 2)),
        "three-three-two": [0, 3, 6, 8, 11, 14],
        "broken": [0, 4, 6, 10, 12],
        "drops": [0, 6, 12] if stretch.bar % 2 == 0 else [3, 10],
    }.get(way, list(range(0, 16, 2)))
    times = [step for step in grid if first <= step < final]
    gaps = [b - a for a, b in zip(times, [*times[1:], final], strict=True)]
    ring = 1.0 if way in ("broken", "drops") else 0.8
    return [
        (step, order[index % len(order)], gap * STEP * ring)
        for index, (step, gap) in enumerate(zip(times, gaps, strict=True))
    ]


def _stretches(plan: Plan, voice: Voice, voices: int) -> list[Stretch]:
    low, high = _REGISTER.get(voice.slot, (50, 72))
    if voice.slot == "arp":
        low, high = low + plan.register, high + plan.register - 12
    voicer = Voicer(low, high, voices)
    out = []
    for passage, bars in plan.playing(voice):
        section = passage.section
        for number in bars:
            bar, start = number - section.start_bar, number * BAR
            dice_name = ("chords", voice.name, passage.shape.theme, bar % 2)
            held = passage.lands and number == passage.end_bar - 1
            for at, length, chord in plan.harmony.between(start, start + BAR):
                out.append(
                    Stretch(
                        at,
                        length,
                        chord,
                        voicer.place(_tones(chord, plan, voice.slot)),
                        -1 if held else bar,
                        start,
                        at in (chord.start, bars.start * BAR),
                        min(chord.start + chord.duration, bars.stop * BAR) - at - length,
                        section.energy,
                        Dice(plan.seed, *dice_name),
                    )
                )
    return out


def _tones(chord: Chord, plan: Plan, slot: str) -> tuple[int, ...]:
    """What of a chord is played; at home the triad has precedence, so that it is heard as home.

    Where a pad holds it, colours a semitone from it stay out; an arpeggio leaves them out always.
    """
    triad = chord.pitch_classes[:3]
    home = chord.root == plan.key.tonic
    if slot == "arp":
        return triad if home else clear_tones(chord, around=True)[:3]
    if not home or all(other.slot != "pad" for other in plan.voices):
        return chord.pitch_classes
    rubs = {(tone + step) % 12 for tone in triad for step in (-1, 1)}
    return (*triad, *(tone for tone in chord.pitch_classes[3:] if tone not in rubs))


def _block(
    stretch: Stretch, step: int, length: float, velocity: float, strum: float = 0.0
) -> list[Note]:
    """The whole chord at a sixteenth of the bar, low notes first when strummed."""
    start = stretch.bar_start + step * STEP
    length = min(length, stretch.start + stretch.duration - start)
    return [
        Note(start + index * strum, length - index * strum, pitch, velocity - 0.03 * index)
        for index, pitch in enumerate(stretch.voicing)
    ]


def _onsets(stretch: Stretch, choices: tuple[list[int], ...]) -> list[int]:
    """The chosen rhythm, as far as it falls inside the stretch."""
    first = (stretch.start - stretch.bar_start) / STEP
    final = first + stretch.duration / STEP
    return [step for step in stretch.onsets.choice(choices) if first <= step < final]


def _sustain(stretch: Stretch) -> list[Note]:
    """The chord once, as long as it lasts."""
    if not stretch.begins:
        return []
    loud = 0.6 + 0.15 * stretch.energy
    length = stretch.duration + stretch.left
    return [Note(stretch.start, length, pitch, loud) for pitch in stretch.voicing]


def _held(stretch: Stretch) -> list[Note]:
    """The last chord of a piece."""
    return [Note(stretch.start, stretch.duration, pitch, 0.7) for pitch in stretch.voicing]


def _lazy(stretch: Stretch) -> list[Note]:
    """Lo-fi keys: the chord, gently rolled, and a soft push later in the bar."""
    first = round((stretch.start - stretch.bar_start) / STEP)
    notes: list[Note] = []
    push = stretch.onsets.choice((6, 7, 10, 11, 14))
    room = (push - first) * STEP
    if stretch.bar >= 0 and stretch.duration > 2.0 and room > 1.0:
        notes += _block(stretch, first, room - 0.1, 0.68, 0.012)
        notes += _block(stretch, push, 4.0, 0.52, 0.008)[1:]
        return notes
    return _block(stretch, first, stretch.duration, 0.66, 0.012)


def _chops(stretch: Stretch) -> list[Note]:
    """Sampled-sounding chords, cut short."""
    if stretch.bar < 0:
        return _held(stretch)
    onsets = _onsets(stretch, _CHOPS) or [round((stretch.start - stretch.bar_start) / STEP)]
    notes: list[Note] = []
    for index, (step, following) in enumerate(zip(onsets, [*onsets[1:], 16], strict=True)):
        length = min((following - step) * STEP * 0.9, 1.75)
        notes += _block(stretch, step, length, 0.74 - 0.08 * index)
    return notes


def _stabs(stretch: Stretch) -> list[Note]:
    """House: short chords against the kick."""
    if stretch.bar < 0:
        return _held(stretch)
    notes: list[Note] = []
    for index, step in enumerate(_onsets(stretch, _STABS)):
        notes += _block(stretch, step, 0.4, 0.78 if index % 2 == 0 else 0.66)
    return notes


def _dub(stretch: Stretch) -> list[Note]:
    """Techno: one or two stabs a bar, left to the echo."""
    if stretch.bar < 0:
        return _held(stretch)
    return [note for step in _onsets(stretch, _DUB) for note in _block(stretch, step, 0.3, 0.72)]


def _broken(stretch: Stretch) -> list[Note]:
    """Eighths through the chord, ringing until it changes."""
    if stretch.bar < 0:
        return _held(stretch)
    first = round((stretch.start - stretch.bar_start) / STEP)
    order = (0, 2, 1, 3, 2, 1, 3, 2)
    rest = stretch.onsets.choice((3, 5, 7, 99))
    notes = []
    for index in range(round(stretch.duration * 2)):
        if index % 8 == rest:
            continue
        at = stretch.bar_start + first * STEP + index * 0.5
        pitch = stretch.voicing[order[index % 8] % len(stretch.voicing)]
        length = min(1.0, stretch.start + stretch.duration - at)
        notes.append(Note(at, length, pitch, 0.68 if index % 4 == 0 else 0.54))
    return notes


def _pushes(stretch: Stretch) -> list[Note]:
    """Synthwave: the chord on the one, and pushed before the three."""
    if stretch.bar < 0:
        return _held(stretch)
    onsets = _onsets(stretch, ([0, 6], [0, 6, 12], [0, 3, 6]))
    onsets = onsets or [round((stretch.start - stretch.bar_start) / STEP)]
    notes: list[Note] = []
    for step, following in zip(onsets, [*onsets[1:], 16], strict=True):
        notes += _block(stretch, step, (following - step) * STEP * 0.92, 0.74)
    return notes


CHORDS: dict[str, Callable[[Stretch], list[Note]]] = {
    "sustain": _sustain,
    "lazy": _lazy,
    "chops": _chops,
    "stabs": _stabs,
    "dub": _dub,
    "broken": _broken,
    "pushes": _pushes,
}
"""Name -> a chord of it."""
