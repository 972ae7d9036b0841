"""Mastering of loops: nothing changes where the loop starts again, and no peak hides there."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.audio.gain_search import measure_blocks
from services.audio.limiter import compute_gain_curve, control_block, control_step, spread_gains
from services.audio.loudness import measure_loudness
from services.audio.mastering import master
from services.audio.sources import ArraySource, LoopSource
from services.audio.truepeak import short_filter_peak, true_peak

RATE = 48_000


def hits(samples: int = 70_001, every: int = 23_333) -> np.ndarray:
    """Return loud noise hits over a quiet tone, `[2, samples]`, the first on the first sample."""
    rng = np.random.default_rng(5)
    time = np.arange(samples)
    tone = 0.05 * np.sin(2 * np.pi * round(220 * samples / RATE) * time / samples)
    level = np.exp(-(time % every) / 700.0)
    return (tone + 0.5 * level * rng.standard_normal((2, samples))).astype(np.float32)


def test_a_limited_loop_is_as_loud_as_asked_and_keeps_its_ceiling_when_repeated() -> None:
    mastered = master(hits(), RATE, -22.0, loop=True)
    assert mastered.gain_reduction_db > 1.0
    assert measure_loudness(mastered.audio, RATE).integrated_lufs == pytest.approx(-22.0, abs=0.1)
    repeated = np.tile(mastered.audio, 3)
    for peak in (true_peak, short_filter_peak):
        assert peak(repeated, RATE) <= 10 ** (-1.0 / 20)
        assert peak(mastered.audio, RATE) <= 10 ** (-1.0 / 20)


def test_the_gain_of_a_limited_loop_does_not_jump_where_it_starts_again() -> None:
    signal = hits()
    gain = master(signal, RATE, -22.0, loop=True).audio[0] / signal[0]
    inside = np.abs(np.diff(gain)).max()
    assert abs(gain[0] - gain[-1]) <= inside
    plain = master(signal, RATE, -22.0).audio[0] / signal[0]
    assert abs(plain[0] - plain[-1]) > 10 * inside


def test_a_peak_between_the_last_sample_and_the_first_counts() -> None:
    # A quarter of the sample rate: full scale lies half-way between the samples.
    samples = 4 * 12_000
    tone = np.sin(np.pi / 2 * np.arange(samples) + np.pi / 4).astype(np.float32)[np.newaxis]
    faded = tone * np.interp(np.arange(samples), [0, 8, samples - 9, samples - 1], [1, 0.1, 0.1, 1])
    faded = np.asarray(faded, np.float32)
    block = control_block(RATE)
    alone = measure_blocks(ArraySource(faded, RATE), block).highest_peak
    repeated = measure_blocks(LoopSource(faded, RATE), block).highest_peak
    assert repeated == pytest.approx(true_peak(np.tile(faded, 3), RATE), rel=0.01)
    assert repeated > 1.05 * alone


@settings(max_examples=30)
@given(
    st.integers(1, 40_000),
    st.lists(st.tuples(st.floats(0.0, 0.999), st.floats(0.2, 4.0)), min_size=1, max_size=4),
)
def test_the_gains_of_a_loop_keep_every_peak_wherever_it_starts(
    samples: int, peaks: list[tuple[float, float]]
) -> None:
    block = control_block(RATE)
    levels = np.full(-(-samples // block), 0.1, np.float32)
    for place, level in peaks:
        at = int(place * levels.size)
        levels[at] = max(levels[at], level)
    gains = compute_gain_curve(levels, 0.5, control_step(RATE), loop=True)
    if gains is None:
        assert levels.max() <= 0.5
        return
    assert np.all(gains * levels <= 0.5 + 1e-6)
    assert np.all(gains <= 1.0)
    turned = compute_gain_curve(np.roll(levels, 1), 0.5, control_step(RATE), loop=True)
    assert turned is not None
    assert np.allclose(np.roll(gains, 1), turned, atol=1e-5)
    curve = spread_gains(gains, samples)
    assert curve.shape == (samples,)
    for sample in range(0, samples, block):
        stretch = curve[sample : sample + block]
        assert stretch.max() * levels[sample // block] <= 0.5 + 1e-3


def test_a_quiet_loop_is_only_scaled() -> None:
    signal = hits() * np.float32(0.01)
    mastered = master(signal, RATE, -40.0, loop=True)
    assert mastered.gain_reduction_db == 0.0
    assert np.allclose(mastered.audio / signal, mastered.audio[0, 0] / signal[0, 0], rtol=1e-4)
