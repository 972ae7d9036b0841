"""The positions of beats and bars at a known, constant tempo."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from services.audio.onsets import Onsets

    Curve = NDArray[np.float64]

_STEPS_PER_BEAT = 2
_OFFSETS_PER_EIGHTH = 24
"""Candidate positions of the first eighth."""
_TOLERANCE_SECONDS = np.array([-0.012, 0.0, 0.012])
_START_BONUS = 0.5
"""Added to the score of a bar that begins with the signal: most takes and loops do."""

_LOW = {
    4: np.array([0.60, -0.28, -0.28, -0.24, -0.02, 0.02, -0.19, -0.11]),
    3: np.array([0.62, -0.22, -0.33, -0.22, -0.33, -0.22]),
}
_MIDDLE = {
    4: np.array([-0.13, -0.26, 0.30, -0.16, 0.04, -0.04, 0.30, -0.18]),
    3: np.array([-0.19, -0.20, 0.34, -0.20, 0.34, -0.20]),
}
"""Beats in a bar -> for each eighth, the weight of an accent there in the score of a bar's start.

Coefficients of a softmax regression over the eighths of a bar of four beats, fitted on the same
material as those of `periods.score_tempi`. They are shrunk halfway to one shared value for all
off-beat eighths and one for both backbeats; the values for three beats are derived from them.
"""


def find_bar(onsets: Onsets, bpm: float, beats_per_bar: int) -> float:
    """Return the start of the first bar in seconds, less than the length of a bar.

    The grid of eighths is aligned with the onsets first. Then the eighth of a bar at which the low
    and middle accents fit best is chosen as its start.
    """
    eighth = 60.0 / bpm / _STEPS_PER_BEAT
    first = _find_first_eighth(onsets, eighth)
    steps = beats_per_bar * _STEPS_PER_BEAT
    low = _compute_bar_profile(onsets, onsets.low_accents, first, eighth, steps)
    middle = _compute_bar_profile(onsets, onsets.middle_accents, first, eighth, steps)
    scores = np.array(
        [
            np.roll(low, -start) @ _LOW[beats_per_bar]
            + np.roll(middle, -start) @ _MIDDLE[beats_per_bar]
            for start in range(steps)
        ]
    )
    if first < _TOLERANCE_SECONDS[-1]:
        scores[0] += _START_BONUS
    return first + int(np.argmax(scores)) * eighth


def _find_first_eighth(onsets: Onsets, eighth: float) -> float:
    """Return the position of the first eighth in seconds."""
    places = np.arange(_OFFSETS_PER_EIGHTH) * (eighth / _OFFSETS_PER_EIGHTH)
    curve = onsets.full
    sums = np.array(
        [_sample_curve(onsets, curve, _make_grid(onsets, place, eighth)).mean() for place in places]
    )
    best = int(np.argmax(sums))
    before, top, after = sums[best - 1], sums[best], sums[(best + 1) % _OFFSETS_PER_EIGHTH]
    bend = before - 2 * top + after
    shift = 0.5 * (before - after) / bend if bend < 0.0 else 0.0
    place = float(best + shift) * eighth / _OFFSETS_PER_EIGHTH
    # An eighth a few milliseconds before the start of the signal counts as the start.
    return max(0.0, place - eighth if place > eighth - 2 * _TOLERANCE_SECONDS[-1] else place)


def _compute_bar_profile(
    onsets: Onsets, curve: Curve, first: float, eighth: float, steps: int
) -> Curve:
    """Return the mean strength at each eighth of a bar, relative to the mean of all eighths."""
    places = _make_grid(onsets, first, eighth)
    near = places[:, None] + _TOLERANCE_SECONDS
    strengths = _sample_curve(onsets, curve, near.ravel()).reshape(near.shape).max(axis=1)
    # The last bar may be incomplete.
    profile = np.array([strengths[step::steps].mean() for step in range(min(steps, len(places)))])
    profile = np.pad(profile, (0, steps - profile.size))
    return np.asarray(profile / (profile.mean() + 1e-9))


def _make_grid(onsets: Onsets, first: float, step: float) -> Curve:
    return np.arange(first, max(onsets.seconds, first + 1e-9), step)


def _sample_curve(onsets: Onsets, curve: Curve, seconds: Curve) -> Curve:
    return np.interp(onsets.frame_at(seconds), np.arange(curve.size), curve)
