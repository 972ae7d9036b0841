"""EBU Tech 3341 (November 2023), table 1, and Tech 3342, table 1, with the tolerances given there.

Not tested: 3341-6 (five channels), 3341-7 and -8, 3342-5 and -6 (authentic programmes, which cannot
be synthesised), 3341-11 and -14 (live versions of 10 and 13).
"""

import json
import math
import tracemalloc

import numpy as np
import pyebur128
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.audio import Loudness, measure_loudness
from services.audio.loudness import KWeighting, Programme, measure_source
from services.audio.sources import ArraySource

RATES = [32_000, 44_100, 48_000]


def tone(rate, *segments, frequency=1000.0, channels=2):
    """Segments of (seconds, dBFS or None for silence) of one running sine."""
    lengths = [round(seconds * rate) for seconds, _ in segments]
    levels = [0.0 if level is None else 10 ** (level / 20) for _, level in segments]
    # 1000 Hz repeats after a second at every rate.
    second = np.sin(2 * np.pi * frequency * np.arange(rate) / rate).astype(np.float32)
    sine = np.resize(second, sum(lengths)) * np.repeat(np.float32(levels), lengths)
    return np.tile(sine, (channels, 1))


def weighted_power(signal, rate):
    weighting = KWeighting(ArraySource(signal, rate))
    return np.concatenate([weighting.push(signal), weighting.finish()])


def build_programme(power, rate):
    programme = Programme(rate)
    programme.push(power)
    programme.finish()
    return programme


def integrated(signal, rate):
    return build_programme(weighted_power(signal, rate), rate).integrated_lufs()


def libebur128(signal, rate):
    """Integrated loudness by libebur128."""
    state = pyebur128.R128State(len(signal), rate, pyebur128.MeasurementMode.MODE_I)
    frames = np.ascontiguousarray(signal.T, np.float64)
    state.add_frames(frames.ravel(), len(frames))
    return pyebur128.get_loudness_global(state)


def mix(seed, rate, seconds, channels=2):
    """Noise bursts over a bass note, different on each channel."""
    rng = np.random.default_rng(seed)
    samples = round(rate * seconds)
    time = np.arange(samples) / rate
    bursts = np.exp(-((time * rng.uniform(1, 4)) % 1.0) * rng.uniform(2, 20))
    noise = rng.standard_normal((channels, samples)) * rng.uniform(0.01, 0.2, (channels, 1))
    bass = np.sin(2 * np.pi * rng.uniform(30, 200) * time) * rng.uniform(0.01, 0.3)
    return (noise * bursts + bass).astype(np.float32)


INTEGRATED = {
    "3": ((10, -36), (60, -23), (10, -36)),
    "4": ((10, -72), (10, -36), (60, -23), (10, -36), (10, -72)),
    "5": ((20, -26), (20.1, -20), (20, -26)),
}


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(("case", "level"), [("1", -23.0), ("2", -33.0)])
def test_steady_tone_measures_its_level_in_all_three_modes(case, level, rate):
    loudness = measure_loudness(tone(rate, (20, level)), rate)
    assert loudness.integrated_lufs == pytest.approx(level, abs=0.1)
    assert loudness.momentary_max_lufs == pytest.approx(level, abs=0.1)
    assert loudness.short_term_max_lufs == pytest.approx(level, abs=0.1)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("case", INTEGRATED)
def test_gating_excludes_quiet_parts(case, rate):
    assert integrated(tone(rate, *INTEGRATED[case]), rate) == pytest.approx(-23.0, abs=0.1)


@pytest.mark.parametrize("rate", RATES)
def test_case_9_short_term_integrates_over_three_seconds(rate):
    loudness = measure_loudness(tone(rate, *[(1.34, -20), (1.66, -30)] * 5), rate)
    assert loudness.short_term_max_lufs == pytest.approx(-23.0, abs=0.1)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("step", [0, 7, 19])
def test_case_10_short_term_finds_three_seconds_wherever_they_start(step, rate):
    loudness = measure_loudness(tone(rate, (step * 0.15, None), (3, -23), (1, None)), rate)
    assert loudness.short_term_max_lufs == pytest.approx(-23.0, abs=0.1)


@pytest.mark.parametrize("rate", RATES)
def test_case_12_momentary_integrates_over_400_ms(rate):
    loudness = measure_loudness(tone(rate, *[(0.18, -20), (0.22, -30)] * 25), rate)
    assert loudness.momentary_max_lufs == pytest.approx(-23.0, abs=0.1)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("step", [0, 7, 19])
def test_case_13_momentary_finds_400_ms_wherever_they_start(step, rate):
    loudness = measure_loudness(tone(rate, (step * 0.02, None), (0.4, -23), (1, None)), rate)
    assert loudness.momentary_max_lufs == pytest.approx(-23.0, abs=0.1)


RANGE = {
    "1": (((20, -20), (20, -30)), 10),
    "2": (((20, -20), (20, -15)), 5),
    "3": (((20, -40), (20, -20)), 20),
    "4": (((20, -50), (20, -35), (20, -20), (20, -35), (20, -50)), 15),
}


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("case", RANGE)
def test_loudness_range_of_tech_3342(case, rate):
    segments, expected = RANGE[case]
    programme = build_programme(weighted_power(tone(rate, *segments), rate), rate)
    assert programme.loudness_range_lu() == pytest.approx(expected, abs=1.0)


@pytest.mark.parametrize("seed", range(20))
def test_random_mixes_agree_with_libebur128(seed):
    rate = [8_000, 22_050, 32_000, 44_100, 48_000, 96_000, 192_000][seed % 7]
    # Clips of a block and a little more included: 0.4 s to 3.8 s.
    signal = mix(seed, rate, 0.4 + (seed % 5) * 0.85, channels=1 + seed % 2)
    assert measure_loudness(signal, rate).integrated_lufs == pytest.approx(
        libebur128(signal, rate), abs=0.02
    )


def test_long_signal_agrees_with_libebur128():
    signal = mix(1, 48_000, 12.0)
    expected = libebur128(signal, 48_000)
    assert integrated(signal, 48_000) == pytest.approx(expected, abs=0.002)


def test_weighting_equals_the_table_of_the_standard_at_48_khz():
    # BS.1770-5, annex 1, tables 1 and 2, run as the recursion they describe.
    shelf = (
        (1.53512485958697, -2.69169618940638, 1.19839281085285),
        (
            -1.69065929318241,
            0.73248077421585,
        ),
    )
    high_pass = (1.0, -2.0, 1.0), (-1.99004745483398, 0.99007225036621)
    signal = [1.0] + [0.0] * 2000
    for (b0, b1, b2), (a1, a2) in (shelf, high_pass):
        x1 = x2 = y1 = y2 = 0.0
        filtered = []
        for x in signal:
            y = b0 * x + b1 * x1 + b2 * x2 - a1 * y1 - a2 * y2
            x1, x2, y1, y2 = x, x1, y, y1
            filtered.append(y)
        signal = filtered
    impulse = np.zeros((1, 2001), np.float32)
    impulse[0, 0] = 1.0
    assert weighted_power(impulse, 48_000) == pytest.approx(np.square(signal), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("rate", [1_000, 2_205, 4_000, 7_999])
@pytest.mark.parametrize("frequency", [60.0, 200.0, 400.0])
def test_low_sample_rates_measure_what_higher_ones_do(rate, frequency):
    found, expected = (
        measure_loudness(tone(each, (5.0, -20.0), frequency=frequency), each)
        for each in (rate, 48_000)
    )
    assert found.integrated_lufs == pytest.approx(expected.integrated_lufs, abs=0.05)
    assert found.momentary_max_lufs == pytest.approx(expected.momentary_max_lufs, abs=0.1)
    assert found.true_peak_dbtp == pytest.approx(-20.0, abs=0.7)  # it begins abruptly


def test_sample_peak_at_a_low_rate_is_that_of_the_samples():
    samples = np.full(1_000, 0.25, np.float32)
    samples[::2] *= -1
    assert measure_loudness(samples, 1_000).sample_peak_dbfs == pytest.approx(-12.04, abs=0.01)


def test_one_channel_counts_once():
    mono = tone(48_000, (2, -20), channels=1)
    alone = measure_loudness(mono, 48_000).integrated_lufs
    both = measure_loudness(np.vstack([mono, mono]), 48_000).integrated_lufs
    one_side = measure_loudness(np.vstack([mono, 0 * mono]), 48_000).integrated_lufs
    assert both - alone == pytest.approx(10 * math.log10(2), abs=1e-3)
    assert one_side == pytest.approx(alone, abs=1e-3)


def test_silence_is_minus_infinity_and_none_in_json():
    loudness = measure_loudness(np.zeros(48_000), 48_000)
    assert loudness == Loudness(*[-math.inf] * 3, 0.0, *[-math.inf] * 2)
    figures = json.loads(json.dumps(loudness.to_dict(), allow_nan=False))
    assert figures["integrated_lufs"] is None
    assert figures["loudness_range_lu"] == 0.0
    assert list(figures) == list(Loudness.__slots__)


def test_signal_under_the_absolute_gate_has_no_integrated_loudness():
    loudness = measure_loudness(tone(48_000, (2, -75)), 48_000)
    assert loudness.integrated_lufs == -math.inf
    assert loudness.momentary_max_lufs == pytest.approx(-75.0, abs=0.1)


@pytest.mark.parametrize("seconds", [0.001, 0.05, 0.399])
def test_a_clip_shorter_than_a_block_is_measured_as_a_whole(seconds):
    signal = tone(48_000, (seconds, -20.0))
    loudness = measure_loudness(signal, 48_000)
    whole = -0.691 + 10 * math.log10(float(weighted_power(signal, 48_000).mean()))
    assert loudness.integrated_lufs == pytest.approx(whole, abs=1e-3)
    assert loudness.momentary_max_lufs == pytest.approx(whole, abs=1e-3)
    assert loudness.short_term_max_lufs == -math.inf
    assert loudness.loudness_range_lu == 0.0


def test_incomplete_last_block_is_discarded():
    quiet = mix(4, 48_000, 0.5)
    loud_end = np.concatenate([quiet, np.full((2, 4700), 0.9, np.float32)], axis=1)
    expected = integrated(quiet, 48_000)
    assert integrated(loud_end, 48_000) == pytest.approx(expected, abs=1e-5)


@given(
    seed=st.integers(0, 2**32 - 1),
    gain_db=st.floats(-20, 12),
    rate=st.sampled_from([8_000, 11_025, 32_000]),
)
def test_gain_shifts_the_loudness_by_its_level(seed, gain_db, rate):
    signal = mix(seed, rate, 1.0)
    gain = 10 ** (gain_db / 20)
    programme = build_programme(weighted_power(signal, rate), rate)
    scaled = integrated(signal * np.float32(gain), rate)
    assert programme.integrated_lufs(gain) == pytest.approx(scaled, abs=0.01)


def test_a_loud_offset_does_not_hide_the_signal():
    signal = tone(48_000, (4, -40))
    # The start of the offset is a click; the second half of the signal has only the tone.
    power = weighted_power(signal + np.float32(0.9), 48_000)[96_000:]
    assert build_programme(power, 48_000).integrated_lufs() == pytest.approx(-40.0, abs=0.1)


class InBlocks:
    """A source with blocks of given lengths."""

    channels = 2

    def __init__(self, signal, rate, lengths):
        self.signal, self.sample_rate, self.lengths = signal, rate, lengths

    def blocks(self):
        edges = np.cumsum(self.lengths)
        yield from np.split(self.signal, edges[edges < self.signal.shape[1]], axis=1)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rate=st.sampled_from([8_000, 11_025, 48_000]),
    samples=st.integers(1, 40_000),
    lengths=st.lists(st.integers(1, 9_000), max_size=12),
)
def test_loudness_does_not_depend_on_the_blocks(seed, rate, samples, lengths):
    signal = np.random.default_rng(seed).uniform(-1, 1, (2, samples)).astype(np.float32)
    read = measure_source(InBlocks(signal, rate, lengths)).to_dict()
    expected = measure_loudness(signal, rate).to_dict()
    assert read == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("lengths", [[], [0], [0, 0]])
def test_source_without_samples_is_refused(lengths):
    source = InBlocks(np.zeros((2, 0), np.float32), 48_000, lengths)
    with pytest.raises(ValueError, match="no samples to measure"):
        measure_source(source)


def test_empty_blocks_are_skipped():
    signal = tone(8_000, (1, -20))
    cut = InBlocks(signal, 8_000, [0, 4_000, 0, 0])
    assert measure_source(cut) == measure_loudness(signal, 8_000)


def test_long_signal_is_measured_in_bounded_memory():
    minute = tone(8_000, (60, -20))

    class TwentyMinutes:
        sample_rate, channels = 8_000, 2

        def blocks(self):
            for _ in range(20):
                yield minute

    tracemalloc.start()
    loudness = measure_source(TwentyMinutes())
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert loudness.integrated_lufs == pytest.approx(-20.0, abs=0.1)
    assert peak_bytes < 12 * minute.nbytes
