"""Tempo, beats and bars of music that keeps one tempo.

A constant tempo is assumed: of music that changes it, the most common one is found, and the beats
drift away from the music. Three or four beats a bar are told apart; other metres read as four.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from services.audio.arrays import as_audio, check_sample_rate
from services.audio.beats import find_bar
from services.audio.hearing import hear
from services.audio.onsets import find_onsets
from services.audio.periods import (
    TEMPI,
    autocorrelation,
    clarity,
    evidence,
    likeness_after,
    refine,
)
from services.audio.sources import ArraySource
from services.audio.spectrum import sketch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from services.audio.onsets import Onsets

    Curve = NDArray[np.float64]

SHORTEST_SECONDS = 1.5
"""Under this no tempo is looked for."""

_FEWEST_EVENTS = 4
_UNCLEAR, _SHORT_UNCLEAR_SECONDS, _TO_CLEAR = 0.15, 1.5, 0.35
"""Noise of 8 s and more stays under a clarity of 0.15, shorter noise under 1.5 s by its length."""
_HINT_REACH = 0.12
"""How far, as a ratio, the music may be from the tempo that was asked for."""
_HINT_WIDTH = 0.06
_FARTHEST = -5.0
"""Logarithm of how likely music is far from the tempo that was asked for, against at it."""
_OCTAVES = (1 / 3, 1 / 2, 2, 3)
_SAME = 0.03
_OF_A_MULTIPLE, _OF_ANOTHER = 5.0, 2.0
"""How much less evidence a hinted tempo may have than the best one if it is a multiple of that, and
if not; in logarithms of odds. Of the pieces that the coefficients of `evidence` were fitted on, one
right hint in a hundred fails the second, and three wrong ones pass."""
_AMBIGUOUS_ODDS = 1.0
_WALTZ_MARGIN = 0.12
"""How much more alike the onsets are after three beats than after two or four, in two curves."""
_CONTRADICTED = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Tempo:
    """What the onsets tell; without a tempo, `bpm` is None and the confidence 0."""

    bpm: float | None
    confidence: float
    """0..1: how clearly the onsets repeat, times the odds of this tempo among the others. At most
    one half where the music contradicts the hint."""
    octave_ambiguous: bool
    """Whether half, double or a third of this tempo has nearly as much evidence, or more."""
    hint_supported: bool | None
    """Whether the music can be at the tempo of the hint; None without a hint."""
    alternatives: tuple[float, ...]
    """Up to three other tempi, the likeliest first."""
    clarity: float
    """0..1: how much of the onsets comes back within four beats."""
    beats: tuple[float, ...]
    """Seconds of each beat in the first ten minutes: an even grid."""
    downbeat_offset_seconds: float | None
    """Seconds of the first bar: a choice by accents, less sure than the beats."""
    beats_per_bar: int
    """4, or 3 where the onsets come back every three beats."""

    def to_dict(self) -> dict[str, Any]:
        """The figures by name, JSON-ready; the beats as the seconds of the first one."""
        return {
            "bpm": self.bpm,
            "confidence": self.confidence,
            "octave_ambiguous": self.octave_ambiguous,
            "hint_supported": self.hint_supported,
            "alternatives": list(self.alternatives),
            "first_beat_seconds": self.beats[0] if self.beats else None,
            "downbeat_offset_seconds": self.downbeat_offset_seconds,
            "beats_per_bar": self.beats_per_bar,
        }


def estimate_tempo(signal: Any, sample_rate: int, hint_bpm: float | None = None) -> Tempo:
    """Find the tempo of a signal.

    Six seconds of machine-steady music give it to 0.1 BPM; players' timing, or less of it, widens
    that. Noise and held sounds have none.

    Args:
        signal: what `as_audio` takes; only the first ten minutes are listened to.
        sample_rate: 8000 to 192000 Hz.
        hint_bpm: the tempo that was asked for. It decides between a tempo and its multiples and
            draws the choice to what is within 12 % of it, if the music allows that.

    Raises:
        TypeError: not audio, or a rate that is no whole number.
        ValueError: what `as_audio` and `check_sample_rate` refuse, or a hint that is no positive
            number.
    """
    audio = as_audio(signal)
    rate = check_sample_rate(sample_rate)
    return tempo_of(find_onsets(sketch(hear(ArraySource(audio, rate)))), hint_bpm)


def tempo_of(onsets: Onsets, hint_bpm: float | None = None) -> Tempo:
    """As `estimate_tempo`, from onsets that are known already."""
    if hint_bpm is not None and not 0.0 < hint_bpm < np.inf:
        raise ValueError(f"The hint must be a positive number of beats a minute, not {hint_bpm}.")
    if onsets.seconds < SHORTEST_SECONDS or onsets.events < _FEWEST_EVENTS:
        return _no_tempo(hint_bpm)
    odds = evidence(onsets)
    peaks = _peaks(odds)
    best = int(peaks[np.argmax(odds[peaks])])
    hinted = None if hint_bpm is None else _near_hint(odds, peaks, best, hint_bpm)
    chosen = best if hinted is None else hinted
    bpm = refine(onsets.full, float(TEMPI[chosen]))
    clear = clarity(onsets.full, bpm)
    unclear = max(_UNCLEAR, _SHORT_UNCLEAR_SECONDS / onsets.seconds)
    if clear < unclear:
        return _no_tempo(hint_bpm, clear)
    supported = None if hint_bpm is None else hinted is not None
    certain = _certainty(odds, peaks, chosen, hint_bpm if supported else None)
    others = [peak for peak in peaks[np.argsort(-odds[peaks])] if peak != chosen]
    rivals = [peak for peak in others if odds[peak] > odds[chosen] - _AMBIGUOUS_ODDS]
    beats_per_bar = _beats_per_bar(onsets, bpm)
    bar = find_bar(onsets, bpm, beats_per_bar)
    return Tempo(
        bpm=bpm,
        confidence=certain
        * min((clear - unclear) / _TO_CLEAR, 1.0)
        * (_CONTRADICTED if supported is False else 1.0),
        octave_ambiguous=any(_is_multiple(TEMPI[peak], bpm) for peak in rivals),
        hint_supported=supported,
        alternatives=tuple(round(float(TEMPI[peak]), 1) for peak in others[:3]),
        clarity=clear,
        beats=_beats(bar, bpm, onsets.seconds),
        downbeat_offset_seconds=bar,
        beats_per_bar=beats_per_bar,
    )


def _no_tempo(hint_bpm: float | None, clear: float = 0.0) -> Tempo:
    return Tempo(
        bpm=None,
        confidence=0.0,
        octave_ambiguous=False,
        hint_supported=None if hint_bpm is None else False,
        alternatives=(),
        clarity=clear,
        beats=(),
        downbeat_offset_seconds=None,
        beats_per_bar=4,
    )


def _peaks(odds: Curve) -> NDArray[np.intp]:
    """Indices of the local maxima, the best of all among them."""
    inner = (odds[1:-1] > odds[:-2]) & (odds[1:-1] >= odds[2:])
    return np.union1d(np.flatnonzero(inner) + 1, np.argmax(odds))


def _near_hint(odds: Curve, peaks: NDArray[np.intp], best: int, hint_bpm: float) -> int | None:
    """The peak that the hint points at, if the music can be at that tempo."""
    away = np.abs(np.log(TEMPI[peaks] / hint_bpm))
    near = peaks[away < _HINT_REACH]
    if not near.size:
        return None
    chosen = int(near[np.argmax(odds[near] + _closeness(near, hint_bpm))])
    multiple = _is_multiple(TEMPI[chosen], float(TEMPI[best]))
    allowed = _OF_A_MULTIPLE if multiple else _OF_ANOTHER
    return chosen if chosen == best or odds[best] - odds[chosen] <= allowed else None


def _closeness(peaks: NDArray[np.intp], hint_bpm: float) -> Curve:
    """Logarithm of how likely music that was asked for at one tempo has another."""
    return np.asarray(-0.5 * (np.log(TEMPI[peaks] / hint_bpm) / _HINT_WIDTH) ** 2)


def _is_multiple(bpm: float, other: float) -> bool:
    return any(abs(bpm / other / octave - 1.0) < _SAME for octave in _OCTAVES)


def _certainty(odds: Curve, peaks: NDArray[np.intp], chosen: int, hint_bpm: float | None) -> float:
    """0..1: the chance of the chosen peak among all; a hint makes those far from it unlikely."""
    logs = odds[peaks] - odds[chosen]
    if hint_bpm is not None:
        logs = logs + np.maximum(_closeness(peaks, hint_bpm), _FARTHEST)
    chances = np.exp(logs - logs.max())
    return float(chances[peaks == chosen].sum() / chances.sum())


def _beats_per_bar(onsets: Onsets, bpm: float) -> int:
    after = np.array([2.0, 3.0, 4.0]) * (60.0 / bpm)
    full, low = (
        likeness_after(autocorrelation(curve), after) for curve in (onsets.full, onsets.low)
    )
    two, three, four = full + low
    return 3 if three - max(two, four) > _WALTZ_MARGIN else 4


def _beats(bar: float, bpm: float, seconds: float) -> tuple[float, ...]:
    beat = 60.0 / bpm
    # A bar that begins on beat 3.9999 begins on beat 4.
    first = max(bar - math.floor(bar / beat + 1e-6) * beat, 0.0)
    return tuple(float(at) for at in np.arange(first, seconds, beat))
