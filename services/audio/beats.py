"""Where the beats and the bars of a known, constant tempo lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from services.audio.onsets import Onsets

    Curve = NDArray[np.float64]

_STEPS_PER_BEAT = 2
_FINE_PLACES = 24
"""Places within half a beat that are tried for where its onsets lie."""
_NEAR_SECONDS = np.array([-0.012, 0.0, 0.012])
_AT_THE_START = 0.5
"""What speaks for a bar that begins with the signal: most takes and loops do."""

_LOW = {
    4: np.array([0.60, -0.28, -0.28, -0.24, -0.02, 0.02, -0.19, -0.11]),
    3: np.array([0.62, -0.22, -0.33, -0.22, -0.33, -0.22]),
}
_MIDDLE = {
    4: np.array([-0.13, -0.26, 0.30, -0.16, 0.04, -0.04, 0.30, -0.18]),
    3: np.array([-0.19, -0.20, 0.34, -0.20, 0.34, -0.20]),
}
"""Beats in a bar -> what an accent on each eighth of it speaks for its beginning.

Coefficients of a softmax regression over the eighths of a bar of four, fitted as those of
`periods.evidence` are, drawn halfway to one for all eighths off the beat and one for both
backbeats; those of three beats are derived from them.
"""


def find_bar(onsets: Onsets, bpm: float, beats_per_bar: int) -> float:
    """Seconds of the first bar that begins in the signal; less than one bar.

    First the eighths are laid on the onsets, then one of those of a bar is chosen as its beginning
    by where the low and the middle accents fall around it.
    """
    eighth = 60.0 / bpm / _STEPS_PER_BEAT
    first = _fine_place(onsets, eighth)
    steps = beats_per_bar * _STEPS_PER_BEAT
    low = _bar_profile(onsets, onsets.low_accents, first, eighth, steps)
    middle = _bar_profile(onsets, onsets.middle_accents, first, eighth, steps)
    scores = np.array(
        [
            np.roll(low, -start) @ _LOW[beats_per_bar]
            + np.roll(middle, -start) @ _MIDDLE[beats_per_bar]
            for start in range(steps)
        ]
    )
    if first < _NEAR_SECONDS[-1]:
        scores[0] += _AT_THE_START
    return first + int(np.argmax(scores)) * eighth


def _fine_place(onsets: Onsets, eighth: float) -> float:
    """Seconds from the beginning to the first eighth."""
    places = np.arange(_FINE_PLACES) * (eighth / _FINE_PLACES)
    curve = onsets.full
    sums = np.array([_at(onsets, curve, _every(onsets, place, eighth)).mean() for place in places])
    best = int(np.argmax(sums))
    before, top, after = sums[best - 1], sums[best], sums[(best + 1) % _FINE_PLACES]
    bend = before - 2 * top + after
    shift = 0.5 * (before - after) / bend if bend < 0.0 else 0.0
    place = float(best + shift) * eighth / _FINE_PLACES
    # What is found a few milliseconds before the beginning belongs to it.
    return max(0.0, place - eighth if place > eighth - 2 * _NEAR_SECONDS[-1] else place)


def _bar_profile(onsets: Onsets, curve: Curve, first: float, eighth: float, steps: int) -> Curve:
    """Mean strength at each eighth of a bar, relative to all of them."""
    places = _every(onsets, first, eighth)
    near = places[:, None] + _NEAR_SECONDS
    strengths = _at(onsets, curve, near.ravel()).reshape(near.shape).max(axis=1)
    # The last bar counts as far as it goes.
    profile = np.array([strengths[step::steps].mean() for step in range(min(steps, len(places)))])
    profile = np.pad(profile, (0, steps - profile.size))
    return np.asarray(profile / (profile.mean() + 1e-9))


def _every(onsets: Onsets, first: float, step: float) -> Curve:
    return np.arange(first, max(onsets.seconds, first + 1e-9), step)


def _at(onsets: Onsets, curve: Curve, seconds: Curve) -> Curve:
    return np.interp(onsets.frame_at(seconds), np.arange(curve.size), curve)
