"""The search for the gain into the limiter that gives a loudness out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from services.audio.limiter import control_step, gain_curve
from services.audio.loudness import (
    SHORTEST_GATED_SECONDS,
    KWeighting,
    Programme,
    decibels,
    gated_loudness,
)
from services.audio.sources import BlockReducer
from services.audio.truepeak import ShortFilterFollower, SteepFollower

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from services.audio.loudness import Loudness
    from services.audio.sources import Source

LARGEST_REDUCTION_DB = 12.0


@dataclass(frozen=True, slots=True)
class Survey:
    """What is measured of a signal once, whatever gains are tried later."""

    sample_rate: int
    samples: int
    programme: Programme
    power: NDArray[np.float32]
    """Mean K-weighted power of each block."""
    peaks: NDArray[np.float32]
    """The higher of both true-peak readings in each block, linear."""
    true_peak: float
    """As the meter reads it, linear."""
    sample_peak: float
    """Linear."""

    @property
    def highest_peak(self) -> float:
        """By either reading, linear."""
        return float(self.peaks.max())

    def loudness(self, gain: float = 1.0) -> Loudness:
        """All figures of the meter, after a linear gain."""
        return self.programme.loudness(self.true_peak, self.sample_peak, gain)


def survey(source: Source, block: int) -> Survey:
    """Go through a signal once; `block` is the number of samples to a value of what is kept."""
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
    peaks = steep.finish()
    return Survey(
        sample_rate=source.sample_rate,
        samples=samples,
        programme=programme,
        power=energy.result() / np.float32(block),
        peaks=np.maximum(peaks, short.finish()),
        true_peak=float(peaks.max()),
        sample_peak=highest,
    )


class DriveSearch:
    """Finds the gain into the limiter for a loudness out of it.

    The gain moves slowly against the programme, so the K-weighted power of the limited signal is,
    to a few hundredths of a LU, that of the unlimited one times the squared gain, and a trial
    costs a few thousand values a second instead of all samples. More drive is never quieter,
    which makes the search a bracketing one.
    """

    def __init__(self, take: Survey, ceiling: float, plain_gain: float) -> None:
        self._peaks = take.peaks
        self._step = control_step(take.sample_rate)
        self._power = take.power.astype(np.float64)
        self._ceiling = ceiling
        self.largest_drive = 10 ** (LARGEST_REDUCTION_DB / 20) * ceiling / take.highest_peak
        self._smallest_drive = min(plain_gain, self.largest_drive)
        # Blocks do not fall on the grid of the meter; what that does is known without the limiter.
        exact = take.programme.integrated_lufs(self._smallest_drive)
        self._offset = exact - self._loudness(self._power * self._smallest_drive**2)

    def run(self, aim_lufs: float, margin_db: float) -> tuple[float, NDArray[np.float64]]:
        """The linear drive whose result reads `aim_lufs` (or the largest), and its gains."""
        ceiling = self._ceiling * 10 ** (-margin_db / 20)

        def missing(drive_db: float) -> float:
            drive = 10 ** (drive_db / 20)
            power = self._power * (self._gains(drive, ceiling) * drive) ** 2
            return aim_lufs - self._loudness(power) - self._offset

        low, high = decibels(self._smallest_drive), decibels(self.largest_drive)
        drive = 10 ** (_falling_root(missing, low, high) / 20)
        drive = min(drive, self.largest_drive)
        return drive, self._gains(drive, ceiling)

    def _gains(self, drive: float, ceiling: float) -> NDArray[np.float64]:
        gains = gain_curve(self._peaks, ceiling / drive, self._step)
        return np.ones(self._peaks.size) if gains is None else gains

    def _loudness(self, power: NDArray[np.float64]) -> float:
        sums = np.concatenate(([0.0], np.cumsum(power)))
        width = round(SHORTEST_GATED_SECONDS / self._step)
        if power.size < width:
            return gated_loudness(power.mean(keepdims=True))
        # A whole number of steps may come out a rounding error short of it.
        count = int((power.size - width) * self._step / 0.1 + 1e-6) + 1
        starts = np.rint(np.arange(count) * (0.1 / self._step)).astype(np.int64)
        starts = np.minimum(starts, power.size - width)
        return gated_loudness((sums[starts + width] - sums[starts]) / width)


def _falling_root(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function crosses zero between `low` and `high`; else the nearer end.

    Regula falsi with the Illinois rule; stops within 0.01 of zero.
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
