"""Slots, windows and step counts, without torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.errors import InvalidRequestError
from services.generation.musicgen.loop.pattern import DelayPattern
from services.generation.musicgen.loop.request import DecodeRequest
from services.generation.musicgen.loop.scheduler import Scheduler
from services.generation.musicgen.loop.sequence import Sequence, State
from services.generation.musicgen.loop.windows import Window, plan_windows

PATTERN = DelayPattern(codebooks=4, channels=1, pad_token=2048)
ANY: Any = object()


def make_sequence(frames: int, known: int = 0, **fields: int) -> Sequence:
    prefix = np.arange(4 * known).reshape(4, known) if known else None
    request = DecodeRequest(conditioning=(ANY,), frames=frames, prefix=prefix)
    return Sequence(request, PATTERN, **fields)


def step(scheduler: Scheduler) -> None:
    """Do what the loop does in a step, without a model."""
    scheduler.fill_slots()
    for each in scheduler.running:
        each.append(np.full(4, each.next_input().step))
        if not each.steps_left:
            scheduler.end(each, State.FINISHED)


def test_scheduling_does_not_import_torch() -> None:
    names = ("scheduler", "sequence", "windows", "pattern", "request", "pace")
    rooms = [*(f"loop.{name}" for name in names), "geometry"]
    imports = ", ".join(f"services.generation.musicgen.{room}" for room in rooms)
    code = f"import sys, {imports}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_windows_of_a_minute() -> None:
    assert plan_windows(3000) == (
        Window(0, 0, 0, 1500),
        Window(1, 900, 600, 1500),
        Window(2, 1800, 600, 1200),
    )
    assert plan_windows(1500) == (Window(0, 0, 0, 1500),)
    assert plan_windows(1501) == (Window(0, 0, 0, 1500), Window(1, 900, 600, 601))


def test_windows_covered_by_the_prefix_are_left_out() -> None:
    assert plan_windows(2500, 1600) == (Window(1, 900, 700, 1500), Window(2, 1800, 600, 700))


@given(st.integers(1, 300), st.integers(0, 299), st.integers(2, 40), st.integers(1, 39))
def test_windows_draw_each_frame_once_and_with_context(
    frames: int, known: int, window: int, stride: int
) -> None:
    if known >= frames or stride >= window:
        with pytest.raises(ValueError, match="frames"):
            plan_windows(frames, known, window=window, stride=stride)
        return
    plan = plan_windows(frames, known, window=window, stride=stride)
    drawn = [at for part in plan for at in range(part.start + part.known, part.start + part.frames)]
    assert drawn == list(range(known, frames))
    assert all(part.frames <= window for part in plan)
    assert all(part.known >= window - stride for part in plan[1:])


@given(st.integers(1, 200), st.integers(0, 199), st.integers(5, 30))
def test_steps_are_counted_and_codes_are_stored_in_their_frames(
    frames: int, known: int, window: int
) -> None:
    if known >= frames:
        with pytest.raises(InvalidRequestError, match="longer"):
            make_sequence(frames, known)
        return
    sequence = make_sequence(frames, known, window=window, stride=window - 3)
    sequence.slot, taken, last_step, ready = 0, 0, -1, sequence.frames_ready
    while sequence.steps_left:
        inputs = sequence.next_input()
        assert inputs.position < sequence.positions
        assert sequence.is_at_window_start == (inputs.position == sequence.prefill_tokens.shape[1])
        sequence.append(np.full(4, inputs.step))
        taken += 1
        assert sequence.frames_ready >= ready
        last_step, ready = inputs.step, sequence.frames_ready
    assert taken == sequence.steps_done == sequence.steps_total
    assert sequence.frames_ready == frames
    assert last_step == frames + 2
    drawn = np.arange(known, frames) + PATTERN.lags[:, None]
    np.testing.assert_array_equal(sequence.codes[:, known:], drawn)
    np.testing.assert_array_equal(sequence.codes[:, :known].ravel(), np.arange(4 * known))


def test_prefill_positions_left_are_those_of_windows_not_started() -> None:
    sequence = make_sequence(30, 4, window=16, stride=10)
    sequence.slot = 0
    assert [part.known for part in sequence.windows] == [4, 6, 6]
    assert sequence.prefill_positions_left == 16
    sequence.append(np.zeros(4, dtype=np.int64))
    assert sequence.prefill_positions_left == 12


def test_a_window_has_its_own_conditioning_or_the_last() -> None:
    first: Any = object()
    second: Any = object()
    request = DecodeRequest(conditioning=(first, second), frames=40)
    sequence = Sequence(request, PATTERN, window=16, stride=10)
    sequence.slot, used = 0, []
    while sequence.steps_left:
        if sequence.is_at_window_start:
            used.append(sequence.conditioning)
        sequence.append(np.zeros(4, dtype=np.int64))
    assert used == [first, second, second, second][: len(sequence.windows)]


def test_first_come_first_served() -> None:
    scheduler = Scheduler(2)
    sequences = [make_sequence(frames) for frames in (9, 2, 4, 1)]
    for sequence in sequences:
        scheduler.add(sequence)
    scheduler.fill_slots()
    assert [sequence.slot for sequence in sequences] == [0, 1, None, None]
    for _ in range(sequences[1].steps_total):
        step(scheduler)
    scheduler.fill_slots()
    assert [sequence.slot for sequence in sequences] == [0, None, 1, None]
    assert sequences[1].state is State.FINISHED


@given(
    st.integers(1, 4),
    st.lists(st.one_of(st.integers(1, 12), st.just("step"), st.just("leave")), max_size=40),
)
def test_any_order_of_joins_steps_and_leaves(slots: int, actions: list[Any]) -> None:
    scheduler, everyone = Scheduler(slots), []
    for action in actions:
        if action == "step":
            step(scheduler)
        elif action == "leave" and everyone:
            sequence = everyone.pop(len(everyone) // 2)
            if not sequence.state.is_over:
                scheduler.end(sequence, State.CANCELLED)
        elif isinstance(action, int):
            everyone.append(make_sequence(action))
            scheduler.add(everyone[-1])
        assert len(scheduler.running) <= slots
        assert len({sequence.slot for sequence in scheduler.running}) == len(scheduler.running)
    expected = {
        sequence: scheduler.steps_until_end(sequence)
        for sequence in everyone
        if not sequence.state.is_over
    }
    steps = 0
    while not scheduler.is_idle:
        step(scheduler)
        steps += 1
        ended = [each for each in expected if each.state is State.FINISHED]
        assert all(expected.pop(each) == steps for each in ended)
    assert not expected


def test_steps_of_an_unknown_sequence_are_an_error() -> None:
    with pytest.raises(ValueError, match="neither"):
        Scheduler(1).steps_until_end(make_sequence(3))
