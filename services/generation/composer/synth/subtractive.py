"""The analogue-style voice that most patches are: detuned oscillators, filter, amplifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from services.generation.composer.synth.curves import Adsr, envelope, points_of, smooth_step, times
from services.generation.composer.synth.filters import LOW_PASS, sweep
from services.generation.composer.synth.instrument import REFERENCE_VELOCITY, Tone
from services.generation.composer.synth.kernels import Audio, Curve, unison
from services.generation.composer.synth.oscillators import (
    Wave,
    harmonics_below_nyquist,
    hertz,
    noise,
    wavetable,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Layer:
    """A bank of equal oscillators."""

    wave: Wave
    level: float = 1.0
    voices: int = 1
    cents: float = 0.0
    """Detuning of the outermost voices, up and down."""
    width: float = 0.0
    """0 all in the middle .. 1 outermost voices hard left and right."""
    semitones: float = 0.0
    aligned: bool = False
    """Start every voice at the top of its cycle, for the same punch each time."""


@dataclass(frozen=True, slots=True)
class Movement:
    """A slow sine: vibrato (cents) or filter sweep (octaves)."""

    rate: float = 0.0
    """Hz."""
    depth: float = 0.0
    onset: float = 0.0
    """Seconds until it is at its full depth."""

    def curve(self, seconds: Curve, phase: float) -> Curve:
        """Its value over time."""
        if self.depth == 0.0:
            return np.zeros(seconds.size)
        rise = smooth_step(seconds / self.onset) if self.onset > 0.0 else 1.0
        moved = self.depth * rise * np.sin(2.0 * np.pi * (self.rate * seconds + phase))
        return np.asarray(moved, dtype=np.float64)


_STILL = Movement()
_SNAP = Adsr(0.002, 0.3, 0.0, 0.2)
_ORGANLIKE = Adsr()


@dataclass(frozen=True, slots=True)
class Filter:
    """A moving low pass (or what `weights` make of it)."""

    cutoff: float = 20_000.0
    """Hz for middle C at rest."""
    follow: float = 0.5
    """How much it follows the pitch, 0..1."""
    octaves: float = 0.0
    """How far the envelope opens it."""
    envelope: Adsr = _SNAP
    touch: float = 1.5
    """Octaves that the velocity moves it, full range."""
    resonance: float = 0.0
    stages: int = 2
    movement: Movement = _STILL

    def curve(self, tone: Tone, seconds: Curve) -> Curve:
        """Hz over time."""
        octaves = (
            self.follow * (tone.pitch - 60) / 12.0
            + self.touch * (tone.velocity - REFERENCE_VELOCITY)
            + self.octaves * envelope(self.envelope, seconds, tone.held)
            + tone.octaves(seconds)
            + self.movement.curve(seconds, float(tone.rng.random()))
        )
        return np.asarray(self.cutoff * 2.0**octaves, dtype=np.float64)


_OPEN = Filter()


@dataclass(frozen=True, slots=True)
class Subtractive:
    """A voice made of data; `play` is its `Voice`."""

    layers: tuple[Layer, ...]
    amplitude: Adsr = _ORGANLIKE
    filter: Filter = _OPEN
    drive: float = 0.0
    breath: float = 0.0
    """Noise beside the oscillators."""
    vibrato: Movement = _STILL
    """Depth in cents."""

    def play(self, tone: Tone) -> Audio:
        """A note: `[2, n]`, or `[1, n]` when both sides are the same."""
        samples = tone.length(self.amplitude.release)
        seconds = times(points_of(samples), tone.rate)
        pitch = bend(tone, seconds) * 2.0 ** (self.vibrato.curve(seconds, 0.0) / 1200.0)
        out = np.zeros((2, samples), dtype=np.float32)
        for layer in self.layers:
            add_layer(out, layer, tone, pitch)
        if self.breath > 0.0:
            out += np.float32(self.breath) * noise(tone.rng, 2, samples)
        elif all(layer.width == 0.0 for layer in self.layers):
            out = out[:1]
        level = tone.gain * envelope(self.amplitude, seconds, tone.held)
        return sweep(
            out,
            self.filter.curve(tone, seconds),
            tone.rate,
            resonance=self.filter.resonance,
            weights=LOW_PASS,
            stages=self.filter.stages,
            drive=self.drive,
            amplitude=level,
        )


def bend(tone: Tone, seconds: Curve) -> Curve:
    """The factor on the frequency over time: 1, or the slide to `glide_to`."""
    if tone.glide_to is None:
        return np.ones(seconds.size)
    interval = (tone.glide_to - tone.pitch) / 12.0
    begin = max(0.5 * tone.held, tone.held - 0.35)
    slide = smooth_step((seconds - begin) / max(tone.held - begin, 1e-3))
    return np.asarray(2.0 ** (interval * slide), dtype=np.float64)


def add_layer(out: Audio, layer: Layer, tone: Tone, pitch: Curve) -> None:
    """Add a bank of oscillators to `out` `[2, n]`; the bank's power does not grow with voices."""
    spread = np.linspace(-1.0, 1.0, layer.voices) if layer.voices > 1 else np.zeros(1)
    frequency = hertz(tone.pitch + layer.semitones)
    steps = frequency * 2.0 ** (layer.cents * spread / 1200.0) / tone.rate
    highest = frequency * float(pitch.max()) * 2.0 ** (layer.cents / 1200.0)
    phases = np.zeros(layer.voices) if layer.aligned else tone.rng.random(layer.voices)
    table = wavetable(layer.wave, harmonics_below_nyquist(highest, tone.rate))
    unison(out, table, steps, phases, panned(layer, spread), pitch)


def panned(layer: Layer, spread: Curve) -> NDArray[np.float64]:
    """Gains `[2, voices]`: equal power; voices detuned alike up and down face each other.

    Every second pair is turned round, so that neither side is the sharp one.
    """
    pair = np.minimum(np.arange(layer.voices), np.arange(layer.voices)[::-1])
    place = layer.width * spread * np.where(pair % 2 == 0, 1.0, -1.0)
    angle = (place + 1.0) * np.pi / 4.0
    level = layer.level / np.sqrt(layer.voices)
    return np.ascontiguousarray(level * np.sqrt(2.0) * np.stack([np.cos(angle), np.sin(angle)]))
