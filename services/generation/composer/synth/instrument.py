"""Instruments: a voice renders one note, and an instrument renders the notes of a part."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from services.generation.composer.synth.kernels import CONTROL, Audio, Curve
from services.generation.composer.synth.oscillators import pitch_hertz
from services.generation.score import Note, Part

Effect = Callable[[Audio, float], Audio]
"""An effect on `[2, n]`, given the time of the first sample in seconds."""

REFERENCE_VELOCITY = 0.8
"""The velocity at which patches have their nominal level."""
BRIGHTNESS_OCTAVES = 8.0
"""Range of a filter over `Part.brightness` 0..1."""


@dataclass(frozen=True, slots=True)
class RenderContext:
    """What the rendering of a part depends on beside the part."""

    rate: int
    """Hz."""
    samples: int
    """Length of the part's audio."""
    beat_seconds: float
    rng: np.random.Generator
    """Of this part only."""
    check_cancelled: Callable[[], None] = lambda: None
    """Called between notes; raises CancelledError when the render is cancelled."""
    loop: bool = False
    """The audio repeats: what rings past its end is heard at its start."""

    def sample_at(self, beat: float) -> int:
        """Return the sample nearest to a beat, at least 0."""
        return max(0, round(beat * self.beat_seconds * self.rate))

    @property
    def seconds(self) -> float:
        """Length of the part's audio."""
        return self.samples / self.rate

    def whole_cycles(self, hertz: float) -> float:
        """Return the frequency of an LFO; in a loop the nearest that fits whole cycles into it."""
        return max(1, round(hertz * self.seconds)) / self.seconds if self.loop else hertz

    def add(self, out: Audio, sound: Audio, begin: int) -> None:
        """Add `[1 or 2, n]` to `out` `[2, samples]` from sample `begin` on.

        What passes the end is cut, or in a loop added to the start.
        """
        if self.loop:
            add_around(out, sound, begin)
        else:
            add_at(out, sound, begin)

    def apply(self, effect: Effect, audio: Audio, lead_seconds: float) -> Audio:
        """Run an effect that keeps a state over the whole part, which it may change in place.

        In a loop the effect first hears the end of the part, so that its state at the first sample
        is that after the last.

        Args:
            effect: called with the audio and the time of its first sample in seconds, which is
                negative for a loop.
            audio: `[2, samples]`.
            lead_seconds: time after which the effect has forgotten its input.
        """
        if not self.loop:
            return effect(audio, 0.0)
        lead = math.ceil(lead_seconds * self.rate / CONTROL) * CONTROL
        before = np.arange(-lead, 0) % audio.shape[1]
        out = effect(np.concatenate((audio[:, before], audio), axis=1), -lead / self.rate)
        return np.ascontiguousarray(out[:, lead:])


@dataclass(frozen=True, slots=True)
class Tone:
    """A note for a voice, in seconds."""

    pitch: int
    velocity: float
    held: float
    """Seconds until its release."""
    rate: int
    rng: np.random.Generator
    glide_to: int | None = None
    breakpoints: tuple[tuple[float, float], ...] = ()
    """(seconds from the note's start, brightness 0..1)."""

    @property
    def frequency(self) -> float:
        """Hz."""
        return pitch_hertz(self.pitch)

    @property
    def gain(self) -> float:
        return velocity_gain(self.velocity)

    def length(self, release: float) -> int:
        """Return the samples of the note with its `release` in seconds."""
        return max(CONTROL, math.ceil((self.held + release) * self.rate))

    def octaves(self, seconds: Curve) -> Curve:
        """Return the octaves by which the part's brightness moves the filter at `seconds`."""
        return BRIGHTNESS_OCTAVES * (brightness_at(self.breakpoints, seconds) - 0.5)


def velocity_gain(velocity: float) -> float:
    """Return the amplitude: 1 at `REFERENCE_VELOCITY`, -9.6 dB at 0.3, +2.5 dB at 1."""
    return float((0.2 + min(max(velocity, 0.0), 1.0)) ** 1.6)


def brightness_at(breakpoints: tuple[tuple[float, float], ...], at: Curve) -> Curve:
    """Interpolate breakpoints (place, 0..1) linearly; 0.5 everywhere without any."""
    if not breakpoints:
        return np.full(at.size, 0.5)
    places, values = zip(*breakpoints, strict=True)
    return np.asarray(np.clip(np.interp(at, places, values), 0.0, 1.0), dtype=np.float64)


Voice = Callable[[Tone], Audio]
"""Renders a note: `[1 or 2, n]`, starting and ending at zero."""
Play = Callable[[Part, RenderContext], Audio]
"""Renders a part, dry and centred: float32 `[2, samples]`."""
Insert = Callable[[Audio, RenderContext], Audio]
"""An insert effect on a whole part, `[2, samples]`; it may work in place."""


@dataclass(frozen=True, slots=True)
class Instrument:
    play: Play
    level_db: float = 0.0
    inserts: tuple[Insert, ...] = ()
    filtered: bool = True
    """The voice applies `Part.brightness` itself; otherwise the mixer does."""

    def render(self, part: Part, context: RenderContext) -> Audio:
        """Return the part, dry, centred and at its nominal level: float32 `[2, samples]`."""
        out = self.play(part, context)
        for insert in self.inserts:
            out = insert(out, context)
        out *= np.float32(10.0 ** (self.level_db / 20.0))
        return out


def make_instrument(voice: Voice, *inserts: Insert, mono: bool = False) -> Instrument:
    """Make an instrument of a voice; `mono` ends a note when the next one starts."""

    def play(part: Part, context: RenderContext) -> Audio:
        return play_notes(voice, part, context, mono=mono)

    return Instrument(play, inserts=inserts)


def add_at(out: Audio, sound: Audio, begin: int) -> None:
    """Add `[1 or 2, n]` to `out` `[2, samples]` from sample `begin` on, cut at its end."""
    end = min(out.shape[1], begin + sound.shape[1])
    if end > begin:
        out[:, begin:end] += sound[:, : end - begin]


def add_around(out: Audio, sound: Audio, begin: int) -> None:
    """Add `[1 or 2, n]` to `out` `[2, samples]`; what passes the end goes on at the start."""
    samples = out.shape[1]
    begin %= samples
    done = 0
    while done < sound.shape[1]:
        count = min(samples - begin, sound.shape[1] - done)
        out[:, begin : begin + count] += sound[:, done : done + count]
        done += count
        begin = 0


def play_notes(voice: Voice, part: Part, context: RenderContext, *, mono: bool = False) -> Audio:
    """Render every note in the order of their starts and add them: `[2, samples]`."""
    out = np.zeros((2, context.samples), dtype=np.float32)
    notes = sorted(part.notes, key=lambda note: (note.start, note.pitch))
    for note in cut_at_next(notes) if mono else notes:
        context.check_cancelled()
        begin = context.sample_at(note.start)
        if begin < context.samples:
            context.add(out, voice(make_tone(note, part, context)), begin)
    return out


def make_tone(note: Note, part: Part, context: RenderContext) -> Tone:
    """Make the tone of a note: its times in seconds, breakpoints from its start."""
    return Tone(
        pitch=note.pitch,
        velocity=note.velocity,
        held=note.duration * context.beat_seconds,
        rate=context.rate,
        rng=context.rng,
        glide_to=note.glide_to,
        breakpoints=tuple(
            ((beat - note.start) * context.beat_seconds, value) for beat, value in part.brightness
        ),
    )


def cut_at_next(notes: list[Note]) -> list[Note]:
    """End each note where the next one starts, after 0.01 beats at the earliest."""
    starts = [note.start for note in notes[1:]] + [math.inf]
    return [
        replace(note, duration=min(note.duration, max(start - note.start, 0.01)))
        for note, start in zip(notes, starts, strict=True)
    ]
