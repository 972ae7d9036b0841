"""A piece that is being made: where it stands, and its codes so far. No torch, no threads."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

from services.generation.musicgen.loop.windows import STRIDE_FRAMES, WINDOW_FRAMES, windows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from services.generation.musicgen.loop.pattern import DelayPattern
    from services.generation.musicgen.loop.request import Conditioning, DecodeRequest


class State(Enum):
    """Where a sequence is on its way."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen."""
        return self not in (State.WAITING, State.RUNNING)


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """What a sequence asks of one step of the decoder."""

    slot: int
    tokens: NDArray[np.int64]
    """`[codebooks]`, what stands at `position`."""
    position: int
    """Of the tokens in the slot, from 0 behind the prefix of the conditioning."""
    step: int
    """In the piece. No two draws of a codebook share it: noise is keyed with it."""


class Sequence:
    """A request at work: window after window, step after step.

    How many steps it takes is known from the start, for nothing that is drawn ends a piece.
    """

    def __init__(
        self,
        request: DecodeRequest,
        pattern: DelayPattern,
        *,
        window: int = WINDOW_FRAMES,
        stride: int = STRIDE_FRAMES,
    ) -> None:
        """Lay out a request; `window` and `stride` are in frames (windows.py)."""
        self.request = request
        self.state = State.WAITING
        self.slot: int | None = None
        self.windows = windows(request.frames, request.prefix_frames, window=window, stride=stride)
        self.steps_total = sum(pattern.steps(part.frames, part.known) for part in self.windows)
        self.steps_done = 0
        self.seconds = 0.0
        """Of its steps, together with whatever else was in them."""
        self.codes = np.zeros((pattern.codebooks, request.frames), dtype=np.int64)
        """`[codebooks, frames]`; right up to `frames_ready`."""
        if request.prefix is not None:
            self.codes[:, : request.prefix_frames] = request.prefix
        self._pattern = pattern
        self._enter(0)

    @property
    def steps_left(self) -> int:
        """Steps to the end."""
        return self.steps_total - self.steps_done

    @property
    def openings_left(self) -> int:
        """Given frames of the windows that are yet to begin."""
        begun = self._index if self.enters_window else self._index + 1
        return sum(part.known for part in self.windows[begun:])

    @property
    def frames_ready(self) -> int:
        """Frames from the start whose codes are all there, a prefix included."""
        complete = self._pattern.complete(self._step, self.window.frames)
        return self.window.start + max(self.window.known, complete)

    @property
    def positions(self) -> int:
        """Positions that the longest window needs, a prefix of the conditioning not counted."""
        return max(part.frames for part in self.windows) + self._pattern.longest_lag

    @property
    def conditioning(self) -> Conditioning:
        """What the present window is conditioned on."""
        given = self.request.conditioning
        return given[min(self.window.number, len(given) - 1)]

    @property
    def enters_window(self) -> bool:
        """Whether the next step is the first of a window: its slot must be begun anew."""
        return self._step == self.window.known

    @property
    def opening(self) -> NDArray[np.int64]:
        """`[codebooks, known]`: what stands before the first step of the present window."""
        return self._grid[:, : self.window.known]

    def turn(self) -> Turn:
        """What the next step takes in."""
        assert self.slot is not None
        return Turn(
            slot=self.slot,
            tokens=self._grid[:, self._step],
            position=self._step,
            step=self.window.start + self._step,
        )

    def take(self, tokens: NDArray[np.int64]) -> None:
        """Put what a step drew, `[codebooks]`, where it belongs; given cells stay as they are."""
        drawn = self._pattern.drawn(self._step, self.window.frames, self.window.known)
        frames = self.window.start + self._step - self._pattern.lags[drawn]
        self._grid[drawn, self._step + 1] = self.codes[drawn, frames] = tokens[drawn]
        self._step += 1
        self.steps_done += 1
        if self._step == self.window.frames + self._pattern.longest_lag and self.steps_left:
            self._enter(self._index + 1)

    def _enter(self, index: int) -> None:
        self._index = index
        self.window = self.windows[index]
        start, known = self.window.start, self.window.known
        self._grid = self._pattern.lay_out(self.codes[:, start : start + known], self.window.frames)
        self._step = known
