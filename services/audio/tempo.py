"""Tempo, beats and bars of music with a constant tempo.

If the tempo changes, the most common one is found and the beats drift away from the music. Bars
have three or four beats; other metres count as four.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from services.audio.arrays import as_audio, check_measured_rate
from services.audio.beats import find_bar
from services.audio.onsets import find_onsets
from services.audio.periods import (
    TEMPI,
    autocorrelation,
    correlation_after,
    measure_clarity,
    measure_contrast,
    refine,
    score_tempi,
)
from services.audio.sources import ArraySource
from services.audio.spectrum import compute_spectrum
from services.audio.summary import ramp, summarise_signal

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from services.audio.onsets import Onsets

    Curve = NDArray[np.float64]

SHORTEST_SECONDS = 1.5
"""A shorter signal has no tempo."""

_FEWEST_EVENTS = 4
_UNCLEAR, _TO_CLEAR = 0.15, 0.35
_SHORT_UNCLEAR, _SHORTER_UNCLEAR = 0.65, 1.6
"""Limits of the clarity of noise: 0.15; in less than 19 s of signal 0.65 divided by the root of the
seconds; in less than 6 s 1.6 divided by the seconds."""
_HINT_REACH = 0.12
"""Largest distance of the tempo from the hint, as a ratio."""
_HINT_WIDTH = 0.06
_FARTHEST = -5.0
"""Log probability of a tempo far from the hint, relative to one at the hint."""
_OCTAVES = (1 / 3, 1 / 2, 2, 3)
_SAME = 0.03
_OF_A_MULTIPLE, _OF_ANOTHER = 5.0, 0.15
"""How far the score of a hinted tempo may be below the best one, if the two are multiples and if
not; in logarithms of odds. On the tuning half of `benchmarks.foreign`, one right hint of 40 needs
more than the second limit. With a limit of 2, a third of the soft pieces take four thirds of their
tempo for it."""
_NOISE_CONTRAST, _CLEAR_CONTRAST = 6.0, 10.0
"""See `periods.measure_contrast`: more than noise has, and what a certain beat has."""
_EVEN = 0.8
"""Least correlation after half a beat, relative to that after a beat, of pulses that might be beats
of the double tempo."""
_FAST_BPM, _DIVIDED = 130.0, 0.55
"""From this tempo on, beats with that much correlation after half a beat might be eighths: of the
tuning half of `benchmarks.foreign`, reels that read twice as fast as written."""
_AMBIGUOUS_CONFIDENCE = 0.75
_STEADY, _DRIFTING = 0.003, 0.012
"""Difference between the tempi of the two halves of a signal, as a ratio."""
_SHORTEST_HALF_SECONDS, _CLEAR_HALVES = 8.0, 0.5
_AMBIGUOUS_ODDS = 0.5
_WALTZ_MARGIN = 0.12
"""Least excess of the correlation at three beats over two or four, summed over two curves."""
_CONTRADICTED = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Tempo:
    bpm: float | None
    """None if there is no tempo."""
    confidence: float
    """0..1: clarity of the repetition times the probability of this tempo; 0 without a tempo, at
    most 0.5 if the music contradicts the hint, and 0.75 if no hint says which of the likely
    multiples is the tempo."""
    octave_ambiguous: bool
    """Whether a half, a third, double or triple of this tempo is almost as likely, or more."""
    hint_supported: bool | None
    """Whether the music allows the tempo of the hint; None without a hint."""
    alternatives: tuple[float, ...]
    """Up to three other tempi, the most likely first."""
    clarity: float
    """0..1: best correlation of the onsets after one to four beats."""
    beats: tuple[float, ...]
    """Seconds of each beat in the first ten minutes, evenly spaced."""
    downbeat_offset_seconds: float | None
    """Start of the first bar in seconds; chosen by accents, less certain than the beats."""
    beats_per_bar: int
    """4, or 3 if the onsets repeat every three beats."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, JSON-ready, with `first_beat_seconds` in place of `beats`."""
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
    """Estimate the tempo of a signal.

    For six seconds of quantised music the error is below 0.1 BPM; it is larger for shorter signals
    and human timing. Noise and sustained sounds have no tempo.

    Args:
        signal: see `as_audio`; only the first ten minutes count.
        sample_rate: 1000 to 192000 Hz.
        hint_bpm: the requested tempo. It decides between a tempo and its multiples and favours
            tempi within 12 % of it, if the music allows them.

    Raises:
        TypeError: not a tensor or array, or a sample rate that is not an integer.
        ValueError: see `as_audio` and `check_measured_rate`; or the hint is not a positive number.
    """
    audio = as_audio(signal)
    rate = check_measured_rate(sample_rate)
    return find_tempo(
        find_onsets(compute_spectrum(summarise_signal(ArraySource(audio, rate)))), hint_bpm
    )


def find_tempo(onsets: Onsets, hint_bpm: float | None = None) -> Tempo:
    if hint_bpm is not None and not 0.0 < hint_bpm < np.inf:
        raise ValueError(f"The tempo hint must be a positive number of BPM, not {hint_bpm}.")
    if onsets.seconds < SHORTEST_SECONDS:
        return _no_tempo(hint_bpm)
    odds = score_tempi(onsets)
    peaks = _find_peaks(odds)
    best = int(peaks[np.argmax(odds[peaks])])
    hinted = None if hint_bpm is None else _find_peak_near_hint(odds, peaks, hint_bpm)
    if hinted is not None and not _is_allowed(odds, hinted, best):
        # The scores of soft onsets are chance, and then only the lines of a tempo count.
        nothing_else = _measure_evidence(onsets, float(TEMPI[best])).certainty is None
        hinted = hinted if nothing_else else None
    chosen = best if hinted is None else hinted
    evidence = _measure_evidence(onsets, float(TEMPI[chosen]))
    if evidence.certainty is None:
        return _no_tempo(hint_bpm, evidence.clarity)
    bpm = evidence.bpm
    supported = None if hint_bpm is None else hinted is not None
    chance = _compute_chance(odds, peaks, chosen, hint_bpm if supported else None)
    others = [peak for peak in peaks[np.argsort(-odds[peaks])] if peak != chosen]
    rivals = [peak for peak in others if odds[peak] > odds[chosen] - _AMBIGUOUS_ODDS]
    beats_per_bar = _count_beats_per_bar(onsets, bpm)
    bar = find_bar(onsets, bpm, beats_per_bar)
    octave_ambiguous = any(_is_multiple(TEMPI[peak], bpm) for peak in rivals) or _has_even_halves(
        onsets, bpm
    )
    confidence = chance * evidence.certainty * _measure_steadiness(onsets, bpm, evidence.clarity)
    if hint_bpm is None and octave_ambiguous:
        confidence = min(confidence, _AMBIGUOUS_CONFIDENCE)
    return Tempo(
        bpm=bpm,
        confidence=confidence * (_CONTRADICTED if supported is False else 1.0),
        octave_ambiguous=octave_ambiguous,
        hint_supported=supported,
        alternatives=tuple(round(float(TEMPI[peak]), 1) for peak in others[:3]),
        clarity=evidence.clarity,
        beats=_make_beats(bar, bpm, onsets.seconds),
        downbeat_offset_seconds=bar,
        beats_per_bar=beats_per_bar,
    )


class _Evidence(NamedTuple):
    """What the onsets say about one tempo."""

    bpm: float
    """Exact tempo."""
    clarity: float
    """See `Tempo.clarity`."""
    certainty: float | None
    """0..1, or None for what noise has too."""


def _measure_evidence(onsets: Onsets, about_bpm: float) -> _Evidence:
    bpm = refine(onsets.changes, about_bpm)
    clearness, contrast = (
        measure_clarity(onsets.changes, bpm),
        measure_contrast(onsets.changes, bpm),
    )
    seconds = onsets.seconds
    unclear = max(_UNCLEAR, _SHORT_UNCLEAR / math.sqrt(seconds), _SHORTER_UNCLEAR / seconds)
    is_clear = onsets.events >= _FEWEST_EVENTS and clearness >= unclear
    if not is_clear and (contrast < _NOISE_CONTRAST or not onsets.events):
        return _Evidence(bpm, clearness, None)
    certainty = max(
        ramp(clearness, unclear, unclear + _TO_CLEAR),
        ramp(contrast, _NOISE_CONTRAST, _CLEAR_CONTRAST),
    )
    return _Evidence(bpm, clearness, certainty)


def _measure_steadiness(onsets: Onsets, bpm: float, clearness: float) -> float:
    """Return 1 for the same tempo in both halves, falling to 0.

    Also 1 for short signals and soft onsets, half of which do not give an exact tempo.
    """
    if onsets.seconds < 2 * _SHORTEST_HALF_SECONDS or clearness < _CLEAR_HALVES:
        return 1.0
    middle = onsets.changes.size // 2
    first, second = refine(onsets.changes[:middle], bpm), refine(onsets.changes[middle:], bpm)
    return 1.0 - ramp(abs(math.log(second / first)), _STEADY, _DRIFTING)


def _has_even_halves(onsets: Onsets, bpm: float) -> bool:
    """Return whether the halves of a beat sound like the beats, so that another octave is as good.

    Every second of such pulses is as good a beat as all of them. Where the double tempo is too fast
    for beats, the halves suggest that the beats are eighths.
    """
    after = np.array([0.5, 1.0]) * (60.0 / bpm)
    half, whole = correlation_after(autocorrelation(onsets.changes), after)
    return bool(whole > 0.0 and half >= (_DIVIDED if bpm > _FAST_BPM else _EVEN) * whole)


def _no_tempo(hint_bpm: float | None, clearness: float = 0.0) -> Tempo:
    return Tempo(
        bpm=None,
        confidence=0.0,
        octave_ambiguous=False,
        hint_supported=None if hint_bpm is None else False,
        alternatives=(),
        clarity=clearness,
        beats=(),
        downbeat_offset_seconds=None,
        beats_per_bar=4,
    )


def _find_peaks(odds: Curve) -> NDArray[np.intp]:
    """Return the indices of the local maxima, including the global one."""
    inner = (odds[1:-1] > odds[:-2]) & (odds[1:-1] >= odds[2:])
    return np.union1d(np.flatnonzero(inner) + 1, np.argmax(odds))


def _find_peak_near_hint(odds: Curve, peaks: NDArray[np.intp], hint_bpm: float) -> int | None:
    """Return the index of the best peak near the hint, or None without one."""
    away = np.abs(np.log(TEMPI[peaks] / hint_bpm))
    near = peaks[away < _HINT_REACH]
    if not near.size:
        return None
    return int(near[np.argmax(odds[near] + _score_closeness(near, hint_bpm))])


def _is_allowed(odds: Curve, chosen: int, best: int) -> bool:
    """Return whether the scores allow one peak instead of the best one."""
    multiple = _is_multiple(TEMPI[chosen], float(TEMPI[best]))
    return bool(odds[best] - odds[chosen] <= (_OF_A_MULTIPLE if multiple else _OF_ANOTHER))


def _score_closeness(peaks: NDArray[np.intp], hint_bpm: float) -> Curve:
    """Return the log probability of each peak, given the hint and relative to it."""
    return np.asarray(-0.5 * (np.log(TEMPI[peaks] / hint_bpm) / _HINT_WIDTH) ** 2)


def _is_multiple(bpm: float, other: float) -> bool:
    return any(abs(bpm / other / octave - 1.0) < _SAME for octave in _OCTAVES)


def _compute_chance(
    odds: Curve, peaks: NDArray[np.intp], chosen: int, hint_bpm: float | None
) -> float:
    """Return the probability of the chosen peak among all, 0..1, given the hint."""
    logs = odds[peaks] - odds[chosen]
    if hint_bpm is not None:
        logs = logs + np.maximum(_score_closeness(peaks, hint_bpm), _FARTHEST)
    chances = np.exp(logs - logs.max())
    return float(chances[peaks == chosen].sum() / chances.sum())


def _count_beats_per_bar(onsets: Onsets, bpm: float) -> int:
    after = np.array([2.0, 3.0, 4.0]) * (60.0 / bpm)
    full, low = (
        correlation_after(autocorrelation(curve), after) for curve in (onsets.changes, onsets.low)
    )
    two, three, four = full + low
    return 3 if three - max(two, four) > _WALTZ_MARGIN else 4


def _make_beats(bar: float, bpm: float, seconds: float) -> tuple[float, ...]:
    beat = 60.0 / bpm
    # The tolerance treats a bar at beat 3.9999 as one at beat 4.
    first = max(bar - math.floor(bar / beat + 1e-6) * beat, 0.0)
    return tuple(float(at) for at in np.arange(first, seconds, beat))
