"""Features of a signal: levels, stereo, spectrum, energy and danceability.

Energy and danceability have no standard definition. Here they are made of ramps, which rise
linearly from 0 at the first of two values to 1 at the second.

Energy is 0.4 level + 0.4 activity + 0.2 brightness, and 0 for silence. Level is the RMS from -40 to
-8 dBFS, activity the onsets per second from 0 to 6, and brightness the spectral centroid from
200 Hz to 4 kHz on a logarithmic scale.

Danceability is pulse * (0.4 pace + 0.3 kick + 0.3 activity), and 0 without a tempo. Pulse is the
clarity of the tempo from 0.15 to 0.75. Pace is 1 from 95 to 135 BPM and falls to 0 at 45 and 220.
Kick is the clarity of the low accents.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from services.audio.arrays import as_audio, check_measured_rate
from services.audio.loudness import decibels
from services.audio.onsets import find_onsets
from services.audio.periods import measure_clarity
from services.audio.sources import ArraySource
from services.audio.spectrum import SIZE, compute_spectrum, frequencies
from services.audio.summary import ramp, summarise_signal
from services.audio.tempo import find_tempo

if TYPE_CHECKING:
    from services.audio.onsets import Onsets
    from services.audio.spectrum import Spectrum
    from services.audio.summary import SignalSummary
    from services.audio.tempo import Tempo

_GATE_POWER = 10 ** (-70.0 / 10)
_ROLLOFF = 0.85


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Features of a signal; spectral ones of its mono mix up to 11 kHz, first ten minutes."""

    duration_seconds: float
    sample_rate: int
    """Hz."""
    channels: int
    peak_amplitude: float
    """Largest sample, linear, full scale at 1."""
    rms: float
    """Root of the mean square over time and channels, linear."""
    crest_factor_db: float
    """Peak over RMS; 0 for silence."""
    dynamic_range_db: float
    """Distance of the 10th and 95th percentile of the RMS levels of 100 ms above -70 dBFS."""
    stereo_correlation: float
    """-1..1: 1 for equal, 0 for unrelated and -1 for inverted channels; 0 if one is silent."""
    stereo_width: float
    """0..1, share of the side signal in the energy: 0 for mono, 0.5 for unrelated channels."""
    spectral_centroid_hz: float
    """Mean frequency, weighted by power."""
    spectral_rolloff_hz: float
    """The frequency below which 85 % of the power lies."""
    spectral_flatness: float
    """0..1, geometric over arithmetic mean of the power spectrum from 30 Hz to 10 kHz, averaged
    over the frames by their power: 0 for a tone, about 0.56 for white noise."""
    onsets_per_second: float
    """Distinct note and drum attacks."""
    energy: float
    """0..1, as defined in this module."""
    danceability: float
    """0..1, as defined in this module."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure_features(signal: Any, sample_rate: int) -> Features:
    """Measure the features of a signal.

    Args:
        signal: see `as_audio`.
        sample_rate: 1000 to 192000 Hz.

    Raises:
        TypeError: not a tensor or array, or a sample rate that is not an integer.
        ValueError: see `as_audio` and `check_measured_rate`.
    """
    audio = as_audio(signal)
    summary = summarise_signal(ArraySource(audio, check_measured_rate(sample_rate)))
    spectrum = compute_spectrum(summary)
    onsets = find_onsets(spectrum)
    return compute_features(summary, spectrum, onsets, find_tempo(onsets))


def compute_features(
    summary: SignalSummary, spectrum: Spectrum, onsets: Onsets, tempo: Tempo
) -> Features:
    centroid, rolloff = _measure_spectrum(spectrum)
    rate = onsets.events / onsets.seconds if onsets.events else 0.0
    correlation, width = _measure_stereo(summary)
    activity = ramp(rate, 0.0, 6.0)
    return Features(
        duration_seconds=summary.duration_seconds,
        sample_rate=summary.sample_rate,
        channels=summary.channels,
        peak_amplitude=summary.peak,
        rms=summary.rms,
        crest_factor_db=decibels(summary.peak / summary.rms) if summary.rms else 0.0,
        dynamic_range_db=measure_dynamic_range(summary),
        stereo_correlation=correlation,
        stereo_width=width,
        spectral_centroid_hz=centroid,
        spectral_rolloff_hz=rolloff,
        spectral_flatness=spectrum.flatness,
        onsets_per_second=rate,
        energy=_compute_energy(summary.rms, activity, centroid),
        danceability=_compute_danceability(onsets, tempo, activity),
    )


def measure_dynamic_range(summary: SignalSummary) -> float:
    levels = summary.slot_power[summary.slot_power > _GATE_POWER]
    if not levels.size:
        return 0.0
    low, high = np.quantile(levels, (0.10, 0.95))
    return float(10 * np.log10(high / low))


def _measure_stereo(summary: SignalSummary) -> tuple[float, float]:
    """Return the correlation and the width of the stereo image."""
    left, right, cross = summary.products
    if left + right == 0.0:
        return (1.0 if summary.channels == 1 else 0.0), 0.0
    norm = math.sqrt(left) * math.sqrt(right)
    correlation = min(max(cross / norm, -1.0), 1.0) if norm else 0.0
    return correlation, min(max(0.5 - cross / (left + right), 0.0), 1.0)


def _measure_spectrum(spectrum: Spectrum) -> tuple[float, float]:
    """Return the spectral centroid and rolloff in Hz; 0 for silence."""
    hertz = frequencies(SIZE)
    total = float(spectrum.power.sum())
    if total <= 0.0:
        return 0.0, 0.0
    reached = np.cumsum(spectrum.power) >= _ROLLOFF * total
    return float(hertz @ spectrum.power) / total, float(hertz[np.argmax(reached)])


def _compute_energy(rms: float, activity: float, centroid: float) -> float:
    if rms <= 0.0:
        return 0.0
    level = ramp(decibels(rms), -40.0, -8.0)
    brightness = ramp(math.log2(max(centroid, 1.0)), math.log2(200.0), math.log2(4000.0))
    return 0.4 * level + 0.4 * activity + 0.2 * brightness


def _compute_danceability(onsets: Onsets, tempo: Tempo, activity: float) -> float:
    if tempo.bpm is None:
        return 0.0
    pulse = ramp(tempo.clarity, 0.15, 0.75)
    pace = min(ramp(tempo.bpm, 45.0, 95.0), ramp(tempo.bpm, 220.0, 135.0))
    kick = measure_clarity(onsets.low_accents, tempo.bpm)
    return pulse * (0.4 * pace + 0.3 * kick + 0.3 * activity)
