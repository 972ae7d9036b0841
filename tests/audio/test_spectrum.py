import numpy as np
import pytest

from services.audio.onsets import find_onsets
from services.audio.sources import ArraySource
from services.audio.spectrum import (
    BANDS,
    FRAMES_PER_SECOND,
    HOP,
    LOWEST_NOTE,
    NOTE_HOPS,
    SIZE,
    _mel_weights,
    _note_weights,
    compute_magnitudes,
    compute_spectrum,
    frequencies,
)
from services.audio.summary import ANALYSIS_RATE, summarise_signal


def sine(bins, seconds=0.5, level=1.0):
    """A sine at a whole number of bins of the short window."""
    at = np.arange(round(seconds * ANALYSIS_RATE))
    return (level * np.sin(2 * np.pi * bins / SIZE * at)).astype(np.float32)


def clicks(seconds, every, level=0.5):
    signal = np.zeros(round(seconds * ANALYSIS_RATE), np.float32)
    rng = np.random.default_rng(0)
    for start in range(0, signal.size - 400, round(every * ANALYSIS_RATE)):
        signal[start : start + 400] = level * rng.standard_normal(400) * np.geomspace(1, 1e-3, 400)
    return signal


def spectrum_of(signal):
    return compute_spectrum(summarise_signal(ArraySource(signal[None], ANALYSIS_RATE)))


def test_full_scale_sine_has_magnitude_one_half():
    (group,) = compute_magnitudes(sine(50), SIZE, HOP)
    middle = group[len(group) // 2]
    assert middle.argmax() == 50
    assert middle[50] == pytest.approx(0.5, abs=1e-3)
    assert frequencies(SIZE)[50] == pytest.approx(50 * ANALYSIS_RATE / SIZE)


@pytest.mark.parametrize("samples", [1, HOP, HOP + 1, 300 * HOP])
def test_a_frame_is_centred_on_every_hop(samples):
    groups = list(compute_magnitudes(np.zeros(samples, np.float32), SIZE, HOP))
    assert sum(map(len, groups)) == samples // HOP + 1
    assert all(group.shape[1] == SIZE // 2 + 1 for group in groups)


def test_no_band_is_empty_and_all_are_positive():
    weights = _mel_weights()
    assert weights.shape == (SIZE // 2 + 1, BANDS)
    assert (weights >= 0).all()
    assert (weights.max(axis=0) > 0).all()


def test_bands_rise_in_frequency():
    loudest = [spectrum_of(sine(bins)).bands.sum(axis=0).argmax() for bins in (5, 20, 80, 300)]
    assert loudest == sorted(set(loudest))


def test_quiet_frames_do_not_count_for_the_flatness():
    tone = sine(50, level=0.5)
    noise = np.random.default_rng(1).standard_normal(tone.size).astype(np.float32) * 1e-6
    assert spectrum_of(np.concatenate((tone, noise))).flatness < 0.01
    assert spectrum_of(np.zeros(5000, np.float32)).flatness == 0.0


@pytest.mark.parametrize(("every", "expected"), [(0.25, 16), (0.5, 8)])
def test_every_click_is_an_onset(every, expected):
    onsets = find_onsets(spectrum_of(clicks(4.0, every)))
    assert onsets.events == pytest.approx(expected, abs=1)


def test_onset_curves_do_not_depend_on_the_level():
    loud, quiet = (find_onsets(spectrum_of(clicks(2.0, 0.5, level))) for level in (0.5, 0.005))
    assert quiet.full == pytest.approx(loud.full, abs=1e-3)
    assert quiet.events == loud.events


def test_frame_of_an_onset_is_where_its_curve_peaks():
    signal = np.roll(clicks(0.7, 1.0), ANALYSIS_RATE // 2)
    onsets = find_onsets(spectrum_of(signal))
    (expected,) = onsets.frame_at(np.array([(ANALYSIS_RATE // 2) / ANALYSIS_RATE]))
    assert onsets.full.argmax() == pytest.approx(expected, abs=1.5)


@pytest.mark.parametrize("signal", [np.zeros(ANALYSIS_RATE), np.ones(2 * HOP - 1)])
def test_silent_and_very_short_signals_have_no_onsets(signal):
    onsets = find_onsets(spectrum_of(signal.astype(np.float32)))
    assert (onsets.events, onsets.seconds) == (0, 0.0)


def test_steady_tone_has_at_most_its_own_onset():
    assert find_onsets(spectrum_of(sine(30, 3.0))).events <= 1


def test_no_note_is_empty():
    weights = _note_weights()
    assert (weights >= 0).all()
    assert (weights.max(axis=0) > 0.2).all()


@pytest.mark.parametrize("note", [48, 69, 70, 90])
def test_a_tone_is_loudest_in_its_note(note):
    at = np.arange(ANALYSIS_RATE) / ANALYSIS_RATE
    tone = np.sin(880 * np.pi * 2 ** ((note - 69) / 12) * at).astype(np.float32)
    spectrum = spectrum_of(tone)
    assert LOWEST_NOTE + spectrum.notes.sum(axis=0).argmax() == note
    assert len(spectrum.notes) == len(spectrum.bands) // NOTE_HOPS + 1


def test_a_change_of_note_without_an_attack_is_an_onset():
    at = np.arange(4 * ANALYSIS_RATE) / ANALYSIS_RATE
    second = np.sin(0.5 * np.pi * ((at - 2.0) / 0.2 + 0.5).clip(0.0, 1.0)) ** 2
    hertz = (220.0, 247.0)
    first_tone, second_tone = (np.sin(2 * np.pi * each * at) for each in hertz)
    signal = np.sqrt(1.0 - second) * first_tone + np.sqrt(second) * second_tone
    onsets = find_onsets(spectrum_of((0.3 * signal).astype(np.float32)))
    inner = onsets.changes[30:-30]
    found = (inner.argmax() + 30) / FRAMES_PER_SECOND
    assert found == pytest.approx(2.0, abs=0.15)
    assert inner.max() > 4 * np.quantile(inner, 0.8) + 1.0


def test_onsets_of_a_signal_of_any_length_are_one_curve_each():
    for samples in (1, HOP, 2 * HOP, 3 * HOP, 5 * HOP, ANALYSIS_RATE):
        onsets = find_onsets(spectrum_of(np.full(samples, 0.1, np.float32)))
        assert onsets.changes.shape == onsets.full.shape
        assert np.isfinite(onsets.changes).all()
