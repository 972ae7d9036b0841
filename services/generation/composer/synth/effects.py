"""Effects on a whole part, all linear in their input except saturation."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, pi
from typing import TYPE_CHECKING

import numpy as np

from services.generation.composer.synth.curves import points_of, times
from services.generation.composer.synth.filters import high_pass, low_pass, run
from services.generation.composer.synth.kernels import Audio, echo, reverberate, wander

if TYPE_CHECKING:
    from services.generation.composer.synth.instrument import Polish, Stage

# Primes, so that no two lines share an echo; milliseconds at any rate.
_LINES_MS = (29.7, 33.1, 37.3, 41.9, 45.1, 50.3, 54.7, 59.3)
_DIFFUSERS_MS = (4.77, 3.59, 12.73, 9.31, 4.91, 3.73, 12.31, 9.67)


@dataclass(frozen=True, slots=True)
class Room:
    """A space: seconds to fall by 60 dB, the share of it left at the top, what it lets in."""

    seconds: float = 1.8
    brightness: float = 0.35
    early: float = 0.015
    """Seconds before it answers."""
    size: float = 1.0
    low: float = 180.0
    """Hz: nothing below enters, so that the bass stays clear."""
    high: float = 9_000.0

    def render(self, audio: Audio, rate: int) -> Audio:
        """The room alone, `[2, n]`."""
        sent = run(audio.copy(), high_pass(self.low, rate), low_pass(self.high, rate))
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
            round(self.early * rate),
        )
        return sent


@dataclass(frozen=True, slots=True)
class Echo:
    """Repeats that cross from side to side."""

    beats: float = 0.75
    feedback: float = 0.42
    high: float = 4_500.0
    low: float = 250.0

    def render(self, audio: Audio, rate: int, beat_seconds: float) -> Audio:
        """The repeats alone, `[2, n]`."""
        sent = run(audio.copy(), high_pass(self.low, rate))
        smoothing = 1.0 - exp(-2.0 * pi * self.high / rate)
        echo(sent, round(self.beats * beat_seconds * rate), self.feedback, smoothing)
        return sent


def chorus(depth_ms: float, rate_hz: float, wet: float, centre_ms: float = 9.0) -> Polish:
    """Two slow copies in opposite motion, one a side, beside the sound itself."""

    def treat(audio: Audio, stage: Stage) -> Audio:
        seconds = times(points_of(audio.shape[1]), stage.rate)
        swing = np.sin(2.0 * pi * rate_hz * seconds)
        delay = np.stack([centre_ms + depth_ms * swing, centre_ms - depth_ms * swing])
        copies = wander(audio, np.ascontiguousarray(delay * stage.rate / 1000.0))
        copies *= np.float32(wet)
        copies += audio
        copies *= np.float32((1.0 + wet * wet) ** -0.5)
        return copies

    return treat


def tape(wow_cents: float = 5.0, flutter_cents: float = 1.5, high: float = 8_500.0) -> Polish:
    """A worn cassette: pitch that drifts at 0.6 Hz and trembles at 7 Hz, no top."""

    def treat(audio: Audio, stage: Stage) -> Audio:
        seconds = times(points_of(audio.shape[1]), stage.rate)
        delay = np.full(seconds.size, 3.0)
        for cents, rate_hz in ((wow_cents, 0.61), (flutter_cents, 6.9)):
            # The derivative of the delay is the pitch: depth = deviation / (2 pi f).
            depth = (2.0 ** (cents / 1200.0) - 1.0) / (2.0 * pi * rate_hz) * stage.rate
            delay += depth * (1.0 - np.cos(2.0 * pi * rate_hz * seconds))
        moved = wander(audio, np.stack([delay, delay]))
        return run(moved, low_pass(high, stage.rate))

    return treat


def tremolo(rate_hz: float, depth: float) -> Polish:
    """Level that swings between the sides, equal power in the middle."""

    def treat(audio: Audio, stage: Stage) -> Audio:
        # To the nearest whole sample a swing, so that one can be repeated.
        length = round(stage.rate / rate_hz)
        swing = 0.5 * depth * np.sin(2.0 * pi * np.arange(length) / length)
        curve = np.resize(swing.astype(np.float32), audio.shape[1])
        audio[0] *= 1.0 + curve
        audio[1] *= 1.0 - curve
        return audio

    return treat


def thin(hertz: float) -> Polish:
    """Take away what is below `hertz`."""

    def treat(audio: Audio, stage: Stage) -> Audio:
        return run(audio, high_pass(hertz, stage.rate))

    return treat
