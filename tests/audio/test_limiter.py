import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.audio import limit
from services.audio.limiter import (
    apply_gains,
    compute_gain_curve,
    control_block,
    control_step,
    reduction_db,
)
from services.audio.truepeak import true_peak

RATE = 48_000
STEP = control_step(RATE)


def decibels(amplitude):
    return 20 * math.log10(amplitude)


def sine(frequency, over_db, seconds=3.0):
    time = np.arange(round(seconds * RATE)) / RATE
    amplitude = 10 ** ((over_db - 1.0) / 20)
    return np.tile((amplitude * np.sin(2 * np.pi * frequency * time)).astype(np.float32), (2, 1))


def bursts(seed, rate, seconds=1.0):
    rng = np.random.default_rng(seed)
    time = np.arange(round(rate * seconds)) / rate
    envelope = np.exp(-(time % 0.23) * rng.uniform(5, 60))
    signal = rng.standard_normal((2, time.size)) * envelope
    signal[:, rng.integers(0, time.size, 5)] += rng.uniform(-3, 3, (2, 5))
    return signal.astype(np.float32)


@pytest.mark.parametrize("frequency", [60, 100, 1000])
def test_steady_tone_is_limited_without_distortion(frequency):
    limited, reduction = limit(sine(frequency, 6.0), RATE, -1.0)
    settled = limited[0, RATE : 2 * RATE].astype(np.float64)
    time = 2 * np.pi * frequency * np.arange(RATE) / RATE
    model = np.stack([np.sin(time), np.cos(time)], axis=1)
    rest = settled - model @ np.linalg.lstsq(model, settled, rcond=None)[0]
    assert rest.std() / settled.std() < 1e-4
    assert reduction == pytest.approx(6.0, abs=0.05)


def test_signal_under_the_ceiling_is_the_same_object():
    signal = sine(997, -0.1)
    limited, reduction = limit(signal, RATE, -1.0)
    assert limited is signal
    assert reduction == 0.0


@pytest.mark.parametrize("rate", [8_000, 32_000, 44_100, 48_000, 96_000, 192_000])
def test_the_ceiling_holds_between_the_samples_at_every_rate(rate):
    limited, _ = limit(bursts(1, rate), rate, -3.0)
    assert decibels(true_peak(limited, rate)) <= -3.0 + 0.05


@given(
    seed=st.integers(0, 2**32 - 1),
    rate=st.sampled_from([8_000, 22_050, 48_000]),
    ceiling=st.floats(-20, 0),
)
def test_samples_never_exceed_the_ceiling_nor_grow(seed, rate, ceiling):
    signal = bursts(seed, rate, seconds=0.3)
    limited, reduction = limit(signal, rate, ceiling)
    assert np.abs(limited).max() <= 10 ** (ceiling / 20) * (1 + 1e-5)
    assert (np.abs(limited) <= np.abs(signal)).all()
    assert (limited * signal >= 0).all()
    assert reduction >= 0


def test_both_channels_get_the_same_gain():
    signal = np.full((2, RATE), 0.1, np.float32)
    signal[0, 20_000] = 3.0
    limited, _ = limit(signal, RATE, -1.0)
    assert np.array_equal(np.delete(limited[0], 20_000), np.delete(limited[1], 20_000))


def test_samples_far_from_a_peak_are_unchanged():
    signal = np.full((1, 2 * RATE), 0.1, np.float32)
    signal[0, RATE] = 2.0
    limited, _ = limit(signal, RATE, -1.0)
    look_ahead = round(0.012 * RATE)
    assert np.array_equal(limited[0, : RATE - look_ahead], signal[0, : RATE - look_ahead])
    # With a time constant of 60 ms, the reduction has decayed after a second.
    assert limited[0, -1] == pytest.approx(0.1, rel=1e-6)


def test_the_gain_moves_without_steps():
    signal = np.full((1, RATE), 0.1, np.float32)
    signal[0, RATE // 2 : RATE // 2 + 40] = 3.0
    limited, reduction = limit(signal, RATE, -1.0)
    gain_db = 20 * np.log10(limited[0] / signal[0])
    # A raised cosine of 5 ms on either side is steepest in the middle.
    assert np.abs(np.diff(gain_db)).max() < 2.5 * reduction / (2 * 0.005 * RATE)


def test_gain_falls_before_the_peak_and_recovers_with_its_time_constant():
    peaks = np.full(3000, 0.5, np.float32)
    peaks[1000] = 2.0
    gains = 20 * np.log10(compute_gain_curve(peaks, 1.0, STEP))
    assert gains[999:1002].max() <= -6.02
    look_ahead = 1000 - round(0.012 / STEP)
    assert (gains[:look_ahead] == 0).all()
    assert gains[look_ahead:1000].min() < -6.0
    held = round(0.005 / STEP) + 1
    later = 1000 + held + round(0.060 / STEP)
    assert gains[later] == pytest.approx(-6.02 / math.e, rel=0.1)


def test_release_equals_its_recursion():
    rng = np.random.default_rng(8)
    peaks = rng.uniform(0.5, 1.0, 5000).astype(np.float32)
    peaks[rng.integers(0, 5000, 40)] = rng.uniform(1.0, 8.0, 40)
    needed = 20 * np.log10(1.0 / np.maximum(peaks, 1.0, dtype=np.float64))
    decay, state, released = math.exp(-STEP / 0.060), 0.0, []
    for value in needed:
        state = min(float(value), state * decay)
        released.append(state)
    reach = round(0.005 / STEP)
    padded = np.pad(released, reach + 1)
    held = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 3).min(axis=1)
    window = np.hanning(2 * reach + 3)[1:-1]
    smooth = np.convolve(np.pad(held, reach, mode="edge"), window / window.sum(), "valid")
    assert 20 * np.log10(compute_gain_curve(peaks, 1.0, STEP)) == pytest.approx(smooth, abs=1e-9)


def test_no_peak_over_the_ceiling_gives_no_gain_curve():
    assert compute_gain_curve(np.array([0.2, 1.0], np.float32), 1.0, STEP) is None


@given(
    peaks=st.lists(st.floats(0, 100, width=32), min_size=1, max_size=80),
    rate=st.sampled_from([8_000, 44_100, 192_000]),
)
def test_the_gain_covers_each_block_and_its_neighbours(peaks, rate):
    values = np.array([*peaks, 2.0], np.float32)
    gains = compute_gain_curve(values, 1.0, control_step(rate))
    assert gains.shape == values.shape
    assert (gains > 0).all()
    assert (gains <= 1 + 1e-12).all()
    for shift in (-1, 0, 1):
        reach = np.roll(gains, shift)[1:-1]
        assert (reach * values[1:-1] <= 1 + 1e-6).all()


@pytest.mark.parametrize("samples", [1, 15, 16, 17, 4000])
@pytest.mark.parametrize("block", [1, 15, 16, 64])
@pytest.mark.parametrize("piece", [1, 13, 32, 4000])
def test_gains_are_interpolated_linearly(samples, block, piece):
    gains = np.linspace(1.0, 0.25, math.ceil(samples / block))
    ones = np.ones((2, samples), np.float32)
    pieces = [ones[:, start : start + piece] for start in range(0, samples, piece)]
    shaped = np.concatenate(list(apply_gains(pieces, gains, block)), axis=1)
    middles = (np.arange(gains.size) + 0.5) * block - 0.5
    expected = np.interp(np.arange(samples), middles, gains)
    assert shaped.dtype == np.float32
    assert shaped == pytest.approx(np.tile(expected, (2, 1)), abs=1e-6)


def test_reduction_is_that_of_the_lowest_gain():
    assert reduction_db(np.array([1.0, 0.5, 0.25])) == pytest.approx(12.04, abs=0.01)


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100, 48_000, 192_000])
def test_gain_is_computed_about_3000_times_a_second(rate):
    assert rate / control_block(rate) == pytest.approx(3000, rel=0.15)
    assert control_step(rate) * rate == pytest.approx(control_block(rate))


def test_invalid_audio_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        limit(np.array([0.0, np.nan]), RATE, -1.0)
    with pytest.raises(ValueError, match="sample rate"):
        limit(np.zeros(10), 100, -1.0)
