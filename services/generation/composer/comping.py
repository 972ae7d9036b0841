"""Writes chords, pads and arpeggios: voicings of the harmony in a comping style."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.generation.composer.harmony import BAR
from services.generation.composer.random_streams import RandomStream
from services.generation.composer.rhythm import STEP
from services.generation.composer.voicing import Voicer, Voicing, tones_without_clashes
from services.generation.score import Chord, Note

if TYPE_CHECKING:
    from services.generation.composer.plan import Plan
    from services.generation.composer.voices import Voice

_REGISTER: dict[str, tuple[int, int]] = {
    "chords": (50, 71),
    "pad": (53, 74),
    "arp": (57, 84),
}
"""Slot -> lowest and highest note of its voicings, MIDI."""
_FLOOR = 41
"""Lowest root (MIDI) that a pad adds below its voicing."""

_LEFT_HAND = 36
"""Lowest root (MIDI) of a left hand."""

_RINGING = ("guitar-pluck", "keys-piano", "keys-rhodes", "lead-bell")

_STAB_RHYTHMS = (
    [2, 6, 10, 14],
    [0, 3, 6, 10],
    [2, 5, 10, 13],
    [0, 3, 8, 11],
    [3, 6, 11, 14],
    [2, 7, 10, 15],
)
_CHOP_RHYTHMS = ([0, 6], [0, 10], [0, 7, 10], [2, 6, 10], [0, 3, 10])
_DUB_RHYTHMS = ([2], [6], [3, 11], [2, 10], [6, 9])


@dataclass(frozen=True, slots=True)
class ChordSpan:
    """The part of a chord inside one bar; times are beats from the start of the piece."""

    start: float
    duration: float
    chord: Chord
    voicing: Voicing
    bar: int
    """In its section; -1 for the last bar of a piece, in which the chord is held."""
    bar_start: float
    is_onset: bool
    """True if the chord starts in this bar, False if it is held from the bar before."""
    remaining: float
    """Beats that the chord lasts after this span."""
    energy: float
    rng: RandomStream
    """Equal in every second bar of a theme."""


def play_chords(plan: Plan, voice: Voice) -> list[Note]:
    """Return the notes of a chord part in the voice's comping style.

    A part without a bass beside it, playing throughout, adds a left hand.
    """
    play_span = COMPING_STYLES.get(voice.style, _play_sustain)
    spans = _split_chords(plan, voice, 5)
    notes = [note for span in spans for note in play_span(span)]
    if voice.plays_throughout and all(other.slot != "bass" for other in plan.voices):
        notes += [_play_left_hand(span) for span in spans]
    return notes


def _play_left_hand(span: ChordSpan) -> Note:
    low = _LEFT_HAND + (span.chord.root - _LEFT_HAND) % 12
    return Note(span.start, span.duration, low, 0.7)


def play_pad(plan: Plan, voice: Voice) -> list[Note]:
    """Return the notes of a pad: each chord is held, with its root below the voicing."""
    low, high = _REGISTER["pad"]
    voicer = Voicer(low, high, 3)
    shared = any(other.slot in ("chords", "arp") for other in plan.voices)
    notes = []
    for passage, bars in plan.passages_of(voice):
        start, end = bars.start * BAR, bars.stop * BAR
        for at, length, chord in plan.harmony.between(start, end):
            loud = 0.5 + 0.25 * passage.section.energy
            above = voicer.voice(_select_pad_tones(chord, plan.key.tonic, shared=shared))
            pitches = {_FLOOR + (chord.root - _FLOOR) % 12, *above}
            notes += [Note(at, length, pitch, loud) for pitch in sorted(pitches)]
    return notes


def _select_pad_tones(chord: Chord, tonic: int, *, shared: bool) -> tuple[int, ...]:
    """Return the pitch classes that a pad holds above its root.

    On the tonic it holds the triad, so that the key stays clear; elsewhere third, fifth and
    seventh, and `shared` with another chord part only the tones that clash with none of the chord.
    """
    if chord.root == tonic or len(chord.pitch_classes) <= 3:
        return chord.pitch_classes[:3]
    upper = chord.pitch_classes[1:4]
    if not shared:
        return upper
    clear = tones_without_clashes(chord, around=True)
    return tuple(tone for tone in upper if tone in clear) or clear[:2]


def play_arp(plan: Plan, voice: Voice) -> list[Note]:
    """Return the notes of an arpeggio; its direction is drawn once a piece."""
    rng = RandomStream(plan.seed, "arp", voice.name)
    shape = rng.choice(("up", "down", "up-down", "leaps"))
    rings = voice.patch in _RINGING and plan.genre in ("ambient", "lo-fi")
    notes: list[Note] = []
    for span in _split_chords(plan, voice, 3):
        ladder = [*span.voicing, span.voicing[0] + 12]
        order = _order_notes(ladder, shape)
        for step, pitch, gate in _arpeggiate(span, order, voice.style):
            accent = 0.72 if step % 4 == 0 else 0.55 + 0.06 * (step % 2 == 0)
            at = span.bar_start + step * STEP
            left = span.start + span.duration - at
            notes.append(Note(at, max(gate, min(1.5, left)) if rings else gate, pitch, accent))
    return notes


def _order_notes(ladder: list[int], shape: str) -> list[int]:
    if shape == "down":
        return ladder[::-1]
    if shape == "up-down":
        return ladder + ladder[-2:0:-1]
    if shape == "leaps":
        return ladder[::2] + ladder[1::2]
    return ladder


def _arpeggiate(span: ChordSpan, order: list[int], style: str) -> list[tuple[int, int, float]]:
    """Return (sixteenth in the bar, pitch, length in beats) of an arpeggio in a span."""
    first = round((span.start - span.bar_start) / STEP)
    final = first + round(span.duration / STEP)
    grid = {
        "sixteenths": list(range(16)),
        "eighths": list(range(0, 16, 2)),
        "three-three-two": [0, 3, 6, 8, 11, 14],
        "broken": [0, 4, 6, 10, 12],
        "drops": [0, 6, 12] if span.bar % 2 == 0 else [3, 10],
    }.get(style, list(range(0, 16, 2)))
    times = [step for step in grid if first <= step < final]
    gaps = [b - a for a, b in zip(times, [*times[1:], final], strict=True)]
    ring = 1.0 if style in ("broken", "drops") else 0.8
    return [
        (step, order[index % len(order)], gap * STEP * ring)
        for index, (step, gap) in enumerate(zip(times, gaps, strict=True))
    ]


def _split_chords(plan: Plan, voice: Voice, voices: int) -> list[ChordSpan]:
    low, high = _REGISTER.get(voice.slot, (50, 72))
    if voice.slot == "arp":
        low, high = low + plan.register, high + plan.register - 12
    voicer = Voicer(low, high, voices)
    out = []
    for passage, bars in plan.passages_of(voice):
        section = passage.section
        for number in bars:
            bar, start = number - section.start_bar, number * BAR
            stream = ("chords", voice.name, passage.kind.theme, bar % 2)
            is_final = passage.resolves and number == passage.end_bar - 1
            for at, length, chord in plan.harmony.between(start, start + BAR):
                out.append(
                    ChordSpan(
                        at,
                        length,
                        chord,
                        voicer.voice(_select_tones(chord, plan, voice.slot)),
                        -1 if is_final else bar,
                        start,
                        at in (chord.start, bars.start * BAR),
                        min(chord.start + chord.duration, bars.stop * BAR) - at - length,
                        section.energy,
                        RandomStream(plan.seed, *stream),
                    )
                )
    return out


def _select_tones(chord: Chord, plan: Plan, slot: str) -> tuple[int, ...]:
    """Return the pitch classes of a chord that a slot plays.

    An arpeggio plays the triad on the tonic, elsewhere tones without clashes. Chords play all
    tones, but on the tonic, beside a pad, none a semitone away from the triad.
    """
    triad = chord.pitch_classes[:3]
    home = chord.root == plan.key.tonic
    if slot == "arp":
        return triad if home else tones_without_clashes(chord, around=True)[:3]
    if not home or all(other.slot != "pad" for other in plan.voices):
        return chord.pitch_classes
    clashes = {(tone + step) % 12 for tone in triad for step in (-1, 1)}
    return (*triad, *(tone for tone in chord.pitch_classes[3:] if tone not in clashes))


def _play_chord(
    span: ChordSpan, step: int, length: float, velocity: float, strum: float = 0.0
) -> list[Note]:
    """Play the chord at a sixteenth of the bar; `strum` is the delay of each note in beats."""
    start = span.bar_start + step * STEP
    length = min(length, span.start + span.duration - start)
    return [
        Note(start + index * strum, length - index * strum, pitch, velocity - 0.03 * index)
        for index, pitch in enumerate(span.voicing)
    ]


def _choose_onsets(span: ChordSpan, choices: tuple[list[int], ...]) -> list[int]:
    """Draw a rhythm; return its sixteenths inside the span."""
    first = (span.start - span.bar_start) / STEP
    final = first + span.duration / STEP
    return [step for step in span.rng.choice(choices) if first <= step < final]


def _play_sustain(span: ChordSpan) -> list[Note]:
    """Hold the chord for as long as it lasts."""
    if not span.is_onset:
        return []
    loud = 0.6 + 0.15 * span.energy
    length = span.duration + span.remaining
    return [Note(span.start, length, pitch, loud) for pitch in span.voicing]


def _play_final(span: ChordSpan) -> list[Note]:
    """Hold the last chord of a piece."""
    return [Note(span.start, span.duration, pitch, 0.7) for pitch in span.voicing]


def _play_lazy(span: ChordSpan) -> list[Note]:
    """Lo-fi: a rolled chord, and a soft repeat later in the bar."""
    first = round((span.start - span.bar_start) / STEP)
    notes: list[Note] = []
    push = span.rng.choice((6, 7, 10, 11, 14))
    before_push = (push - first) * STEP
    if span.bar >= 0 and span.duration > 2.0 and before_push > 1.0:
        notes += _play_chord(span, first, before_push - 0.1, 0.68, 0.012)
        notes += _play_chord(span, push, 4.0, 0.52, 0.008)[1:]
        return notes
    return _play_chord(span, first, span.duration, 0.66, 0.012)


def _play_chops(span: ChordSpan) -> list[Note]:
    """Hip-hop: short chords, as cut from a sample."""
    if span.bar < 0:
        return _play_final(span)
    onsets = _choose_onsets(span, _CHOP_RHYTHMS) or [round((span.start - span.bar_start) / STEP)]
    notes: list[Note] = []
    for index, (step, following) in enumerate(zip(onsets, [*onsets[1:], 16], strict=True)):
        length = min((following - step) * STEP * 0.9, 1.75)
        notes += _play_chord(span, step, length, 0.74 - 0.08 * index)
    return notes


def _play_stabs(span: ChordSpan) -> list[Note]:
    """House: short syncopated chords."""
    if span.bar < 0:
        return _play_final(span)
    notes: list[Note] = []
    for index, step in enumerate(_choose_onsets(span, _STAB_RHYTHMS)):
        notes += _play_chord(span, step, 0.4, 0.78 if index % 2 == 0 else 0.66)
    return notes


def _play_dub(span: ChordSpan) -> list[Note]:
    """Dub techno: one or two stabs a bar."""
    if span.bar < 0:
        return _play_final(span)
    return [
        note
        for step in _choose_onsets(span, _DUB_RHYTHMS)
        for note in _play_chord(span, step, 0.3, 0.72)
    ]


def _play_broken(span: ChordSpan) -> list[Note]:
    """Broken chords: eighths through the voicing."""
    if span.bar < 0:
        return _play_final(span)
    first = round((span.start - span.bar_start) / STEP)
    order = (0, 2, 1, 3, 2, 1, 3, 2)
    rest = span.rng.choice((3, 5, 7, 99))
    notes = []
    for index in range(round(span.duration * 2)):
        if index % 8 == rest:
            continue
        at = span.bar_start + first * STEP + index * 0.5
        pitch = span.voicing[order[index % 8] % len(span.voicing)]
        length = min(1.0, span.start + span.duration - at)
        notes.append(Note(at, length, pitch, 0.68 if index % 4 == 0 else 0.54))
    return notes


def _play_pushes(span: ChordSpan) -> list[Note]:
    """Synthwave: the chord on the first beat, and again before the third."""
    if span.bar < 0:
        return _play_final(span)
    onsets = _choose_onsets(span, ([0, 6], [0, 6, 12], [0, 3, 6]))
    onsets = onsets or [round((span.start - span.bar_start) / STEP)]
    notes: list[Note] = []
    for step, following in zip(onsets, [*onsets[1:], 16], strict=True):
        notes += _play_chord(span, step, (following - step) * STEP * 0.92, 0.74)
    return notes


COMPING_STYLES: dict[str, Callable[[ChordSpan], list[Note]]] = {
    "sustain": _play_sustain,
    "lazy": _play_lazy,
    "chops": _play_chops,
    "stabs": _play_stabs,
    "dub": _play_dub,
    "broken": _play_broken,
    "pushes": _play_pushes,
}
"""Comping style -> the function that plays a span."""
