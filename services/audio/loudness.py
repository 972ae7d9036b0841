"""Loudness by ITU-R BS.1770-5, EBU R 128, EBU Tech 3341 (modes) and Tech 3342 (range).

By BS.1770, each channel counts once: a mono file measures 3 LU less than the same signal on both
channels of a stereo file. Full scale is 1.0.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from services.audio.arrays import LOWEST_RATE_HZ, as_audio, check_measured_rate
from services.audio.resampling import resample
from services.audio.sources import ArraySource
from services.audio.truepeak import SteepFollower

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from services.audio.arrays import Audio
    from services.audio.sources import Source

    Energies = NDArray[np.float64]

ABSOLUTE_GATE_LUFS = -70.0
SHORTEST_GATED_SECONDS = 0.4

_GRID_HZ = 100
_MOMENTARY, _SHORT_TERM, _EVERY_100_MS = 40, 300, 10
# The response of the high-pass has decayed to 1e-9 after this time and is cut off.
_FILTER_SECONDS = 0.1
# The transformed filters are too warped at low rates: at 8 kHz they read 0.2 LU too much.
_RAISED_RATE_HZ = 48_000


@dataclass(frozen=True, slots=True)
class Loudness:
    """Loudness and peaks of a signal; minus infinity for silence."""

    integrated_lufs: float
    """Gated loudness; ungated for a clip under 400 ms. -inf if nothing is above -70 LUFS."""
    momentary_max_lufs: float
    """Loudest 400 ms, or all of a shorter clip; measured every 10 ms."""
    short_term_max_lufs: float
    """Loudest 3 s, measured every 10 ms; -inf for a shorter clip."""
    loudness_range_lu: float
    """10th to 95th percentile of the gated short-term loudness; 0 for a clip under 3 s."""
    true_peak_dbtp: float
    sample_peak_dbfs: float

    def to_dict(self) -> dict[str, float | None]:
        """Return the fields, with None for minus infinity, which JSON does not have."""
        return finite_or_none(asdict(self))


class Programme:
    """K-weighted energy of a signal on a 10 ms grid, from which all loudness is computed."""

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self.samples = 0
        self._whole_energy = 0.0
        self._rest: NDArray[np.float32] = np.empty(0, np.float32)
        self._bins: list[NDArray[np.float32]] = []
        self._count = 0
        self._edges = np.zeros(1, np.int64)
        self._sums = np.zeros(1)

    def push(self, power: NDArray[np.float32]) -> None:
        """Add the K-weighted power of the next samples, `[n]`."""
        self.samples += power.size
        self._whole_energy += float(power.sum(dtype=np.float64))
        start = self.samples - power.size - self._rest.size
        power = np.concatenate((self._rest, power))
        count = self.samples * _GRID_HZ // self._rate
        edges = self._edge(np.arange(self._count, count + 1))
        edges = edges[edges <= self.samples] - start
        if edges.size > 1:
            self._bins.append(np.add.reduceat(power[: edges[-1]], edges[:-1]))
            self._count += edges.size - 1
            power = power[edges[-1] :]
        self._rest = power

    def finish(self) -> None:
        """End the signal; call this before reading a loudness."""
        self._edges = self._edge(np.arange(self._count + 1))
        self._sums = np.zeros(self._count + 1)
        if self._bins:
            np.cumsum(np.concatenate(self._bins), dtype=np.float64, out=self._sums[1:])

    def _edge(self, place: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.asarray(np.rint(place * (self._rate / _GRID_HZ)), np.int64)

    def _windows(self, width: int, step: int) -> Energies:
        starts = np.arange(0, self._sums.size - width, step)
        energy = self._sums[starts + width] - self._sums[starts]
        lengths = self._edges[starts + width] - self._edges[starts]
        return np.asarray(np.maximum(energy, 0.0) / lengths)

    def _momentary(self, step: int) -> Energies:
        energies = self._windows(_MOMENTARY, step)
        return energies if energies.size else np.array([self._whole_energy / self.samples])

    def integrated_lufs(self, gain: float = 1.0) -> float:
        return gated_loudness(self._momentary(_EVERY_100_MS) * gain**2)

    def momentary_max_lufs(self, gain: float = 1.0) -> float:
        return energy_to_lufs(float(self._momentary(1).max()) * gain**2)

    def short_term_max_lufs(self, gain: float = 1.0) -> float:
        return energy_to_lufs(float(self._windows(_SHORT_TERM, 1).max(initial=0.0)) * gain**2)

    def loudness_range_lu(self, gain: float = 1.0) -> float:
        # EBU Tech 3342, section 3.
        energies = self._windows(_SHORT_TERM, _EVERY_100_MS) * gain**2
        energies = energies[energies >= lufs_to_energy(ABSOLUTE_GATE_LUFS)]
        if energies.size == 0:
            return 0.0
        energies = np.sort(energies[energies >= energies.mean() * 10**-2.0])
        low, high = (round((energies.size - 1) * part) for part in (0.10, 0.95))
        return float(10 * np.log10(energies[high] / energies[low]))

    def loudness(self, true_peak: float, sample_peak: float, gain: float = 1.0) -> Loudness:
        """Return the loudness after a linear gain; the peaks are linear and before the gain."""
        return Loudness(
            integrated_lufs=self.integrated_lufs(gain),
            momentary_max_lufs=self.momentary_max_lufs(gain),
            short_term_max_lufs=self.short_term_max_lufs(gain),
            loudness_range_lu=self.loudness_range_lu(gain),
            true_peak_dbtp=decibels(true_peak * gain),
            sample_peak_dbfs=decibels(sample_peak * gain),
        )


def measure_loudness(signal: Any, sample_rate: int) -> Loudness:
    """Measure the loudness and peaks of a signal.

    Args:
        signal: see `as_audio`.
        sample_rate: 1000 to 192000 Hz.

    Raises:
        TypeError: not a tensor or array, or a sample rate that is not an integer.
        ValueError: see `as_audio` and `check_measured_rate`.
    """
    audio = as_audio(signal)
    rate = check_measured_rate(sample_rate)
    return measure_source(ArraySource(audio, rate))


def measure_source(source: Source) -> Loudness:
    """Measure audio of any length in one pass, like `measure_loudness`.

    Below 8 kHz the audio is measured at a multiple of its rate, in two passes: the K-weighting
    reaches beyond half of such a rate.

    Raises:
        ValueError: the source has no samples.
    """
    if source.sample_rate < LOWEST_RATE_HZ:
        factor = -(-_RAISED_RATE_HZ // source.sample_rate)
        raised = measure_source(resample(source, factor * source.sample_rate))
        peak = max(float(np.abs(block).max(initial=0.0)) for block in source.blocks())
        return replace(raised, sample_peak_dbfs=decibels(peak))
    programme, weighting = Programme(source.sample_rate), KWeighting(source)
    peaks, highest = SteepFollower(source), 0.0
    for block in source.blocks():
        programme.push(weighting.push(block))
        peaks.push(block)
        highest = max(highest, float(np.abs(block).max(initial=0.0)))
    programme.push(weighting.finish())
    programme.finish()
    if not programme.samples:
        raise ValueError("There are no samples to measure.")
    return programme.loudness(float(peaks.finish().max()), highest)


class KWeighting:
    """Streams the squared K-weighted signal, summed over the channels (BS.1770-5, Annex 1).

    The two recursive filters are applied as one finite response, by overlap-save in the frequency
    domain. That is as fast as `scipy.signal`, whose import takes a second. The transforms cover the
    same samples for any block size.
    """

    def __init__(self, source: Source) -> None:
        self._overlap = math.ceil(_FILTER_SECONDS * source.sample_rate)
        size = 1 << (12 * self._overlap - 1).bit_length()
        self._response = _weighting_response(size, source.sample_rate)
        self._stretch = np.zeros((source.channels, size), np.float32)
        self._filled = self._overlap

    def push(self, audio: Audio) -> NDArray[np.float32]:
        """Add samples, `[channels, n]`; return the power of those that are complete, `[m]`."""
        done = []
        size = self._stretch.shape[1]
        at = 0
        while at < audio.shape[1]:
            part = audio[:, at : at + size - self._filled]
            stop = self._filled + part.shape[1]
            self._stretch[:, self._filled : stop] = part
            self._filled = stop
            at += part.shape[1]
            if stop == size:
                done.append(self._power())
                self._stretch[:, : self._overlap] = self._stretch[:, -self._overlap :]
                self._filled = self._overlap
        return np.concatenate(done) if done else np.empty(0, np.float32)

    def finish(self) -> NDArray[np.float32]:
        """Return the power of the remaining samples."""
        self._stretch[:, self._filled :] = 0.0
        return self._power()[: self._filled - self._overlap]

    def _power(self) -> NDArray[np.float32]:
        power = np.zeros(self._stretch.shape[1] - self._overlap, np.float32)
        for channel in self._stretch:
            weighted = np.fft.irfft(np.fft.rfft(channel) * self._response, channel.size)
            weighted = weighted[self._overlap :]
            power += weighted * weighted
        return power


def gated_loudness(energies: Energies) -> float:
    """Return the LUFS of 400 ms block energies after the -70 LUFS and -10 LU gates (BS.1770-5)."""
    kept = energies[energies > lufs_to_energy(ABSOLUTE_GATE_LUFS)]
    if kept.size == 0:
        return -math.inf
    kept = kept[kept > kept.mean() * 0.1]
    return energy_to_lufs(float(kept.mean()))


def energy_to_lufs(energy: float) -> float:
    """Convert a K-weighted mean square, summed over the channels, to LUFS."""
    return -0.691 + 10 * math.log10(energy) if energy > 0 else -math.inf


def lufs_to_energy(lufs: float) -> float:
    return float(10 ** ((lufs + 0.691) / 10))


def decibels(amplitude: float) -> float:
    """Return the level of an amplitude in dB relative to 1.0; minus infinity for 0."""
    return 20 * math.log10(amplitude) if amplitude > 0 else -math.inf


def finite_or_none(figures: dict[str, float]) -> dict[str, float | None]:
    """Replace NaN and infinity, which JSON does not have, by None."""
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


@cache
def _weighting_response(size: int, sample_rate: int) -> NDArray[np.complex64]:
    """Return the K-weighting at the bins of a real transform of `size`.

    BS.1770-5 tabulates both filters for 48 kHz only. Here their analogue prototypes are transformed
    to any rate by the bilinear transform; at 48 kHz the result equals the tables.
    """
    z = np.exp(-2j * np.pi * np.arange(size // 2 + 1) / size)
    unit = np.array([np.ones_like(z), z, z**2])

    k = math.tan(math.pi * 1681.974450955533 / sample_rate)
    quality, high = 0.7071752369554196, 10 ** (3.999843853973347 / 20)
    band = high**0.4996667741545416
    shelf_zeros = [high + band * k / quality + k * k, 2 * (k * k - high)]
    shelf_zeros.append(high - band * k / quality + k * k)
    shelf = shelf_zeros @ unit / (_denominator(k, quality) @ unit)

    k = math.tan(math.pi * 38.13547087602444 / sample_rate)
    poles = _denominator(k, 0.5003270373238773)
    high_pass = np.array([1.0, -2.0, 1.0]) @ unit / (poles / poles[0] @ unit)
    return np.asarray(shelf * high_pass, np.complex64)


def _denominator(k: float, quality: float) -> Energies:
    return np.array([1 + k / quality + k * k, 2 * (k * k - 1), 1 - k / quality + k * k])
