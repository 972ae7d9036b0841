"""One pass over the samples of a signal, in blocks: its levels, and a mono mix to analyse."""

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
"""Hz of the mono mix: nothing that tells tempo or key lies above 11 kHz."""
LONGEST_SECONDS = 600.0
"""Only this much from the beginning gets into the mono mix, so that memory stays bounded."""

_SLOTS_PER_SECOND = 10
# Not halves: what is in opposite phase on the two channels must not vanish.
_LEFT, _RIGHT = np.float32(0.6), np.float32(0.4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What one pass over a signal leaves behind."""

    sample_rate: int
    """Hz, of the signal itself."""
    channels: int
    samples: int
    """Per channel."""
    peak: float
    products: tuple[float, float, float]
    """Sums of left*left, right*right and left*right; a mono signal counts as both."""
    slot_power: NDArray[np.float64]
    """Mean square of each whole 100 ms over the channels; of a shorter signal, of all of it."""
    mono: NDArray[np.float32]
    """`[samples]` at `ANALYSIS_RATE`, at most `LONGEST_SECONDS`."""

    @property
    def duration_seconds(self) -> float:
        """Length in seconds."""
        return self.samples / self.sample_rate

    @property
    def rms(self) -> float:
        """Root of the mean square over time and channels, linear."""
        left, right, _ = self.products
        return math.sqrt((left + right) / (2 * self.samples))


def hear(source: Source) -> Heard:
    """Take in a signal of one or two channels, block by block.

    Raises:
        ValueError: there is not a single sample.
    """
    intake = _Intake(source.sample_rate, source.channels)
    for block in source.blocks():
        intake.take(block)
    return intake.finish()


def ramp(value: float, none: float, full: float) -> float:
    """0 at or beyond `none`, 1 at or beyond `full`, straight in between."""
    return min(max((value - none) / (full - none), 0.0), 1.0)


class _Intake:
    def __init__(self, sample_rate: int, channels: int) -> None:
        self._rate = sample_rate
        self._channels = channels
        self._resampler = soxr.ResampleStream(sample_rate, ANALYSIS_RATE, 1, dtype="float32")
        self._left_to_mix = round(LONGEST_SECONDS * sample_rate)
        self._mixed: list[NDArray[np.float32]] = []
        self._samples = 0
        self._peak = 0.0
        self._products = np.zeros(3)
        self._slot = sample_rate // _SLOTS_PER_SECOND
        self._slot_sums = BlockReducer(np.add, self._slot)

    def take(self, block: Audio) -> None:
        left, right = block[0], block[-1]
        self._samples += left.size
        self._peak = max(self._peak, float(np.abs(block).max(initial=0.0)))
        self._products += [np.dot(left, left), np.dot(right, right), np.dot(left, right)]
        self._slot_sums.push((left * left + right * right) * np.float32(0.5))
        mix = left[: self._left_to_mix]
        if self._channels == 2:
            mix = _LEFT * mix + _RIGHT * right[: self._left_to_mix]
        if mix.size:
            self._left_to_mix -= mix.size
            self._mixed.append(self._resampler.resample_chunk(np.ascontiguousarray(mix)))

    def finish(self) -> Heard:
        if not self._samples:
            raise ValueError("There are no samples to analyse.")
        self._mixed.append(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))
        whole = self._samples // self._slot
        sums = self._slot_sums.result().astype(np.float64)
        left, right, cross = (float(value) for value in self._products)
        return Heard(
            sample_rate=self._rate,
            channels=self._channels,
            samples=self._samples,
            peak=self._peak,
            products=(left, right, cross),
            slot_power=sums[:whole] / self._slot if whole else sums / self._samples,
            mono=np.concatenate(self._mixed),
        )
