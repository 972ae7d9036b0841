"""The subtractive voice of most patches: detuned oscillators, filter, amplifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from services.generation.composer.synth.curves import (
    Adsr,
    control_points,
    control_times,
    envelope,
    smooth_step,
)
from services.generation.composer.synth.filters import LOW_PASS, sweep
from services.generation.composer.synth.instrument import REFERENCE_VELOCITY, Tone
from services.generation.composer.synth.kernels import Audio, Curve, unison
from services.generation.composer.synth.oscillators import (
    Wave,
    harmonics_below_nyquist,
    noise,
    pitch_hertz,
    wavetable,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Layer:
    """A unison bank of oscillators."""

    wave: Wave
    level: float = 1.0
    voices: int = 1
    cents: float = 0.0
    """Detune of the outermost voices, up and down."""
    width: float = 0.0
    """0 with all voices in the middle .. 1 with the outermost ones hard left and right."""
    semitones: float = 0.0
    resets_phase: bool = False
    """Every note starts its oscillators at the same phase, which gives equal attacks."""


@dataclass(frozen=True, slots=True)
class Lfo:
    """A sine for vibrato (depth in cents) or filter sweeps (depth in octaves)."""

    rate: float = 0.0
    """Hz."""
    depth: float = 0.0
    onset: float = 0.0
    """Seconds to its full depth."""

    def curve(self, seconds: Curve, phase: float) -> Curve:
        if self.depth == 0.0:
            return np.zeros(seconds.size)
        rise = smooth_step(seconds / self.onset) if self.onset > 0.0 else 1.0
        moved = self.depth * rise * np.sin(2.0 * np.pi * (self.rate * seconds + phase))
        return np.asarray(moved, dtype=np.float64)


_NO_LFO = Lfo()
_SNAP = Adsr(0.002, 0.3, 0.0, 0.2)
_ORGANLIKE = Adsr()


@dataclass(frozen=True, slots=True)
class Filter:
    """A low pass that key, envelope, velocity, brightness and an LFO move."""

    cutoff: float = 20_000.0
    """Hz for middle C, before modulation."""
    key_tracking: float = 0.5
    """Octaves of cutoff for each octave of pitch, 0..1."""
    envelope_octaves: float = 0.0
    """Range of the envelope."""
    envelope: Adsr = _SNAP
    velocity_octaves: float = 1.5
    """Range over velocity 0..1."""
    resonance: float = 0.0
    stages: int = 2
    lfo: Lfo = _NO_LFO

    def curve(self, tone: Tone, seconds: Curve) -> Curve:
        """Return the cutoff in Hz at `seconds`."""
        octaves = (
            self.key_tracking * (tone.pitch - 60) / 12.0
            + self.velocity_octaves * (tone.velocity - REFERENCE_VELOCITY)
            + self.envelope_octaves * envelope(self.envelope, seconds, tone.held)
            + tone.octaves(seconds)
            + self.lfo.curve(seconds, float(tone.rng.random()))
        )
        return np.asarray(self.cutoff * 2.0**octaves, dtype=np.float64)


_OPEN = Filter()


@dataclass(frozen=True, slots=True)
class Subtractive:
    """The settings of a subtractive voice; `play` is its `Voice`."""

    layers: tuple[Layer, ...]
    amplitude: Adsr = _ORGANLIKE
    filter: Filter = _OPEN
    drive: float = 0.0
    noise_level: float = 0.0
    """Level of noise beside the oscillators."""
    vibrato: Lfo = _NO_LFO
    """Depth in cents."""

    def play(self, tone: Tone) -> Audio:
        """Return a note: `[2, n]`, or `[1, n]` when both sides are equal."""
        samples = tone.length(self.amplitude.release)
        seconds = control_times(control_points(samples), tone.rate)
        pitch = pitch_bend(tone, seconds) * 2.0 ** (self.vibrato.curve(seconds, 0.0) / 1200.0)
        out = np.zeros((2, samples), dtype=np.float32)
        for layer in self.layers:
            add_layer(out, layer, tone, pitch)
        if self.noise_level > 0.0:
            out += np.float32(self.noise_level) * noise(tone.rng, 2, samples)
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


def pitch_bend(tone: Tone, seconds: Curve) -> Curve:
    """Return the factor on the frequency at `seconds`: 1, or the slide to `glide_to`."""
    if tone.glide_to is None:
        return np.ones(seconds.size)
    interval = (tone.glide_to - tone.pitch) / 12.0
    begin = max(0.5 * tone.held, tone.held - 0.35)
    slide = smooth_step((seconds - begin) / max(tone.held - begin, 1e-3))
    return np.asarray(2.0 ** (interval * slide), dtype=np.float64)


def add_layer(out: Audio, layer: Layer, tone: Tone, pitch: Curve) -> None:
    """Add a bank to `out` `[2, n]`; its power does not depend on the number of voices."""
    spread = np.linspace(-1.0, 1.0, layer.voices) if layer.voices > 1 else np.zeros(1)
    frequency = pitch_hertz(tone.pitch + layer.semitones)
    steps = frequency * 2.0 ** (layer.cents * spread / 1200.0) / tone.rate
    highest = frequency * float(pitch.max()) * 2.0 ** (layer.cents / 1200.0)
    phases = np.zeros(layer.voices) if layer.resets_phase else tone.rng.random(layer.voices)
    table = wavetable(layer.wave, harmonics_below_nyquist(highest, tone.rate))
    unison(out, table, steps, phases, unison_gains(layer, spread), pitch)


def unison_gains(layer: Layer, spread: Curve) -> NDArray[np.float64]:
    """Return equal-power gains `[2, voices]`; voices detuned equally up and down are opposite.

    Every second pair is swapped, so that neither side is sharp.
    """
    pair = np.minimum(np.arange(layer.voices), np.arange(layer.voices)[::-1])
    place = layer.width * spread * np.where(pair % 2 == 0, 1.0, -1.0)
    angle = (place + 1.0) * np.pi / 4.0
    level = layer.level / np.sqrt(layer.voices)
    return np.ascontiguousarray(level * np.sqrt(2.0) * np.stack([np.cos(angle), np.sin(angle)]))
