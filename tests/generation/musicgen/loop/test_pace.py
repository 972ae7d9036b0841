"""Estimates of the time left."""

from __future__ import annotations

from typing import Any

import pytest

from services.generation.musicgen.loop.pace import SMOOTHING, Pace
from services.generation.musicgen.loop.pattern import DelayPattern
from services.generation.musicgen.loop.request import DecodeRequest
from services.generation.musicgen.loop.sequence import Sequence

PATTERN = DelayPattern(codebooks=4, channels=1, pad_token=2048)
ANY: Any = object()


def make_sequence(frames: int) -> Sequence:
    request = DecodeRequest(conditioning=(ANY,), frames=frames)
    return Sequence(request, PATTERN, window=16, stride=10)


def test_nothing_is_estimated_before_the_first_step() -> None:
    pace = Pace()
    pace.record_prefill(6, 0.3)
    assert pace.estimate_seconds(5, make_sequence(10)) is None


def test_the_first_step_sets_the_pace_and_later_ones_move_it() -> None:
    pace, sequence = Pace(), make_sequence(10)
    pace.record_step(0.5)
    assert pace.estimate_seconds(4, sequence) == pytest.approx(2.0)
    pace.record_step(1.5)
    assert pace.estimate_seconds(1, sequence) == pytest.approx(SMOOTHING * 0.5 + 0.15)


def test_a_constant_pace_is_estimated_exactly() -> None:
    pace, sequence = Pace(), make_sequence(10)
    for _ in range(20):
        pace.record_step(0.02)
    assert pace.estimate_seconds(50, sequence) == pytest.approx(1.0)


def test_prefills_of_later_windows_are_part_of_the_estimate() -> None:
    pace, sequence = Pace(), make_sequence(30)
    pace.record_step(0.01)
    assert pace.estimate_seconds(0, sequence) == 0.0
    pace.record_prefill(6, 0.6)
    assert sequence.prefill_positions_left == 12
    assert pace.estimate_seconds(10, sequence) == pytest.approx(0.1 + 12 * 0.1)


def test_a_window_without_prefill_is_not_measured() -> None:
    pace, sequence = Pace(), make_sequence(30)
    pace.record_step(0.01)
    pace.record_prefill(0, 99.0)
    assert pace.estimate_seconds(1, sequence) == pytest.approx(0.01)
