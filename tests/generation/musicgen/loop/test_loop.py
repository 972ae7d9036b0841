"""The decode loop: joining, leaving, cancelling and failing. test_equality.py checks the codes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from services.errors import CancelledError, EngineError, InvalidRequestError
from services.generation.musicgen.geometry import Geometry
from services.generation.musicgen.loop.loop import DecodeLoop
from services.generation.musicgen.loop.request import Conditioning, DecodeRequest, Sampling
from services.generation.musicgen.loop.sequence import State
from services.generation.musicgen.loop.token_model import SampledDecoder
from tests.conftest import LIMIT_SECONDS as SECONDS
from tests.generation.musicgen.oracle import decoder_of
from tests.generation.musicgen.tiny import tiny_model

HIDDEN = 64
GEOMETRY = Geometry(
    layers=1,
    hidden=HIDDEN,
    heads=2,
    ffn=8,
    codebooks=4,
    codebook_size=2048,
    channels=1,
    cross_attention=True,
    max_positions=2048,
)


class Counting:
    """A token model that draws the number of the step, with hooks for tests."""

    geometry = GEOMETRY
    positions = 3000

    def __init__(self, slots: int = 2) -> None:
        self.slots = slots
        self.before_step: Callable[[int], None] = lambda _: None
        self.before_begin: Callable[[Conditioning], None] = lambda _: None
        self.begun: list[tuple[int, int]] = []
        self.most = 0

    def begin_window(
        self, slot: int, conditioning: Conditioning, sampling: Sampling, opening: Any
    ) -> None:
        assert sampling == Sampling()
        self.before_begin(conditioning)
        self.begun.append((slot, opening.shape[1]))

    def step(self, inputs: Any) -> Any:
        self.most = max(self.most, len(inputs))
        for each in inputs:
            self.before_step(each.step)
        return np.array([[each.step] * 4 for each in inputs])


def request(frames: int = 10, **fields: Any) -> DecodeRequest:
    given = {"conditioning": (Conditioning(torch.zeros(3, HIDDEN)),), "frames": frames} | fields
    return DecodeRequest(**given)


def expected(frames: int) -> Any:
    return np.arange(frames) + np.arange(4)[:, None]


@pytest.fixture
def model() -> Counting:
    return Counting()


@pytest.fixture
def loop(model: Counting) -> Iterator[DecodeLoop]:
    with DecodeLoop(model) as running:
        yield running


def test_each_of_many_threads_gets_its_own_codes(model: Counting, loop: DecodeLoop) -> None:
    got: dict[int, Any] = {}

    def ask(frames: int) -> None:
        got[frames] = loop.submit(request(frames)).result(SECONDS)

    threads = [threading.Thread(target=ask, args=(frames,)) for frames in range(5, 25)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert sorted(got) == list(range(5, 25))
    for frames, codes in got.items():
        np.testing.assert_array_equal(codes, expected(frames))
    assert model.most <= 2


def test_steps_that_no_caller_waits_for_wake_no_thread(
    loop: DecodeLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    woken = []
    wake = loop._changed.notify_all
    monkeypatch.setattr(loop._changed, "notify_all", lambda: (woken.append(1), wake()))
    loop.submit(request(200)).result(SECONDS)
    assert len(woken) == 2


def test_requests_run_together_and_start_in_order(model: Counting, loop: DecodeLoop) -> None:
    finished: list[str] = []
    last: list[Any] = []

    def note(name: str) -> Callable[[int, int], None]:
        return lambda done, total: finished.append(name) if done == total else None

    def join(done: int, total: int) -> None:
        note("first")(done, total)
        if done == 1:
            last.append(loop.submit(request(4), note("second")))
            last.append(loop.submit(request(4), note("third")))

    first = loop.submit(request(30), join)
    first.result(SECONDS)
    assert [handle.result(SECONDS).shape for handle in last] == [(4, 4), (4, 4)]
    assert finished == ["second", "third", "first"]
    assert model.begun == [(0, 0), (1, 0), (1, 0)]


def test_progress_counts_every_step_and_ends_with_the_last(loop: DecodeLoop) -> None:
    steps: list[tuple[int, int]] = []
    handle = loop.submit(request(10), lambda done, total: steps.append((done, total)))
    handle.result(SECONDS)
    assert steps == [(done, 13) for done in range(1, 14)]
    progress = handle.progress()
    assert (progress.frames_ready, progress.steps_ahead, progress.seconds_left) == (10, 0, 0.0)
    assert handle.state is State.FINISHED


def test_steps_ahead_count_the_queue(model: Counting) -> None:
    model.slots = 1
    seen: list[Any] = []
    with DecodeLoop(model) as loop:
        handles: list[Any] = []

        def look(done: int, _: int) -> None:
            if done == 1:
                handles.append(loop.submit(request(5)))
            if done == 4:
                seen.extend(handle.progress() for handle in handles)

        handles.append(loop.submit(request(10), look))
        handles[0].result(SECONDS)
        handles[1].result(SECONDS)
    assert [each.steps_ahead for each in seen] == [9, 9 + 8]
    assert [each.frames_ready for each in seen] == [1, 0]
    assert 0 < seen[0].seconds_left < seen[1].seconds_left


def test_each_window_is_prefilled_with_its_known_frames(model: Counting) -> None:
    with DecodeLoop(model, window_frames=16, stride_frames=10) as loop:
        codes = loop.submit(request(30, prefix=np.zeros((4, 2), dtype=np.int64))).result(SECONDS)
    np.testing.assert_array_equal(codes[:, 2:], expected(30)[:, 2:])
    assert model.begun == [(0, 2), (0, 6), (0, 6)]


def test_codes_are_streamed_while_they_are_drawn(model: Counting, loop: DecodeLoop) -> None:
    taken = threading.Event()

    def wait(step: int) -> None:
        if step == 12:
            assert taken.wait(SECONDS)

    model.before_step = wait
    stream = loop.submit(request(20)).stream(4)
    parts = [next(stream), next(stream)]
    taken.set()
    parts += list(stream)
    assert [part.shape[1] for part in parts] == [4, 4, 4, 4, 4]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), expected(20))


def test_a_stream_ends_with_a_shorter_block(loop: DecodeLoop) -> None:
    handle = loop.submit(request(10))
    assert [part.shape[1] for part in handle.stream(4)] == [4, 4, 2]


def test_a_cancelled_request_stops_before_the_next_step_and_others_continue(
    model: Counting, loop: DecodeLoop
) -> None:
    steps: list[int] = []

    def stop(done: int, _: int) -> None:
        steps.append(done)
        if done == 3:
            handles[0].cancel()

    ready = threading.Event()
    model.before_begin = lambda _: ready.wait(SECONDS) and None
    handles = [loop.submit(request(50), stop)]
    handles.append(loop.submit(request(20)))
    ready.set()
    with pytest.raises(CancelledError, match="stopped"):
        handles[0].result(SECONDS)
    assert handles[0].state is State.CANCELLED
    assert steps == [1, 2, 3]
    np.testing.assert_array_equal(handles[1].result(SECONDS), expected(20))
    with pytest.raises(CancelledError):
        list(handles[0].stream(4))


def test_should_stop_is_called_before_each_step_for_waiting_requests_too(model: Counting) -> None:
    model.slots = 1
    asked: list[str] = []
    steps: list[int] = []

    def name(who: str, after: int) -> Callable[[], bool]:
        def should_stop() -> bool:
            asked.append(who)
            return len(steps) >= after

        return should_stop

    with DecodeLoop(model) as loop:
        handles: list[Any] = []

        def join(done: int, _: int) -> None:
            steps.append(done)
            if done == 1:
                handles.append(loop.submit(request(9), should_stop=name("waiting", 2)))

        handles.append(loop.submit(request(50), join, name("running", 5)))
        for handle in handles:
            with pytest.raises(CancelledError):
                handle.result(SECONDS)
    assert steps == [1, 2, 3, 4, 5]
    assert asked.count("running") == 6
    assert asked.count("waiting") == 2


def test_an_error_in_a_step_fails_the_running_requests_only(
    model: Counting, loop: DecodeLoop
) -> None:
    def fail(step: int) -> None:
        if step == 4:
            model.before_step = lambda _: None
            raise RuntimeError("the device is gone")

    model.before_step = fail
    handles = [loop.submit(request(20)) for _ in range(3)]
    with pytest.raises(EngineError, match="made the music: the device is gone") as caught:
        handles[0].result(SECONDS)
    assert isinstance(caught.value.__cause__, RuntimeError)
    np.testing.assert_array_equal(handles[2].result(SECONDS), expected(20))
    assert handles[0].state is State.FAILED
    np.testing.assert_array_equal(loop.submit(request(7)).result(SECONDS), expected(7))


@pytest.mark.parametrize("where", ["begin", "progress", "should_stop"])
def test_an_error_of_one_request_fails_that_request_only(
    model: Counting, loop: DecodeLoop, where: str
) -> None:
    bad = request(9)

    def fail(*_: object) -> Any:
        raise KeyError("wrong")

    def fail_begin(conditioning: Conditioning) -> None:
        if where == "begin" and conditioning is bad.conditioning[0]:
            fail()

    model.before_begin = fail_begin
    good = loop.submit(request(30))
    handle = loop.submit(
        bad,
        fail if where == "progress" else None,
        fail if where == "should_stop" else None,
    )
    with pytest.raises(EngineError, match="wrong"):
        handle.result(SECONDS)
    np.testing.assert_array_equal(good.result(SECONDS), expected(30))


def test_an_error_of_this_project_reaches_the_caller_unchanged(
    model: Counting, loop: DecodeLoop
) -> None:
    def fail(_: int) -> None:
        raise EngineError("The GPU ran out of memory. Ask for fewer pieces at once.")

    model.before_step = fail
    with pytest.raises(EngineError, match=r"^The GPU ran out of memory"):
        loop.submit(request()).result(SECONDS)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_requests_fail_when_the_thread_of_the_loop_dies(model: Counting, loop: DecodeLoop) -> None:
    # A back end that returns too few rows breaks the loop itself.
    model.step = lambda inputs: np.zeros((len(inputs) - 1, 4))  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="shut down"):
        loop.submit(request()).result(SECONDS)
    with pytest.raises(EngineError, match="shut down"):
        loop.submit(request())


def test_close_fails_unfinished_requests(model: Counting) -> None:
    running, go = threading.Event(), threading.Event()

    def wait(_: int) -> None:
        running.set()
        go.wait(SECONDS)

    model.before_step = wait
    loop = DecodeLoop(model)
    handles = [loop.submit(request()) for _ in range(4)]
    assert running.wait(SECONDS)
    closing = threading.Thread(target=loop.close)
    closing.start()
    go.set()
    for handle in handles:
        with pytest.raises(EngineError, match="shut down"):
            handle.result(SECONDS)
    closing.join(SECONDS)
    with pytest.raises(EngineError, match="shut down"):
        loop.submit(request())


def test_a_result_that_takes_too_long_is_a_timeout(model: Counting, loop: DecodeLoop) -> None:
    go = threading.Event()
    model.before_step = lambda _: go.wait(SECONDS) and None
    handle = loop.submit(request())
    with pytest.raises(TimeoutError):
        handle.result(0)
    go.set()
    np.testing.assert_array_equal(handle.result(SECONDS), expected(10))


ONE = torch.zeros(1, HIDDEN)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"frames": 0}, "longer"),
        ({"conditioning": ()}, "no conditioning"),
        ({"conditioning": (Conditioning(torch.zeros(3, 32)),)}, "needs"),
        ({"conditioning": (Conditioning(torch.zeros(0, HIDDEN)),)}, "needs"),
        ({"conditioning": (Conditioning(torch.zeros(HIDDEN)),)}, "needs"),
        ({"conditioning": (Conditioning(ONE, torch.zeros(2, HIDDEN)),)}, "needs"),
        ({"prefix": np.zeros((8, 2), dtype=np.int64)}, "8 codebooks"),
        ({"prefix": np.full((4, 2), 2048)}, "not all from 0 to 2047"),
        ({"prefix": np.full((4, 2), -1)}, "not all from 0 to 2047"),
        ({"prefix": np.zeros((4, 10), dtype=np.int64)}, "longer"),
    ],
)
def test_an_invalid_request_is_refused_by_submit(
    loop: DecodeLoop, wrong: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InvalidRequestError, match=sentence):
        loop.submit(request(**wrong))


def test_a_request_needs_positions_for_its_longest_window(model: Counting) -> None:
    model.positions = 19
    with DecodeLoop(model, window_frames=16, stride_frames=10) as loop:
        assert loop.submit(request(40)).result(SECONDS).shape == (4, 40)
    model.positions = 18
    with DecodeLoop(model, window_frames=16, stride_frames=10) as loop:
        with pytest.raises(InvalidRequestError, match="needs 19 positions"):
            loop.submit(request(40))
        assert loop.submit(request(15)).result(SECONDS).shape == (4, 15)


def test_a_real_decoder_fails_one_request_with_its_own_error_and_serves_the_next() -> None:
    decoder = decoder_of(tiny_model(), positions=30)
    decoder._sinusoids = decoder._sinusoids[:10]
    with DecodeLoop(SampledDecoder(decoder)) as loop:
        with pytest.raises(EngineError, match="out of"):
            loop.submit(request(12)).result(SECONDS)
        assert loop.submit(request(6)).result(SECONDS).shape == (4, 6)


def test_a_callback_may_close_the_loop(model: Counting) -> None:
    loop = DecodeLoop(model)
    handle = loop.submit(request(20), lambda done, _: loop.close() if done == 3 else None)
    with pytest.raises(EngineError, match="shut down"):
        handle.result(SECONDS)
    loop.close()
    assert handle.progress().steps_done == 3


def test_a_loop_may_be_closed_twice_and_without_requests(model: Counting) -> None:
    loop = DecodeLoop(model)
    loop.close()
    loop.close()
    assert model.begun == []


def test_a_finished_request_keeps_its_codes_after_close(model: Counting) -> None:
    with DecodeLoop(model) as loop:
        handle = loop.submit(request(6))
        handle.result(SECONDS)
    np.testing.assert_array_equal(handle.result(0), expected(6))


def test_a_request_cancelled_before_its_first_step_never_reaches_the_model(
    model: Counting, loop: DecodeLoop
) -> None:
    handle = loop.submit(request(6), should_stop=lambda: True)
    with pytest.raises(CancelledError):
        handle.result(SECONDS)
    assert (model.begun, model.most) == ([], 0)
    np.testing.assert_array_equal(loop.submit(request(5)).result(SECONDS), expected(5))


def test_the_model_runs_where_execute_says(model: Counting) -> None:
    calls: list[str] = []

    def execute(action: Callable[[], Any], /) -> Any:
        calls.append(threading.current_thread().name)
        return action()

    with DecodeLoop(model, execute=execute) as loop:
        loop.submit(request(4)).result(SECONDS)
    assert calls == ["musicgen-decode"] * (1 + 7)


def test_a_window_that_fails_to_start_fails_only_its_request(model: Counting) -> None:
    starts: list[int] = []

    def fail_second(_: Conditioning) -> None:
        starts.append(1)
        if len(starts) == 2:
            raise RuntimeError("no memory")

    model.before_begin = fail_second
    with DecodeLoop(model, window_frames=16, stride_frames=10) as loop:
        handle = loop.submit(request(30))
        with pytest.raises(EngineError, match="no memory"):
            handle.result(SECONDS)
        assert handle.progress().frames_ready == 16
        assert loop.submit(request(5)).result(SECONDS).shape == (4, 5)


def test_a_melody_prefix_counts_as_positions(model: Counting) -> None:
    model.geometry = replace(GEOMETRY, cross_attention=False)
    model.positions = 10 + 3 + 3
    with DecodeLoop(model) as loop:
        assert loop.submit(request(10)).result(SECONDS).shape == (4, 10)
        with pytest.raises(InvalidRequestError, match=r"needs 17 positions, .* loaded with 16\."):
            loop.submit(request(11))
