"""How much begins at each moment: the signal that tempo and beats are read from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from services.audio.spectrum import BANDS, FRAMES_PER_SECOND

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from services.audio.spectrum import Sketch

    Curve = NDArray[np.float64]

_RISE_FRAMES = 2
_LOCAL_SECONDS = 0.5
_LATE_FRAMES = 2.4
"""How long after frame k what rises from it to k + _RISE_FRAMES begins (measured on clicks)."""

_SILENT = 1e-9
"""Magnitude under which nothing is heard, far below the step of any file format."""
_LOW, _MIDDLE = slice(0, 6), slice(14, 34)


@dataclass(frozen=True, slots=True, kw_only=True)
class Onsets:
    """Onset strength, `[frames]` each, `FRAMES_PER_SECOND` of them; 0 where nothing begins."""

    full: Curve
    """All bands, those under 800 Hz counted three times: there the beat is."""
    low: Curve
    """Under 450 Hz: kick and bass."""
    middle: Curve
    """1.1 to 6.5 kHz: snare, clap and attacks."""
    low_accents: Curve
    """As `low`, but less compressed: the loud count for more than the many."""
    middle_accents: Curve
    events: int
    """Peaks of `full` that stand out."""

    @property
    def seconds(self) -> float:
        """Length of the curves."""
        return self.full.size / FRAMES_PER_SECOND

    def frame_at(self, seconds: Curve) -> Curve:
        """Where in the curves a moment of the signal lies."""
        return seconds * FRAMES_PER_SECOND - _LATE_FRAMES


_NONE = np.zeros(0)
_NOTHING = Onsets(
    full=_NONE,
    low=_NONE,
    middle=_NONE,
    low_accents=_NONE,
    middle_accents=_NONE,
    events=0,
)


def find_onsets(sketch: Sketch) -> Onsets:
    """Rise of the compressed band magnitudes over 23 ms (a spectral flux), less its local mean."""
    loudest = float(sketch.bands.max(initial=0.0))
    if len(sketch.bands) <= _RISE_FRAMES or loudest < _SILENT:
        return _NOTHING
    rise = _rise(np.log1p(sketch.bands * np.float32(1000.0 / loudest)))
    louder = _rise(np.sqrt(sketch.bands / np.float32(loudest)))
    weights = np.full(BANDS, 1.0 / BANDS, np.float32)
    weights[:10] += 0.05
    full = _above_surroundings(rise @ weights)
    return Onsets(
        full=full,
        low=_above_surroundings(rise[:, _LOW].mean(axis=1)),
        middle=_above_surroundings(rise[:, _MIDDLE].mean(axis=1)),
        low_accents=_above_surroundings(louder[:, _LOW].mean(axis=1)),
        middle_accents=_above_surroundings(louder[:, _MIDDLE].mean(axis=1)),
        events=_count_events(full),
    )


def _rise(level: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.maximum(level[_RISE_FRAMES:] - level[:-_RISE_FRAMES], np.float32(0.0)))


def _above_surroundings(curve: NDArray[np.float32]) -> Curve:
    width = round(_LOCAL_SECONDS * FRAMES_PER_SECOND) | 1
    padded = np.pad(curve.astype(np.float64), width // 2, mode="edge")
    sums = np.concatenate(([0.0], np.cumsum(padded)))
    return np.maximum(curve - (sums[width:] - sums[:-width]) / width, 0.0)


def _count_events(curve: Curve) -> int:
    """Local maxima that stand out from the weak ones and from what noise does by chance."""
    if curve.size < 3:
        return 0
    middle = curve[1:-1]
    floor = max(0.2, 0.25 * float(np.quantile(curve, 0.98)))
    return int(((middle > curve[:-2]) & (middle >= curve[2:]) & (middle > floor)).sum())
