"""Onset strength over time, from which tempo and beats are derived."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from services.audio.spectrum import BANDS, FRAMES_PER_SECOND, NOTE_HOPS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from services.audio.spectrum import Spectrum

    Curve = NDArray[np.float64]

_RISE_FRAMES = 2
_LOCAL_SECONDS = 0.5
_LATE_FRAMES = 2.4
"""Delay of an onset after the frame k from which the level rises to k + _RISE_FRAMES, measured on
clicks."""

_SILENT = 1e-9
"""Magnitude of silence, far below the step of any file format."""
_STILL = 1e-3
"""Standard deviation of the onset strength in a held sound."""
_LOW, _MIDDLE = slice(0, 6), slice(14, 34)


@dataclass(frozen=True, slots=True, kw_only=True)
class Onsets:
    """Onset strength in curves of `[frames]` at `FRAMES_PER_SECOND`; 0 without an onset."""

    full: Curve
    """All bands; those below 800 Hz, which carry the beat, count three times."""
    changes: Curve
    """`full` and the rise of single notes, in equal parts. The latter also shows the changes of
    held chords, in which the energy rises nowhere; it is less exact in time."""
    low: Curve
    """Below 450 Hz: kick and bass."""
    middle: Curve
    """1.1 to 6.5 kHz: snare, clap and attacks."""
    low_accents: Curve
    """Like `low` but less compressed, so that loud onsets dominate."""
    middle_accents: Curve
    """Like `middle`, less compressed."""
    events: int
    """Number of distinct peaks of `full`."""

    @property
    def seconds(self) -> float:
        return self.full.size / FRAMES_PER_SECOND

    def frame_at(self, seconds: Curve) -> Curve:
        """Convert seconds of the signal to a fractional frame of the curves."""
        return seconds * FRAMES_PER_SECOND - _LATE_FRAMES


_NONE = np.zeros(0)
_NO_ONSETS = Onsets(
    full=_NONE,
    changes=_NONE,
    low=_NONE,
    middle=_NONE,
    low_accents=_NONE,
    middle_accents=_NONE,
    events=0,
)


def find_onsets(spectrum: Spectrum) -> Onsets:
    """Compute the rise of the compressed band magnitudes over 23 ms, less its local mean."""
    loudest = float(spectrum.bands.max(initial=0.0))
    if len(spectrum.bands) <= _RISE_FRAMES or loudest < _SILENT:
        return _NO_ONSETS
    rise = _compute_rise(np.log1p(spectrum.bands * np.float32(1000.0 / loudest)))
    accents = _compute_rise(np.sqrt(spectrum.bands / np.float32(loudest)))
    weights = np.full(BANDS, 1.0 / BANDS, np.float32)
    weights[:10] += 0.05
    full = _subtract_local_mean(rise @ weights)
    return Onsets(
        full=full,
        changes=_add_notes(full, spectrum.notes),
        low=_subtract_local_mean(rise[:, _LOW].mean(axis=1)),
        middle=_subtract_local_mean(rise[:, _MIDDLE].mean(axis=1)),
        low_accents=_subtract_local_mean(accents[:, _LOW].mean(axis=1)),
        middle_accents=_subtract_local_mean(accents[:, _MIDDLE].mean(axis=1)),
        events=_count_events(full),
    )


def _add_notes(full: Curve, notes: NDArray[np.float32]) -> Curve:
    """Return `Onsets.changes`."""
    loudest = max(float(notes.max(initial=0.0)), _SILENT)
    rise = _compute_rise(np.log1p(notes * np.float32(1000.0 / loudest))).mean(axis=1)
    if not rise.size:
        return full
    at = np.arange(full.size) / NOTE_HOPS
    rise = np.interp(at, np.arange(rise.size), rise).astype(np.float32)
    return _scale(full) + _scale(_subtract_local_mean(rise))


def _scale(curve: Curve) -> Curve:
    """Return a curve with a standard deviation of 1, or less if it hardly moves."""
    return np.asarray(curve / (curve.std() + _STILL))


def _compute_rise(level: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.maximum(level[_RISE_FRAMES:] - level[:-_RISE_FRAMES], np.float32(0.0)))


def _subtract_local_mean(curve: NDArray[np.float32]) -> Curve:
    width = round(_LOCAL_SECONDS * FRAMES_PER_SECOND) | 1
    padded = np.pad(curve.astype(np.float64), width // 2, mode="edge")
    sums = np.concatenate(([0.0], np.cumsum(padded)))
    return np.maximum(curve - (sums[width:] - sums[:-width]) / width, 0.0)


def _count_events(curve: Curve) -> int:
    """Count the local maxima that exceed both weak onsets and chance maxima of noise."""
    if curve.size < 3:
        return 0
    middle = curve[1:-1]
    floor = max(0.2, 0.25 * float(np.quantile(curve, 0.98)))
    return int(((middle > curve[:-2]) & (middle >= curve[2:]) & (middle > floor)).sum())
