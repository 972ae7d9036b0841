"""Songs of known tempo, key and metre to measure the analysis with: written and played here.

They share neither patterns nor instruments with the composer. Two groups of styles are kept apart:
`TUNED` is what the estimators' constants may be chosen on, `HELD_OUT` is only ever measured.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

STEPS_PER_BEAT = 4

_MAJOR, _MINOR = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10)
_POP = {
    "major": ("1451", "1564", "1645", "6415", "1415"),
    "minor": ("1637", "1451", "1645", "1765", "1671"),
}
_JAZZ = {"major": ("2511", "1625", "3625"), "minor": ("1251", "1651", "1451")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """A bar of music as patterns of sixteenths, repeated with variation."""

    tempo: tuple[float, float]
    """BPM usual for the style."""
    drums: dict[str, str] = field(default_factory=dict)
    """Drum -> one bar; `x` a hit, `-` a soft one."""
    bass: str = ""
    """`r` root, `5` fifth, `3` third, `o` octave."""
    chords: str = ""
    arpeggio: str = ""
    """Chord tones by number, from the lowest."""
    lead: float = 0.6
    """Share of the beats in which the tune plays."""
    voices: tuple[str, str, str] = ("fingered", "piano", "square")
    """Instruments of bass, chords and tune, of `benchmarks.instruments`."""
    progressions: dict[str, tuple[str, ...]] = field(default_factory=lambda: _POP)
    sevenths: bool = False
    swing: float = 0.5
    """Share of a beat that its first half takes."""
    beats: int = 4
    loose_ms: float = 4.0
    """Standard deviation of the players' timing."""


TUNED = {
    "rock": Style(
        tempo=(90, 150),
        drums={"kick": "x.......x.x.....", "snare": "....x.......x...", "hat": "x.-.x.-.x.-.x.-."},
        bass="r.r.r.r.r.r.r.5.", chords="x.......x.......", voices=("fingered", "saw", "square"),
    ),
    "house": Style(
        tempo=(118, 130),
        drums={"kick": "x...x...x...x...", "clap": "....x.......x...", "open": "..x...x...x...x."},
        bass="..r...r...r...o.", chords="x..x..x...x..x..", voices=("synth", "organ", "bell"),
        loose_ms=0.0,
    ),
    "boom bap": Style(
        tempo=(78, 98),
        drums={"kick": "x......x..x.....", "snare": "....x.......x...", "hat": "x.x.x.x.x.x.x.x."},
        bass="r......r..5.....", chords="x...............", voices=("synth", "epiano", "flute"),
        swing=0.54, loose_ms=8.0,
    ),
    "ballad": Style(
        tempo=(60, 84),
        drums={"kick": "x.......x.......", "rim": "....x.......x...", "hat": "x...x...x...x..."},
        bass="r.......r.....5.", chords="x...x...x...x...", voices=("fingered", "piano", "flute"),
        loose_ms=8.0,
    ),
    "waltz": Style(
        tempo=(84, 180), beats=3,
        drums={"kick": "x...........", "hat": "....x...x..."},
        bass="r...........", chords="....x...x...", voices=("fingered", "piano", "strings"),
        loose_ms=6.0,
    ),
    "arpeggio": Style(
        tempo=(72, 132), arpeggio="0123210120123212", chords="x...............", lead=0.0,
        voices=("synth", "strings", "pluck"),
    ),
    "drums rock": Style(
        tempo=(80, 160), lead=0.0,
        drums={"kick": "x..x....x.x.....", "snare": "....x.......x...", "hat": "x.x.x.x.x.x.x.x."},
    ),
    "synth pop": Style(
        tempo=(100, 132),
        drums={"kick": "x...x...x...x...", "snare": "....x.......x...", "hat": "x.x.x.x.x.x.x.xx"},
        bass="rorororororororo", chords="x.........x.....", voices=("synth", "saw", "square"),
        loose_ms=0.0,
    ),
}  # fmt: skip
HELD_OUT = {
    "funk": Style(
        tempo=(92, 118),
        drums={"kick": "x.x....-..x..x..", "snare": "....x..-.-..x..-", "hat": "x-x-x-x-x-x-x-x-"},
        bass="r..r..o...5.r.o.", chords="..x..x....x..x..", voices=("fingered", "organ", "saw"),
        sevenths=True, lead=0.4,
        progressions={"major": ("1414", "2525"), "minor": ("1414", "1141")},
    ),
    "reggae": Style(
        tempo=(64, 92),
        drums={"kick": "........x.......", "rim": "........x.......", "hat": "x.x.x.x.x.x.x.x."},
        bass="r..5..o.r.....5.", chords="....x.......x...", voices=("synth", "organ", "flute"),
        lead=0.4, loose_ms=6.0,
    ),
    "swing": Style(
        tempo=(110, 200), swing=0.64, sevenths=True, progressions=_JAZZ,
        drums={"ride": "x...x.x.x...x.x.", "pedal": "....x.......x...", "kick": "-..............."},
        bass="r...3...5...o...", chords="x.....x.........", voices=("fingered", "piano", "flute"),
        loose_ms=8.0,
    ),
    "jungle": Style(
        tempo=(160, 178),
        drums={"kick": "x.x.......x.....", "snare": "....x..x.x..x..x", "ride": "x.x.x.x.x.x.x.x."},
        bass="r.......5.......", chords="x...............", voices=("synth", "strings", "bell"),
        lead=0.3, loose_ms=1.0,
    ),
    "solo piano": Style(
        tempo=(66, 126), bass="r.......5.......", chords="x...x...x...x...", lead=0.9,
        voices=("piano", "piano", "piano"), loose_ms=8.0,
    ),
    "minuet": Style(
        tempo=(96, 150), beats=3, bass="r...3...5...", chords="x...........", lead=0.95,
        voices=("pluck", "pluck", "pluck"), loose_ms=6.0,
    ),
    "drums latin": Style(
        tempo=(88, 124), lead=0.0,
        drums={"kick": "x..xx..xx..xx..x", "clave": "x..x..x...x.x...", "tom": "..............xx",
               "shaker": "x-x-x-x-x-x-x-x-"},
    ),
    "folk": Style(
        tempo=(80, 138), arpeggio="0.2.1.2.0.2.1.2.", bass="r.......5.......", lead=0.5,
        voices=("fingered", "pluck", "flute"), loose_ms=8.0,
    ),
    "disco": Style(
        tempo=(108, 126),
        drums={"kick": "x...x...x...x...", "snare": "....x.......x...", "open": "..x...x...x...x.",
               "hat": "xx.xxx.xxx.xxx.x"},
        bass="r.o.r.o.r.o.r.o.", chords="..x...x...x..xx.",
        voices=("fingered", "epiano", "strings"),
    ),
    "shuffle": Style(
        tempo=(84, 132), swing=0.66,
        drums={"kick": "x.......x.......", "snare": "....x.......x...", "hat": "x.x.x.x.x.x.x.x."},
        bass="r.r.3.3.5.5.3.3.", chords="x.....x.........", voices=("fingered", "organ", "saw"),
        lead=0.4, loose_ms=5.0,
        progressions={"major": ("1415", "1451"), "minor": ("1415", "1451")},
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Event:
    """One note or drum hit."""

    voice: str
    start: float
    """Seconds; `seconds` likewise."""
    seconds: float
    pitch: int
    """MIDI number; 0 for drums."""
    level: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Song:
    """A song: its true tempo, key and metre, and its notes."""

    style: str
    bpm: float
    beats_per_bar: int
    tonic: int | None
    """0 = C; None where there are only drums."""
    mode: str
    tuning_hz: float
    seconds: float
    events: tuple[Event, ...]


def write_song(name: str, style: Style, number: int, seconds: float = 30.0) -> Song:
    """The song of that style and number, always the same one."""
    dice = random.Random(f"{name} {number}")
    tonic, mode = number * 7 % 12, ("major", "minor")[number % 2]
    bpm = round(dice.uniform(*style.tempo), 2)
    progression = dice.choice(style.progressions[mode])
    beat = 60.0 / bpm
    bar = beat * style.beats
    events: list[Event] = []
    for index in range(int(seconds / bar) + 1):
        chord = _chord(int(progression[index % 4]) - 1, tonic, mode, style.sevenths)
        for step, voice, steps, pitch, level in _play_bar(style, chord, tonic, mode, dice):
            at = (
                index * bar
                + _swung(step, style.swing) * beat
                + dice.gauss(0, style.loose_ms / 1000)
            )
            if 0 <= at < seconds or index == step == 0:
                events.append(Event(voice, max(at, 0.0), steps / 4 * beat, pitch, level))
    pitched = bool(style.bass or style.chords or style.arpeggio)
    return Song(
        style=name,
        bpm=bpm,
        beats_per_bar=style.beats,
        tonic=tonic if pitched else None,
        mode=mode,
        tuning_hz=dice.choice((440.0, 440.0, 440.0, 432.0, 443.0)),
        seconds=seconds,
        events=tuple(events),
    )


def _swung(step: float, swing: float) -> float:
    """Where in beats a sixteenth lies: each half of a beat is stretched or squeezed evenly."""
    beat, within = divmod(step / STEPS_PER_BEAT, 1.0)
    if within < 0.5:
        return beat + within * 2 * swing
    return beat + swing + (within - 0.5) * 2 * (1 - swing)


def _chord(degree: int, tonic: int, mode: str, seventh: bool) -> list[int]:
    scale = list(_MAJOR if mode == "major" else _MINOR)
    if mode == "minor" and degree == 4:
        scale[6] = 11
    steps = (0, 2, 4, 6) if seventh else (0, 2, 4)
    return [tonic + scale[(degree + step) % 7] + 12 * ((degree + step) // 7) for step in steps]


def _play_bar(
    style: Style, chord: list[int], tonic: int, mode: str, dice: random.Random
) -> Iterator[tuple[int, str, float, int, float]]:
    """Step, instrument, length in steps, pitch and level of everything in one bar."""
    steps = style.beats * STEPS_PER_BEAT
    bass, comp, tune = style.voices
    for drum, pattern in style.drums.items():
        for step, mark in enumerate(pattern):
            if mark != "." or dice.random() < 0.02:
                yield step, drum, 1, 0, (1.0 if mark == "x" else 0.4) * dice.uniform(0.8, 1.0)
    tones = {"r": chord[0], "3": chord[1], "5": chord[2], "o": chord[0] + 12}
    for step, length, mark in _held(style.bass, steps):
        yield step, bass, length * 0.9, 36 + tones[mark] % 12 + 12 * (mark == "o"), 0.9
    for step, length, _ in _held(style.chords, steps):
        for tone in chord:
            yield step, comp, min(length, 8) * 0.9, 48 + tone, 0.4 * dice.uniform(0.8, 1.0)
    for step, length, mark in _held(style.arpeggio, steps):
        tone = chord[int(mark) % 3] + 12 * (int(mark) // 3)
        yield step, comp if not style.chords else tune, max(length, 2), 60 + tone, 0.5
    yield from _play_tune(style, chord, tonic, mode, dice)


def _play_tune(
    style: Style, chord: list[int], tonic: int, mode: str, dice: random.Random
) -> Iterator[tuple[int, str, float, int, float]]:
    scale = _MAJOR if mode == "major" else _MINOR
    step = 0
    while style.lead and step < style.beats * STEPS_PER_BEAT:
        length = dice.choice((2, 2, 4, 4, 6))
        if dice.random() < style.lead:
            strong = step % 8 == 0 or dice.random() < 0.4
            pitch = dice.choice(chord) if strong else tonic + dice.choice(scale)
            yield step, style.voices[2], length * 0.9, 72 + pitch % 12, 0.5 * dice.uniform(0.8, 1)
        step += length


def _held(pattern: str, steps: int) -> Iterator[tuple[int, int, str]]:
    """Step, steps to the next mark, mark."""
    marks = [step for step, mark in enumerate(pattern) if mark != "."]
    for step, following in zip(marks, [*marks[1:], steps], strict=True) if marks else ():
        yield step, following - step, pattern[step]
