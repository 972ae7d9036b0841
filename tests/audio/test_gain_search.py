import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.audio.gain_search import (
    LARGEST_REDUCTION_DB,
    InputGainSearch,
    _find_falling_root,
    measure_blocks,
)
from services.audio.loudness import measure_loudness
from services.audio.sources import ArraySource
from services.audio.truepeak import short_filter_peak, true_peak

RATE, BLOCK = 8_000, 3


def drums(seconds=1.5):
    rng = np.random.default_rng(2)
    time = np.arange(round(seconds * RATE)) / RATE
    return (rng.standard_normal((2, time.size)) * np.exp(-30 * (time % 0.25))).astype(np.float32)


def measure(audio, block=BLOCK):
    return measure_blocks(ArraySource(audio, RATE), block)


def test_measurement_has_one_power_and_peak_per_block():
    audio = drums()
    found = measure(audio)
    assert found.power.shape == found.peaks.shape == (math.ceil(audio.shape[1] / BLOCK),)
    assert found.samples == audio.shape[1]
    assert found.sample_peak == np.abs(audio).max()
    assert found.true_peak == pytest.approx(true_peak(audio, RATE))
    assert found.highest_peak == max(found.true_peak, short_filter_peak(audio, RATE))


def test_loudness_after_a_gain_equals_that_of_the_scaled_signal():
    audio = drums()
    predicted = measure(audio).loudness(0.25)
    measured = measure_loudness(audio * np.float32(0.25), RATE)
    assert predicted.to_dict() == pytest.approx(measured.to_dict(), abs=1e-3)


def search(ceiling=0.5):
    found = measure(drums())
    return found, InputGainSearch(found, ceiling, plain_gain=0.1)


def test_largest_input_gain_needs_12_db_of_limiting():
    found, gain_search = search()
    excess = found.highest_peak * gain_search.largest_input_gain / 0.5
    assert 20 * math.log10(excess) == pytest.approx(LARGEST_REDUCTION_DB)


def test_unreachable_loudness_gives_the_largest_input_gain():
    _, gain_search = search()
    input_gain, gains = gain_search.run(0.0, 0.0)
    assert input_gain == gain_search.largest_input_gain
    assert gains.min() < 1.0


def test_input_gain_rises_with_the_target():
    _, gain_search = search()
    found = [gain_search.run(lufs, 0.0)[0] for lufs in (-30.0, -24.0, -22.0, -20.0)]
    assert found == sorted(found)
    assert found[0] < found[-1]


def test_margin_lowers_the_limited_peaks():
    found, gain_search = search()
    peaks = [
        (found.peaks * gains * gain).max()
        for gain, gains in (gain_search.run(0.0, margin) for margin in (0.0, 1.0))
    ]
    assert 20 * math.log10(peaks[0] / peaks[1]) == pytest.approx(1.0, abs=0.01)


@given(root=st.floats(-5, 25), slope=st.floats(0.1, 10), bend=st.floats(0, 0.01))
def test_root_of_a_falling_function_is_found_or_the_nearer_end_returned(root, slope, bend):
    def fall(x):
        return slope * (root - x) + bend * (root - x) ** 3

    found = _find_falling_root(fall, 0.0, 20.0)
    assert 0.0 <= found <= 20.0
    if 0.0 < root < 20.0:
        assert abs(fall(found)) <= 0.011
    else:
        assert found == pytest.approx(min(max(root, 0.0), 20.0), abs=0.011 / slope)


def test_empty_interval_returns_its_lower_end():
    assert _find_falling_root(lambda _: 1.0, 3.0, 3.0) == 3.0
