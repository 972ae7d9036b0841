"""The columns of codes in the decoder's input."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import MusicgenForCausalLM

from services.generation.musicgen.geometry import Geometry
from services.generation.musicgen.loop.pattern import DelayPattern

MONO = DelayPattern(codebooks=4, channels=1, pad_token=2048)
STEREO = DelayPattern(codebooks=8, channels=2, pad_token=2048)

patterns = st.sampled_from([MONO, STEREO])


@st.composite
def layouts(draw: st.DrawFn) -> tuple[DelayPattern, int, int]:
    frames = draw(st.integers(4, 40))
    return draw(patterns), frames, draw(st.integers(0, frames))


def codes_of(pattern: DelayPattern, frames: int) -> Any:
    return np.arange(pattern.codebooks * frames).reshape(pattern.codebooks, frames)


def test_lags_of_mono_and_of_stereo_whose_channels_alternate() -> None:
    assert MONO.lags.tolist() == [0, 1, 2, 3]
    assert STEREO.lags.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert MONO.longest_lag == STEREO.longest_lag == 3


def test_pattern_of_a_geometry() -> None:
    geometry = Geometry(
        layers=1,
        hidden=8,
        heads=2,
        ffn=8,
        codebooks=8,
        codebook_size=2048,
        channels=2,
        cross_attention=True,
        max_positions=9,
    )
    assert DelayPattern.from_geometry(geometry) == STEREO


def test_the_grid_of_a_continuation_by_hand() -> None:
    pattern = DelayPattern(codebooks=3, channels=1, pad_token=9)
    grid = pattern.lay_out(np.array([[1, 2], [3, 4], [5, 6]]), frames=4)
    assert grid.tolist() == [
        [9, 1, 2, 9, 9, 9, 9],
        [9, 9, 3, 4, 9, 9, 9],
        [9, 9, 9, 5, 6, 9, 9],
    ]
    assert [pattern.draw_mask(step, 4, 2).tolist() for step in range(2, 6)] == [
        [True, False, False],
        [True, True, False],
        [False, True, True],
        [False, False, True],
    ]


@given(layouts())
def test_grid_is_that_of_transformers(layout: tuple[DelayPattern, int, int]) -> None:
    pattern, frames, known = layout
    codes = codes_of(pattern, known)
    config = SimpleNamespace(audio_channels=pattern.channels)
    owner: Any = SimpleNamespace(num_codebooks=pattern.codebooks, config=config)
    started = torch.nn.functional.pad(torch.from_numpy(codes), (1, 0), value=2048)
    given_ids, mask = MusicgenForCausalLM.build_delay_pattern_mask(
        owner, started, 2048, max_length=frames + pattern.longest_lag + 1
    )
    grid = pattern.lay_out(codes, frames)
    free = mask.numpy() == -1
    np.testing.assert_array_equal(grid[~free], mask.numpy()[~free])
    steps = range(known, known + pattern.count_steps(frames, known))
    assert given_ids.shape[1] == known + 1
    drawn = np.stack([pattern.draw_mask(step, frames, known) for step in steps], 1)
    np.testing.assert_array_equal(drawn, free[:, known + 1 :])


@given(layouts())
def test_steps_draw_each_missing_code_once_and_no_given_one(
    layout: tuple[DelayPattern, int, int],
) -> None:
    pattern, frames, known = layout
    codes = codes_of(pattern, frames)
    grid, whole = pattern.lay_out(codes[:, :known], frames), pattern.lay_out(codes, frames)
    draws = 0
    for step in range(known, known + pattern.count_steps(frames, known)):
        drawn = pattern.draw_mask(step, frames, known)
        assert (grid[drawn, step + 1] == pattern.pad_token).all()
        grid[drawn, step + 1] = whole[drawn, step + 1]
        draws += int(drawn.sum())
    np.testing.assert_array_equal(grid, whole)
    assert draws == pattern.codebooks * (frames - known)


@pytest.mark.parametrize("pattern", [MONO, STEREO])
def test_complete_frames_have_all_their_codes(pattern: DelayPattern) -> None:
    frames = 6
    have = np.zeros((pattern.codebooks, frames), dtype=bool)
    for step in range(pattern.count_steps(frames)):
        drawn = pattern.draw_mask(step, frames)
        have[drawn, step - pattern.lags[drawn]] = True
        assert pattern.count_complete(step + 1, frames) == have.all(0).sum()
