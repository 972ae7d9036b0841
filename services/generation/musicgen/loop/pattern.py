"""The delay pattern: which code stands where in the sequence that the decoder sees.

Codebook k lags k positions behind the first (in stereo, where left and right alternate, k // 2), so
that a frame's codes are drawn one after the other. Column 0 holds no code; frame f of a codebook
stands in column f + lag + 1 and is drawn by the step that takes in the column before it. Cells of
no frame hold the pad token (Copet et al., "Simple and Controllable Music Generation", 2023, 2.2).
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
    """The pattern of a decoder."""

    codebooks: int
    channels: int
    pad_token: int

    @classmethod
    def of(cls, geometry: Geometry) -> DelayPattern:
        """The pattern of that decoder."""
        return cls(geometry.codebooks, geometry.channels, geometry.pad_token)

    @property
    def lags(self) -> NDArray[np.int64]:
        """How many columns each codebook stands behind the first."""
        return np.arange(self.codebooks, dtype=np.int64) // self.channels

    @property
    def longest_lag(self) -> int:
        """The lag of the last codebook."""
        return (self.codebooks - 1) // self.channels

    def columns(self, frames: int) -> int:
        """Columns of that many frames, the first included; steps take in all but the last."""
        return frames + self.longest_lag + 1

    def steps(self, frames: int, known: int = 0) -> int:
        """Steps that draw the frames from `known` on."""
        return frames - known + self.longest_lag

    def drawn(self, step: int, frames: int, known: int = 0) -> NDArray[np.bool_]:
        """Which codebooks the step draws, `[codebooks]`: those of frames from `known` on."""
        frame = step - self.lags
        return (known <= frame) & (frame < frames)

    def lay_out(self, codes: NDArray[np.int64], frames: int) -> NDArray[np.int64]:
        """The grid `[codebooks, columns]` that holds the first codes of a piece, and else pads.

        Args:
            codes: `[codebooks, known]`, known <= frames.
            frames: of the whole piece.
        """
        known = codes.shape[1]
        grid = np.full((self.codebooks, self.columns(frames)), self.pad_token, dtype=np.int64)
        for codebook, lag in enumerate(self.lags):
            grid[codebook, lag + 1 : lag + 1 + known] = codes[codebook]
        return grid

    def complete(self, step: int, frames: int) -> int:
        """How many frames are whole once the steps before `step` are done."""
        return min(max(step - self.longest_lag, 0), frames)
