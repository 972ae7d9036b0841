"""A caller's handle on a request."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from services.errors import CancelledError, EngineError
from services.generation.musicgen.loop import handle as handle_module
from services.generation.musicgen.loop.loop import DecodeLoop
from services.generation.musicgen.loop.sequence import State
from tests.generation.musicgen.loop.test_loop import SECONDS, Counting, expected, request


@pytest.fixture
def gate(loop_model: Counting) -> threading.Event:
    """Holds the loop before its first step until it is set."""
    event = threading.Event()

    def wait(step: int) -> None:
        if step == 0:
            assert event.wait(SECONDS)

    loop_model.before_step = wait
    return event


@pytest.fixture
def loop_model() -> Counting:
    return Counting()


@pytest.fixture
def loop(loop_model: Counting) -> Iterator[DecodeLoop]:
    with DecodeLoop(loop_model) as running:
        yield running


def test_while_waiting_is_called_until_codes_arrive(
    loop: DecodeLoop, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handle_module, "POLL_SECONDS", 0.001)
    calls: list[int] = []

    def wait() -> None:
        calls.append(1)
        if len(calls) == 3:
            gate.set()

    codes = list(loop.submit(request(6)).stream(6, while_waiting=wait))
    assert len(calls) >= 3
    np.testing.assert_array_equal(codes[0], expected(6))


def test_streamed_codes_are_copies(loop: DecodeLoop) -> None:
    handle = loop.submit(request(8))
    for codes in handle.stream(3):
        codes[:] = -1
    np.testing.assert_array_equal(handle.result(SECONDS), expected(8))


@pytest.mark.parametrize("frames", [1, 7, 8, 100])
def test_a_stream_has_every_code_once_for_any_block_size(loop: DecodeLoop, frames: int) -> None:
    blocks = list(loop.submit(request(8)).stream(frames))
    assert [block.shape[1] for block in blocks[:-1]] == [frames] * (len(blocks) - 1)
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), expected(8))


def test_a_stream_starts_with_the_prefix(loop: DecodeLoop) -> None:
    prefix = np.arange(8).reshape(4, 2)
    handle = loop.submit(request(6, prefix=prefix))
    assert handle.prefix_frames == 2
    np.testing.assert_array_equal(next(handle.stream(2)), prefix)


def test_cancel_wakes_a_waiting_stream(
    loop: DecodeLoop, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handle_module, "POLL_SECONDS", SECONDS)
    handle = loop.submit(request(50))
    stream = handle.stream(10, while_waiting=lambda: pytest.fail("it waited for the timeout"))
    timer = threading.Timer(0.001, lambda: (handle.cancel(), gate.set()))
    timer.start()
    with pytest.raises(CancelledError):
        next(stream)
    timer.join()


def test_cancel_after_the_end_changes_nothing(loop: DecodeLoop) -> None:
    handle = loop.submit(request(5))
    handle.result(SECONDS)
    handle.cancel()
    assert handle.state is State.FINISHED
    np.testing.assert_array_equal(handle.result(0), expected(5))


def test_steps_count_the_work_and_its_time(loop: DecodeLoop) -> None:
    handle = loop.submit(request(10))
    handle.result(SECONDS)
    assert handle.steps.count == 13
    assert 0 < handle.steps.seconds < SECONDS


def test_progress_of_a_waiting_request(loop_model: Counting, gate: threading.Event) -> None:
    loop_model.slots = 1
    with DecodeLoop(loop_model) as loop:
        first, second = loop.submit(request(10)), loop.submit(request(5))
        progress = second.progress()
        assert (progress.steps_done, progress.steps_total, progress.frames_ready) == (0, 8, 0)
        assert progress.steps_ahead == 13 + 8
        assert progress.seconds_left is None
        assert second.state is State.WAITING
        gate.set()
        first.result(SECONDS)


def test_the_cause_of_a_failure_is_kept(loop_model: Counting, loop: DecodeLoop) -> None:
    cause = OSError("the device is gone")

    def fail(_: int) -> None:
        raise cause

    loop_model.before_step = fail
    handle = loop.submit(request())
    for call in (lambda: handle.result(SECONDS), lambda: next(handle.stream(1))):
        with pytest.raises(EngineError, match="The model failed while it made the music") as caught:
            call()
        assert caught.value.__cause__ is cause
    finished: Any = handle.progress()
    assert (finished.steps_ahead, finished.seconds_left) == (0, 0.0)
