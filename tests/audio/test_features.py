import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from services.audio import summary
from services.audio.analysis import analyse
from services.audio.features import measure_features
from services.audio.sources import ArraySource
from services.audio.summary import summarise_signal

RATE = 44_100


def tone(hertz=1000.0, seconds=2.0, level=0.5, rate=RATE):
    return level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def noise(seconds=2.0, level=0.1, seed=0, channels=1):
    return np.random.default_rng(seed).standard_normal((channels, round(seconds * RATE))) * level


def techno(seconds=10.0, bpm=130.0):
    """A kick on every beat, hats between them."""
    at = np.arange(round(seconds * RATE)) / RATE
    beat = 60.0 / bpm
    kick = np.sin(2 * np.pi * (50 * (at % beat) + 6 * (1 - np.exp(-30 * (at % beat)))))
    kick *= np.exp(-12 * (at % beat))
    hats = noise(seconds)[0] * np.exp(-60 * ((at + beat / 2) % beat))
    return 0.6 * kick + hats


def pad(seconds=10.0):
    at = np.arange(round(seconds * RATE)) / RATE
    swell = 0.1 * np.minimum(at / 3, 1.0)
    return swell * sum(np.sin(2 * np.pi * hertz * at) for hertz in (220.0, 277.2, 329.6))


def test_sine_has_the_expected_levels():
    features = measure_features(tone(level=0.5), RATE)
    assert features.peak_amplitude == pytest.approx(0.5, abs=1e-3)
    assert features.rms == pytest.approx(0.5 / np.sqrt(2), abs=1e-3)
    assert features.crest_factor_db == pytest.approx(3.01, abs=0.02)
    assert features.dynamic_range_db == pytest.approx(0.0, abs=0.01)
    assert features.duration_seconds == 2.0
    assert (features.sample_rate, features.channels) == (RATE, 1)


@pytest.mark.parametrize("step", [6.0, 20.0, 40.0])
def test_dynamic_range_is_the_distance_of_loud_and_quiet_parts(step):
    signal = np.concatenate((tone(level=0.5), tone(level=0.5 * 10 ** (-step / 20))))
    assert measure_features(signal, RATE).dynamic_range_db == pytest.approx(step, abs=0.05)


def test_silence_does_not_count_as_dynamic_range():
    signal = np.concatenate((np.zeros(3 * RATE), tone(), np.zeros(3 * RATE)))
    assert measure_features(signal, RATE).dynamic_range_db == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize("hertz", [100.0, 1000.0, 5000.0])
@pytest.mark.parametrize("rate", [32_000, 48_000])
def test_centroid_and_rolloff_of_a_tone_are_its_frequency(hertz, rate):
    features = measure_features(tone(hertz, rate=rate), rate)
    assert features.spectral_centroid_hz == pytest.approx(hertz, abs=15.0)
    assert features.spectral_rolloff_hz == pytest.approx(hertz, abs=30.0)
    assert features.spectral_flatness < 0.01


def test_noise_has_a_flat_spectrum():
    features = measure_features(noise(4.0), RATE)
    assert features.spectral_flatness == pytest.approx(np.exp(-np.euler_gamma), abs=0.02)
    assert features.spectral_centroid_hz == pytest.approx(11_025 / 2, rel=0.06)
    assert features.spectral_rolloff_hz == pytest.approx(0.85 * 11_025, rel=0.06)


def test_stereo_features_separate_equal_unrelated_and_inverted_channels():
    signal = noise()[0]
    same, opposite, one = (
        measure_features(np.stack(pair), RATE)
        for pair in ((signal, signal), (signal, -signal), (signal, 0 * signal))
    )
    unlike = measure_features(noise(channels=2), RATE)
    assert (same.stereo_width, same.stereo_correlation) == pytest.approx((0.0, 1.0), abs=1e-4)
    assert (opposite.stereo_width, opposite.stereo_correlation) == pytest.approx((1, -1), abs=1e-4)
    assert (one.stereo_width, one.stereo_correlation) == pytest.approx((0.5, 0.0))
    assert (unlike.stereo_width, unlike.stereo_correlation) == pytest.approx((0.5, 0.0), abs=0.02)
    mono = measure_features(signal, RATE)
    assert (mono.stereo_width, mono.stereo_correlation) == pytest.approx((0.0, 1.0), abs=1e-4)


def test_techno_loop_has_more_energy_than_a_pad():
    loop, soft = measure_features(techno(), RATE), measure_features(pad(), RATE)
    assert loop.danceability > 0.6
    assert soft.danceability == 0.0
    assert loop.energy > soft.energy + 0.1
    assert loop.onsets_per_second == pytest.approx(2 * 130 / 60, abs=1.0)
    assert soft.onsets_per_second < 0.2


def test_energy_rises_with_the_level():
    energies = [measure_features(techno() * gain, RATE).energy for gain in (0.01, 0.05, 0.2, 1.0)]
    assert energies == sorted(energies)
    assert energies[-1] > energies[0] + 0.2


def test_danceability_does_not_depend_on_level():
    loud, quiet = (measure_features(techno() * gain, RATE).danceability for gain in (1.0, 0.05))
    assert loud == pytest.approx(quiet, abs=0.01)


@pytest.mark.parametrize("samples", [1, 100, 10 * RATE])
def test_silence_has_no_level_and_no_spectrum(samples):
    features = measure_features(np.zeros((2, samples)), RATE)
    assert features.rms == features.peak_amplitude == features.energy == 0.0
    assert features.spectral_centroid_hz == features.spectral_flatness == 0.0


@pytest.mark.parametrize("level", [1e-44, 1.4e-36, 1e-20, 1e-8])
def test_inaudible_noise_counts_as_silence(level):
    found = analyse(noise(4.0, level), RATE)
    assert found.tempo.bpm is None
    assert found.key is None
    assert found.features.danceability == 0.0


@pytest.mark.parametrize("size", [1, 999, 4410, 50_000])
def test_summary_does_not_depend_on_the_block_size(size):
    audio = noise(0.5, channels=2).astype(np.float32)

    class InBlocks(ArraySource):
        def blocks(self):
            for start in range(0, audio.shape[1], size):
                yield audio[:, start : start + size]

    whole, parts = (
        summarise_signal(ArraySource(audio, RATE)),
        summarise_signal(InBlocks(audio, RATE)),
    )
    assert parts.samples == whole.samples
    assert parts.peak == whole.peak
    assert parts.products == pytest.approx(whole.products, rel=1e-4)
    assert parts.slot_power == pytest.approx(whole.slot_power, rel=1e-4)
    assert parts.mono == pytest.approx(whole.mono, abs=1e-5)


def test_mono_mix_of_a_long_signal_is_cut(monkeypatch):
    monkeypatch.setattr(summary, "LONGEST_SECONDS", 1.0)
    audio = noise(4.0).astype(np.float32)
    audio[0, -1] = 2.0
    heard = summarise_signal(ArraySource(audio, RATE))
    assert heard.mono.size == pytest.approx(summary.ANALYSIS_RATE, abs=2)
    assert heard.duration_seconds == 4.0
    assert heard.peak == 2.0


def test_analysis_is_json_ready():
    found = analyse(techno(4.0), RATE, hint_bpm=130.0).to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert set(found) == {"features", "loudness", "tempo", "key"}
    assert found["tempo"]["bpm"] == pytest.approx(130.0, abs=0.2)
    assert found["key"] is None
    assert found["loudness"]["integrated_lufs"] < 0.0


@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 2), st.integers(1, 10_000)),
        elements=st.floats(-4, 4, width=32),
    )
)
def test_features_of_any_signal_are_in_range(signal):
    found = analyse(signal, 8_000)
    features = found.features
    json.dumps(found.to_dict(), allow_nan=False)
    shares = (
        features.energy,
        features.danceability,
        features.spectral_flatness,
        features.stereo_width,
    )
    assert all(0.0 <= share <= 1.0 for share in shares)
    assert -1.0 <= features.stereo_correlation <= 1.0
    assert 0.0 <= features.spectral_centroid_hz <= 11_025.0
    assert features.rms <= features.peak_amplitude * (1 + 1e-5)
    assert features.dynamic_range_db >= 0.0
