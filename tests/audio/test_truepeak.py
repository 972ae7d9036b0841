"""EBU Tech 3341, cases 15 to 23, and agreement with libebur128."""

import math
import tracemalloc

import numpy as np
import pyebur128
import pytest
import soxr

from services.audio import measure_loudness
from services.audio.sources import ArraySource
from services.audio.truepeak import (
    ShortFilterFollower,
    SteepFollower,
    block_peaks,
    oversampling,
    short_filter_peak,
    true_peak,
)

RATES = [32_000, 44_100, 48_000]


def fade(signal, rate):
    """The signal with 10 ms ramps, on both channels."""
    ramp = np.minimum(1.0, np.arange(signal.size) / (0.01 * rate))
    return np.tile((signal * ramp * ramp[::-1]).astype(np.float32), (2, 1))


def sine(rate, divisor, amplitude, degrees):
    angle = 2 * np.pi * np.arange(rate) / divisor + math.radians(degrees)
    return fade(amplitude * np.sin(angle), rate)


def burst(rate, offset):
    """Cases 20 to 23: one period of fs/4 at 0 dBTP in a tone of fs/6, 0 to 3 quarters late.

    Built at four times the rate, brought below the Nyquist frequency and decimated.
    """
    half = 2 * rate // 24 * 24
    low = 0.5 * np.sin(2 * np.pi * np.arange(half) / 24)
    fine = np.concatenate([low, np.sin(2 * np.pi * np.arange(16) / 16), low])
    taps = np.arange(-2048, 2049)
    kernel = np.sinc(taps * 0.97 / 4) * np.kaiser(taps.size, 10.0)
    spectrum = np.fft.rfft(fine, 1 << 20) * np.fft.rfft(kernel / kernel.sum(), 1 << 20)
    smooth = np.fft.irfft(spectrum)[2048 : 2048 + fine.size]
    return fade(smooth[offset::4], rate)


def libebur128(signal, rate):
    """True peak by libebur128, linear."""
    state = pyebur128.R128State(len(signal), rate, pyebur128.MeasurementMode.MODE_TRUE_PEAK)
    frames = np.ascontiguousarray(signal.T, np.float64)
    state.add_frames(frames.ravel(), len(frames))
    return max(pyebur128.get_true_peak(state, channel) for channel in range(len(signal)))


TONES = {
    "15": (4, 0.5, 0.0, -6.0),
    "16": (4, 0.5, 45.0, -6.0),
    "17": (6, 0.5, 60.0, -6.0),
    "18": (8, 0.5, 67.5, -6.0),
    "19": (4, 1.41, 45.0, 3.0),
}


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("case", TONES)
def test_tones_with_peaks_between_the_samples(case, rate):
    *shape, expected = TONES[case]
    measured = measure_loudness(sine(rate, *shape), rate).true_peak_dbtp
    assert expected - 0.4 <= measured <= expected + 0.2


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("offset", range(4), ids=["20", "21", "22", "23"])
def test_bursts_wherever_they_fall_between_the_samples(offset, rate):
    measured = measure_loudness(burst(rate, offset), rate).true_peak_dbtp
    assert -0.4 <= measured <= 0.2


@pytest.mark.parametrize("rate", [8_000, 32_000, 44_100, 48_000, 96_000, 192_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_short_filter_agrees_with_libebur128(rate, channels):
    rng = np.random.default_rng(rate)
    signal = rng.standard_normal((channels, 20_011)).astype(np.float32) * np.float32(0.2)
    signal[:, ::977] *= 4
    assert short_filter_peak(signal, rate) == pytest.approx(libebur128(signal, rate), rel=1e-5)


@pytest.mark.parametrize("samples", [1, 2, 13, 31, 32, 33, 100])
def test_short_filter_agrees_on_short_clips(samples):
    signal = np.random.default_rng(samples).uniform(-1, 1, (2, samples)).astype(np.float32)
    # libebur128 stops at the last sample; the ringing after it counts here.
    ringing = np.pad(signal, ((0, 0), (0, 16)))
    expected = libebur128(ringing, 48_000)
    assert short_filter_peak(signal, 48_000) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("samples", [1, 5, 16, 16_384, 16_385, 40_000])
@pytest.mark.parametrize("block", [1, 16, 1000])
def test_block_peaks_are_not_below_their_samples(samples, block):
    signal = np.random.default_rng(samples).uniform(-1, 1, (2, samples)).astype(np.float32)
    peaks = block_peaks(signal, 48_000, block)
    assert peaks.size == math.ceil(samples / block)
    inside = np.abs(signal).max(axis=0)
    assert (np.repeat(peaks, block)[:samples] >= inside).all()


def test_peak_is_in_the_block_of_its_time():
    signal = np.zeros((1, 48_000), np.float32)
    signal[0, 30_007] = 0.7
    peaks = block_peaks(signal, 48_000, 16)
    assert peaks.argmax() == 30_007 // 16
    assert peaks[: 29_000 // 16].max() < 1e-4


def test_the_peak_does_not_depend_on_the_block():
    signal = np.random.default_rng(3).uniform(-1, 1, (2, 50_000)).astype(np.float32)
    peaks = {float(block_peaks(signal, 48_000, block).max()) for block in (7, 16, 4096)}
    assert peaks == {true_peak(signal, 48_000)}


def cymbal(seed, rate):
    """Struck noise without low frequencies, whose highest peak is a wave of a few samples."""
    rng = np.random.default_rng(seed)
    time = np.arange(rate // 2) / rate
    bright = np.diff(rng.standard_normal(time.size), n=2, prepend=[0.0, 0.0])
    return (bright * np.exp(-time * 5) * np.exp(-10 * (time % 0.25)) * 0.2).astype(np.float32)


def clicks(seed, rate):
    """Pairs of samples of random levels."""
    rng = np.random.default_rng(seed)
    signal = np.zeros(rate // 2)
    for late in (0, 1):
        signal[rng.integers(100, 200) + late :: 997] += rng.uniform(-1, 1)
    return signal.astype(np.float32)


def tones(seed, rate):
    """Decaying tones up to 0.45 of the sample rate."""
    rng = np.random.default_rng(seed)
    time = np.arange(rate // 2) / rate
    pitches = rng.uniform(0.05 * rate, 0.45 * rate, 12)
    waves = sum(np.sin(2 * np.pi * hertz * time + hertz) for hertz in pitches)
    return (waves * np.exp(-6 * time) * 0.1).astype(np.float32)


def fine_peak(signal, rate):
    """True peak in 32x interpolation by the steepest filter, linear."""
    fine = soxr.resample(signal, rate, 32 * rate, quality="VHQ")
    return float(max(np.abs(fine).max(), np.abs(signal).max()))


@pytest.mark.parametrize("rate", [32_000, 48_000, 96_000, 192_000])
@pytest.mark.parametrize("make", [cymbal, clicks, tones])
def test_the_meter_is_not_below_a_fine_interpolator(make, rate):
    readings = [
        20 * math.log10(true_peak(signal[None], rate) / fine_peak(signal, rate))
        for signal in (make(seed, rate) for seed in range(6))
    ]
    # The passbands of the two filters differ: what lies at their edge may read higher.
    assert min(readings) > -0.02
    assert max(readings) < 0.1


@pytest.mark.parametrize("rate", [44_100, 96_000, 192_000])
@pytest.mark.parametrize("share", [0.01, 0.25, 0.5, 0.7, 0.9])
def test_a_tone_has_its_amplitude_at_every_rate(share, rate):
    angle = np.pi * share * np.arange(rate // 4) + np.pi / 4
    signal = fade(0.5 * np.sin(angle), rate)
    assert true_peak(signal, rate) == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("piece", [1, 100, 16_384])
def test_the_peak_does_not_depend_on_the_pieces(piece):
    signal = cymbal(1, 16_000)[None]
    follower = SteepFollower(ArraySource(signal, 16_000), 333)
    for start in range(0, signal.shape[1], piece):
        follower.push(signal[:, start : start + piece])
    assert np.array_equal(follower.finish(), block_peaks(signal, 16_000, 333))


def test_a_slow_wave_is_not_above_its_samples_by_rounding():
    # Three values of a slow wave are almost equal, and their differences mostly rounding.
    signal = np.sin(2 * np.pi * 20 * np.arange(48_000) / 48_000).astype(np.float32)[None]
    assert true_peak(signal, 48_000) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize(
    ("rate", "factor"), [(8_000, 4), (95_999, 4), (96_000, 2), (191_999, 2), (192_000, 1)]
)
def test_fast_rates_need_less_oversampling(rate, factor):
    assert oversampling(rate) == factor


def test_memory_does_not_grow_with_the_length_times_the_oversampling():
    signal = np.zeros((1, 2_000_000), np.float32)
    tracemalloc.start()
    true_peak(signal, 48_000)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The absolute values are one copy; interpolating all at once would need four more.
    assert peak_bytes < 2.5 * signal.nbytes


def short_filter_blocks(signal, rate):
    follower = ShortFilterFollower(ArraySource(signal, rate), 16)
    # In pieces shorter than the filter, which has to span several.
    for start in range(0, signal.shape[1], 7):
        follower.push(signal[:, start : start + 7])
    return follower.finish()


@pytest.mark.parametrize("samples", [1, 31, 33, 5000])
@pytest.mark.parametrize("rate", [48_000, 96_000, 192_000])
def test_short_filter_blocks_include_its_peak(samples, rate):
    signal = np.random.default_rng(samples).uniform(-1, 1, (2, samples)).astype(np.float32)
    peaks = short_filter_blocks(signal, rate)
    assert peaks.size == math.ceil(signal.shape[1] / 16)
    assert peaks.max() == short_filter_peak(signal, rate)
    assert (np.repeat(peaks, 16)[: signal.shape[1]] >= np.abs(signal).max(axis=0)).all()


def test_short_filter_peak_is_in_the_block_of_its_time():
    signal = np.zeros((1, 48_000), np.float32)
    # The peak of two equal samples lies between them, and above both.
    signal[0, 30_007:30_009] = 0.7
    peaks = short_filter_blocks(signal, 48_000)
    assert peaks.argmax() == 30_007 // 16
    assert peaks.max() == pytest.approx(0.7 * 4 / math.pi, rel=0.03)
