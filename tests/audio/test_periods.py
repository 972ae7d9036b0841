import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.audio.beats import find_bar
from services.audio.onsets import Onsets
from services.audio.periods import (
    TEMPI,
    autocorrelation,
    correlation_after,
    measure_clarity,
    measure_contrast,
    refine,
    score_tempi,
)
from services.audio.spectrum import FRAMES_PER_SECOND


def pulses(bpm, seconds=12.0, start=0.0, every=1):
    """A curve with a pulse of one frame's width on every n-th beat."""
    frames = np.arange(round(seconds * FRAMES_PER_SECOND))
    times = np.arange(start, seconds, every * 60.0 / bpm) * FRAMES_PER_SECOND
    return np.maximum(1.0 - np.abs(frames[:, None] - times[None, :]), 0.0).max(axis=1)


def build_onsets(bpm, start=0.0):
    beat = 60.0 / bpm
    # An onset is registered 2.4 frames early, see onsets._LATE_FRAMES.
    late = start - 2.4 / FRAMES_PER_SECOND
    full = pulses(2 * bpm, start=late)
    low, middle = pulses(bpm, start=late, every=4), pulses(bpm, start=late + beat, every=2)
    return Onsets(
        full=full,
        changes=full,
        low=low,
        middle=middle,
        low_accents=low,
        middle_accents=middle,
        events=48,
    )


def test_autocorrelation_is_1_at_lag_0_and_peaks_at_the_period():
    found = autocorrelation(pulses(120.0))
    period = round(0.5 * FRAMES_PER_SECOND)
    assert found[0] == pytest.approx(1.0)
    assert np.argmax(found[period // 2 : 3 * period // 2]) + period // 2 == period
    assert found.size == pulses(120.0).size


@pytest.mark.parametrize("level", [0.0, 0.5])
def test_constant_curve_has_no_correlation(level):
    assert np.abs(autocorrelation(np.full(100, level))).max() == pytest.approx(0.0, abs=1e-9)


def test_autocorrelation_does_not_depend_on_level_and_offset():
    curve = np.random.default_rng(0).uniform(size=500)
    assert autocorrelation(7 * curve + 3) == pytest.approx(autocorrelation(curve))


def test_correlation_is_interpolated_and_0_beyond_the_end():
    correlation = np.array([1.0, 0.5, 0.0])
    seconds = np.array([0.0, 0.5, 1.5, 5.0]) / FRAMES_PER_SECOND
    assert correlation_after(correlation, seconds) == pytest.approx([1.0, 0.75, 0.25, 0.0])


def test_regular_pulses_are_clear_and_noise_is_not():
    noise = np.random.default_rng(1).uniform(size=pulses(100.0).size)
    assert measure_clarity(pulses(100.0), 100.0) > 0.5
    assert measure_clarity(noise, 100.0) < 0.15


def test_contrast_tells_pulses_under_noise_from_noise():
    noise = np.random.default_rng(2).uniform(size=pulses(100.0, 30.0).size)
    buried = noise + 0.8 * pulses(100.0, 30.0)
    assert measure_clarity(buried, 100.0) < 0.15
    assert measure_contrast(buried, 100.0) > 6.0
    assert measure_contrast(noise, 100.0) < 5.5
    assert measure_contrast(buried, 93.0) < 5.5


@pytest.mark.parametrize("curve", [np.ones(3000), np.zeros(3000), pulses(100.0, 1.0)])
def test_curves_without_structure_or_too_short_have_no_contrast(curve):
    assert measure_contrast(curve, 100.0) == pytest.approx(0.0, abs=1e-6)


@settings(max_examples=25)
@given(bpm=st.floats(60.0, 180.0), off=st.floats(-0.008, 0.008))
def test_refined_tempo_is_exact(bpm, off):
    assert refine(pulses(bpm), bpm * (1 + off)) == pytest.approx(bpm, abs=0.1)


def test_scores_prefer_the_played_tempo_to_its_neighbours():
    scores = score_tempi(build_onsets(120.0))
    assert scores.shape == TEMPI.shape
    played, off = (np.argmin(np.abs(TEMPI - bpm)) for bpm in (120.0, 113.0))
    assert scores[played] > scores[off]


@pytest.mark.parametrize("beats_late", [0.0, 0.5, 1.0, 2.0, 3.0])
def test_bar_starts_with_the_low_accent(beats_late):
    beat = 60.0 / 96.0
    found = find_bar(build_onsets(96.0, beats_late * beat), 96.0, 4)
    assert found == pytest.approx(beats_late * beat, abs=0.02)


@pytest.mark.parametrize("beats_per_bar", [3, 4])
@given(start=st.floats(0.0, 5.0))
@settings(max_examples=10)
def test_start_of_the_bar_is_within_the_first_bar(beats_per_bar, start):
    assert (
        0.0
        <= find_bar(build_onsets(110.0, start), 110.0, beats_per_bar)
        < (beats_per_bar * 60.0 / 110.0)
    )
