"""What whoever asked the decode loop for a piece holds in hand."""

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

WORD_SECONDS = 1.0
"""How long whoever takes a stream of codes waits without a word."""

StepProgress = Callable[[int, int], None]
"""Called after each step with the steps done and the steps in all."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a piece is."""

    steps_done: int
    steps_total: int
    frames_ready: int
    steps_ahead: int
    """Steps of the decoder until it is finished, those for whom it waits included."""
    seconds_left: float | None
    """The same as time, at the pace of late; None before there is one."""


class DecodeHandle:
    """A piece that was asked for. Any thread may use it."""

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
        self._cancelled = False
        self._wanted: int | None = None
        """Frames that its holder waits for at this moment."""
        self._error: DGXMusicError | None = None

    @property
    def state(self) -> State:
        """Where it is on its way."""
        with self._changed:
            return self._sequence.state

    def progress(self) -> Progress:
        """How far it is."""
        with self._changed:
            return self._measure(self._sequence)

    @property
    def steps(self) -> Steps:
        """How many steps were made, and how long they took."""
        with self._changed:
            return Steps(count=self._sequence.steps_done, seconds=self._sequence.seconds)

    def cancel(self) -> None:
        """Stop before the next step; one that is over stays what it is."""
        with self._changed:
            self._cancelled = True
            self._changed.notify_all()

    def result(self, timeout: float | None = None) -> NDArray[np.int64]:
        """Wait for all codes, int64 `[codebooks, frames]`, a prefix included.

        Args:
            timeout: seconds to wait; None is for ever.

        Raises:
            TimeoutError: it is not over yet.
            CancelledError: it was cancelled.
            EngineError: the model failed.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._sequence.state.is_over, timeout):
                raise TimeoutError("The codes are not finished yet.")
            self._raise_if_ended()
            return self._sequence.codes

    @property
    def prefix_frames(self) -> int:
        """Frames of the result that were given."""
        return self._sequence.request.prefix_frames

    def stream(
        self, frames: int, while_waiting: Callable[[], None] | None = None
    ) -> Iterator[NDArray[np.int64]]:
        """The codes as they come: `[codebooks, frames]` at a time, and at last what remains.

        Args:
            frames: of a piece.
            while_waiting: called every second in which nothing came.

        Raises:
            CancelledError: it was cancelled, before or while the codes were taken.
            EngineError: the model failed.
        """
        given = 0
        while given < self._sequence.request.frames:
            wanted = min(given + frames, self._sequence.request.frames)
            while not self._wait_for(wanted):
                if while_waiting is not None:
                    while_waiting()
            with self._changed:
                self._raise_if_ended()
                codes = self._sequence.codes[:, given:wanted].copy()
            given = wanted
            yield codes

    def _wait_for(self, frames: int) -> bool:
        with self._changed:
            self._wanted = frames
            try:
                return self._changed.wait_for(partial(self._has, frames), WORD_SECONDS)
            finally:
                self._wanted = None

    def _has(self, frames: int) -> bool:
        return self._sequence.state.is_over or self._sequence.frames_ready >= frames

    def _raise_if_ended(self) -> None:
        if self._error is not None:
            raise self._error
        if self._sequence.state is State.CANCELLED:
            raise CancelledError("The music was stopped before it was finished.")

    # The loop's side.

    def wants_to_stop(self) -> bool:
        """Whether its holder cancelled it, or `should_stop` says so; asked before each step."""
        return self._cancelled or (self._should_stop is not None and self._should_stop())

    @property
    def is_due(self) -> bool:
        """Whether what its holder waits for is there: to wake it at each step would cost one."""
        return self._wanted is not None and self._has(self._wanted)

    def report(self) -> None:
        """Tell the holder of a step."""
        if self._progress is not None:
            self._progress(self._sequence.steps_done, self._sequence.steps_total)

    def fail(self, error: BaseException) -> None:
        """Keep why it failed, as an error for people."""
        if isinstance(error, DGXMusicError):
            self._error = error
            return
        self._error = EngineError(f"The model failed while it made the music: {error}")
        self._error.__cause__ = error
