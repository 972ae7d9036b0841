"""A caller's handle on a request in the decode loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from threading import Condition
from typing import TYPE_CHECKING

from services.errors import CancelledError, DGXMusicError, EngineError
from services.generation.engine import Steps
from services.generation.musicgen.loop.sequence import State

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from services.generation.musicgen.loop.sequence import Sequence

POLL_SECONDS = 1.0
"""Longest time between two calls of `while_waiting`."""

StepProgress = Callable[[int, int], None]
"""Called after each step with the number of steps done and of all steps."""


@dataclass(frozen=True, slots=True)
class Progress:
    steps_done: int
    steps_total: int
    frames_ready: int
    steps_ahead: int
    """Decoder steps until the request is finished, including those it waits for in the queue."""
    seconds_left: float | None
    """Estimated time of these steps; None before the first measurement."""


class DecodeHandle:
    """A submitted request. Any thread may use it."""

    def __init__(
        self,
        sequence: Sequence,
        changed: Condition,
        measure: Callable[[Sequence], Progress],
        progress: StepProgress | None,
        should_stop: Callable[[], bool] | None,
    ) -> None:
        self._sequence = sequence
        self._changed = changed
        self._measure = measure
        self._progress = progress
        self._should_stop = should_stop
        self._is_cancelled = False
        self._awaited_frames: int | None = None
        """Frames that `stream` is waiting for; None when it is not waiting."""
        self._error: DGXMusicError | None = None

    @property
    def state(self) -> State:
        with self._changed:
            return self._sequence.state

    def progress(self) -> Progress:
        with self._changed:
            return self._measure(self._sequence)

    @property
    def steps(self) -> Steps:
        with self._changed:
            return Steps(count=self._sequence.steps_done, seconds=self._sequence.seconds)

    def cancel(self) -> None:
        """Stop before the next step; a request that is over keeps its state."""
        with self._changed:
            self._is_cancelled = True
            self._changed.notify_all()

    def result(self, timeout: float | None = None) -> NDArray[np.int64]:
        """Wait for all codes and return them, int64 `[codebooks, frames]`, a prefix included.

        Args:
            timeout: longest wait in seconds; None waits for ever.

        Raises:
            TimeoutError: the request is not over yet.
            CancelledError: the request was cancelled.
            EngineError: the model failed.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._sequence.state.is_over, timeout):
                raise TimeoutError("The codes are not finished yet.")
            self._raise_if_unsuccessful()
            return self._sequence.codes

    @property
    def prefix_frames(self) -> int:
        """Frames of the result that the request gave."""
        return self._sequence.request.prefix_frames

    def stream(
        self, frames: int, while_waiting: Callable[[], None] | None = None
    ) -> Iterator[NDArray[np.int64]]:
        """Yield the codes as they are drawn, `[codebooks, frames]` each; the last may be shorter.

        Args:
            frames: frames of each yielded array.
            while_waiting: called after each second without new codes.

        Raises:
            CancelledError: the request was cancelled.
            EngineError: the model failed.
        """
        total = self._sequence.request.frames
        for start in range(0, total, frames):
            stop = min(start + frames, total)
            while not self._wait_for(stop):
                if while_waiting is not None:
                    while_waiting()
            with self._changed:
                self._raise_if_unsuccessful()
                codes = self._sequence.codes[:, start:stop].copy()
            yield codes

    def _wait_for(self, frames: int) -> bool:
        with self._changed:
            self._awaited_frames = frames
            try:
                return self._changed.wait_for(partial(self._has_frames, frames), POLL_SECONDS)
            finally:
                self._awaited_frames = None

    def _has_frames(self, frames: int) -> bool:
        return self._sequence.state.is_over or self._sequence.frames_ready >= frames

    def _raise_if_unsuccessful(self) -> None:
        if self._error is not None:
            raise self._error
        if self._sequence.state is State.CANCELLED:
            raise CancelledError("The music was stopped before it was finished.")

    # Called by the loop only.

    def is_stop_requested(self) -> bool:
        """Whether the request was cancelled or its `should_stop` returns True."""
        return self._is_cancelled or (self._should_stop is not None and self._should_stop())

    @property
    def is_wait_over(self) -> bool:
        """Whether a waiting `stream` can continue. Waking it after every step would cost a step."""
        return self._awaited_frames is not None and self._has_frames(self._awaited_frames)

    def report_progress(self) -> None:
        if self._progress is not None:
            self._progress(self._sequence.steps_done, self._sequence.steps_total)

    def fail(self, error: BaseException) -> None:
        """Keep an error for the caller; one of another tree becomes an EngineError."""
        if isinstance(error, DGXMusicError):
            self._error = error
            return
        self._error = EngineError(f"The model failed while it made the music: {error}")
        self._error.__cause__ = error
