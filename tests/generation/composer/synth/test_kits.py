"""Drum kits: every pitch sounds, on time and at its level, and kits differ."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generation.composer.synth.instrument import RenderContext
from services.generation.composer.synth.kits import KIT_PITCHES, KITS, sounding_pitch
from services.generation.score import Note, Part

RATE = 48_000


def play(kit, notes, seconds=1.0, seed=1):
    rng = np.random.Generator(np.random.PCG64(seed))
    context = RenderContext(RATE, int(seconds * RATE), 0.5, rng)
    return KITS[kit].play(Part("drums", "drums", kit, tuple(notes)), context)


def hit(pitch, velocity=0.8, start=0.0):
    return Note(start, 0.25, pitch, velocity)


def peak_db(audio):
    return 20.0 * math.log10(float(np.max(np.abs(audio))) + 1e-12)


def centroid(audio):
    power = (np.abs(np.fft.rfft(audio)) ** 2).sum(axis=0)
    hertz = np.fft.rfftfreq(audio.shape[1], 1.0 / RATE)
    return float((hertz * power).sum() / power.sum())


def duration(audio, share=0.95):
    """Return the seconds that contain that share of the energy."""
    energy = np.cumsum((audio.astype(np.float64) ** 2).sum(axis=0))
    return float(np.searchsorted(energy, share * energy[-1])) / RATE


@pytest.mark.parametrize("kit", KITS)
@pytest.mark.parametrize("pitch", KIT_PITCHES)
def test_every_kit_sounds_on_every_pitch_of_the_composer(kit, pitch):
    audio = play(kit, [hit(pitch)], 3.0)
    assert np.all(np.isfinite(audio))
    assert -36.0 < peak_db(audio) < -6.0
    assert abs(float(audio.mean())) < 1e-3
    assert np.max(np.abs(audio[:, -480:])) < 1e-3


@given(st.integers(0, 127))
def test_no_pitch_is_silent(pitch):
    assert sounding_pitch(pitch) in KIT_PITCHES
    assert peak_db(play("kit-house", [hit(pitch)], 0.1)) > -40.0


def test_other_pitches_use_a_related_sound():
    assert [sounding_pitch(p) for p in (43, 47, 50, 57, 59, 82, 36)] == [41, 45, 48, 49, 51, 70, 36]


@pytest.mark.parametrize("kit", KITS)
def test_a_kick_is_low_mono_and_at_its_level(kit):
    audio = play(kit, [hit(36)])
    assert np.array_equal(audio[0], audio[1])
    assert centroid(audio) < 140.0
    assert -12.0 < peak_db(audio) < -7.0


@pytest.mark.parametrize("kit", KITS)
@pytest.mark.parametrize("pitch", [36, 37, 38, 39, 42, 46, 75])
def test_a_hit_is_on_time(kit, pitch):
    audio = np.abs(play(kit, [hit(pitch, start=1.0)])).max(axis=0)
    first = int(np.argmax(audio > 0.2 * audio.max()))
    assert RATE // 2 <= first < RATE // 2 + int(0.005 * RATE)


@pytest.mark.parametrize("kit", KITS)
def test_hats_are_high_and_an_open_one_rings_longer(kit):
    closed, opened = play(kit, [hit(42)]), play(kit, [hit(46)])
    assert centroid(closed) > 4_500.0
    assert centroid(opened) > 4_500.0
    assert duration(opened) > 2.5 * duration(closed)


@pytest.mark.parametrize("pitch", [42, 44])
def test_an_open_hat_is_choked_by_the_next_one(pitch):
    free = play("kit-house", [hit(46)])
    choked = play("kit-house", [hit(46), hit(pitch, velocity=0.05, start=0.25)])
    until, after = slice(0, 6_000), slice(6_000 + 4_800, 16_000)
    assert np.array_equal(free[:, until], choked[:, until])
    assert np.max(np.abs(choked[:, after])) < 0.2 * np.max(np.abs(free[:, after]))


def test_choking_does_not_click():
    audio = play("kit-house", [hit(46), hit(44, velocity=0.0, start=0.25)]).astype(np.float64)
    edge = np.abs(np.diff(audio[:, 5_900:6_700])).max()
    assert edge <= np.abs(np.diff(audio[:, 3_000:5_900])).max() * 1.2


@pytest.mark.parametrize("pitch", [36, 38, 42])
def test_harder_hits_are_louder_and_brighter(pitch):
    soft, hard = (play("kit-house", [hit(pitch, velocity)]) for velocity in (0.3, 1.0))
    assert peak_db(hard) - peak_db(soft) > 6.0
    assert centroid(hard) > centroid(soft)


def test_the_second_kick_and_the_ghost_snare_are_softer():
    for kit in KITS:
        assert peak_db(play(kit, [hit(35)])) < peak_db(play(kit, [hit(36)])) - 0.5
        assert peak_db(play(kit, [hit(40)])) < peak_db(play(kit, [hit(38)])) - 1.0


def test_repeated_hits_cycle_through_variants():
    audio = play("kit-house", [hit(42, start=float(k)) for k in range(4)], 2.0)
    strokes = [audio[:, k * RATE // 2 : (k + 1) * RATE // 2] for k in range(4)]
    assert np.array_equal(strokes[0], strokes[3])
    for one, other in pairwise(strokes[:3]):
        assert not np.array_equal(one, other)
        assert abs(peak_db(one) - peak_db(other)) < 1.0


def test_hits_do_not_depend_on_other_hits():
    alone = play("kit-dnb", [hit(38)])
    among = play("kit-dnb", [hit(38), hit(36, start=1.0)])
    assert np.array_equal(alone[:, :20_000], among[:, :20_000])


@pytest.mark.parametrize("pitch", [36, 38, 42])
def test_kits_differ(pitch):
    """Kicks, snares and hats of two kits differ in spectrum or length."""
    spectra, lengths = {}, {}
    for kit in KITS:
        audio = play(kit, [hit(pitch)])
        lengths[kit] = math.log(duration(audio))
        power = (np.abs(np.fft.rfft(audio)) ** 2).sum(axis=0)
        edges = np.geomspace(40.0, 16_000.0, 20) / (RATE / 2) * (power.size - 1)
        bands = np.array([power[int(a) : int(b) + 1].mean() for a, b in pairwise(edges)])
        level = 10.0 * np.log10(bands / bands.max() + 1e-6)
        spectra[kit] = level
    names = list(KITS)
    for index, one in enumerate(names):
        for other in names[index + 1 :]:
            heard = np.maximum(spectra[one], spectra[other]) > -40.0
            colour = np.abs(spectra[one] - spectra[other])[heard].mean()
            length = abs(lengths[one] - lengths[other])
            assert colour + 5.0 * length > 1.5, (one, other)


def test_a_gated_snare_stops_at_once():
    audio = play("kit-synthwave", [hit(38)])
    open_level = np.std(audio[:, int(0.15 * RATE) : int(0.25 * RATE)])
    shut_level = np.std(audio[:, int(0.33 * RATE) : int(0.43 * RATE)])
    assert open_level > 10.0 * shut_level
    assert duration(audio) > 2.0 * duration(play("kit-house", [hit(38)]))


def test_lo_fi_and_boom_bap_hats_are_dull():
    for kit, limit in (("kit-lofi", 7_000.0), ("kit-boombap", 9_000.0)):
        assert centroid(play(kit, [hit(42)])) < limit < centroid(play("kit-trap", [hit(42)]))
