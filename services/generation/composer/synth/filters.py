"""Filters: fixed biquads (Audio EQ Cookbook, R. Bristow-Johnson) and one with a moving cutoff."""

from __future__ import annotations

from math import cos, pi, sin, sqrt

import numpy as np
from numpy.typing import NDArray

from services.generation.composer.synth.curves import constant, control_points
from services.generation.composer.synth.kernels import Audio, Curve, biquads, state_variable_filter

Sections = NDArray[np.float64]

BUTTERWORTH = 1.0 / sqrt(2.0)
FILTER_LEAD_SECONDS = 0.25
"""Time after which every fixed filter of the synthesiser has forgotten its input."""
LOW_PASS = np.array([0.0, 0.0, 1.0])


def _section(b0: float, b1: float, b2: float, a: tuple[float, float, float]) -> Sections:
    return np.array([[b0 / a[0], b1 / a[0], b2 / a[0], a[1] / a[0], a[2] / a[0]]])


def _prewarp(hertz: float, rate: int, q: float) -> tuple[float, float]:
    omega = 2.0 * pi * min(hertz, 0.49 * rate) / rate
    return cos(omega), sin(omega) / (2.0 * q)


def low_pass(hertz: float, rate: int, q: float = BUTTERWORTH) -> Sections:
    """Return a section that falls by 12 dB an octave above `hertz`."""
    c, alpha = _prewarp(hertz, rate, q)
    return _section((1 - c) / 2, 1 - c, (1 - c) / 2, (1 + alpha, -2 * c, 1 - alpha))


def high_pass(hertz: float, rate: int, q: float = BUTTERWORTH) -> Sections:
    """Return a section that falls by 12 dB an octave below `hertz`."""
    c, alpha = _prewarp(hertz, rate, q)
    return _section((1 + c) / 2, -(1 + c), (1 + c) / 2, (1 + alpha, -2 * c, 1 - alpha))


def band_pass(hertz: float, rate: int, q: float) -> Sections:
    """Return a section with 0 dB at `hertz`."""
    c, alpha = _prewarp(hertz, rate, q)
    return _section(alpha, 0.0, -alpha, (1 + alpha, -2 * c, 1 - alpha))


def peak(hertz: float, gain_db: float, rate: int, q: float = 1.0) -> Sections:
    """Return a section with `gain_db` at `hertz` and 0 dB far from it."""
    c, alpha = _prewarp(hertz, rate, q)
    a = 10.0 ** (gain_db / 40.0)
    return _section(1 + alpha * a, -2 * c, 1 - alpha * a, (1 + alpha / a, -2 * c, 1 - alpha / a))


def apply_biquads(audio: Audio, *sections: Sections) -> Audio:
    """Filter `audio` `[channels, n]` in place and return it."""
    biquads(audio, np.concatenate(sections))
    return audio


def sweep(
    audio: Audio,
    cutoff: Curve,
    rate: int,
    *,
    resonance: float = 0.0,
    weights: NDArray[np.float64] = LOW_PASS,
    stages: int = 1,
    drive: float = 0.0,
    amplitude: Curve | None = None,
) -> Audio:
    """Filter `audio` `[channels, n]` in place with a moving cutoff and return it.

    Args:
        audio: changed in place.
        cutoff: Hz at the control rate.
        rate: Hz.
        resonance: 0..0.98.
        weights: of input, band pass and low pass.
        stages: 1 or 2 filters in series.
        drive: gain into tanh after the filter, 0 for none.
        amplitude: level at the control rate, applied last.
    """
    angle = np.tan(pi * np.clip(cutoff, 20.0, 0.45 * rate) / rate)
    level = constant(control_points(audio.shape[1])) if amplitude is None else amplitude
    # Without resonance each stage is a Butterworth section (1/Q = sqrt 2).
    state_variable_filter(
        audio, angle, sqrt(2.0) * (1.0 - resonance), weights, stages, drive, level
    )
    return audio


def keep_band(audio: Audio, rate: int, low: float, high: float) -> Audio:
    """Keep the band between `low` and `high` Hz, in place."""
    return apply_biquads(audio, high_pass(low, rate), low_pass(high, rate))
