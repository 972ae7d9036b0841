"""From a mix to what is delivered: one loudness, no true peak above a ceiling.

A gain alone does it for most material, and then the samples are scaled and nothing else. Where
peaks are in the way they are limited, and the gain before the limiter is searched for so that the
loudness after it is the one asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from services.audio.arrays import as_audio, check_sample_rate
from services.audio.limiter import (
    apply_gains,
    control_block,
    control_step,
    gain_curve,
    reduction_db,
)
from services.audio.loudness import (
    SHORTEST_GATED_SECONDS,
    Programme,
    decibels,
    finite_or_none,
    gated_loudness,
    weighted_power,
)
from services.audio.truepeak import (
    block_peaks,
    short_filter_block_peaks,
    short_filter_peak,
    true_peak,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from services.audio.arrays import Audio

Flag = Literal["silent", "below_gate", "short_clip", "peak_limited"]

DEFAULT_TARGET_LUFS = -16.0
DEFAULT_TRUE_PEAK_DBTP = -1.0
LARGEST_REDUCTION_DB = 12.0

# Six steps of 16 bit: rounding and dither of the delivered file move a peak by less.
_QUANTISATION_HEADROOM = 6 / 32768
_TOLERANCE_LU = 0.1
_CLOSE_ENOUGH_LU = 0.03
_MARGIN_DB = 0.03
_ROUNDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterReport:
    """What mastering found and did; the levels are those of the result."""

    integrated_lufs: float
    """-inf where nothing is louder than -70 LUFS."""
    true_peak_dbtp: float
    """As the meter reads it; -inf for digital silence."""
    gain_db: float
    """Gain before the limiter."""
    gain_reduction_db: float
    """The most the limiter took away; 0 where it was not needed."""
    loudness_range_lu: float
    flags: tuple[Flag, ...]
    """silent: all zero, kept. below_gate: nothing above -70 LUFS, kept. short_clip: under 400 ms,
    measured ungated. peak_limited: more than 0.1 LU under the target, since reaching it would take
    more than 12 dB of limiting."""

    def to_dict(self) -> dict[str, Any]:
        """The figures by name, JSON-ready: None for minus infinity, a list of flags."""
        figures = {name: getattr(self, name) for name in MasterReport.__slots__ if name != "flags"}
        return {**finite_or_none(figures), "flags": list(self.flags)}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mastered(MasterReport):
    """A mastered signal with its report."""

    audio: Audio


def master(
    signal: Any,
    sample_rate: int,
    target_lufs: float | None = DEFAULT_TARGET_LUFS,
    true_peak_dbtp: float = DEFAULT_TRUE_PEAK_DBTP,
) -> Mastered:
    """Bring a signal to a loudness under a true-peak ceiling.

    Args:
        signal: what `as_audio` takes.
        sample_rate: 8000 to 192000 Hz.
        target_lufs: integrated loudness; None measures and leaves the samples as they are.
        true_peak_dbtp: ceiling, by the meter of this package and by libebur128's filter, also
            after rounding to 16 bit.

    Raises:
        TypeError: not audio, or a rate that is no whole number.
        ValueError: what `as_audio`, `check_sample_rate` and `check_target` refuse.
    """
    check_target(target_lufs, true_peak_dbtp)
    rate = check_sample_rate(sample_rate)
    audio, report = _normalise(as_audio(signal), rate, target_lufs, true_peak_dbtp)
    return Mastered(audio=audio, **{name: getattr(report, name) for name in MasterReport.__slots__})


def normalise(
    signal: Any, sample_rate: int, target_lufs: float, true_peak_dbtp: float
) -> tuple[Audio, MasterReport]:
    """As `master`, with the audio and its report apart.

    Raises:
        TypeError, ValueError: as `master`.
    """
    check_target(target_lufs, true_peak_dbtp)
    rate = check_sample_rate(sample_rate)
    return _normalise(as_audio(signal), rate, target_lufs, true_peak_dbtp)


def check_target(target_lufs: float | None, true_peak_dbtp: float) -> None:
    """Refuse levels that no master can have.

    Raises:
        ValueError: a target outside -60 to 0 LUFS, or a ceiling outside -40 to 0 dBTP.
    """
    if target_lufs is not None and not -60.0 <= target_lufs <= 0.0:
        raise ValueError(f"The target loudness must be from -60 to 0 LUFS, got {target_lufs}.")
    if not -40.0 <= true_peak_dbtp <= 0.0:
        raise ValueError(f"The true-peak ceiling must be from -40 to 0 dBTP, got {true_peak_dbtp}.")


def _normalise(
    audio: Audio, rate: int, target_lufs: float | None, true_peak_dbtp: float
) -> tuple[Audio, MasterReport]:
    take = _Take(audio, rate)
    flags = _flags(take)
    if target_lufs is None or not math.isfinite(take.programme.integrated_lufs()):
        return audio, take.report(1.0, flags)
    ceiling = 10 ** (true_peak_dbtp / 20) - _QUANTISATION_HEADROOM
    gain = _plain_gain(take.programme, target_lufs)
    if take.highest_peak * gain <= ceiling:
        return audio * np.float32(gain), take.report(gain, flags)
    return _limited(take, target_lufs, ceiling, gain, flags)


class _Take:
    """A signal with what is measured of it once, whatever gains are tried later."""

    def __init__(self, audio: Audio, rate: int) -> None:
        self.audio = audio
        self.rate = rate
        self.block = control_block(rate)
        self.power = weighted_power(audio, rate)
        self.programme = Programme(self.power, rate)
        peaks = block_peaks(audio, rate, self.block)
        self.true_peak = float(peaks.max())
        self.peaks = np.maximum(peaks, short_filter_block_peaks(audio, rate, self.block))
        self.highest_peak = float(self.peaks.max())

    def report(self, gain: float, flags: tuple[Flag, ...]) -> MasterReport:
        """The report of this signal after nothing but a gain."""
        return MasterReport(
            integrated_lufs=self.programme.integrated_lufs(gain),
            true_peak_dbtp=decibels(self.true_peak * gain),
            gain_db=decibels(gain),
            gain_reduction_db=0.0,
            loudness_range_lu=self.programme.loudness_range_lu(gain),
            flags=flags,
        )


def _flags(take: _Take) -> tuple[Flag, ...]:
    flags: list[Flag] = []
    if take.audio.shape[1] < SHORTEST_GATED_SECONDS * take.rate:
        flags.append("short_clip")
    if take.true_peak == 0:
        flags.append("silent")
    elif not math.isfinite(take.programme.integrated_lufs()):
        flags.append("below_gate")
    return tuple(flags)


def _plain_gain(programme: Programme, target_lufs: float) -> float:
    """The linear gain after which the programme reads the target.

    A few steps, since a gain also moves quiet passages across the absolute gate.
    """
    gain = 1.0
    for _ in range(8):
        missing = target_lufs - programme.integrated_lufs(gain)
        gain *= 10 ** (missing / 20)
        if abs(missing) < 1e-4:
            break
    return gain


def _limited(
    take: _Take, target_lufs: float, ceiling: float, plain_gain: float, flags: tuple[Flag, ...]
) -> tuple[Audio, MasterReport]:
    """Search on the control blocks, render, measure, and correct what the search got wrong."""
    search = _DriveSearch(take, ceiling, plain_gain)
    aim, margin_db = target_lufs, _MARGIN_DB
    for _ in range(_ROUNDS):
        drive, gains = search.run(aim, margin_db)
        audio = apply_gains(take.audio, gains * drive, take.block)
        programme = Programme(weighted_power(audio, take.rate), take.rate)
        peak = true_peak(audio, take.rate)
        excess_db = decibels(max(peak, short_filter_peak(audio, take.rate)) / ceiling)
        missing = target_lufs - programme.integrated_lufs()
        reached = abs(missing) <= _CLOSE_ENOUGH_LU or drive >= search.largest_drive
        if excess_db <= 0 and reached:
            break
        margin_db += max(excess_db + 0.01, 0.0)
        aim += 0.0 if reached else missing
    trim = min(1.0, 10 ** (-excess_db / 20))
    if trim < 1.0:
        audio *= np.float32(trim)
    loudness = programme.integrated_lufs(trim)
    if target_lufs - loudness > _TOLERANCE_LU:
        flags = (*flags, "peak_limited")
    return audio, MasterReport(
        integrated_lufs=loudness,
        true_peak_dbtp=decibels(peak * trim),
        gain_db=decibels(drive * trim),
        gain_reduction_db=reduction_db(gains),
        loudness_range_lu=programme.loudness_range_lu(trim),
        flags=flags,
    )


class _DriveSearch:
    """Finds the gain into the limiter for a loudness out of it.

    The gain moves slowly against the programme, so the K-weighted power of the limited signal is,
    to a few hundredths of a LU, that of the unlimited one times the squared gain, and a trial
    costs a few thousand values a second instead of all samples. More drive is never quieter,
    which makes the search a bracketing one.
    """

    def __init__(self, take: _Take, ceiling: float, plain_gain: float) -> None:
        self._peaks = take.peaks
        self._step = control_step(take.rate)
        starts = np.arange(0, take.power.size, take.block)
        self._power = np.add.reduceat(take.power, starts, dtype=np.float64) / take.block
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
