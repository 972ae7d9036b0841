"""One interface for audio in blocks, from memory or from a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from services.audio.arrays import Audio

_BLOCK_FRAMES = 1 << 14


class Source(Protocol):
    """Audio that can be read from its start any number of times."""

    @property
    def sample_rate(self) -> int:
        """Hz."""

    @property
    def channels(self) -> int:
        """1 or 2."""

    def blocks(self) -> Iterator[Audio]:
        """Yield all samples in blocks of `[channels, n]`, which must not be written to."""


@dataclass(frozen=True, slots=True, eq=False)
class ArraySource:
    audio: Audio
    sample_rate: int

    @property
    def channels(self) -> int:
        return int(self.audio.shape[0])

    def blocks(self) -> Iterator[Audio]:
        for start in range(0, self.audio.shape[1], _BLOCK_FRAMES):
            yield self.audio[:, start : start + _BLOCK_FRAMES]


@dataclass(frozen=True, slots=True, eq=False)
class LoopSource(ArraySource):
    """Audio that will be repeated without a gap: its first sample follows its last."""

    def around_seam(self, before: int, after: int) -> ArraySource:
        """Return the last `before` samples and the first `after`; a short loop is repeated."""
        places = np.arange(-before, after) % self.audio.shape[1]
        return ArraySource(self.audio[:, places], self.sample_rate)


def join_blocks(blocks: Iterable[Audio], shape: tuple[int, ...]) -> Audio:
    """Join blocks into one array `[channels, samples]` without holding them all twice."""
    audio = np.empty(shape, np.float32)
    at = 0
    for block in blocks:
        audio[:, at : at + block.shape[1]] = block
        at += block.shape[1]
    return audio


class BlockReducer:
    """Reduces each `width` values of a stream to one; the last group may be shorter."""

    def __init__(self, reduce: np.ufunc, width: int) -> None:
        self._reduce = reduce
        self._width = width
        self._rest: NDArray[np.float32] = np.empty(0, np.float32)
        self._done: list[NDArray[np.float32]] = []

    def push(self, values: NDArray[np.float32]) -> None:
        """Add values, `[n]`."""
        if self._rest.size:
            values = np.concatenate((self._rest, values))
        whole = values.size // self._width * self._width
        if whole:
            rows = values[:whole].reshape(-1, self._width)
            self._done.append(self._reduce.reduce(rows, axis=1))
        self._rest = values[whole:].copy()

    def result(self) -> NDArray[np.float32]:
        """Return the reduced values, `[ceil(values / width)]`."""
        rest = [self._reduce.reduce(self._rest, keepdims=True)] if self._rest.size else []
        return np.concatenate([*self._done, *rest, np.empty(0, np.float32)])
