"""The delay pattern: which code is in which column of the decoder's input.

Codebook k lags k columns behind the first (k // 2 in stereo, where left and right alternate): the
codes of a frame are drawn one after the other. Column 0 holds no code. Frame f of a codebook is in
column f + lag + 1 and is drawn by the step whose input is the column before it. Cells without a
frame hold the pad token (Copet et al., "Simple and Controllable Music Generation", 2023, 2.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from services.generation.musicgen.geometry import Geometry


@dataclass(frozen=True, slots=True)
class DelayPattern:
    codebooks: int
    channels: int
    pad_token: int

    @classmethod
    def from_geometry(cls, geometry: Geometry) -> DelayPattern:
        return cls(geometry.codebooks, geometry.channels, geometry.pad_token)

    @property
    def lags(self) -> NDArray[np.int64]:
        """Columns that each codebook lags behind the first, `[codebooks]`."""
        return np.arange(self.codebooks, dtype=np.int64) // self.channels

    @property
    def longest_lag(self) -> int:
        return (self.codebooks - 1) // self.channels

    def count_columns(self, frames: int) -> int:
        """Return the columns of so many frames, column 0 included; the last is no step's input."""
        return frames + self.longest_lag + 1

    def count_steps(self, frames: int, known: int = 0) -> int:
        """Return the steps that draw the frames from `known` on."""
        return frames - known + self.longest_lag

    def draw_mask(self, step: int, frames: int, known: int = 0) -> NDArray[np.bool_]:
        """Return which codebooks a step draws, `[codebooks]`: those of frames from `known` on."""
        frame = step - self.lags
        return (known <= frame) & (frame < frames)

    def lay_out(self, codes: NDArray[np.int64], frames: int) -> NDArray[np.int64]:
        """Return the grid `[codebooks, columns]` with the known codes; other cells are pads.

        Args:
            codes: `[codebooks, known]`, known <= frames.
            frames: all frames of the grid.
        """
        known = codes.shape[1]
        shape = (self.codebooks, self.count_columns(frames))
        grid = np.full(shape, self.pad_token, dtype=np.int64)
        for codebook, lag in enumerate(self.lags):
            grid[codebook, lag + 1 : lag + 1 + known] = codes[codebook]
        return grid

    def count_complete(self, step: int, frames: int) -> int:
        """Return the frames that have all their codes once the steps before `step` are done."""
        return min(max(step - self.longest_lag, 0), frames)
