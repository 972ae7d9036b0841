"""The decode loop: a thread that steps all pieces at work, which join and leave at any step."""

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

SHUT_DOWN = "The music engine was shut down before the piece was finished. Ask for it again."


class Work(Protocol):
    """Has something done, and gives what it gave."""

    def __call__(self, action: Callable[[], T], /) -> T:
        """Do it; its errors are raised."""


def at_once(action: Callable[[], T], /) -> T:
    """Do it in this thread."""
    return action()


class DecodeLoop:
    """Serves any number of requests with the slots of one model, first come, first served.

    An error of the model fails the pieces that it concerns and nothing else. `close` it, or use it
    in a `with` statement.
    """

    def __init__(
        self,
        model: TokenModel,
        *,
        work: Work = at_once,
        window_frames: int = WINDOW_FRAMES,
        stride_frames: int = STRIDE_FRAMES,
    ) -> None:
        """Start the thread; from now on the model belongs to it.

        Args:
            model: what is stepped.
            work: has the model's part of a step done, by a thread that others use too.
            window_frames: windows.py.
            stride_frames: windows.py.
        """
        self._model = model
        self._work = work
        self._pattern = DelayPattern.of(model.geometry)
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
        """Ask for a piece; it begins as soon as a slot is free. Any thread may.

        Args:
            request: what to make.
            progress: called by the loop after each step; it must be quick.
            should_stop: asked by the loop before each step; it must be quick.

        Raises:
            InvalidRequestError: the model cannot make it.
            EngineError: the loop is closed.
        """
        check_fits(request, self._model.geometry)
        sequence = Sequence(request, self._pattern, window=self._window, stride=self._stride)
        self._check_room(sequence)
        handle = DecodeHandle(sequence, self._changed, self._measure, progress, should_stop)
        with self._changed:
            if self._is_closed:
                raise EngineError(SHUT_DOWN)
            self._handles[sequence] = handle
            self._scheduler.submit(sequence)
            self._changed.notify_all()
        return handle

    def close(self) -> None:
        """End after the present step; what is not finished fails."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _check_room(self, sequence: Sequence) -> None:
        needed = sequence.positions
        if not self._model.geometry.cross_attention:
            needed += max(len(given.states) for given in sequence.request.conditioning)
        if needed > self._model.positions:
            raise InvalidRequestError(
                f"The piece needs {needed} positions of the model, which was set up for"
                f" {self._model.positions}. Ask for a shorter one."
            )

    def _measure(self, sequence: Sequence) -> Progress:
        is_over = sequence.state.is_over
        ahead = 0 if is_over else self._scheduler.steps_until_end(sequence)
        return Progress(
            steps_done=sequence.steps_done,
            steps_total=sequence.steps_total,
            frames_ready=sequence.frames_ready,
            steps_ahead=ahead,
            seconds_left=0.0 if is_over else self._pace.seconds(ahead, sequence),
        )

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._drop_stopped()
                self._begin_windows()
                self._step()
        finally:
            self._give_up()

    def _wait_for_work(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or not self._scheduler.is_idle)
            return not self._is_closed

    def _drop_stopped(self) -> None:
        with self._changed:
            everyone = list(self._handles.items())
        for sequence, handle in everyone:
            if self._guard(handle.wants_to_stop, [sequence]):
                self._end(sequence, State.CANCELLED)

    def _begin_windows(self) -> None:
        with self._changed:
            self._scheduler.fill()
            entering = [each for each in self._scheduler.running if each.enters_window]
        for sequence in entering:
            begin = partial(_timed, partial(self._begin_window, sequence))
            begun = self._guard(partial(self._work, begin), [sequence])
            if begun is not None:
                with self._changed:
                    self._pace.opened(sequence.window.known, begun[1])

    def _begin_window(self, sequence: Sequence) -> None:
        assert sequence.slot is not None
        self._model.begin(
            sequence.slot, sequence.conditioning, sequence.request.sampling, sequence.opening
        )

    def _step(self) -> None:
        running = self._scheduler.running
        if not running:
            return
        turns = [sequence.turn() for sequence in running]
        advance = partial(_timed, partial(self._model.advance, turns))
        made = self._guard(partial(self._work, advance), running)
        if made is None:
            return
        drawn, taken = made
        with self._changed:
            self._pace.stepped(taken)
            for sequence, tokens in zip(running, drawn, strict=True):
                sequence.take(tokens)
                sequence.seconds += taken
            if any(self._handles[sequence].is_due for sequence in running):
                self._changed.notify_all()
        for sequence in running:
            self._guard(self._handles[sequence].report, [sequence])
            if not sequence.steps_left:
                self._end(sequence, State.FINISHED)

    def _guard(self, action: Callable[[], T], concerned: list[Sequence]) -> T | None:
        """Run a part that is not the loop's own: its error fails those whom it concerns."""
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

    def _give_up(self) -> None:
        """No handle waits for a thread that has ended, however it ended."""
        with self._changed:
            self._is_closed = True
        for sequence in list(self._handles):
            self._end(sequence, State.FAILED, EngineError(SHUT_DOWN))


def _timed(action: Callable[[], T]) -> tuple[T, float]:
    started = time.perf_counter()
    result = action()
    return result, time.perf_counter() - started
