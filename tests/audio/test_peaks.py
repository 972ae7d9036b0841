import itertools
import struct
import tracemalloc

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from services.audio.peaks import (
    FINEST_FRAMES,
    OVERVIEW_PAIRS,
    ZOOM,
    compute_peaks,
    compute_source_peaks,
    draw_waveform,
)
from services.audio.reading import open_audio
from services.audio.sources import ArraySource

RATE = 48_000
LARGEST = {8: 127 / 128, 16: 32_767 / 32_768}


def noise(samples, channels=2, seed=1):
    return np.random.default_rng(seed).uniform(-1, 1, (channels, samples)).astype(np.float32)


class InBlocks:
    """A source with blocks of given lengths."""

    sample_rate = RATE

    def __init__(self, audio, lengths):
        self.channels = audio.shape[0]
        self._blocks = np.split(audio, np.cumsum(lengths), axis=1)

    def blocks(self):
        return (block for block in self._blocks if block.size)


def parse(data):
    """Parse the binary form into rate, frames per pair and pairs."""
    version, flags, rate, frames, length, channels = struct.unpack_from("<iIiiIi", data)
    numbers = np.frombuffer(data, "<i1" if flags & 1 else "<i2", offset=24)
    assert version == 2
    return rate, frames, numbers.reshape(length, channels, 2)


@given(
    samples=st.integers(1, 3000),
    channels=st.sampled_from([1, 2]),
    bits=st.sampled_from([8, 16]),
    gain=st.floats(1e-6, 4.0),
    seed=st.integers(0, 1000),
)
def test_every_sample_is_within_its_pair(samples, channels, bits, gain, seed):
    audio = noise(samples, channels, seed) * np.float32(gain)
    (level,) = compute_peaks(audio, RATE, bits=bits).levels
    assert (level.bits, level.channels) == (bits, channels)
    assert level.length == -(-samples // FINEST_FRAMES)
    pairs = np.repeat(level.pairs / 2.0 ** (bits - 1), FINEST_FRAMES, axis=0)[:samples]
    shown = np.clip(audio, -1.0, LARGEST[bits]).T
    assert (pairs[:, :, 0] <= shown).all()
    assert (shown <= pairs[:, :, 1]).all()


@given(samples=st.integers(1, 3000), seed=st.integers(0, 1000))
def test_pairs_are_less_than_a_step_wider_than_their_samples(samples, seed):
    audio = noise(samples, 1, seed)
    (level,) = compute_peaks(audio, RATE).levels
    for start, (low, high) in enumerate(level.pairs[:, 0]):
        stretch = audio[0, start * FINEST_FRAMES : (start + 1) * FINEST_FRAMES]
        assert stretch.min() < (low + 1) / 128
        assert stretch.max() > (high - 1) / 128


@settings(max_examples=25)
@given(samples=st.integers(260_000, 1_100_000), bits=st.sampled_from([8, 16]))
def test_coarser_pair_combines_four_finer_ones(samples, bits):
    levels = compute_peaks(noise(samples, 1), RATE, bits=bits).levels
    for fine, coarse in itertools.pairwise(levels):
        assert coarse.frames_per_pair == ZOOM * fine.frames_per_pair
        assert coarse.length == -(-fine.length // ZOOM)
        for place in (0, coarse.length // 2, coarse.length - 1):
            under = fine.pairs[ZOOM * place : ZOOM * (place + 1), 0]
            assert coarse.pairs[place, 0, 0] == under[:, 0].min()
            assert coarse.pairs[place, 0, 1] == under[:, 1].max()
    assert levels[-1].length <= OVERVIEW_PAIRS
    assert all(level.length > OVERVIEW_PAIRS for level in levels[:-1])


@given(lengths=st.lists(st.integers(1, 700), min_size=1, max_size=8))
def test_peaks_do_not_depend_on_the_block_size(lengths):
    audio = noise(2000)
    whole = compute_peaks(audio, RATE).levels[0].pairs
    assert np.array_equal(compute_source_peaks(InBlocks(audio, lengths)).levels[0].pairs, whole)


def test_channels_are_separate():
    audio = np.stack([np.full(300, 0.5), np.full(300, -0.25)])
    (level,) = compute_peaks(audio, RATE).levels
    assert level.pairs.tolist() == [[[64, 64], [-32, -32]]] * 2


def test_levels_above_full_scale_are_clipped():
    audio = np.array([[1.0, -1.0, 9e4, -9e4]], np.float32)
    for bits, largest in ((8, 127), (16, 32_767)):
        (level,) = compute_peaks(audio, RATE, bits=bits).levels
        assert level.pairs.tolist() == [[[-largest - 1, largest]]]


def test_silence_is_zero():
    assert not compute_peaks(np.zeros(1000), RATE).levels[0].pairs.any()


@pytest.mark.parametrize("bits", [8, 16])
def test_the_binary_form_is_that_of_audiowaveform(bits):
    level = compute_peaks(noise(1000), 44_100, bits=bits).levels[0]
    rate, frames, pairs = parse(level.to_dat())
    assert (rate, frames) == (44_100, 256)
    assert np.array_equal(pairs, level.pairs)


def test_the_json_form_has_the_same_numbers():
    level = compute_peaks(np.stack([np.full(256, 0.5), np.full(256, -0.5)]), RATE).levels[0]
    assert level.to_dict() == {
        "version": 2,
        "channels": 2,
        "sample_rate": RATE,
        "samples_per_pixel": 256,
        "bits": 8,
        "length": 1,
        "data": [64, 64, -64, -64],
    }


def test_file_and_samples_give_the_same_result(tmp_path):
    audio = noise(100_000)
    soundfile.write(tmp_path / "x.wav", audio.T, RATE, subtype="FLOAT")
    of_file = compute_source_peaks(open_audio(tmp_path / "x.wav"))
    assert of_file.levels[0].to_dat() == compute_peaks(audio, RATE).levels[0].to_dat()


def test_level_is_chosen_by_its_number_of_pairs():
    peaks = compute_peaks(noise(256 * 4000, 1), RATE)
    assert [level.length for level in peaks.levels] == [4000, 1000]
    assert peaks.at_least(1).length == 1000
    assert peaks.at_least(1001).length == 4000
    assert peaks.at_least(10**9).length == 4000


def test_ten_minutes_need_bounded_memory():
    second = noise(RATE)
    minutes = InBlocks(second, [])
    minutes.blocks = lambda: (second for _ in range(600))
    tracemalloc.start()
    try:
        peaks = compute_source_peaks(minutes)
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()
    assert peaks.levels[0].length == 600 * RATE // FINEST_FRAMES


@pytest.mark.parametrize("bad", [np.zeros(0), np.array([np.nan])])
def test_invalid_audio_is_refused(bad):
    with pytest.raises(ValueError, match=r"Empty|NaN"):
        compute_peaks(bad, RATE)


def test_a_source_without_samples_is_refused():
    with pytest.raises(ValueError, match="no samples"):
        compute_source_peaks(ArraySource(np.zeros((1, 0), np.float32), RATE))


def lines(audio, width, height):
    return draw_waveform(compute_peaks(audio, RATE), width, height).splitlines()


def test_waveform_has_the_requested_size():
    shown = lines(noise(10_000), 30, 5)
    assert [len(line) for line in shown] == [30] * 5
    assert all("\u2800" <= character <= "\u28ff" for character in "".join(shown))


def test_full_scale_fills_the_waveform_and_silence_is_a_line():
    assert lines(np.tile([1.0, -1.0], 5000), 4, 2) == ["⣿⣿⣿⣿"] * 2
    assert lines(np.zeros(10_000), 4, 2) == ["⠀⠀⠀⠀", "⠉⠉⠉⠉"]


def test_waveform_runs_from_left_to_right_with_positive_up():
    audio = np.concatenate([np.zeros(5120), np.full(5120, 0.99)])
    assert lines(audio, 4, 2) == ["⠀⠀⠉⠉", "⠉⠉⠀⠀"]


def test_one_sample_can_be_drawn():
    assert lines(np.array([0.99]), 3, 1) == ["⠉⠉⠉"]


@pytest.mark.parametrize(("width", "height"), [(0, 1), (1, 0), (-3, 2)])
def test_waveform_without_columns_or_lines_is_refused(width, height):
    with pytest.raises(ValueError, match="at least 1 column and 1 line"):
        lines(np.zeros(10), width, height)
