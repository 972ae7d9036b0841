"""The plucked string of basses and guitars (extended Karplus-Strong)."""

from __future__ import annotations

from math import atan2, cos, pi, sin
from typing import TYPE_CHECKING

import numpy as np

from services.generation.composer.synth.filters import apply_biquads, low_pass
from services.generation.composer.synth.kernels import Audio, pluck
from services.generation.composer.synth.oscillators import noise

if TYPE_CHECKING:
    from services.generation.composer.synth.instrument import Tone


def string(
    tone: Tone, samples: int, *, position: float, softness: float, damping: float, sustain: float
) -> Audio:
    """Return a string in tune, `[1, samples]`, peak about 1.

    Args:
        tone: pitch, velocity and random numbers.
        samples: length.
        position: where it is plucked, as a share of its length.
        softness: of the finger, 0..1.
        damping: of high frequencies, 0..0.5.
        sustain: seconds until the fundamental is at -60 dB.
    """
    omega = 2.0 * pi * tone.frequency / tone.rate
    period = tone.rate / tone.frequency
    filter_delay = atan2(damping * sin(omega), 1.0 - damping + damping * cos(omega)) / omega
    size = int(period - filter_delay - 0.3)
    fraction = period - filter_delay - size
    # The all-pass coefficient whose phase delay at the fundamental is `fraction`.
    allpass = sin((1.0 - fraction) * omega / 2.0) / sin((1.0 + fraction) * omega / 2.0)
    magnitude = (1.0 - 2.0 * damping * (1.0 - damping) * (1.0 - cos(omega))) ** 0.5
    loss = min(10.0 ** (-3.0 / (tone.frequency * sustain)) / magnitude, 1.0)
    out = np.zeros((1, samples), dtype=np.float32)
    pluck(out[0], _make_burst(tone, size, position, softness), allpass, damping, loss)
    return out


def _make_burst(tone: Tone, size: int, position: float, softness: float) -> Audio:
    """Return one period of excitation: the shape of the plucked string, plus finger noise."""
    place = np.arange(size) / size
    triangle = np.where(place < position, place / position, (1.0 - place) / (1.0 - position))
    bright = 2.0 ** (2.5 * (tone.velocity - 0.8))
    rough = noise(tone.rng, 1, 4 * size)
    cutoff = min(tone.frequency * (4.0 + 26.0 * (1.0 - softness)) * bright, 0.4 * tone.rate)
    rough = apply_biquads(rough, low_pass(cutoff, tone.rate))[0, 2 * size : 3 * size]
    comb = rough - np.roll(rough, max(1, int(position * size)))
    shape = (triangle - triangle.mean()) * 1.2 + (1.0 - softness) * 1.1 * comb
    shape -= shape.mean()
    return np.ascontiguousarray(shape / np.max(np.abs(shape)), dtype=np.float32)
