"""What an instrument is: a voice that plays one note, and the way its notes become a stem."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from services.generation.composer.synth.kernels import CONTROL, Audio, Curve
from services.generation.composer.synth.oscillators import hertz
from services.generation.score import Note, Part

REFERENCE_VELOCITY = 0.8
"""The velocity at which patches have the level they are voiced for."""
OPENING_OCTAVES = 8.0
"""How far `Part.brightness` moves a filter from 0 to 1."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a part is played: the grid of samples, the tempo, its own random numbers."""

    rate: int
    """Hz."""
    samples: int
    beat_seconds: float
    rng: np.random.Generator
    check: Callable[[], None] = lambda: None
    """Called between notes; raises CancelledError to stop."""

    def sample_at(self, beat: float) -> int:
        """The nearest sample to a beat, never before the first."""
        return max(0, round(beat * self.beat_seconds * self.rate))


@dataclass(frozen=True, slots=True)
class Tone:
    """One note as a voice sees it."""

    pitch: int
    velocity: float
    held: float
    """Seconds until it is let go."""
    rate: int
    rng: np.random.Generator
    glide_to: int | None = None
    breakpoints: tuple[tuple[float, float], ...] = ()
    """(seconds from the note's start, 0..1) of the filter."""

    @property
    def frequency(self) -> float:
        """Hz."""
        return hertz(self.pitch)

    @property
    def gain(self) -> float:
        """Level for the velocity: 1 at the reference, -9.6 dB at 0.3, +2.5 dB at 1."""
        return loudness(self.velocity)

    def length(self, release: float) -> int:
        """Samples of the note with `release` seconds after it."""
        return max(CONTROL, math.ceil((self.held + release) * self.rate))

    def octaves(self, seconds: Curve) -> Curve:
        """How far the part's brightness moves the filter, at `seconds` from the start."""
        return OPENING_OCTAVES * (opening(self.breakpoints, seconds) - 0.5)


def loudness(velocity: float) -> float:
    """Amplitude for a velocity, 1 at `REFERENCE_VELOCITY`."""
    return float((0.2 + min(max(velocity, 0.0), 1.0)) ** 1.6)


def opening(breakpoints: tuple[tuple[float, float], ...], at: Curve) -> Curve:
    """Straight lines through (place, 0..1); 0.5 everywhere when there are none."""
    if not breakpoints:
        return np.full(at.size, 0.5)
    places, values = zip(*breakpoints, strict=True)
    return np.asarray(np.clip(np.interp(at, places, values), 0.0, 1.0), dtype=np.float64)


Voice = Callable[[Tone], Audio]
"""Plays a note: `[1 or 2, n]`, starting and ending at zero."""
Play = Callable[[Part, Stage], Audio]
"""Plays a part, dry and centred: float32 `[2, samples]`."""
Polish = Callable[[Audio, Stage], Audio]
"""Treats the whole of a part, `[2, samples]`."""


@dataclass(frozen=True, slots=True)
class Instrument:
    """How a part is played, what is done to it as a whole, and at what level."""

    play: Play
    level_db: float = 0.0
    polish: tuple[Polish, ...] = ()
    filtered: bool = True
    """The voice follows `Part.brightness` itself; otherwise the mixer does."""

    def render(self, part: Part, stage: Stage) -> Audio:
        """The part, dry, centred and at the patch's own level: float32 `[2, samples]`."""
        out = self.play(part, stage)
        for treat in self.polish:
            out = treat(out, stage)
        out *= np.float32(10.0 ** (self.level_db / 20.0))
        return out


def voiced(voice: Voice, *polish: Polish, mono: bool = False) -> Instrument:
    """An instrument that plays note by note; `mono` lets a note go when the next one starts."""

    def play(part: Part, stage: Stage) -> Audio:
        return play_notes(voice, part, stage, mono=mono)

    return Instrument(play, polish=polish)


def add(out: Audio, sound: Audio, begin: int) -> None:
    """Add `[1 or 2, n]` to `[2, samples]` from sample `begin` on, cut at the end."""
    end = min(out.shape[1], begin + sound.shape[1])
    if end > begin:
        out[:, begin:end] += sound[:, : end - begin]


def play_notes(voice: Voice, part: Part, stage: Stage, *, mono: bool = False) -> Audio:
    """Every note through the voice, in the order of their starts."""
    out = np.zeros((2, stage.samples), dtype=np.float32)
    notes = sorted(part.notes, key=lambda note: (note.start, note.pitch))
    for note in cut_at_next(notes) if mono else notes:
        stage.check()
        begin = stage.sample_at(note.start)
        if begin < stage.samples:
            add(out, voice(tone_of(note, part, stage)), begin)
    return out


def tone_of(note: Note, part: Part, stage: Stage) -> Tone:
    """A note of a score on the clock of a stage."""
    return Tone(
        pitch=note.pitch,
        velocity=note.velocity,
        held=note.duration * stage.beat_seconds,
        rate=stage.rate,
        rng=stage.rng,
        glide_to=note.glide_to,
        breakpoints=tuple(
            ((beat - note.start) * stage.beat_seconds, value) for beat, value in part.brightness
        ),
    )


def cut_at_next(notes: list[Note]) -> list[Note]:
    """Shorten each note that reaches into a later one."""
    starts = [note.start for note in notes[1:]] + [math.inf]
    return [
        replace(note, duration=min(note.duration, max(start - note.start, 0.01)))
        for note, start in zip(notes, starts, strict=True)
    ]
