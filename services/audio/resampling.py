"""Audio at another sample rate."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.audio.arrays import Audio
    from services.audio.sources import Source


def resample(source: Source, sample_rate: int) -> Source:
    """Return a source at another rate in Hz, or the source itself at the same rate.

    Reading the blocks raises ValueError if the audio is so short that no samples are left.
    """
    return source if source.sample_rate == sample_rate else _ResampledSource(source, sample_rate)


@dataclass(frozen=True, slots=True, eq=False)
class _ResampledSource:
    """A source at another rate, of the same length and not shifted (soxr VHQ, linear phase)."""

    source: Source
    sample_rate: int

    @property
    def channels(self) -> int:
        return self.source.channels

    def blocks(self) -> Iterator[Audio]:
        import soxr  # type: ignore[import-untyped]  # ships neither stubs nor py.typed

        stream = soxr.ResampleStream(
            self.source.sample_rate, self.sample_rate, self.channels, "float32", "VHQ"
        )
        frames = 0
        for block in chain(self.source.blocks(), [None]):
            frames_in = np.empty((0, self.channels), np.float32) if block is None else block.T
            resampled = stream.resample_chunk(np.ascontiguousarray(frames_in), last=block is None)
            # The filter delays its output: the first blocks may give no samples.
            if resampled.size:
                frames += len(resampled)
                yield np.ascontiguousarray(resampled.reshape(-1, self.channels).T)
        if not frames:
            raise ValueError(f"The audio is too short: it has no samples at {self.sample_rate} Hz.")
