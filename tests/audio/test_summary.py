import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.audio import summary
from services.audio.sources import ArraySource
from services.audio.summary import ANALYSIS_RATE, ramp, summarise_signal

RATE = 44_100


def noise(seconds=1.0, channels=2):
    rng = np.random.default_rng(channels)
    return (rng.standard_normal((channels, round(seconds * RATE))) * 0.1).astype(np.float32)


def summarise(audio, rate=RATE):
    return summarise_signal(ArraySource(audio, rate))


def test_levels_are_those_of_all_samples():
    audio = noise()
    found = summarise(audio)
    assert found.peak == np.abs(audio).max()
    assert found.rms == pytest.approx(np.sqrt(np.mean(audio.astype(np.float64) ** 2)), rel=1e-5)
    assert (found.samples, found.channels, found.duration_seconds) == (RATE, 2, 1.0)


def test_mono_has_equal_products():
    left, right, cross = summarise(noise(channels=1)).products
    assert left == right == cross > 0.0


def test_inverted_channels_do_not_cancel_in_the_mix():
    signal = noise(channels=1)
    mix = summarise(np.concatenate((signal, -signal))).mono
    assert np.sqrt(np.mean(mix**2)) == pytest.approx(0.2 * np.sqrt(np.mean(signal**2)), rel=0.35)


@pytest.mark.parametrize("rate", [8_000, 22_050, 48_000, 192_000])
def test_mix_has_the_analysis_rate(rate):
    mono = summarise(np.ones((1, rate), np.float32), rate).mono
    assert mono.size == pytest.approx(ANALYSIS_RATE, abs=1)


def test_slots_are_100_ms_and_the_rest_is_dropped():
    audio = np.concatenate([np.full(4410, 0.5), np.full(4410, 0.1), np.ones(4409)])[None]
    assert summarise(audio.astype(np.float32)).slot_power == pytest.approx([0.25, 0.01])


def test_short_signal_has_one_slot():
    assert summarise(np.full((1, 10), 0.5, np.float32)).slot_power == pytest.approx([0.25])


def test_signal_without_samples_is_refused():
    with pytest.raises(ValueError, match="no samples to analyse"):
        summarise(np.zeros((1, 0), np.float32))


def test_mix_is_cut_within_a_block(monkeypatch):
    monkeypatch.setattr(summary, "LONGEST_SECONDS", 0.25)
    found = summarise(noise())
    assert found.mono.size == pytest.approx(0.25 * ANALYSIS_RATE, abs=1)
    assert found.samples == RATE


@given(st.floats(-100, 100), st.floats(-50, 50), st.floats(0.1, 50), st.booleans())
def test_ramp_is_monotonic_and_within_0_and_1(value, start, width, falls):
    none, full = (start + width, start) if falls else (start, start + width)
    here, later = ramp(value, none, full), ramp(value + 1.0, none, full)
    assert 0.0 <= here <= 1.0
    assert here >= later if falls else here <= later
    assert (ramp(none, none, full), ramp(full, none, full)) == (0.0, 1.0)
    assert math.isclose(ramp((none + full) / 2, none, full), 0.5, abs_tol=1e-9)
