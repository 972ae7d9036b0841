"""A request while it is decoded."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from services.generation.musicgen.loop.pattern import DelayPattern
from services.generation.musicgen.loop.request import DecodeRequest
from services.generation.musicgen.loop.sequence import Sequence, State

PATTERN = DelayPattern(codebooks=4, channels=1, pad_token=2048)
ANY: Any = object()


def start(frames: int, prefix: Any = None, **sizes: int) -> Sequence:
    request = DecodeRequest(conditioning=(ANY,), frames=frames, prefix=prefix)
    sequence = Sequence(request, PATTERN, **sizes)
    sequence.slot = 1
    return sequence


def run(sequence: Sequence, steps: int) -> None:
    for _ in range(steps):
        sequence.append(np.full(4, sequence.next_input().step))


@pytest.mark.parametrize(
    ("state", "is_over"),
    [
        (State.WAITING, False),
        (State.RUNNING, False),
        (State.FINISHED, True),
        (State.CANCELLED, True),
        (State.FAILED, True),
    ],
)
def test_only_final_states_are_over(state: State, is_over: bool) -> None:
    assert state.is_over == is_over


def test_the_first_input_is_all_pads() -> None:
    step = start(5).next_input()
    assert (step.slot, step.position, step.step) == (1, 0, 0)
    assert step.tokens.tolist() == [2048] * 4


def test_drawn_tokens_are_the_next_input_where_the_pattern_has_frames() -> None:
    sequence = start(5)
    sequence.append(np.array([7, 8, 9, 10]))
    assert sequence.next_input().tokens.tolist() == [7, 2048, 2048, 2048]
    sequence.append(np.array([11, 12, 13, 14]))
    assert sequence.next_input().tokens.tolist() == [11, 12, 2048, 2048]
    assert sequence.codes[:, 0].tolist() == [7, 12, 0, 0]


def test_a_frame_is_ready_when_its_last_codebook_is_drawn() -> None:
    sequence, ready = start(3), []
    while sequence.steps_left:
        run(sequence, 1)
        ready.append(sequence.frames_ready)
    assert ready == [0, 0, 0, 1, 2, 3]


def test_a_prefix_is_ready_at_once_and_stays_unchanged() -> None:
    prefix = np.arange(8).reshape(4, 2)
    sequence = start(6, prefix)
    assert sequence.frames_ready == 2
    assert sequence.next_input().position == 2
    run(sequence, sequence.steps_total)
    np.testing.assert_array_equal(sequence.codes[:, :2], prefix)


def test_the_caller_keeps_its_prefix() -> None:
    prefix = np.zeros((4, 2), dtype=np.int64)
    sequence = start(6, prefix)
    run(sequence, sequence.steps_total)
    assert not prefix.any()


def test_positions_restart_with_each_window_and_steps_never_repeat() -> None:
    sequence, seen = start(30, window=16, stride=10), []
    while sequence.steps_left:
        step = sequence.next_input()
        seen.append((step.step, step.position, sequence.window.number))
        run(sequence, 1)
    firsts = [seen[0], *(b for a, b in itertools.pairwise(seen) if a[2] != b[2])]
    assert firsts == [(0, 0, 0), (16, 6, 1), (26, 6, 2)]
    drawn = {
        (codebook, step)
        for step, position, window in seen
        for codebook in np.flatnonzero(
            PATTERN.draw_mask(
                position, sequence.windows[window].frames, sequence.windows[window].known
            )
        )
    }
    draws = 4 * 30
    assert len(drawn) == draws


def test_prefill_tokens_of_a_window_are_the_known_codes_in_the_pattern() -> None:
    sequence = start(30, window=16, stride=10)
    assert sequence.prefill_tokens.shape == (4, 0)
    run(sequence, 19)
    assert sequence.is_at_window_start
    assert sequence.window.number == 1
    expected = PATTERN.lay_out(sequence.codes[:, 10:16], 16)[:, :6]
    np.testing.assert_array_equal(sequence.prefill_tokens, expected)


def test_the_longest_window_decides_the_positions() -> None:
    assert start(5, window=16, stride=10).positions == 8
    assert start(300, window=16, stride=10).positions == 19
