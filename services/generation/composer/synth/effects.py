"""Effects on a whole part: reverb and echo as sends; chorus, tape, tremolo, filter as inserts."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, exp, log10, pi
from typing import TYPE_CHECKING

import numpy as np

from services.generation.composer.synth.curves import control_points, control_times
from services.generation.composer.synth.filters import (
    FILTER_LEAD_SECONDS,
    apply_biquads,
    high_pass,
    low_pass,
)
from services.generation.composer.synth.kernels import Audio, echo, modulated_delay, reverberate

if TYPE_CHECKING:
    from services.generation.composer.synth.instrument import Insert, RenderContext

# Milliseconds, in ratios that share few echoes.
_LINES_MS = (29.7, 33.1, 37.3, 41.9, 45.1, 50.3, 54.7, 59.3)
_FORGOTTEN_DB = 100.0
"""Decay after which the tail of an effect is not heard, nor written to 16 bit."""
_SHORT_LEAD_SECONDS = 0.1
"""Longest delay of chorus and tape, and the decay of their filters."""
_DIFFUSERS_MS = (4.77, 3.59, 12.73, 9.31, 4.91, 3.73, 12.31, 9.67)


@dataclass(frozen=True, slots=True)
class Reverb:
    seconds: float = 1.8
    """Time to decay by 60 dB."""
    brightness: float = 0.35
    """Share of that time at the Nyquist frequency, 0..1."""
    predelay: float = 0.015
    """Seconds."""
    size: float = 1.0
    """Factor on the lengths of the delay lines."""
    low: float = 180.0
    """High pass of the send, Hz; it keeps the bass clear."""
    high: float = 9_000.0
    """Low pass of the send, Hz."""

    @property
    def lead_seconds(self) -> float:
        """Time to decay by `_FORGOTTEN_DB`."""
        return self.seconds * _FORGOTTEN_DB / 60.0 + self.predelay + 0.1 * self.size

    def render(self, audio: Audio, rate: int) -> Audio:
        """Return the reverb alone, `[2, n]`."""
        sent = apply_biquads(audio.copy(), high_pass(self.low, rate), low_pass(self.high, rate))
        lengths = np.array([round(ms * self.size * rate / 1000.0) | 1 for ms in _LINES_MS])
        decays = 10.0 ** (-3.0 * lengths / rate / self.seconds)
        at_top = 10.0 ** (-3.0 * lengths / rate / (self.seconds * self.brightness))
        # One-pole g (1 - p) / (1 - p z^-1) with the wanted gain at the Nyquist frequency.
        ratio = at_top / decays
        dampings = (1.0 - ratio) / (1.0 + ratio)
        diffusers = np.array([round(ms * rate / 1000.0) for ms in _DIFFUSERS_MS])
        reverberate(
            sent,
            lengths.astype(np.int64),
            decays,
            dampings,
            diffusers.astype(np.int64),
            round(self.predelay * rate),
        )
        return sent


@dataclass(frozen=True, slots=True)
class Echo:
    """A ping-pong delay."""

    beats: float = 0.75
    feedback: float = 0.42
    high: float = 4_500.0
    """Low pass of each repeat, Hz."""
    low: float = 250.0
    """High pass of the send, Hz."""

    def lead_seconds(self, beat_seconds: float) -> float:
        """Return the time to decay by `_FORGOTTEN_DB`."""
        repeats = ceil(_FORGOTTEN_DB / (-20.0 * log10(self.feedback))) + 1
        return repeats * self.beats * beat_seconds

    def render(self, audio: Audio, rate: int, beat_seconds: float) -> Audio:
        """Return the repeats alone, `[2, n]`."""
        sent = apply_biquads(audio.copy(), high_pass(self.low, rate))
        smoothing = 1.0 - exp(-2.0 * pi * self.high / rate)
        echo(sent, round(self.beats * beat_seconds * rate), self.feedback, smoothing)
        return sent


def chorus(depth_ms: float, rate_hz: float, wet: float, centre_ms: float = 9.0) -> Insert:
    """Add a copy to each side, with delays that move in opposite directions."""

    def process(audio: Audio, context: RenderContext) -> Audio:
        hertz = context.whole_cycles(rate_hz)

        def apply(dry: Audio, start: float) -> Audio:
            seconds = control_times(control_points(dry.shape[1]), context.rate) + start
            swing = np.sin(2.0 * pi * hertz * seconds)
            delay = np.stack([centre_ms + depth_ms * swing, centre_ms - depth_ms * swing])
            copies = modulated_delay(dry, np.ascontiguousarray(delay * context.rate / 1000.0))
            copies *= np.float32(wet)
            copies += dry
            copies *= np.float32((1.0 + wet * wet) ** -0.5)
            return copies

        return context.apply(apply, audio, _SHORT_LEAD_SECONDS)

    return process


def tape(wow_cents: float = 5.0, flutter_cents: float = 1.5, high: float = 8_500.0) -> Insert:
    """Imitate a worn cassette: wow at 0.6 Hz, flutter at 7 Hz, and a low pass."""

    def process(audio: Audio, context: RenderContext) -> Audio:
        rates = [
            (wow_cents, context.whole_cycles(0.61)),
            (flutter_cents, context.whole_cycles(6.9)),
        ]

        def apply(dry: Audio, start: float) -> Audio:
            seconds = control_times(control_points(dry.shape[1]), context.rate) + start
            delay = np.full(seconds.size, 3.0)
            for cents, rate_hz in rates:
                # The derivative of the delay is the pitch: depth = deviation / (2 pi f).
                depth = (2.0 ** (cents / 1200.0) - 1.0) / (2.0 * pi * rate_hz) * context.rate
                delay += depth * (1.0 - np.cos(2.0 * pi * rate_hz * seconds))
            moved = modulated_delay(dry, np.stack([delay, delay]))
            return apply_biquads(moved, low_pass(high, context.rate))

        return context.apply(apply, audio, _SHORT_LEAD_SECONDS)

    return process


def tremolo(rate_hz: float, depth: float) -> Insert:
    """Swing the level between the sides."""

    def process(audio: Audio, context: RenderContext) -> Audio:
        if context.loop:
            turns = context.whole_cycles(rate_hz) * context.seconds / context.samples
            phase = 2.0 * pi * turns * np.arange(context.samples)
        else:
            # A whole number of samples, so that one period can be repeated.
            length = round(context.rate / rate_hz)
            phase = 2.0 * pi * np.arange(length) / length
        swing = 0.5 * depth * np.sin(phase)
        curve = np.resize(swing.astype(np.float32), audio.shape[1])
        audio[0] *= 1.0 + curve
        audio[1] *= 1.0 - curve
        return audio

    return process


def cut_lows(hertz: float) -> Insert:
    """High-pass a part at `hertz`."""

    def process(audio: Audio, context: RenderContext) -> Audio:
        section = high_pass(hertz, context.rate)
        return context.apply(
            lambda dry, _start: apply_biquads(dry, section), audio, FILTER_LEAD_SECONDS
        )

    return process
