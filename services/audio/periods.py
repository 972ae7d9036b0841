"""Periodicity of onsets: score candidate tempi, and refine a tempo."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from services.audio.spectrum import FRAMES_PER_SECOND

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from services.audio.onsets import Onsets

    Curve = NDArray[np.float64]

SLOWEST_BPM, FASTEST_BPM = 40.0, 240.0
TEMPI = np.geomspace(SLOWEST_BPM, FASTEST_BPM, 876)
"""Candidate tempi in steps of 0.2 %."""

_FULL = {
    1 / 4: -0.82, 1 / 3: -1.27, 1 / 2: 0.88, 2 / 3: -1.01, 3 / 4: -0.4, 1: 1.36, 4 / 3: -1.02,
    3 / 2: 0.8, 2: 0.57, 3: 1.37, 4: 1.31, 6: 0.08, 8: 0.35,
}  # fmt: skip
_LOW = {1 / 2: -0.13, 1: 1.17, 2: -1.25, 4: 2.68}
_MIDDLE = {1 / 2: 0.28, 1: 0.98, 2: 0.8, 4: 0.97}
"""Lag in beats -> weight of the autocorrelation at that lag in the score of a tempo.

Coefficients of a softmax regression over candidate tempi, fitted on composer takes and on the
`TUNED` styles of `benchmarks.songs`, 12 and 30 s each.
"""
_USUAL_BPM, _USUAL_SLOPE, _USUAL_CURVE = 110.0, 0.76, -1.93
"""Prior of the tempo: slope and curvature over octaves from the usual tempo; fitted likewise."""

_FINEST_HZ = 30.0
_CLEAR_BEATS = (1, 2, 3, 4)
_CONTRAST_REACH, _CONTRAST_TEMPI, _CONTRAST_LINES = 0.12, 400, 64
"""Of `measure_contrast`: reach as a ratio, number of tempi compared, number of lines."""
_FEWEST_COMPARED = 160
"""In short signals so many tempi are too near to be told apart that the rest vary by chance."""


def autocorrelation(curve: Curve) -> Curve:
    """Return the normalised autocorrelation, `[lags in frames]`; 1 at lag 0."""
    size = 1 << (2 * curve.size - 1).bit_length()
    spectrum = np.fft.rfft(curve - curve.mean(), size)
    sums = np.fft.irfft(np.abs(spectrum) ** 2, size)[: curve.size]
    if sums[0] <= 0.0:
        return np.zeros(curve.size)
    # The longest lags average few products; dividing by their number would amplify chance.
    counts = np.maximum(curve.size - np.arange(curve.size), curve.size // 8 + 1)
    return np.asarray(sums / counts * (curve.size / sums[0]))


def score_tempi(onsets: Onsets) -> Curve:
    """Return the score of each of `TEMPI`, as the natural logarithm of its odds."""
    octaves = np.log2(TEMPI / _USUAL_BPM)
    total = _USUAL_SLOPE * octaves + _USUAL_CURVE * octaves**2
    for curve, weights in ((onsets.changes, _FULL), (onsets.low, _LOW), (onsets.middle, _MIDDLE)):
        correlation = autocorrelation(curve)
        for beats, weight in weights.items():
            total += weight * correlation_after(correlation, beats * 60.0 / TEMPI)
    return total


def measure_clarity(curve: Curve, bpm: float) -> float:
    """Return the best autocorrelation of a curve at one to four beats, 0..1."""
    correlation = autocorrelation(curve)
    after = np.array([beats * 60.0 / bpm for beats in _CLEAR_BEATS])
    near = after[:, None] * np.array([0.99, 0.995, 1.0, 1.005, 1.01])
    return float(np.clip(correlation_after(correlation, near).max(), 0.0, 1.0))


def correlation_after(correlation: Curve, seconds: Curve) -> Curve:
    """Return an autocorrelation at lags in seconds; 0 beyond the end of the signal."""
    frames = np.arange(correlation.size)
    return np.asarray(np.interp(seconds * FRAMES_PER_SECOND, frames, correlation, right=0.0))


def refine(curve: Curve, bpm: float) -> float:
    """Return the exact tempo within about 1 % of `bpm`.

    A pattern that repeats every bar has a spectrum of lines at multiples of a quarter of the beat
    frequency, for any pattern (swing and syncopation included). The tempo is where these lines have
    the most power. Each round adds higher lines, which resolve the tempo more finely.
    """
    power, bins_per_hertz = _compute_power(curve)
    one_cycle_bpm = 60.0 * FRAMES_PER_SECOND / curve.size
    reach = 0.012 * bpm
    # All compared tempi use the same number of lines; an extra line would favour its tempo.
    most = int(4 * _FINEST_HZ * 60.0 / bpm)
    for highest in (2, 4, 8, 16, 32):
        step = one_cycle_bpm / highest / 16
        offsets = np.arange(-reach, reach + step, step)
        lines = np.arange(1, min(4 * highest, most) + 1) / 4
        sums = _sum_lines(power, bins_per_hertz, bpm + offsets, lines)
        bpm += float(offsets[np.argmax(sums)])
        reach = 1.5 * one_cycle_bpm / highest
    return bpm


def measure_contrast(curve: Curve, bpm: float) -> float:
    """Return how far the lines of a tempo stand out from those of the tempi within 12 %.

    The lines are the multiples of a quarter of the beat frequency in the spectrum, as in `refine`.
    They show a beat in soft onsets too, where the autocorrelation is as low as that of noise.

    Args:
        curve: onset strength.
        bpm: exact tempo.

    Returns:
        Standard deviations above the mean of the other tempi: 0 for a curve too short for this, up
        to 5.5 for noise.
    """
    one_cycle_bpm = 60.0 * FRAMES_PER_SECOND / curve.size
    tempi = bpm * np.exp(np.linspace(-_CONTRAST_REACH, _CONTRAST_REACH, _CONTRAST_TEMPI))
    others = tempi[np.abs(tempi - bpm) >= 2 * one_cycle_bpm]
    if others.size < _FEWEST_COMPARED:
        return 0.0
    power, bins_per_hertz = _compute_power(curve)
    most = int(4 * _FINEST_HZ * 60.0 / (bpm * np.exp(_CONTRAST_REACH)))
    lines = np.arange(1, min(_CONTRAST_LINES, most) + 1) / 4
    near = np.linspace(bpm - one_cycle_bpm / 16, bpm + one_cycle_bpm / 16, 9)
    around = _sum_lines(power, bins_per_hertz, others, lines)
    top = float(_sum_lines(power, bins_per_hertz, near, lines).max())
    spread = float(around.std())
    return (top - float(around.mean())) / spread if spread > 0.0 else 0.0


def _compute_power(curve: Curve) -> tuple[Curve, float]:
    """Return the power spectrum of a curve and its bins per hertz."""
    window = np.sqrt(np.hanning(curve.size))
    centred = (curve - np.average(curve, weights=window)) * window
    size = 1 << (8 * curve.size - 1).bit_length()
    return np.abs(np.fft.rfft(centred, size)) ** 2, size / FRAMES_PER_SECOND


def _sum_lines(power: Curve, bins_per_hertz: float, tempi: Curve, lines: Curve) -> Curve:
    """Return the power on the lines (multiples of the beat frequency) of each tempo."""
    hertz = tempi[:, None] / 60.0 * lines
    sums = np.interp(hertz * bins_per_hertz, np.arange(power.size), power).sum(axis=1)
    return np.asarray(sums)
