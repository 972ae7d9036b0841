"""A request while it is decoded: its windows, its position and its codes. No torch, no threads."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

from services.generation.musicgen.loop.windows import STRIDE_FRAMES, WINDOW_FRAMES, plan_windows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from services.generation.musicgen.loop.pattern import DelayPattern
    from services.generation.musicgen.loop.request import Conditioning, DecodeRequest


class State(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def is_over(self) -> bool:
        return self not in (State.WAITING, State.RUNNING)


@dataclass(frozen=True, slots=True, eq=False)
class StepInput:
    """The part of a decoder step that belongs to one sequence."""

    slot: int
    tokens: NDArray[np.int64]
    """`[codebooks]`, the tokens at `position`."""
    position: int
    """Position in the slot, counted from 0 after a prefix of the conditioning."""
    step: int
    """Step in the sequence. A codebook never draws twice at one step: the noise depends on it."""


class Sequence:
    """A request that is decoded window by window, step by step.

    MusicGen has no end token: the number of steps is known from the start.
    """

    def __init__(
        self,
        request: DecodeRequest,
        pattern: DelayPattern,
        *,
        window: int = WINDOW_FRAMES,
        stride: int = STRIDE_FRAMES,
    ) -> None:
        """Plan the windows of a request; `window` and `stride` are in frames (windows.py)."""
        self.request = request
        self.state = State.WAITING
        self.slot: int | None = None
        self.windows = plan_windows(
            request.frames, request.prefix_frames, window=window, stride=stride
        )
        self.steps_total = sum(
            pattern.count_steps(part.frames, part.known) for part in self.windows
        )
        self.steps_done = 0
        self.seconds = 0.0
        """Seconds its steps took; sequences in the same batch share them."""
        self.codes = np.zeros((pattern.codebooks, request.frames), dtype=np.int64)
        """`[codebooks, frames]`; complete up to `frames_ready`."""
        if request.prefix is not None:
            self.codes[:, : request.prefix_frames] = request.prefix
        self._pattern = pattern
        self._enter_window(0)

    @property
    def steps_left(self) -> int:
        return self.steps_total - self.steps_done

    @property
    def prefill_positions_left(self) -> int:
        """Known frames of the windows that have not started."""
        started = self._index if self.is_at_window_start else self._index + 1
        return sum(part.known for part in self.windows[started:])

    @property
    def frames_ready(self) -> int:
        """Frames from the start whose codes are complete, a prefix included."""
        complete = self._pattern.count_complete(self._step, self.window.frames)
        return self.window.start + max(self.window.known, complete)

    @property
    def positions(self) -> int:
        """Positions that the longest window needs, without a prefix of the conditioning."""
        return max(part.frames for part in self.windows) + self._pattern.longest_lag

    @property
    def conditioning(self) -> Conditioning:
        """The conditioning of the current window."""
        given = self.request.conditioning
        return given[min(self.window.number, len(given) - 1)]

    @property
    def is_at_window_start(self) -> bool:
        """Whether the next step is the first of a window, so that its slot needs a prefill."""
        return self._step == self.window.known

    @property
    def prefill_tokens(self) -> NDArray[np.int64]:
        """`[codebooks, known]`: the tokens before the first step of the current window."""
        return self._grid[:, : self.window.known]

    def next_input(self) -> StepInput:
        assert self.slot is not None
        return StepInput(
            slot=self.slot,
            tokens=self._grid[:, self._step],
            position=self._step,
            step=self.window.start + self._step,
        )

    def append(self, tokens: NDArray[np.int64]) -> None:
        """Store the tokens that a step drew, `[codebooks]`; known cells keep their values."""
        drawn = self._pattern.draw_mask(self._step, self.window.frames, self.window.known)
        frames = self.window.start + self._step - self._pattern.lags[drawn]
        self._grid[drawn, self._step + 1] = self.codes[drawn, frames] = tokens[drawn]
        self._step += 1
        self.steps_done += 1
        if self._step == self.window.frames + self._pattern.longest_lag and self.steps_left:
            self._enter_window(self._index + 1)

    def _enter_window(self, index: int) -> None:
        self._index = index
        self.window = self.windows[index]
        start, known = self.window.start, self.window.known
        self._grid = self._pattern.lay_out(self.codes[:, start : start + known], self.window.frames)
        self._step = known
