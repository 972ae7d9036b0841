"""Estimate the key: compare the strength of the pitch classes with the profile of each key."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from services.audio.arrays import as_audio, check_measured_rate
from services.audio.sources import ArraySource
from services.audio.spectrum import compute_magnitudes, frequencies
from services.audio.summary import ANALYSIS_RATE, ramp, summarise_signal

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Curve = NDArray[np.float64]
    Spectra = NDArray[np.float32]

PITCH_CLASSES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")

_SIZE, _HOP = 8192, 4096
_LOWEST_HZ, _HIGHEST_HZ = 50.0, 2100.0
_LOCAL_MEAN_BINS = 41
_OVER_LOCAL_MEAN, _OF_LOUDEST = 2.0, 0.01
_SILENT = 1e-6
_HARMONICS, _HARMONIC_DECAY = 4, 0.6
_OPENING_FRAMES = 2 * ANALYSIS_RATE // _HOP
_OPENING_WEIGHT = 0.1
_FEWEST_PEAKS = 12
_ATONAL, _TONAL = 0.65, 0.8
_FLAT = 0.3
_FEW_NOTES, _ENOUGH_NOTES = 2.0, 5.0
_ODDS = 12.0
"""Natural logarithm of the odds between two keys whose scores differ by 1; fitted on composer takes
and the `TUNED` styles of `benchmarks.songs`."""

PROFILES = np.array(
    [
        [0.238, 0.006, 0.111, 0.006, 0.137, 0.094, 0.016, 0.214, 0.009, 0.080, 0.008, 0.081],
        [0.220, 0.006, 0.104, 0.123, 0.019, 0.103, 0.012, 0.214, 0.062, 0.022, 0.061, 0.052],
    ]
)
"""Share of each pitch class above the tonic, in major and minor (Albrecht and Shanahan 2013)."""
_TRIADS = np.zeros((2, 12))
_TRIADS[0, [0, 4, 7]] = _TRIADS[1, [0, 3, 7]] = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A tonic and a mode; other modes count as major or minor by their third."""

    name: str
    """As "C# minor"; spelled as in `PITCH_CLASSES`."""
    tonic: int
    """0 = C .. 11 = B."""
    mode: Literal["major", "minor"]
    confidence: float
    """0..1, probability among all keys; reduced for a bad fit or few notes."""
    tuning_cents: float
    """Offset from A = 440 Hz, -50 to 50."""
    alternatives: tuple[str, ...]
    """The three next likely keys, often the relative key or the fifth."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"alternatives": list(self.alternatives)}


class _Peaks(NamedTuple):
    """Peaks of the spectra of all frames, `[peaks]` each."""

    frame: NDArray[np.intp]
    hertz: Curve
    weight: Curve


def estimate_key(signal: Any, sample_rate: int) -> Key | None:
    """Estimate the key; None for silence, noise, drums alone and atonal notes.

    Args:
        signal: see `as_audio`; only the first ten minutes count.
        sample_rate: 1000 to 192000 Hz.

    Raises:
        TypeError: not a tensor or array, or a sample rate that is not an integer.
        ValueError: see `as_audio` and `check_measured_rate`.
    """
    audio = as_audio(signal)
    return find_key(summarise_signal(ArraySource(audio, check_measured_rate(sample_rate))).mono)


def find_key(mono: Spectra) -> Key | None:
    """Estimate the key of a mono mix at `ANALYSIS_RATE`, like `estimate_key`."""
    peaks = _find_peaks(mono)
    if peaks.frame.size < _FEWEST_PEAKS:
        return None
    turn = np.sum(peaks.weight * np.exp(2j * np.pi * 12 * np.log2(peaks.hertz / 440.0)))
    tuning = float(np.angle(turn) / (2 * np.pi))
    chroma = _compute_chroma(peaks, tuning)
    first = peaks.frame < peaks.frame[0] + _OPENING_FRAMES
    opening = _compute_chroma(_Peaks(*(values[first] for values in peaks)), tuning)
    fit = _correlate_keys(chroma, PROFILES)
    # Pieces tend to begin with their tonic chord, which separates keys that share their notes.
    scores = fit + _OPENING_WEIGHT * _correlate_keys(opening, _TRIADS)
    order = np.argsort(-scores, kind="stable")
    best = int(order[0])
    if fit[best] < _ATONAL or float(chroma.std() / chroma.mean()) < _FLAT:
        return None
    chances = np.exp(_ODDS * (scores - scores[best]))
    tonal = ramp(float(fit[best]), _ATONAL, _TONAL)
    several = ramp(_count_notes(chroma), _FEW_NOTES, _ENOUGH_NOTES)
    return Key(
        name=_format_name(best),
        tonic=best % 12,
        mode="minor" if best >= 12 else "major",
        confidence=tonal * several / float(chances.sum()),
        tuning_cents=100.0 * tuning,
        alternatives=tuple(_format_name(int(other)) for other in order[1:4]),
    )


def _format_name(index: int) -> str:
    return f"{PITCH_CLASSES[index % 12]} {'minor' if index >= 12 else 'major'}"


def _count_notes(chroma: Curve) -> float:
    """Return the effective number of pitch classes, 1 to 12 (inverse of the sum of squares)."""
    shares = chroma / chroma.sum()
    return 1.0 / float(shares @ shares)


def _find_peaks(mono: Spectra) -> _Peaks:
    """Return the local maxima that exceed the local mean of their spectrum."""
    hertz = frequencies(_SIZE)
    low, high = np.searchsorted(hertz, [_LOWEST_HZ, _HIGHEST_HZ])
    frames, places, weights = [], [], []
    done = 0
    for group in compute_magnitudes(mono, _SIZE, _HOP):
        part = group[:, low - 1 : high + 1]
        before, middle, after = part[:, :-2], part[:, 1:-1], part[:, 2:]
        floor = np.maximum(_OF_LOUDEST * part.max(axis=1, keepdims=True), _SILENT)
        floor = np.maximum(floor, _OVER_LOCAL_MEAN * _local_mean(part)[:, 1:-1])
        frame, column = np.nonzero((middle > before) & (middle >= after) & (middle > floor))
        left, top, right = (
            np.log(values[frame, column] + 1e-12).astype(np.float64)
            for values in (before, middle, after)
        )
        # Vertex of the parabola through three logarithmic bins.
        shift = np.clip(0.5 * (left - right) / (left - 2 * top + right - 1e-12), -0.5, 0.5)
        frames.append(frame + done)
        places.append((column + low + shift) * (ANALYSIS_RATE / _SIZE))
        weights.append(np.exp(0.5 * top))
        done += len(group)
    return _Peaks(np.concatenate(frames), np.concatenate(places), np.concatenate(weights))


def _local_mean(part: Spectra) -> Spectra:
    padded = np.pad(part, ((0, 0), (_LOCAL_MEAN_BINS // 2 + 1, _LOCAL_MEAN_BINS // 2)), mode="edge")
    sums = np.cumsum(padded, axis=1, dtype=np.float64)
    means = (sums[:, _LOCAL_MEAN_BINS:] - sums[:, :-_LOCAL_MEAN_BINS]) / _LOCAL_MEAN_BINS
    return means.astype(np.float32)


def _compute_chroma(peaks: _Peaks, tuning: float) -> Curve:
    """Return the strength of the twelve pitch classes.

    Each peak counts as harmonic 1 to 4 of a fundamental, with decreasing weight.

    Args:
        peaks: peaks of the spectrum.
        tuning: semitones above A = 440 Hz.
    """
    chroma = np.zeros(12)
    for harmonic in range(1, _HARMONICS + 1):
        fundamental = peaks.hertz / harmonic
        kept = fundamental >= _LOWEST_HZ
        pitch = 12 * np.log2(fundamental[kept] / 440.0) - tuning + 9
        nearest = np.round(pitch)
        closeness = np.cos(np.pi * (pitch - nearest)) ** 2
        weight = peaks.weight[kept] * closeness * _HARMONIC_DECAY ** (harmonic - 1)
        chroma += np.bincount(nearest.astype(np.int64) % 12, weight, minlength=12)
    return chroma


def _correlate_keys(chroma: Curve, profiles: Curve) -> Curve:
    """Return the correlation with each rotation of two profiles: 12 major, then 12 minor keys."""
    turned = np.array([np.roll(profile, tonic) for profile in profiles for tonic in range(12)])
    turned -= turned.mean(axis=1, keepdims=True)
    centred = chroma - chroma.mean()
    norms = np.linalg.norm(turned, axis=1) * np.linalg.norm(centred)
    return np.asarray(turned @ centred / np.maximum(norms, 1e-12))
