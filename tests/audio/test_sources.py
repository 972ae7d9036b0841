import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.audio.sources import ArraySource, BlockReducer, join_blocks


def ramp(samples, channels=2):
    return np.arange(channels * samples, dtype=np.float32).reshape(channels, samples)


@pytest.mark.parametrize("samples", [1, 16_384, 16_385, 40_000])
def test_blocks_of_an_array_are_views_in_order(samples):
    audio = ramp(samples)
    source = ArraySource(audio, 48_000)
    for _ in range(2):
        blocks = list(source.blocks())
        assert all(np.shares_memory(block, audio) for block in blocks)
        assert np.array_equal(np.concatenate(blocks, axis=1), audio)
    assert (source.channels, source.sample_rate) == (2, 48_000)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8))
def test_joined_blocks_are_the_signal(lengths):
    audio = ramp(sum(lengths))
    blocks = np.split(audio, np.cumsum(lengths)[:-1], axis=1)
    assert np.array_equal(join_blocks(blocks, audio.shape), audio)


@given(
    lengths=st.lists(st.integers(0, 40), max_size=8),
    width=st.integers(1, 30),
    reduce=st.sampled_from([np.add, np.maximum, np.minimum]),
)
def test_reduction_does_not_depend_on_the_blocks(lengths, width, reduce):
    values = np.random.default_rng(width).integers(-9, 9, sum(lengths)).astype(np.float32)
    reducer = BlockReducer(reduce, width)
    for part in np.split(values, np.cumsum(lengths)):
        reducer.push(part)
    expected = [
        reduce.reduce(values[start : start + width]) for start in range(0, values.size, width)
    ]
    assert reducer.result().tolist() == expected


def test_result_can_be_read_before_the_end():
    reducer = BlockReducer(np.add, 2)
    reducer.push(np.ones(3, np.float32))
    assert reducer.result().tolist() == [2.0, 1.0]
    reducer.push(np.ones(1, np.float32))
    assert reducer.result().tolist() == [2.0, 2.0]


def test_pushed_values_may_be_overwritten_by_the_caller():
    reducer, values = BlockReducer(np.maximum, 4), np.ones(3, np.float32)
    reducer.push(values)
    values[:] = 9.0
    assert reducer.result().tolist() == [1.0]
