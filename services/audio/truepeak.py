"""True peak: the level between the samples, by two interpolators (ITU-R BS.1770-5, Annex 2).

The reported value comes from a steep 4x interpolator (soxr VHQ) and a sinusoid through the values
around each of its peaks, within 0.02 dB of 32x interpolation by the steepest filter (soxr VHQ).
Many other meters, such as libebur128, use a short filter, which reads up to 1 dB lower on extreme
material and 0.3 dB higher on clicks. A ceiling has to hold for both.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import numpy as np
import soxr  # type: ignore[import-untyped]  # ships neither stubs nor py.typed

from services.audio.sources import ArraySource, BlockReducer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from services.audio.arrays import Audio
    from services.audio.sources import Source

METER_ERROR_DB = 0.03
"""How far the reading may be below the true peak; what keeps a ceiling leaves this much."""

_METER_BLOCK = 1 << 14
_STEEP_FACTOR = 4
_LEAST_SHARE = math.cos(math.pi / (2 * _STEEP_FACTOR))
"""What the interpolated values show at least of a peak, one at the Nyquist frequency."""
_SLOW = 0.999
"""Cosine of the angle between two values above which the peak between them is not computed: it is
less than 0.002 dB higher, and single precision does not resolve it."""
_SHORT_FILTER_TAPS = 49


def oversampling(sample_rate: int) -> int:
    """Return the factor of the short filter: 4 below 96 kHz, 2 below 192 kHz, then 1."""
    if sample_rate < 96_000:
        return 4
    return 2 if sample_rate < 192_000 else 1


class PeakFollower(Protocol):
    """Finds the linear peak of each `block` samples of a stream, over all channels."""

    def push(self, audio: Audio) -> None:
        """Add samples, `[channels, n]`."""

    def finish(self) -> NDArray[np.float32]:
        """Return the peaks, `[ceil(samples / block)]`, none below its sample peak."""


class SteepFollower:
    """Follows the peaks of the steep interpolator (soxr VHQ), at four times any sample rate."""

    def __init__(self, source: Source, block: int = _METER_BLOCK) -> None:
        rate = source.sample_rate
        self._samples = BlockReducer(np.maximum, block)
        self._streams = [
            soxr.ResampleStream(rate, rate * _STEEP_FACTOR, 1, dtype="float32", quality="VHQ")
            for _ in range(source.channels)
        ]
        self._between = [_PeaksBetween(block * _STEEP_FACTOR) for _ in self._streams]

    def push(self, audio: Audio) -> None:
        self._samples.push(np.abs(audio).max(axis=0))
        for channel, stream, between in zip(audio, self._streams, self._between, strict=True):
            between.push(stream.resample_chunk(channel))

    def finish(self) -> NDArray[np.float32]:
        peaks = self._samples.result()
        for stream, between in zip(self._streams, self._between, strict=True):
            between.push(stream.resample_chunk(np.empty(0, np.float32), last=True))
            found = between.result()[: peaks.size]
            np.maximum(peaks[: found.size], found, out=peaks[: found.size])
        return peaks


class _PeaksBetween:
    """Finds the peak of each `width` values of an oversampled channel, between the values too."""

    def __init__(self, width: int) -> None:
        self._width = width
        # A local maximum shows only beside its neighbours, so one value is kept before the rest.
        self._levels = np.zeros(2 * width + 2, np.float32)
        self._held = 1
        self._done: list[NDArray[np.float32]] = []

    def push(self, values: NDArray[np.float32]) -> None:
        """Add values, `[n]`."""
        size = self._held + values.size
        if size > self._levels.size:
            self._levels = np.concatenate((self._levels[: self._held], np.empty_like(values)))
        np.abs(values, out=self._levels[self._held : size])
        whole = max((size - 2) // self._width, 0) * self._width
        if whole:
            self._done.append(_find_row_peaks(self._levels[: whole + 2], self._width))
            self._levels[: size - whole] = self._levels[whole:size]
        self._held = size - whole

    def result(self) -> NDArray[np.float32]:
        """Return the peaks, `[ceil(values / width)]`; the signal ends in silence."""
        self.push(np.zeros(1, np.float32))
        rest = self._levels[: self._held]
        last = [_find_row_peaks(rest, rest.size - 2)] if rest.size > 2 else []
        return np.concatenate([*self._done, *last, np.empty(0, np.float32)])


def _find_row_peaks(levels: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Return the peak of each `width` levels, `[rows]`; one more level stands at either end."""
    inside = levels[1:-1]
    rows = inside.reshape(-1, width)
    peaks: NDArray[np.float32] = rows.max(axis=1)
    # No lower value can belong to the highest peak of its row.
    near = (rows > peaks[:, None] * np.float32(_LEAST_SHARE * 0.999)).ravel()
    near &= inside >= levels[:-2]
    near &= inside > levels[2:]
    places = np.flatnonzero(near)
    np.maximum.at(peaks, places // width, _fit_sinusoids(levels, places + 1))
    return peaks


def _fit_sinusoids(levels: NDArray[np.float32], places: NDArray[np.intp]) -> NDArray[np.float32]:
    """Return the amplitudes of sinusoids through three levels each, with local maxima at `places`.

    With the angle w between levels, `cos w` is half the sum of the outer levels divided by the
    middle one, and `amplitude^2 sin^2 w` is the square of the middle one less the product of the
    outer ones.
    """
    before, top, after = (levels[places + step].astype(np.float64) for step in (-1, 0, 1))
    cosine = (before + after) / (2 * top)
    slow = cosine > _SLOW
    sine_squared = np.where(slow, 1.0, 1.0 - cosine * cosine)
    amplitude = np.sqrt((top * top - before * after) / sine_squared)
    limited = np.clip(amplitude, top, top / _LEAST_SHARE)
    return np.where(slow, top, limited).astype(np.float32)


class ShortFilterFollower:
    """Follows the peaks of the short interpolator: a 49-tap Hann-windowed sinc, as libebur128's."""

    def __init__(self, source: Source, block: int = _METER_BLOCK) -> None:
        factor = oversampling(source.sample_rate)
        tap = np.arange(_SHORT_FILTER_TAPS) - (_SHORT_FILTER_TAPS - 1) / 2
        response = (np.sinc(tap / factor) * np.hanning(_SHORT_FILTER_TAPS)).astype(np.float32)
        # Phase 0 would return the samples themselves.
        self._phases = [response[phase::factor] for phase in range(1, factor)]
        memory = self._phases[0].size - 1 if self._phases else 0
        self._past = np.zeros((source.channels, memory), np.float32)
        self._delay = memory // 2
        self._skip = self._delay
        self._before = np.float32(0.0)
        self._samples = BlockReducer(np.maximum, block)
        self._between = BlockReducer(np.maximum, block)

    def push(self, audio: Audio) -> None:
        self._samples.push(np.abs(audio).max(axis=0))
        if self._phases:
            between = self._interpolate(audio)
            skipped, self._skip = self._skip, max(self._skip - between.size, 0)
            self._before = between[:skipped].max(initial=self._before)
            self._between.push(between[skipped:])

    def finish(self) -> NDArray[np.float32]:
        # The first and last block include the ringing before and after the signal.
        peaks = self._samples.result()
        if self._phases:
            ringing = self._interpolate(np.zeros_like(self._past))
            skipped = self._skip
            self._between.push(ringing[skipped : self._delay])
            found = self._between.result()
            np.maximum(peaks, found[: peaks.size], out=peaks)
            peaks[0] = max(peaks[0], self._before, ringing[:skipped].max(initial=0.0))
            peaks[-1] = max(peaks[-1], ringing[self._delay :].max(initial=0.0))
        return peaks

    def _interpolate(self, audio: Audio) -> NDArray[np.float32]:
        """Return the highest interpolated value after each sample, `[n]`, delayed by `_delay`."""
        # The fixed order of products and sums gives the same bits for any number of threads.
        samples = audio.shape[1]
        stretches = np.concatenate((self._past, audio), axis=1)
        self._past = stretches[:, samples:]
        highest = np.zeros(samples, np.float32)
        product = np.empty_like(highest)
        for stretch in stretches:
            for weights in self._phases:
                total = np.zeros_like(highest)
                for place, weight in enumerate(weights[::-1]):
                    np.multiply(stretch[place : place + samples], weight, out=product)
                    total += product
                np.maximum(highest, np.abs(total, out=total), out=highest)
        return highest


def true_peak(audio: Audio, sample_rate: int) -> float:
    """Return the true peak over all channels by the steep interpolator, linear."""
    return _highest(SteepFollower(source := ArraySource(audio, sample_rate)), source)


def short_filter_peak(audio: Audio, sample_rate: int) -> float:
    """Return the true peak over all channels by the short interpolator, linear."""
    return _highest(ShortFilterFollower(source := ArraySource(audio, sample_rate)), source)


def block_peaks(audio: Audio, sample_rate: int, block: int) -> NDArray[np.float32]:
    """Return the linear true peak of each `block` samples by the steep interpolator.

    Returns:
        `[ceil(samples / block)]`, over all channels, none below its sample peak.
    """
    source = ArraySource(audio, sample_rate)
    return _follow(SteepFollower(source, block), source)


def _highest(follower: PeakFollower, source: Source) -> float:
    return float(_follow(follower, source).max())


def _follow(follower: PeakFollower, source: Source) -> NDArray[np.float32]:
    for block in source.blocks():
        follower.push(block)
    return follower.finish()
