"""What a signal is like, in figures: levels, stereo, colour, energy, danceability.

Energy and danceability have no standard; they are defined here, by ramps: 0 at or below the first
of two values, 1 at or beyond the second, straight in between.

Energy is 0.4 level + 0.4 activity + 0.2 brightness, of which level is the RMS from -40 to -8 dBFS,
activity the onsets a second from 0 to 6 and brightness the spectral centroid from 200 Hz to 4 kHz
(on a logarithmic scale). Silence has none.

Danceability is pulse * (0.4 pace + 0.3 kick + 0.3 activity), and 0 without a tempo. Pulse is the
clarity of the tempo from 0.15 to 0.75; pace is 1 from 95 to 135 BPM and falls to 0 at 45 and 220;
kick is how much of the low accents comes back within four beats.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from services.audio.arrays import as_audio, check_sample_rate
from services.audio.hearing import hear, ramp
from services.audio.loudness import decibels
from services.audio.onsets import find_onsets
from services.audio.periods import clarity
from services.audio.sources import ArraySource
from services.audio.spectrum import SIZE, frequencies, sketch
from services.audio.tempo import tempo_of

if TYPE_CHECKING:
    from services.audio.hearing import Heard
    from services.audio.onsets import Onsets
    from services.audio.spectrum import Sketch
    from services.audio.tempo import Tempo

_GATE_POWER = 10 ** (-70.0 / 10)
_ROLLOFF = 0.85


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Figures of a signal. Colour is that of its mono mix up to 11 kHz, over ten minutes."""

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
    """10th to 95th percentile of the RMS level of each 100 ms louder than -70 dBFS."""
    stereo_correlation: float
    """-1..1: left and right in opposite phase, unlike, the same; 0 where one side is silent."""
    stereo_width: float
    """0..1: share of the side signal in the energy; 0 for mono, 0.5 for unlike channels."""
    spectral_centroid_hz: float
    """Mean frequency, weighted by power."""
    spectral_rolloff_hz: float
    """The frequency under which 85 % of the power lies."""
    spectral_flatness: float
    """0..1: geometric over arithmetic mean of the power spectrum from 30 Hz to 10 kHz, frame by
    frame, weighted by their power: 0 for a tone, about 0.56 for white noise."""
    onsets_per_second: float
    """Note and drum attacks that stand out."""
    energy: float
    """0..1, as this module defines it; so is danceability."""
    danceability: float

    def to_dict(self) -> dict[str, Any]:
        """The figures by name, JSON-ready."""
        return asdict(self)


def measure_features(signal: Any, sample_rate: int) -> Features:
    """Measure a signal.

    Args:
        signal: what `as_audio` takes.
        sample_rate: 8000 to 192000 Hz.

    Raises:
        TypeError: not audio, or a rate that is no whole number.
        ValueError: what `as_audio` and `check_sample_rate` refuse.
    """
    audio = as_audio(signal)
    heard = hear(ArraySource(audio, check_sample_rate(sample_rate)))
    spectrum = sketch(heard)
    onsets = find_onsets(spectrum)
    return features_of(heard, spectrum, onsets, tempo_of(onsets))


def features_of(heard: Heard, spectrum: Sketch, onsets: Onsets, tempo: Tempo) -> Features:
    """As `measure_features`, from what is known of the signal already."""
    centroid, rolloff = _colour(spectrum)
    rate = onsets.events / onsets.seconds if onsets.events else 0.0
    correlation, width = _stereo(heard)
    activity = ramp(rate, 0.0, 6.0)
    return Features(
        duration_seconds=heard.duration_seconds,
        sample_rate=heard.sample_rate,
        channels=heard.channels,
        peak_amplitude=heard.peak,
        rms=heard.rms,
        crest_factor_db=decibels(heard.peak / heard.rms) if heard.rms else 0.0,
        dynamic_range_db=dynamic_range_db(heard),
        stereo_correlation=correlation,
        stereo_width=width,
        spectral_centroid_hz=centroid,
        spectral_rolloff_hz=rolloff,
        spectral_flatness=spectrum.flatness,
        onsets_per_second=rate,
        energy=_energy(heard.rms, activity, centroid),
        danceability=_danceability(onsets, tempo, activity),
    )


def dynamic_range_db(heard: Heard) -> float:
    """See `Features.dynamic_range_db`."""
    levels = heard.slot_power[heard.slot_power > _GATE_POWER]
    if not levels.size:
        return 0.0
    low, high = np.quantile(levels, (0.10, 0.95))
    return float(10 * np.log10(high / low))


def _stereo(heard: Heard) -> tuple[float, float]:
    """Correlation and width."""
    left, right, cross = heard.products
    if left + right == 0.0:
        return (1.0 if heard.channels == 1 else 0.0), 0.0
    norm = math.sqrt(left) * math.sqrt(right)
    correlation = min(max(cross / norm, -1.0), 1.0) if norm else 0.0
    return correlation, min(max(0.5 - cross / (left + right), 0.0), 1.0)


def _colour(spectrum: Sketch) -> tuple[float, float]:
    """Centroid and roll-off in Hz; 0 for silence."""
    hertz = frequencies(SIZE)
    total = float(spectrum.power.sum())
    if total <= 0.0:
        return 0.0, 0.0
    reached = np.cumsum(spectrum.power) >= _ROLLOFF * total
    return float(hertz @ spectrum.power) / total, float(hertz[np.argmax(reached)])


def _energy(rms: float, activity: float, centroid: float) -> float:
    if rms <= 0.0:
        return 0.0
    level = ramp(decibels(rms), -40.0, -8.0)
    brightness = ramp(math.log2(max(centroid, 1.0)), math.log2(200.0), math.log2(4000.0))
    return 0.4 * level + 0.4 * activity + 0.2 * brightness


def _danceability(onsets: Onsets, tempo: Tempo, activity: float) -> float:
    if tempo.bpm is None:
        return 0.0
    pulse = ramp(tempo.clarity, 0.15, 0.75)
    pace = min(ramp(tempo.bpm, 45.0, 95.0), ramp(tempo.bpm, 220.0, 135.0))
    kick = clarity(onsets.low_accents, tempo.bpm)
    return pulse * (0.4 * pace + 0.3 * kick + 0.3 * activity)
