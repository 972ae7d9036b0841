"""Mastering: bring a mix to a target loudness with no true peak above a ceiling.

Most material needs only a gain, and its samples are only scaled. If peaks would then exceed the
ceiling, they are limited, and the gain before the limiter is searched for the target loudness.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from services.audio.arrays import as_audio, check_sample_rate
from services.audio.gain_search import InputGainSearch, measure_blocks
from services.audio.limiter import apply_gains, control_block, reduction_db, spread_gains
from services.audio.loudness import SHORTEST_GATED_SECONDS, decibels, finite_or_none
from services.audio.sources import ArraySource, LoopSource, join_blocks
from services.audio.truepeak import METER_ERROR_DB

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from services.audio.arrays import Audio
    from services.audio.gain_search import BlockMeasurement
    from services.audio.loudness import Loudness, Programme
    from services.audio.sources import Source

Flag = Literal["silent", "below_gate", "short_clip", "peak_limited"]

DEFAULT_TARGET_LUFS = -16.0
DEFAULT_TRUE_PEAK_DBTP = -1.0

# Six steps of 16 bit: rounding and dither of the written file raise a peak by less.
_QUANTISATION_HEADROOM = 6 / 32768
_TOLERANCE_LU = 0.1
_CLOSE_ENOUGH_LU = 0.03
_MARGIN_DB = 0.03
_ROUNDS = 5
_METER_BLOCK = 1 << 14


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterReport:
    loudness: Loudness
    """Of the result."""
    gain_db: float
    """Gain before the limiter."""
    gain_reduction_db: float
    """The largest gain reduction of the limiter; 0 if it was not needed."""
    flags: tuple[Flag, ...]
    """silent: all samples are 0 and kept. below_gate: nothing is above -70 LUFS, the samples are
    kept. short_clip: under 400 ms, measured ungated. peak_limited: more than 0.1 LU below the
    target, which would take more than 12 dB of limiting."""

    @property
    def integrated_lufs(self) -> float:
        return self.loudness.integrated_lufs

    @property
    def true_peak_dbtp(self) -> float:
        return self.loudness.true_peak_dbtp

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, JSON-ready, with None for minus infinity."""
        gains = {"gain_db": self.gain_db, "gain_reduction_db": self.gain_reduction_db}
        return {**self.loudness.to_dict(), **finite_or_none(gains), "flags": list(self.flags)}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mastered(MasterReport):
    """A mastered signal with its report."""

    audio: Audio
    plan: MasterPlan
    """The gains; applied to the parts of the signal, they give parts that sum to `audio`."""


def master(
    signal: Any,
    sample_rate: int,
    target_lufs: float | None = DEFAULT_TARGET_LUFS,
    true_peak_dbtp: float = DEFAULT_TRUE_PEAK_DBTP,
    *,
    loop: bool = False,
) -> Mastered:
    """Master a signal to a loudness under a true-peak ceiling.

    Args:
        signal: see `as_audio`.
        sample_rate: 8000 to 192000 Hz.
        target_lufs: integrated loudness; None keeps the samples and only measures.
        true_peak_dbtp: highest true peak by both interpolators of `truepeak`, also after rounding
            to 16 bit.
        loop: the audio will be repeated without a gap. The gains at its end lead to those at its
            start, and the ceiling also holds for peaks between its last sample and its first.

    Raises:
        TypeError: not a tensor or array, or a sample rate that is not an integer.
        ValueError: see `as_audio`, `check_sample_rate` and `check_target`.
    """
    rate = check_sample_rate(sample_rate)
    audio = as_audio(signal)
    source = (LoopSource if loop else ArraySource)(audio, rate)
    plan = plan_master(source, target_lufs, true_peak_dbtp)
    if not plan.changes_nothing:
        audio = join_blocks(plan.apply(source.blocks()), audio.shape)
    report = plan.report
    named = {name: getattr(report, name) for name in MasterReport.__slots__}
    return Mastered(audio=audio, plan=plan, **named)


def check_target(target_lufs: float | None, true_peak_dbtp: float) -> None:
    """Raise ValueError for a target outside -60 to 0 LUFS or a ceiling outside -40 to 0 dBTP."""
    if target_lufs is not None and not -60.0 <= target_lufs <= 0.0:
        raise ValueError(f"The target loudness must be from -60 to 0 LUFS, got {target_lufs}.")
    if not -40.0 <= true_peak_dbtp <= 0.0:
        raise ValueError(f"The true-peak ceiling must be from -40 to 0 dBTP, got {true_peak_dbtp}.")


class MasterPlan:
    """The gains that master a signal, ready to be applied."""

    def __init__(
        self,
        report: MasterReport,
        *,
        gain: float,
        gains: NDArray[np.float64] | None = None,
        block: int = 1,
    ) -> None:
        self.report = report
        self._gain = gain
        self._gains = gains
        self._block = block

    @property
    def changes_nothing(self) -> bool:
        return self._gains is None and self._gain == 1.0

    def apply(self, blocks: Iterable[Audio]) -> Iterator[Audio]:
        """Yield the mastered blocks of the signal that the plan was made for, or of a part of it.

        Args:
            blocks: `[channels, n]` from the first sample, of any n and any number of channels.
        """
        if self._gains is not None:
            yield from apply_gains(blocks, self._gains * self._gain, self._block)
        elif self.changes_nothing:
            yield from blocks
        else:
            for audio in blocks:
                yield audio * np.float32(self._gain)


def plan_master(
    source: Source,
    target_lufs: float | None = DEFAULT_TARGET_LUFS,
    true_peak_dbtp: float = DEFAULT_TRUE_PEAK_DBTP,
) -> MasterPlan:
    """Find the gains for audio of any length, like `master`; the source is read a few times.

    Memory grows by about 16 MB per minute of audio at any sample rate.

    Raises:
        ValueError: see `check_target`.
    """
    check_target(target_lufs, true_peak_dbtp)
    measured = measure_blocks(source, control_block(source.sample_rate))
    flags = _list_flags(measured)
    if target_lufs is None or not math.isfinite(measured.programme.integrated_lufs()):
        return _make_gain_plan(measured, 1.0, flags)
    ceiling = 10 ** ((true_peak_dbtp - METER_ERROR_DB) / 20) - _QUANTISATION_HEADROOM
    gain = _find_plain_gain(measured.programme, target_lufs)
    if measured.highest_peak * gain <= ceiling:
        return _make_gain_plan(measured, gain, flags)
    return _make_limiting_plan(source, measured, target_lufs, ceiling, gain, flags)


def _make_gain_plan(measured: BlockMeasurement, gain: float, flags: tuple[Flag, ...]) -> MasterPlan:
    report = MasterReport(
        loudness=measured.loudness(gain), gain_db=decibels(gain), gain_reduction_db=0.0, flags=flags
    )
    return MasterPlan(report, gain=gain)


def _list_flags(measured: BlockMeasurement) -> tuple[Flag, ...]:
    flags: list[Flag] = []
    if measured.samples < SHORTEST_GATED_SECONDS * measured.sample_rate:
        flags.append("short_clip")
    if measured.true_peak == 0:
        flags.append("silent")
    elif not math.isfinite(measured.programme.integrated_lufs()):
        flags.append("below_gate")
    return tuple(flags)


def _find_plain_gain(programme: Programme, target_lufs: float) -> float:
    # Iterative, since a gain also moves quiet passages across the absolute gate.
    gain = 1.0
    for _ in range(8):
        missing = target_lufs - programme.integrated_lufs(gain)
        gain *= 10 ** (missing / 20)
        if abs(missing) < 1e-4:
            break
    return gain


def _make_limiting_plan(
    source: Source,
    measured: BlockMeasurement,
    target_lufs: float,
    ceiling: float,
    plain_gain: float,
    flags: tuple[Flag, ...],
) -> MasterPlan:
    """Search on the control blocks, apply the gains, measure the result and correct the search."""
    search = InputGainSearch(measured, ceiling, plain_gain)
    block = control_block(source.sample_rate)
    aim, margin_db = target_lufs, _MARGIN_DB
    for _ in range(_ROUNDS):
        input_gain, gains = search.run(aim, margin_db)
        limited = _limit(source, gains * input_gain, block)
        result = measure_blocks(limited, _METER_BLOCK)
        excess_db = decibels(result.highest_peak / ceiling)
        missing = target_lufs - result.programme.integrated_lufs()
        reached = abs(missing) <= _CLOSE_ENOUGH_LU or input_gain >= search.largest_input_gain
        if excess_db <= 0 and reached:
            break
        margin_db += max(excess_db + 0.01, 0.0)
        aim += 0.0 if reached else missing
    trim = min(1.0, 10 ** (-excess_db / 20))
    loudness = result.loudness(trim)
    if target_lufs - loudness.integrated_lufs > _TOLERANCE_LU:
        flags = (*flags, "peak_limited")
    report = MasterReport(
        loudness=loudness,
        gain_db=decibels(input_gain * trim),
        gain_reduction_db=reduction_db(gains),
        flags=flags,
    )
    if isinstance(source, LoopSource):
        gains, block = spread_gains(gains, source.audio.shape[1]).astype(np.float64), 1
    return MasterPlan(report, gain=input_gain * trim, gains=gains, block=block)


def _limit(source: Source, gains: NDArray[np.float64], block: int) -> Source:
    if isinstance(source, LoopSource):
        curve = spread_gains(gains, source.audio.shape[1])
        return LoopSource(source.audio * curve, source.sample_rate)
    return _LimitedSource(source, gains, block)


@dataclass(frozen=True, slots=True, eq=False)
class _LimitedSource:
    source: Source
    gains: NDArray[np.float64]
    block: int

    @property
    def sample_rate(self) -> int:
        return self.source.sample_rate

    @property
    def channels(self) -> int:
        return self.source.channels

    def blocks(self) -> Iterator[Audio]:
        return apply_gains(self.source.blocks(), self.gains, self.block)
