"""Envelopes, LFOs and wave tables."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generation.composer.synth.curves import (
    Adsr,
    control_points,
    control_times,
    envelope,
    smooth_step,
)
from services.generation.composer.synth.instrument import brightness_at, velocity_gain
from services.generation.composer.synth.kernels import CONTROL, TABLE
from services.generation.composer.synth.oscillators import (
    harmonics_below_nyquist,
    noise,
    pitch_hertz,
    wavetable,
)
from services.generation.composer.synth.subtractive import Layer, Lfo, unison_gains

RATE = 48_000
WAVES = ("sine", "triangle", "saw", "square", "pulse", "organ", "flute", "bowed", "reed")

seconds = st.floats(0.002, 4.0)


@given(attack=seconds, decay=seconds, sustain=st.floats(0.0, 1.0), release=seconds, held=seconds)
def test_an_envelope_stays_between_silence_and_full(attack, decay, sustain, release, held):
    adsr = Adsr(attack, decay, sustain, release)
    samples = int((held + release) * RATE)
    level = envelope(adsr, control_times(control_points(samples) + 2, RATE), held)
    assert level[0] == 0.0
    assert level[-1] == 0.0
    assert np.all((level >= 0.0) & (level <= 1.0))


@given(attack=seconds, held=seconds, release=seconds)
def test_an_envelope_has_no_jumps(attack, held, release):
    level = envelope(
        Adsr(attack, 1.0, 0.7, release), control_times(control_points(200_000), RATE), held
    )
    steepest = max(1.6 * CONTROL / RATE / attack, 4.1 * CONTROL / RATE / release, 0.002)
    assert np.max(np.abs(np.diff(level))) <= min(1.0, steepest) * 1.05 + 0.003


def test_an_envelope_reaches_its_sustain():
    level = envelope(Adsr(0.01, 0.1, 0.6, 0.1), control_times(3_000, RATE), 3.0)
    assert level[1_400] == pytest.approx(0.6, abs=1e-3)


@given(st.integers(1, 100_000))
def test_control_points_cover_every_sample(samples):
    assert control_points(samples) * CONTROL >= samples + CONTROL


def test_a_smooth_step_is_flat_at_both_ends():
    step = smooth_step(np.linspace(-0.5, 1.5, 2_001))
    slopes = np.diff(step)
    assert (step[0], step[-1]) == (0.0, 1.0)
    assert np.all(slopes >= 0.0)
    assert max(slopes[500], slopes[1_499]) < 1e-5


def test_vibrato_waits_for_its_onset():
    depth = np.abs(Lfo(5.0, 10.0, 1.0).curve(control_times(3_000, RATE), 0.0))
    assert depth[:75].max() < 0.1
    assert depth[2_000:].max() == pytest.approx(10.0, rel=0.01)


@pytest.mark.parametrize("wave", WAVES)
@pytest.mark.parametrize("harmonics", [1, 11, 400])
def test_a_wave_table_is_one_band_limited_cycle_without_dc(wave, harmonics):
    table = wavetable(wave, harmonics)
    spectrum = np.abs(np.fft.rfft(table[:-1].astype(np.float64))) / TABLE
    assert table[0] == table[-1]
    assert abs(table[0]) < 1e-5 or wave == "pulse"
    assert spectrum[0] < 1e-6
    assert spectrum[harmonics + 1 :].max() < 1e-6
    assert 0.2 < np.max(np.abs(table)) < 2.0


@pytest.mark.parametrize(("pitch", "expected"), [(69, 440.0), (57, 220.0), (60, 261.6256)])
def test_pitches_are_in_equal_temperament(pitch, expected):
    assert pitch_hertz(pitch) == pytest.approx(expected, abs=1e-3)


@given(st.floats(20.0, 20_000.0))
def test_no_harmonic_reaches_the_nyquist_frequency(frequency):
    harmonics = harmonics_below_nyquist(frequency, RATE)
    assert harmonics == 1 or harmonics * frequency * 1.03 <= RATE / 2


def test_noise_is_white_and_of_unit_power():
    audio = noise(np.random.Generator(np.random.PCG64(1)), 2, 96_000)
    halves = np.abs(np.fft.rfft(audio[0]))[1:]
    power = halves[:24_000].mean() / halves[24_000:].mean()
    assert np.std(audio) == pytest.approx(1.0, abs=0.01)
    assert power == pytest.approx(1.0, abs=0.03)
    assert abs(np.corrcoef(audio)[0, 1]) < 0.02


def test_the_reference_velocity_is_unity():
    assert velocity_gain(0.8) == pytest.approx(1.0)


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_harder_is_louder(one, other):
    low, high = sorted((one, other))
    assert velocity_gain(low) <= velocity_gain(high)


def test_brightness_is_linear_between_breakpoints():
    at = np.array([0.0, 1.0, 2.0, 9.0])
    assert brightness_at((), at).tolist() == [0.5] * 4
    assert brightness_at(((0.0, 0.0), (2.0, 1.0)), at).tolist() == [0.0, 0.5, 1.0, 1.0]


@pytest.mark.parametrize("voices", range(1, 8))
def test_a_bank_of_oscillators_is_equally_loud_on_both_sides(voices):
    spread = np.linspace(-1.0, 1.0, voices) if voices > 1 else np.zeros(1)
    gains = unison_gains(Layer("saw", 1.0, voices, 10.0, width=1.0), spread)
    left, right = (gains**2).sum(axis=1)
    assert left == pytest.approx(right)
    assert left + right == pytest.approx(2.0)
