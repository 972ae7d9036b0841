"""The decode loop: one thread that steps all running requests as a batch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

from services.errors import EngineError, InvalidRequestError
from services.generation.musicgen.loop.handle import DecodeHandle, Progress, StepProgress
from services.generation.musicgen.loop.pace import Pace
from services.generation.musicgen.loop.pattern import DelayPattern
from services.generation.musicgen.loop.request import check_fits
from services.generation.musicgen.loop.scheduler import Scheduler
from services.generation.musicgen.loop.sequence import Sequence, State
from services.generation.musicgen.loop.windows import STRIDE_FRAMES, WINDOW_FRAMES

if TYPE_CHECKING:
    from services.generation.musicgen.loop.request import DecodeRequest
    from services.generation.musicgen.loop.token_model import TokenModel

T = TypeVar("T")

SHUT_DOWN = "The music engine was shut down before the music was finished. Send the request again."


class Execute(Protocol):
    """Runs an action, possibly in another thread, and returns its result or raises its error."""

    def __call__(self, action: Callable[[], T], /) -> T: ...


def execute_inline(action: Callable[[], T], /) -> T:
    return action()


class DecodeLoop:
    """Serves any number of requests with the slots of one model, first come, first served.

    Requests join and leave the batch at any step. An error of the model fails only the requests in
    the step that raised it. Close the loop, or use it in a `with` statement.
    """

    def __init__(
        self,
        model: TokenModel,
        *,
        execute: Execute = execute_inline,
        window_frames: int = WINDOW_FRAMES,
        stride_frames: int = STRIDE_FRAMES,
    ) -> None:
        """Start the thread, which alone may use the model from now on.

        Args:
            model: the decoder.
            execute: runs the model's part of each step, for a thread that others use as well.
            window_frames: windows.py.
            stride_frames: windows.py.
        """
        self._model = model
        self._execute = execute
        self._pattern = DelayPattern.from_geometry(model.geometry)
        self._window, self._stride = window_frames, stride_frames
        self._scheduler = Scheduler(model.slots)
        self._handles: dict[Sequence, DecodeHandle] = {}
        self._changed = threading.Condition()
        self._pace = Pace()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="musicgen-decode", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(
        self,
        request: DecodeRequest,
        progress: StepProgress | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> DecodeHandle:
        """Queue a request; it starts when a slot is free. Any thread may call this.

        Args:
            request: the codes to draw.
            progress: called in the loop's thread after each step; it must be quick.
            should_stop: called in the loop's thread before each step; it must be quick.

        Raises:
            InvalidRequestError: the request does not fit the model.
            EngineError: the loop is closed.
        """
        check_fits(request, self._model.geometry)
        sequence = Sequence(request, self._pattern, window=self._window, stride=self._stride)
        self._check_positions(sequence)
        handle = DecodeHandle(sequence, self._changed, self._measure, progress, should_stop)
        with self._changed:
            if self._is_closed:
                raise EngineError(SHUT_DOWN)
            self._handles[sequence] = handle
            self._scheduler.add(sequence)
            self._changed.notify_all()
        return handle

    def close(self) -> None:
        """Stop after the current step; requests that are not finished fail."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _check_positions(self, sequence: Sequence) -> None:
        needed = sequence.positions
        if not self._model.geometry.cross_attention:
            needed += max(len(given.states) for given in sequence.request.conditioning)
        if needed > self._model.positions:
            raise InvalidRequestError(
                f"The request needs {needed} positions, and the model was loaded with"
                f" {self._model.positions}. Ask for a shorter take."
            )

    def _measure(self, sequence: Sequence) -> Progress:
        is_over = sequence.state.is_over
        ahead = 0 if is_over else self._scheduler.steps_until_end(sequence)
        return Progress(
            steps_done=sequence.steps_done,
            steps_total=sequence.steps_total,
            frames_ready=sequence.frames_ready,
            steps_ahead=ahead,
            seconds_left=0.0 if is_over else self._pace.estimate_seconds(ahead, sequence),
        )

    def _run(self) -> None:
        try:
            while self._wait_for_requests():
                self._drop_cancelled()
                self._begin_windows()
                self._step()
        finally:
            self._fail_remaining()

    def _wait_for_requests(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or not self._scheduler.is_idle)
            return not self._is_closed

    def _drop_cancelled(self) -> None:
        with self._changed:
            handles = list(self._handles.items())
        for sequence, handle in handles:
            if self._guard(handle.is_stop_requested, [sequence]):
                self._end(sequence, State.CANCELLED)

    def _begin_windows(self) -> None:
        with self._changed:
            self._scheduler.fill_slots()
            entering = [each for each in self._scheduler.running if each.is_at_window_start]
        for sequence in entering:
            begin = partial(_time, partial(self._begin_window, sequence))
            begun = self._guard(partial(self._execute, begin), [sequence])
            if begun is not None:
                with self._changed:
                    self._pace.record_prefill(sequence.window.known, begun[1])

    def _begin_window(self, sequence: Sequence) -> None:
        assert sequence.slot is not None
        self._model.begin_window(
            sequence.slot, sequence.conditioning, sequence.request.sampling, sequence.prefill_tokens
        )

    def _step(self) -> None:
        running = self._scheduler.running
        if not running:
            return
        inputs = [sequence.next_input() for sequence in running]
        step = partial(_time, partial(self._model.step, inputs))
        timed = self._guard(partial(self._execute, step), running)
        if timed is None:
            return
        drawn, seconds = timed
        with self._changed:
            self._pace.record_step(seconds)
            for sequence, tokens in zip(running, drawn, strict=True):
                sequence.append(tokens)
                sequence.seconds += seconds
            if any(self._handles[sequence].is_wait_over for sequence in running):
                self._changed.notify_all()
        for sequence in running:
            self._guard(self._handles[sequence].report_progress, [sequence])
            if not sequence.steps_left:
                self._end(sequence, State.FINISHED)

    def _guard(self, action: Callable[[], T], concerned: list[Sequence]) -> T | None:
        """Run code of a back end or a caller; its error fails the sequences it concerns."""
        try:
            return action()
        except Exception as error:  # noqa: BLE001  (a back end or a callback may raise anything)
            for sequence in concerned:
                self._end(sequence, State.FAILED, error)
            return None

    def _end(self, sequence: Sequence, state: State, error: Exception | None = None) -> None:
        with self._changed:
            handle = self._handles.pop(sequence, None)
            if handle is None:
                return
            if error is not None:
                handle.fail(error)
            self._scheduler.end(sequence, state)
            self._changed.notify_all()

    def _fail_remaining(self) -> None:
        # However the thread ends, no handle may wait for it.
        with self._changed:
            self._is_closed = True
        for sequence in list(self._handles):
            self._end(sequence, State.FAILED, EngineError(SHUT_DOWN))


def _time(action: Callable[[], T]) -> tuple[T, float]:
    started = time.perf_counter()
    result = action()
    return result, time.perf_counter() - started
