"""Search for the gain before the limiter that gives the target loudness after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from services.audio.limiter import compute_gain_curve, control_step
from services.audio.loudness import (
    SHORTEST_GATED_SECONDS,
    KWeighting,
    Programme,
    decibels,
    gated_loudness,
)
from services.audio.sources import BlockReducer, LoopSource
from services.audio.truepeak import ShortFilterFollower, SteepFollower

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from services.audio.loudness import Loudness
    from services.audio.sources import Source

LARGEST_REDUCTION_DB = 12.0
_SEAM_SAMPLES = 2048
"""More than the interpolators reach, before and after the seam of a loop."""


@dataclass(frozen=True, slots=True)
class BlockMeasurement:
    """A measurement of a signal from which the effect of any gain can be computed."""

    sample_rate: int
    samples: int
    programme: Programme
    power: NDArray[np.float32]
    """Mean K-weighted power, `[blocks]`."""
    peaks: NDArray[np.float32]
    """The higher of the two true-peak readings, linear, `[blocks]`; see `truepeak`."""
    true_peak: float
    """Reading of the steep interpolator, linear."""
    sample_peak: float
    """Linear."""
    loop: bool = False
    """The peaks are also those of the audio when it is repeated."""

    @property
    def highest_peak(self) -> float:
        return float(self.peaks.max())

    def loudness(self, gain: float = 1.0) -> Loudness:
        return self.programme.loudness(self.true_peak, self.sample_peak, gain)


def measure_blocks(source: Source, block: int) -> BlockMeasurement:
    """Measure a signal in one pass, with one value of power and peak per `block` samples."""
    weighting, programme = KWeighting(source), Programme(source.sample_rate)
    energy = BlockReducer(np.add, block)
    steep, short = SteepFollower(source, block), ShortFilterFollower(source, block)
    samples, highest = 0, 0.0
    for audio in source.blocks():
        power = weighting.push(audio)
        programme.push(power)
        energy.push(power)
        steep.push(audio)
        short.push(audio)
        samples += audio.shape[1]
        highest = max(highest, float(np.abs(audio).max()))
    power = weighting.finish()
    programme.push(power)
    programme.finish()
    energy.push(power)
    steep_peaks = steep.finish()
    peaks = np.maximum(steep_peaks, short.finish())
    if isinstance(source, LoopSource):
        _include_seam(source, peaks, block, samples)
    return BlockMeasurement(
        sample_rate=source.sample_rate,
        samples=samples,
        programme=programme,
        power=energy.result() / np.float32(block),
        peaks=peaks,
        true_peak=float(steep_peaks.max()),
        sample_peak=highest,
        loop=isinstance(source, LoopSource),
    )


def _include_seam(source: LoopSource, peaks: NDArray[np.float32], block: int, samples: int) -> None:
    """Raise the first and last peaks to those of the repeated loop, in place.

    A file that starts and ends in silence has other peaks between its first and last samples.
    """
    blocks = -(-_SEAM_SAMPLES // block)
    first = max(peaks.size - blocks, 0)
    ending = source.around_seam(samples - first * block, blocks * block)
    found = _follow_peaks(ending, block)[: peaks.size - first]
    np.maximum(peaks[first:], found, out=peaks[first:])
    starting = source.around_seam(blocks * block, blocks * block)
    found = _follow_peaks(starting, block)[blocks : blocks + peaks.size]
    np.maximum(peaks[: found.size], found, out=peaks[: found.size])


def _follow_peaks(source: Source, block: int) -> NDArray[np.float32]:
    steep, short = SteepFollower(source, block), ShortFilterFollower(source, block)
    for audio in source.blocks():
        steep.push(audio)
        short.push(audio)
    return np.maximum(steep.finish(), short.finish())


class InputGainSearch:
    """Finds the input gain of the limiter for a loudness at its output.

    The gain of the limiter changes slowly compared with the signal. So the K-weighted power of the
    limited signal is that of the unlimited one times the squared gain, within a few hundredths of
    a LU, and a trial needs about 3000 values per second of audio instead of all samples. More
    input gain never lowers the loudness, which allows bracketing.
    """

    def __init__(self, measured: BlockMeasurement, ceiling: float, plain_gain: float) -> None:
        self._peaks = measured.peaks
        self._loop = measured.loop
        self._step = control_step(measured.sample_rate)
        self._power = measured.power.astype(np.float64)
        self._ceiling = ceiling
        self.largest_input_gain = (
            10 ** (LARGEST_REDUCTION_DB / 20) * ceiling / measured.highest_peak
        )
        self._smallest_input_gain = min(plain_gain, self.largest_input_gain)
        # The blocks do not coincide with the grid of the meter. The resulting error is measured
        # once without limiting.
        exact = measured.programme.integrated_lufs(self._smallest_input_gain)
        self._offset = exact - self._loudness(self._power * self._smallest_input_gain**2)

    def run(self, aim_lufs: float, margin_db: float) -> tuple[float, NDArray[np.float64]]:
        """Return the linear input gain for `aim_lufs`, or the largest, and the limiter's gains.

        Args:
            aim_lufs: integrated loudness to reach.
            margin_db: distance to keep below the ceiling.
        """
        ceiling = self._ceiling * 10 ** (-margin_db / 20)

        def missing(input_gain_db: float) -> float:
            input_gain = 10 ** (input_gain_db / 20)
            power = self._power * (self._gains(input_gain, ceiling) * input_gain) ** 2
            return aim_lufs - self._loudness(power) - self._offset

        low, high = decibels(self._smallest_input_gain), decibels(self.largest_input_gain)
        input_gain = 10 ** (_find_falling_root(missing, low, high) / 20)
        input_gain = min(input_gain, self.largest_input_gain)
        return input_gain, self._gains(input_gain, ceiling)

    def _gains(self, input_gain: float, ceiling: float) -> NDArray[np.float64]:
        limit = ceiling / input_gain
        gains = compute_gain_curve(self._peaks, limit, self._step, loop=self._loop)
        return np.ones(self._peaks.size) if gains is None else gains

    def _loudness(self, power: NDArray[np.float64]) -> float:
        sums = np.concatenate(([0.0], np.cumsum(power)))
        width = round(SHORTEST_GATED_SECONDS / self._step)
        if power.size < width:
            return gated_loudness(power.mean(keepdims=True))
        # Rounding errors may leave the quotient just below an integer.
        count = int((power.size - width) * self._step / 0.1 + 1e-6) + 1
        starts = np.rint(np.arange(count) * (0.1 / self._step)).astype(np.int64)
        starts = np.minimum(starts, power.size - width)
        return gated_loudness((sums[starts + width] - sums[starts]) / width)


def _find_falling_root(function: Callable[[float], float], low: float, high: float) -> float:
    """Return the zero of a falling function between `low` and `high`, or the nearer end.

    Regula falsi with the Illinois rule, which stops within 0.01 of zero.
    """
    at_low = function(low)
    if at_low <= 0 or high <= low:
        return low
    near = min(high, low + 2 * at_low + 0.1)
    at_near = function(near)
    if at_near > 0 and near < high:
        low, at_low = near, at_near
        near, at_near = high, function(high)
    if at_near >= 0:
        return near
    high, at_high = near, at_near
    for _ in range(24):
        middle = (low * at_high - high * at_low) / (at_high - at_low)
        value = function(middle)
        if abs(value) < 0.01:
            break
        if value > 0:
            low, at_low, at_high = middle, value, at_high / 2
        else:
            high, at_high, at_low = middle, value, at_low / 2
    return middle
