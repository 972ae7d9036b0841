"""The compiled loops, each against theory."""

from __future__ import annotations

import math

import numpy as np
import pytest

from services.generation.composer.synth import kernels
from services.generation.composer.synth.curves import constant, control_points
from services.generation.composer.synth.filters import (
    BUTTERWORTH,
    apply_biquads,
    band_pass,
    high_pass,
    low_pass,
    peak,
    sweep,
)
from services.generation.composer.synth.oscillators import wavetable

RATE = 48_000


def silence(samples, channels=2):
    return np.zeros((channels, samples), dtype=np.float32)


def sine(hertz, samples, channels=1):
    wave = np.sin(2.0 * np.pi * hertz * np.arange(samples) / RATE)
    return np.ascontiguousarray(np.tile(wave, (channels, 1)), dtype=np.float32)


def gain_db(before, after):
    settled = slice(before.shape[1] // 2, None)
    return 20.0 * math.log10(np.std(after[0, settled]) / np.std(before[0, settled]))


def peak_hertz(wave):
    """Return the peak of a spectrum, by a parabola through the logarithm of its maximum."""
    spectrum = np.log(np.abs(np.fft.rfft(wave * np.hanning(wave.size), 4 * wave.size)) + 1e-12)
    at = int(np.argmax(spectrum))
    low, top, high = spectrum[at - 1 : at + 2]
    return (at + 0.5 * (low - high) / (low - 2.0 * top + high)) * RATE / (4 * wave.size)


def play(wave, hertz, samples, harmonics=1, factor=1.0):
    out = silence(samples)
    kernels.unison(
        out,
        wavetable(wave, harmonics),
        np.array([hertz / RATE]),
        np.zeros(1),
        np.ones((2, 1)),
        constant(control_points(samples), factor),
    )
    return out


@pytest.mark.parametrize("hertz", [27.5, 441.3, 9_876.5])
def test_an_oscillator_is_a_sine_of_its_frequency(hertz):
    out = play("sine", hertz, 24_000)
    assert np.max(np.abs(out[0] - sine(hertz, 24_000)[0])) < 2e-4


def test_an_oscillator_follows_the_pitch_curve():
    assert peak_hertz(play("sine", 440.0, 24_000, factor=1.5)[0]) == pytest.approx(660.0, abs=0.05)


def test_oscillators_add_with_their_own_gains():
    out = silence(4_800)
    gains = np.array([[1.0, 0.0], [0.0, 0.5]])
    steps = np.array([1_000.0, 2_000.0]) / RATE
    kernels.unison(
        out, wavetable("sine", 1), steps, np.zeros(2), gains, constant(control_points(4_800))
    )
    assert np.allclose(out[0], sine(1_000.0, 4_800)[0], atol=2e-4)
    assert np.allclose(out[1], 0.5 * sine(2_000.0, 4_800)[0], atol=2e-4)


def test_a_saw_does_not_alias():
    hertz = 2_093.0
    out = play("saw", hertz, 48_000, harmonics=11)[0]
    power = np.abs(np.fft.rfft(out * np.blackman(out.size))) ** 2
    near = np.abs((np.fft.rfftfreq(out.size, 1 / RATE) / hertz + 0.5) % 1.0 - 0.5) * hertz < 20.0
    assert 10.0 * math.log10(power[~near].sum() / power.sum()) < -65.0


@pytest.mark.parametrize(("hertz", "expected"), [(100.0, 0.0), (1_000.0, -3.0), (4_000.0, -24.4)])
def test_a_low_pass_has_the_butterworth_response(hertz, expected):
    audio = sine(hertz, 24_000)
    assert gain_db(audio, apply_biquads(audio.copy(), low_pass(1_000.0, RATE))) == pytest.approx(
        expected, abs=0.4
    )


@pytest.mark.parametrize(("hertz", "expected"), [(8_000.0, 0.0), (1_000.0, -3.0), (250.0, -24.1)])
def test_a_high_pass_has_the_butterworth_response(hertz, expected):
    audio = sine(hertz, 24_000)
    assert gain_db(audio, apply_biquads(audio.copy(), high_pass(1_000.0, RATE))) == pytest.approx(
        expected, abs=0.4
    )


def test_band_pass_and_peak_have_their_gain_in_the_middle():
    audio = sine(2_000.0, 24_000)
    assert gain_db(
        audio, apply_biquads(audio.copy(), band_pass(2_000.0, RATE, 2.0))
    ) == pytest.approx(0.0, abs=0.05)
    assert gain_db(audio, apply_biquads(audio.copy(), peak(2_000.0, 6.0, RATE))) == pytest.approx(
        6.0, abs=0.05
    )


@pytest.mark.parametrize("hertz", [200.0, 1_000.0, 5_000.0])
def test_the_moving_filter_at_rest_equals_the_fixed_one(hertz):
    audio = sine(hertz, 24_000)
    moving = sweep(audio.copy(), constant(control_points(24_000), 1_000.0), RATE)
    fixed = apply_biquads(audio.copy(), low_pass(1_000.0, RATE, BUTTERWORTH))
    assert np.max(np.abs(moving - fixed)) < 1e-3


def test_a_resonant_sweep_stays_bounded():
    rng = np.random.default_rng(1)
    audio = rng.standard_normal((2, 48_000)).astype(np.float32)
    cutoff = 1_000.0 * 2.0 ** (4.0 * np.sin(np.arange(control_points(48_000)) * 0.05))
    sweep(audio, cutoff, RATE, resonance=0.95, stages=2)
    assert np.all(np.isfinite(audio))
    # Two stages of Q 14 on noise of unit power.
    assert np.max(np.abs(audio)) < 200.0


@pytest.mark.parametrize("resonance", [0.0, 0.3, 0.9])
def test_the_moving_filter_is_stable_under_the_fastest_jumps(resonance):
    rng = np.random.default_rng(2)
    audio = rng.uniform(-1.0, 1.0, (2, 24_000)).astype(np.float32)
    cutoff = np.where(np.arange(control_points(24_000)) % 2 == 0, 30.0, 21_600.0)
    sweep(audio, cutoff, RATE, resonance=resonance, stages=2)
    assert np.max(np.abs(audio)) < 60.0


def test_amplitude_and_drive_come_after_the_filter():
    audio = 4.0 * sine(200.0, 9_600)
    sweep(
        audio,
        constant(control_points(9_600), 20_000.0),
        RATE,
        drive=1.0,
        amplitude=constant(control_points(9_600), 0.5),
    )
    assert 0.49 < np.max(np.abs(audio)) <= 0.5


def test_fm_without_modulation_is_a_sine():
    out = np.zeros(9_600, dtype=np.float32)
    points = control_points(9_600)
    kernels.fm(
        out, wavetable("sine", 1), 500.0 / RATE, 2.0, constant(points, 0.0), constant(points)
    )
    assert np.max(np.abs(out - sine(500.0, 9_600)[0])) < 2e-4


def test_fm_sidebands_follow_the_bessel_functions():
    out = np.zeros(48_000, dtype=np.float32)
    points = control_points(48_000)
    kernels.fm(out, wavetable("sine", 1), 0.1, 0.2, constant(points, 1.0), constant(points))
    spectrum = np.abs(np.fft.rfft(out)) / 24_000
    # J0(1) = 0.7652, J1(1) = 0.4401, J2(1) = 0.1149
    assert spectrum[[4_800, 5_760, 6_720]] == pytest.approx([0.7652, 0.4401, 0.1149], abs=2e-3)


def test_partials_ring_at_their_frequency_and_decay_in_their_time():
    out = silence(24_000)
    factor = math.exp(-6.9 / RATE)
    omega = 2.0 * math.pi * 1_000.0 / RATE
    kernels.partials(out, np.array([omega]), np.array([factor]), np.ones((2, 1)))
    expected = sine(1_000.0, 24_000)[0] * factor ** np.arange(24_000)
    assert np.max(np.abs(out[0] - expected)) < 1e-3


def test_a_plucked_string_only_decays():
    rng = np.random.default_rng(2)
    out = np.zeros(48_000, dtype=np.float32)
    burst = rng.uniform(-1.0, 1.0, 200).astype(np.float32)
    kernels.pluck(out, burst, 0.2, 0.3, 0.995)
    levels = [float(np.std(out[k : k + 4_800])) for k in range(0, 48_000, 4_800)]
    assert levels == sorted(levels, reverse=True)
    assert levels[-1] < 0.3 * levels[0]


def test_a_constant_delay_of_whole_samples_keeps_the_signal():
    audio = sine(777.0, 4_800, channels=2)
    moved = kernels.modulated_delay(audio, np.full((2, control_points(4_800)), 7.0))
    assert np.allclose(moved[:, 50:4_700], audio[:, 43:4_693], atol=1e-6)


def test_a_delay_between_samples_keeps_the_level_of_high_notes():
    audio = sine(8_000.0, 9_600, channels=2)
    moved = kernels.modulated_delay(audio, np.full((2, control_points(9_600)), 9.5))
    assert abs(gain_db(audio, moved)) < 0.6


def test_echoes_alternate_sides_and_get_quieter():
    out = silence(5_000)
    out[:, 0] = 1.0
    kernels.echo(out, 1_000, 0.5, 0.9)
    assert not np.any(out[:, :1_000])
    heights = [
        np.max(np.abs(out[k % 2, 1_000 * (k + 1) : 1_000 * (k + 1) + 900])) for k in range(4)
    ]
    assert heights == sorted(heights, reverse=True)
    assert np.max(np.abs(out[1, 1_000:1_900])) == 0.0


def calls():
    """Return the arguments of every loop; new ones each time, since some loops work in place."""
    rng = np.random.default_rng(7)
    samples = 150
    points = control_points(samples)
    audio = rng.uniform(-1.0, 1.0, (2, samples)).astype(np.float32)
    sine_table = wavetable("sine", 1)
    low_pass_only, three = np.array([0.0, 0.0, 1.0]), np.array([0.3, 0.5, 0.2])
    curve = rng.uniform(0.1, 1.0, points)
    lines = np.arange(11, 19, dtype=np.int64)
    gains = rng.uniform(0.0, 1.0, (2, 3))
    phases = np.array([0.0, 0.25, 0.5])
    return {
        "unison": (audio, sine_table, np.array([0.01, 0.02, 0.3]), phases, gains, curve),
        "state_variable_filter": (audio, curve, 0.4, three, 2, 1.5, curve),
        "state_variable_filter, one stage, clean": (
            audio,
            curve,
            1.4,
            low_pass_only,
            1,
            0.0,
            curve,
        ),
        "fm": (audio[0].copy(), sine_table, 0.01, 3.5, curve, curve),
        "pluck": (audio[0].copy(), audio[1, :20].copy(), 0.3, 0.2, 0.99),
        "partials": (audio, np.array([0.1, 0.5, 2.0]), np.array([0.9, 0.99, 0.999]), gains),
        "biquads": (audio, np.concatenate([low_pass(900.0, RATE), high_pass(90.0, RATE)])),
        "modulated_delay": (audio, 3.0 + rng.uniform(0.0, 20.0, (2, points))),
        "echo": (audio, 20, 0.5, 0.4),
        "reverberate": (audio, lines, 0.9 * np.ones(8), 0.3 * np.ones(8), lines - 6, 5),
    }


@pytest.mark.parametrize("name", calls())
def test_compiled_and_interpreted_loops_agree(name):
    loop = getattr(kernels, name.split(",")[0])
    compiled, interpreted = calls()[name], calls()[name]
    answers = loop(*compiled), loop.py_func(*interpreted)
    assert np.allclose(compiled[0], interpreted[0], atol=1e-5)
    if answers[0] is not None:
        assert np.allclose(answers[0], answers[1], atol=1e-5)
        assert np.any(answers[0])
