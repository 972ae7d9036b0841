"""Each drum sound: its parameters have the effect they name."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.generation.composer.synth.drums import (
    Clap,
    Cymbal,
    Hat,
    Hit,
    Kick,
    Ping,
    Shaker,
    Snare,
    Tom,
    add_gated_reverb,
    decay_envelope,
)

RATE = 48_000
SOUNDS = (Kick(), Snare(), Clap(), Hat(), Cymbal(), Tom(), Ping(), Shaker(), Snare(gate=0.2))


def strike(sound, velocity=0.8, seed=1):
    return sound.render(Hit(velocity, RATE, np.random.Generator(np.random.PCG64(seed))))


def power(audio):
    """Power by frequency, in bins of 1 Hz."""
    return (np.abs(np.fft.rfft(audio.astype(np.float64), RATE)) ** 2).sum(axis=0)


def share(audio, low, high):
    spectrum = power(audio[:, :RATE])
    return float(spectrum[int(low) : int(high)].sum() / spectrum.sum())


def centroid(audio):
    spectrum = power(audio[:, :RATE])
    return float((np.arange(spectrum.size) * spectrum).sum() / spectrum.sum())


def duration(audio, share_of_energy=0.95):
    energy = np.cumsum((audio.astype(np.float64) ** 2).sum(axis=0))
    return float(np.searchsorted(energy, share_of_energy * energy[-1])) / RATE


def hertz_at(audio, begin, end):
    """Return the frequency between two times, by zero crossings."""
    wave = audio[0, int(begin * RATE) : int(end * RATE)]
    rising = np.flatnonzero((wave[:-1] < 0) & (wave[1:] >= 0))
    return (rising.size - 1) * RATE / (rising[-1] - rising[0])


@pytest.mark.parametrize("sound", SOUNDS, ids=lambda sound: type(sound).__name__)
def test_a_hit_starts_and_ends_at_zero(sound):
    audio = strike(sound)
    peak = np.max(np.abs(audio))
    assert peak > 0.05
    assert np.max(np.abs(audio[:, 0])) < 0.05 * peak
    assert np.max(np.abs(audio[:, -4:])) < 0.005 * peak


@pytest.mark.parametrize("sound", SOUNDS, ids=lambda sound: type(sound).__name__)
def test_a_hit_depends_on_its_random_numbers_only(sound):
    assert np.array_equal(strike(sound), strike(sound))
    assert not np.array_equal(strike(sound), strike(sound, seed=2)) or sound == Kick(click=0.0)


@given(velocity=st.floats(0.0, 1.0), rate=st.sampled_from([32_000, 44_100, 48_000]))
@settings(deadline=None, max_examples=30)
def test_a_hit_is_finite_at_any_velocity_and_rate(velocity, rate):
    for sound in SOUNDS:
        rng = np.random.Generator(np.random.PCG64(1))
        assert np.all(np.isfinite(sound.render(Hit(velocity, rate, rng))))


def test_a_decay_envelope_rises_falls_by_60_db_and_ends():
    seconds = np.arange(int(1.2 * RATE)) / RATE
    level = decay_envelope(seconds, 1.0, attack=0.01)
    assert level[0] == 0.0
    assert level[-1] == 0.0
    assert np.argmax(level) == pytest.approx(0.01 * RATE, rel=0.1)
    assert 20.0 * math.log10(level[RATE]) == pytest.approx(-60.0, abs=0.5)


def test_a_kick_falls_to_its_bottom_frequency():
    audio = strike(Kick(250.0, 50.0, 0.02, 0.5, click=0.0))
    assert hertz_at(audio, 0.15, 0.4) == pytest.approx(50.0, rel=0.03)
    assert hertz_at(audio, 0.0, 0.04) > 100.0


def test_the_length_of_a_kick_is_audible():
    assert duration(strike(Kick(length=0.6))) > 1.6 * duration(strike(Kick(length=0.3)))


def test_the_click_of_a_kick_is_short_and_high():
    plain, clicking = strike(Kick(click=0.0)), strike(Kick(click=0.5))
    click = clicking - plain
    assert share(click, 1_000, 16_000) > 0.9
    assert duration(click) < 0.02


def test_drive_adds_harmonics_to_a_kick():
    soft, hard = (strike(Kick(click=0.0, drive=drive))[:, 4_800:12_000] for drive in (0.3, 3.0))
    assert share(hard, 125, 2_000) > 1.3 * share(soft, 125, 2_000)


@pytest.mark.parametrize("tones", [(180.0, 330.0), (220.0, 400.0)])
def test_a_snare_rings_at_its_tones(tones):
    audio = strike(Snare(tones, noise=0.0, snap=0.0, tone_length=0.6))
    spectrum = power(audio)
    for tone in tones:
        near = spectrum[int(tone) - 12 : int(tone) + 40].max()
        assert near > 20.0 * spectrum[int(tone) + 70 : int(tone) + 90].max()


def test_the_wires_of_a_snare_are_between_their_limits():
    audio = strike(Snare(tone=0.0, snap=0.0, noise_low=2_000.0, noise_high=6_000.0))
    assert share(audio, 1_500, 8_000) > 0.85


def test_a_gated_reverb_holds_and_shuts():
    audio = add_gated_reverb(strike(Snare()), RATE, 0.2)
    assert audio.shape[0] == 2
    assert not np.array_equal(audio[0], audio[1])
    held, shut = audio[:, 7_200:9_120], audio[:, 12_480:]
    assert np.std(held) > 20.0 * np.std(shut)


@pytest.mark.parametrize("hands", [2, 3, 4])
def test_a_clap_has_a_burst_for_each_hand(hands):
    clap = Clap(spread=0.02, hands=hands, tail=0.1)
    level = np.zeros(4_800)
    for seed in range(24):
        level += np.abs(strike(clap, seed=seed)).max(axis=0)[:4_800]
    smooth = np.convolve(level, np.ones(96) / 96, "same")
    bursts = [smooth[int(k * 0.02 * RATE) : int(k * 0.02 * RATE) + 240].max() for k in range(hands)]
    between = [smooth[int((k + 0.75) * 0.02 * RATE)] for k in range(hands)]
    assert min(bursts) > 1.8 * max(between)


def test_a_clap_is_centred_on_its_frequency_and_wide():
    audio = strike(Clap(centre=1_250.0))
    assert share(audio, 500, 6_000) > 0.65
    assert np.std(audio[0] - audio[1]) > 0.1 * np.std(audio)


@pytest.mark.parametrize("low", [4_000.0, 7_000.0])
def test_a_hat_has_no_energy_below_its_limit(low):
    assert share(strike(Hat(low=low)), 0, 0.6 * low) < 0.05


def test_the_metal_of_a_hat_is_tonal_and_its_noise_is_not():
    def flatness(hat):
        spectrum = power(np.tile(strike(hat), 1))[7_000:14_000] + 1e-12
        return math.exp(np.log(spectrum).mean()) / spectrum.mean()

    long = Hat(length=1.5, width=0.0)
    assert flatness(replace(long, noise=0.0)) < 0.3 * flatness(replace(long, metal=0.0))


def test_a_wide_hat_is_unchanged_in_mono():
    wide, narrow = strike(Hat()), strike(Hat(width=0.0))
    assert 0.1 < np.corrcoef(wide)[0, 1] < 0.95
    assert np.array_equal(narrow[0], narrow[1])
    assert np.allclose(wide.mean(axis=0), narrow[0], atol=1e-5)


def test_a_harder_hat_is_longer():
    assert duration(strike(Hat(), 1.0)) > 1.2 * duration(strike(Hat(), 0.3))


def test_a_cymbal_is_long_high_and_wide():
    audio = strike(Cymbal(2.6))
    assert duration(audio) > 0.35
    assert share(audio, 2_000, 20_000) > 0.95
    assert abs(np.corrcoef(audio)[0, 1]) < 0.6


def test_a_ride_has_a_bell():
    plain, ride = strike(Cymbal(1.5)), strike(Cymbal(1.5, ping=0.8))
    assert share(ride, 3_100, 3_180) > 5.0 * share(plain, 3_100, 3_180)


@pytest.mark.parametrize("hertz", [80.0, 120.0, 160.0])
def test_a_tom_settles_at_its_pitch(hertz):
    audio = strike(Tom(hertz, 0.8, skin=0.0))
    assert hertz_at(audio, 0.15, 0.5) == pytest.approx(hertz, rel=0.02)
    assert hertz_at(audio, 0.0, 0.05) > 1.05 * hertz


def test_a_ping_rings_at_its_modes():
    spectrum = power(strike(Ping((900.0, 2_100.0), 0.5, noise=0.0)))
    assert int(np.argmax(spectrum)) == pytest.approx(900, abs=4)
    assert spectrum[2_090:2_110].max() > 100.0 * spectrum[1_500:1_600].max()


def test_a_shaker_swells_before_it_falls():
    level = np.abs(strike(Shaker(0.12, swell=0.03)))[0]
    early, full = np.std(level[:240]), np.std(level[960:1_680])
    assert full > 3.0 * early


def test_a_tambourine_has_jingles():
    plain, jingling = strike(Shaker(0.3)), strike(Shaker(0.3, jingles=0.6))
    assert share(jingling, 7_830, 8_030) > 2.0 * share(plain, 7_830, 8_030)


@pytest.mark.parametrize("sound", [Kick(), Snare(), Clap(), Tom(), Shaker()])
def test_harder_is_brighter(sound):
    assert centroid(strike(sound, 1.0)) > centroid(strike(sound, 0.2))
