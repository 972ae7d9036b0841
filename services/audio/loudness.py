"""Loudness after ITU-R BS.1770-5, EBU R 128, EBU Tech 3341 (modes) and Tech 3342 (range).

One channel counts once, as BS.1770 has it: a mono file reads 3 LU less than the same signal on
both channels of a stereo file. All loudness is relative to full scale at 1.0.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from services.audio.arrays import as_audio, check_sample_rate
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
# The high-pass has decayed to 1e-9 after this time; its tail beyond is left out.
_FILTER_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Loudness:
    """What the meter says of a signal; minus infinity stands for silence."""

    integrated_lufs: float
    """Gated loudness; of a clip under 400 ms, the loudness of all of it. -inf: all below -70."""
    momentary_max_lufs: float
    """Loudest 400 ms (all of a shorter clip), looked for every 10 ms."""
    short_term_max_lufs: float
    """Loudest 3 s, looked for every 10 ms; -inf where there are no 3 s."""
    loudness_range_lu: float
    """10th to 95th percentile of the gated short-term loudness; 0 where there are no 3 s."""
    true_peak_dbtp: float
    sample_peak_dbfs: float

    def to_dict(self) -> dict[str, float | None]:
        """The figures by name, with None for minus infinity, which JSON does not have."""
        return finite_or_none(asdict(self))


class Programme:
    """K-weighted energy of a signal on a 10 ms grid: all that the loudness figures need."""

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self._samples = 0
        self._whole_energy = 0.0
        self._rest: NDArray[np.float32] = np.empty(0, np.float32)
        self._bins: list[NDArray[np.float32]] = []
        self._count = 0
        self._edges = np.zeros(1, np.int64)
        self._sums = np.zeros(1)

    def push(self, power: NDArray[np.float32]) -> None:
        """Take the K-weighted power of the next samples, `[some]`."""
        self._samples += power.size
        self._whole_energy += float(power.sum(dtype=np.float64))
        start = self._samples - power.size - self._rest.size
        power = np.concatenate((self._rest, power))
        count = self._samples * _GRID_HZ // self._rate
        edges = self._edge(np.arange(self._count, count + 1))
        edges = edges[edges <= self._samples] - start
        if edges.size > 1:
            self._bins.append(np.add.reduceat(power[: edges[-1]], edges[:-1]))
            self._count += edges.size - 1
            power = power[edges[-1] :]
        self._rest = power

    def finish(self) -> None:
        """Say that there are no more samples; the figures can be asked for now."""
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
        return energies if energies.size else np.array([self._whole_energy / self._samples])

    def integrated_lufs(self, gain: float = 1.0) -> float:
        """Gated loudness, after a linear gain."""
        return gated_loudness(self._momentary(_EVERY_100_MS) * gain**2)

    def momentary_max_lufs(self, gain: float = 1.0) -> float:
        """The loudest 400 ms, after a linear gain."""
        return loudness_of(float(self._momentary(1).max()) * gain**2)

    def short_term_max_lufs(self, gain: float = 1.0) -> float:
        """The loudest 3 s, after a linear gain; minus infinity where there are no 3 s."""
        return loudness_of(float(self._windows(_SHORT_TERM, 1).max(initial=0.0)) * gain**2)

    def loudness_range_lu(self, gain: float = 1.0) -> float:
        """Loudness range after a linear gain (EBU Tech 3342, section 3)."""
        energies = self._windows(_SHORT_TERM, _EVERY_100_MS) * gain**2
        energies = energies[energies >= energy_of(ABSOLUTE_GATE_LUFS)]
        if energies.size == 0:
            return 0.0
        energies = np.sort(energies[energies >= energies.mean() * 10**-2.0])
        low, high = (round((energies.size - 1) * part) for part in (0.10, 0.95))
        return float(10 * np.log10(energies[high] / energies[low]))

    def loudness(self, true_peak: float, sample_peak: float, gain: float = 1.0) -> Loudness:
        """All figures after a linear gain; the peaks, linear, are those before it."""
        return Loudness(
            integrated_lufs=self.integrated_lufs(gain),
            momentary_max_lufs=self.momentary_max_lufs(gain),
            short_term_max_lufs=self.short_term_max_lufs(gain),
            loudness_range_lu=self.loudness_range_lu(gain),
            true_peak_dbtp=decibels(true_peak * gain),
            sample_peak_dbfs=decibels(sample_peak * gain),
        )


def measure_loudness(signal: Any, sample_rate: int) -> Loudness:
    """Measure a signal.

    Args:
        signal: what `as_audio` takes.
        sample_rate: 8000 to 192000 Hz.

    Raises:
        TypeError: not audio, or a rate that is no whole number.
        ValueError: what `as_audio` and `check_sample_rate` refuse.
    """
    audio = as_audio(signal)
    rate = check_sample_rate(sample_rate)
    return measure_source(ArraySource(audio, rate))


def measure_source(source: Source) -> Loudness:
    """As `measure_loudness`, for audio of any length: it is gone through once, block by block.

    Raises:
        ValueError: there are no samples.
    """
    programme, weighting = Programme(source.sample_rate), KWeighting(source)
    peaks, highest = SteepFollower(source), 0.0
    for block in source.blocks():
        programme.push(weighting.push(block))
        peaks.push(block)
        highest = max(highest, float(np.abs(block).max()))
    programme.push(weighting.finish())
    programme.finish()
    return programme.loudness(float(peaks.finish().max()), highest)


class KWeighting:
    """The squared K-weighted signal summed over the channels (BS.1770-5, Annex 1), as a stream.

    The two recursive filters are applied as the finite response they amount to, by overlap-save
    in the frequency domain: as fast as `scipy.signal`, without the second its import takes.
    Whatever the size of the blocks, the transforms fall on the same samples.
    """

    def __init__(self, source: Source) -> None:
        self._overlap = math.ceil(_FILTER_SECONDS * source.sample_rate)
        size = 1 << (12 * self._overlap - 1).bit_length()
        self._response = _weighting_response(size, source.sample_rate)
        self._stretch = np.zeros((source.channels, size), np.float32)
        self._filled = self._overlap

    def push(self, audio: Audio) -> NDArray[np.float32]:
        """Take the next samples, `[channels, some]`; the power of those that are through."""
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
        """The power of the last samples."""
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
    """Integrated loudness of 400 ms block energies: -70 LUFS, then -10 LU gate (BS.1770-5)."""
    kept = energies[energies > energy_of(ABSOLUTE_GATE_LUFS)]
    if kept.size == 0:
        return -math.inf
    kept = kept[kept > kept.mean() * 0.1]
    return loudness_of(float(kept.mean()))


def loudness_of(energy: float) -> float:
    """LUFS of a K-weighted mean square summed over the channels."""
    return -0.691 + 10 * math.log10(energy) if energy > 0 else -math.inf


def energy_of(lufs: float) -> float:
    """The K-weighted mean square that reads `lufs`."""
    return float(10 ** ((lufs + 0.691) / 10))


def decibels(amplitude: float) -> float:
    """Level of an amplitude in dB relative to 1.0; minus infinity for zero."""
    return 20 * math.log10(amplitude) if amplitude > 0 else -math.inf


def finite_or_none(figures: dict[str, float]) -> dict[str, float | None]:
    """The same figures with None in place of what JSON cannot carry."""
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


@cache
def _weighting_response(size: int, sample_rate: int) -> NDArray[np.complex64]:
    """The K-weighting at the bins of a real transform of `size`.

    BS.1770-5 tabulates both filters for 48 kHz only; these are the analogue prototypes they were
    made from, brought to any rate by the bilinear transform (equal to the tables at 48 kHz).
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
