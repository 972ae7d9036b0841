"""Slots, windows and counted steps; nothing here needs torch."""

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
from services.generation.musicgen.loop.windows import Window, windows

PATTERN = DelayPattern(codebooks=4, channels=1, pad_token=2048)
ANY: Any = object()


def sequence(frames: int, known: int = 0, **fields: int) -> Sequence:
    prefix = np.arange(4 * known).reshape(4, known) if known else None
    request = DecodeRequest(conditioning=(ANY,), frames=frames, prefix=prefix)
    return Sequence(request, PATTERN, **fields)


def step(scheduler: Scheduler) -> None:
    """What the loop does, without a model."""
    scheduler.fill()
    for each in scheduler.running:
        each.take(np.full(4, each.turn().step))
        if not each.steps_left:
            scheduler.end(each, State.FINISHED)


def test_nothing_here_imports_torch() -> None:
    names = ("scheduler", "sequence", "windows", "pattern", "request", "pace")
    rooms = [*(f"loop.{name}" for name in names), "geometry"]
    imports = ", ".join(f"services.generation.musicgen.{room}" for room in rooms)
    code = f"import sys, {imports}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_windows_of_a_minute() -> None:
    assert windows(3000) == (
        Window(0, 0, 0, 1500),
        Window(1, 900, 600, 1500),
        Window(2, 1800, 600, 1200),
    )
    assert windows(1500) == (Window(0, 0, 0, 1500),)
    assert windows(1501) == (Window(0, 0, 0, 1500), Window(1, 900, 600, 601))


def test_windows_that_the_prefix_fills_are_left_out() -> None:
    assert windows(2500, 1600) == (Window(1, 900, 700, 1500), Window(2, 1800, 600, 700))


@given(st.integers(1, 300), st.integers(0, 299), st.integers(2, 40), st.integers(1, 39))
def test_windows_draw_each_frame_once_and_always_with_context(
    frames: int, known: int, window: int, stride: int
) -> None:
    if known >= frames or stride >= window:
        with pytest.raises(ValueError, match="frames"):
            windows(frames, known, window=window, stride=stride)
        return
    plan = windows(frames, known, window=window, stride=stride)
    drawn = [at for part in plan for at in range(part.start + part.known, part.start + part.frames)]
    assert drawn == list(range(known, frames))
    assert all(part.frames <= window for part in plan)
    assert all(part.known >= window - stride for part in plan[1:])


@given(st.integers(1, 200), st.integers(0, 199), st.integers(5, 30))
def test_steps_are_counted_right_and_codes_land_in_their_frames(
    frames: int, known: int, window: int
) -> None:
    if known >= frames:
        with pytest.raises(InvalidRequestError, match="longer"):
            sequence(frames, known)
        return
    piece = sequence(frames, known, window=window, stride=window - 3)
    piece.slot, taken, last_step, ready = 0, 0, -1, piece.frames_ready
    while piece.steps_left:
        turn = piece.turn()
        assert turn.position < piece.positions
        assert piece.enters_window == (turn.position == piece.opening.shape[1])
        piece.take(np.full(4, turn.step))
        taken += 1
        assert piece.frames_ready >= ready
        last_step, ready = turn.step, piece.frames_ready
    assert taken == piece.steps_done == piece.steps_total
    assert piece.frames_ready == frames
    assert last_step == frames + 2
    drawn = np.arange(known, frames) + PATTERN.lags[:, None]
    np.testing.assert_array_equal(piece.codes[:, known:], drawn)
    np.testing.assert_array_equal(piece.codes[:, :known].ravel(), np.arange(4 * known))


def test_openings_left_are_those_of_windows_not_begun() -> None:
    piece = sequence(30, 4, window=16, stride=10)
    piece.slot = 0
    assert [part.known for part in piece.windows] == [4, 6, 6]
    assert piece.openings_left == 16
    piece.take(np.zeros(4, dtype=np.int64))
    assert piece.openings_left == 12


def test_a_window_has_its_own_conditioning_or_the_last() -> None:
    first: Any = object()
    second: Any = object()
    request = DecodeRequest(conditioning=(first, second), frames=40)
    piece = Sequence(request, PATTERN, window=16, stride=10)
    piece.slot, used = 0, []
    while piece.steps_left:
        if piece.enters_window:
            used.append(piece.conditioning)
        piece.take(np.zeros(4, dtype=np.int64))
    assert used == [first, second, second, second][: len(piece.windows)]


def test_first_come_first_served() -> None:
    scheduler = Scheduler(2)
    pieces = [sequence(frames) for frames in (9, 2, 4, 1)]
    for piece in pieces:
        scheduler.submit(piece)
    scheduler.fill()
    assert [piece.slot for piece in pieces] == [0, 1, None, None]
    for _ in range(pieces[1].steps_total):
        step(scheduler)
    scheduler.fill()
    assert [piece.slot for piece in pieces] == [0, None, 1, None]
    assert pieces[1].state is State.FINISHED


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
            piece = everyone.pop(len(everyone) // 2)
            if not piece.state.is_over:
                scheduler.end(piece, State.CANCELLED)
        elif isinstance(action, int):
            everyone.append(sequence(action))
            scheduler.submit(everyone[-1])
        assert len(scheduler.running) <= slots
        assert len({piece.slot for piece in scheduler.running}) == len(scheduler.running)
    expected = {
        piece: scheduler.steps_until_end(piece) for piece in everyone if not piece.state.is_over
    }
    steps = 0
    while not scheduler.is_idle:
        step(scheduler)
        steps += 1
        ended = [each for each in expected if each.state is State.FINISHED]
        assert all(expected.pop(each) == steps for each in ended)
    assert not expected


def test_steps_of_a_piece_that_is_nowhere() -> None:
    with pytest.raises(ValueError, match="neither"):
        Scheduler(1).steps_until_end(sequence(3))
