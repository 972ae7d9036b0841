"""Levels and a mono mix of a signal, from one pass over its blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import soxr  # type: ignore[import-untyped]  # ships neither stubs nor py.typed

from services.audio.sources import BlockReducer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from services.audio.arrays import Audio
    from services.audio.sources import Source

ANALYSIS_RATE = 22_050
"""Hz of the mono mix. Tempo and key need nothing above 11 kHz."""
LONGEST_SECONDS = 600.0
"""The mono mix ends here, which bounds its memory."""

_SLOTS_PER_SECOND = 10
# With equal weights, channels of opposite phase would cancel.
_LEFT, _RIGHT = np.float32(0.6), np.float32(0.4)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalSummary:
    sample_rate: int
    """Hz, of the signal itself."""
    channels: int
    samples: int
    """Per channel."""
    peak: float
    products: tuple[float, float, float]
    """Sums of left*left, right*right and left*right; mono stands on both sides."""
    slot_power: NDArray[np.float64]
    """Mean square over the channels per whole 100 ms, or of all of a shorter signal, `[slots]`."""
    mono: NDArray[np.float32]
    """`[samples]` at `ANALYSIS_RATE`, at most `LONGEST_SECONDS`."""

    @property
    def duration_seconds(self) -> float:
        return self.samples / self.sample_rate

    @property
    def rms(self) -> float:
        """RMS over time and channels, linear."""
        left, right, _ = self.products
        return math.sqrt((left + right) / (2 * self.samples))


def summarise_signal(source: Source) -> SignalSummary:
    """Summarise a signal of one or two channels.

    Raises:
        ValueError: the source has no samples.
    """
    builder = _SummaryBuilder(source.sample_rate, source.channels)
    for block in source.blocks():
        builder.add(block)
    return builder.finish()


def ramp(value: float, none: float, full: float) -> float:
    """Map `none` to 0 and `full` to 1, linearly in between and constant beyond."""
    return min(max((value - none) / (full - none), 0.0), 1.0)


class _SummaryBuilder:
    def __init__(self, sample_rate: int, channels: int) -> None:
        self._rate = sample_rate
        self._channels = channels
        self._resampler = soxr.ResampleStream(sample_rate, ANALYSIS_RATE, 1, dtype="float32")
        self._frames_to_mix = round(LONGEST_SECONDS * sample_rate)
        self._mixed: list[NDArray[np.float32]] = []
        self._samples = 0
        self._peak = 0.0
        self._products = np.zeros(3)
        self._slot = sample_rate // _SLOTS_PER_SECOND
        self._slot_sums = BlockReducer(np.add, self._slot)

    def add(self, block: Audio) -> None:
        left, right = block[0], block[-1]
        self._samples += left.size
        self._peak = max(self._peak, float(np.abs(block).max(initial=0.0)))
        self._products += [np.dot(left, left), np.dot(right, right), np.dot(left, right)]
        self._slot_sums.push((left * left + right * right) * np.float32(0.5))
        mix = left[: self._frames_to_mix]
        if self._channels == 2:
            mix = _LEFT * mix + _RIGHT * right[: self._frames_to_mix]
        if mix.size:
            self._frames_to_mix -= mix.size
            self._mixed.append(self._resampler.resample_chunk(np.ascontiguousarray(mix)))

    def finish(self) -> SignalSummary:
        if not self._samples:
            raise ValueError("There are no samples to analyse.")
        self._mixed.append(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))
        whole = self._samples // self._slot
        sums = self._slot_sums.result().astype(np.float64)
        left, right, cross = (float(value) for value in self._products)
        return SignalSummary(
            sample_rate=self._rate,
            channels=self._channels,
            samples=self._samples,
            peak=self._peak,
            products=(left, right, cross),
            slot_power=sums[:whole] / self._slot if whole else sums / self._samples,
            mono=np.concatenate(self._mixed),
        )
