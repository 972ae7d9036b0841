"""What repeats in the onsets: how well each tempo explains them, and the exact tempo near one."""

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
"""The tempi that are weighed: steps of 0.2 %."""

_FULL = {
    1 / 4: -0.82, 1 / 3: -1.27, 1 / 2: 0.88, 2 / 3: -1.01, 3 / 4: -0.4, 1: 1.36, 4 / 3: -1.02,
    3 / 2: 0.8, 2: 0.57, 3: 1.37, 4: 1.31, 6: 0.08, 8: 0.35,
}  # fmt: skip
_LOW = {1 / 2: -0.13, 1: 1.17, 2: -1.25, 4: 2.68}
_MIDDLE = {1 / 2: 0.28, 1: 0.98, 2: 0.8, 4: 0.97}
"""Beats -> what the likeness of the onsets to themselves so much later adds to the evidence.

Coefficients of a softmax regression over candidate tempi, fitted on composer takes and on the
`TUNED` styles of `benchmarks.songs`, 12 and 30 s each.
"""
_USUAL_BPM, _USUAL_SLOPE, _USUAL_CURVE = 110.0, 0.76, -1.93
"""How the tempi of music are spread, in octaves around the middle; fitted with the others."""

_FINEST_HZ = 30.0
_CLEAR_BEATS = (1, 2, 3, 4)


def autocorrelation(curve: Curve) -> Curve:
    """Likeness of a curve to itself so many frames later; 1 at 0, around 0 for chance."""
    size = 1 << (2 * curve.size - 1).bit_length()
    spectrum = np.fft.rfft(curve - curve.mean(), size)
    sums = np.fft.irfft(np.abs(spectrum) ** 2, size)[: curve.size]
    if sums[0] <= 0.0:
        return np.zeros(curve.size)
    # Few products stand behind the longest lags; dividing by their number would magnify chance.
    counts = np.maximum(curve.size - np.arange(curve.size), curve.size // 8 + 1)
    return np.asarray(sums / counts * (curve.size / sums[0]))


def evidence(onsets: Onsets) -> Curve:
    """How much speaks for each of `TEMPI`, in natural logarithms of odds."""
    octaves = np.log2(TEMPI / _USUAL_BPM)
    total = _USUAL_SLOPE * octaves + _USUAL_CURVE * octaves**2
    for curve, weights in ((onsets.full, _FULL), (onsets.low, _LOW), (onsets.middle, _MIDDLE)):
        likeness = autocorrelation(curve)
        for beats, weight in weights.items():
            total += weight * likeness_after(likeness, beats * 60.0 / TEMPI)
    return total


def clarity(curve: Curve, bpm: float) -> float:
    """0..1: how much of a curve comes back after one to four beats, where it does best."""
    likeness = autocorrelation(curve)
    after = np.array([beats * 60.0 / bpm for beats in _CLEAR_BEATS])
    near = after[:, None] * np.array([0.99, 0.995, 1.0, 1.005, 1.01])
    return float(np.clip(likeness_after(likeness, near).max(), 0.0, 1.0))


def likeness_after(likeness: Curve, seconds: Curve) -> Curve:
    """An autocorrelation after so many seconds; 0 beyond the end of the signal."""
    frames = np.arange(likeness.size)
    return np.asarray(np.interp(seconds * FRAMES_PER_SECOND, frames, likeness, right=0.0))


def refine(curve: Curve, bpm: float) -> float:
    """The exact tempo within about 1 % of one.

    A pattern that repeats every bar has its spectrum in lines at whole multiples of a quarter of
    the beat's frequency, whatever the pattern (swing and syncopation included). The tempo is where
    most power lies on them, looked for with ever higher lines and so ever more precisely.
    """
    window = np.sqrt(np.hanning(curve.size))
    centred = (curve - np.average(curve, weights=window)) * window
    size = 1 << (8 * curve.size - 1).bit_length()
    power = np.abs(np.fft.rfft(centred, size)) ** 2
    bins_per_hertz = size / FRAMES_PER_SECOND
    one_cycle_bpm = 60.0 * FRAMES_PER_SECOND / curve.size
    reach = 0.012 * bpm
    # The same lines for every tempo that is compared: one more would count for it.
    most = int(4 * _FINEST_HZ * 60.0 / bpm)
    for highest in (2, 4, 8, 16, 32):
        step = one_cycle_bpm / highest / 16
        offsets = np.arange(-reach, reach + step, step)
        lines = np.arange(1, min(4 * highest, most) + 1) / 4
        hertz = (bpm + offsets)[:, None] / 60.0 * lines
        sums = np.interp(hertz * bins_per_hertz, np.arange(power.size), power).sum(axis=1)
        bpm += float(offsets[np.argmax(sums)])
        reach = 1.5 * one_cycle_bpm / highest
    return bpm
