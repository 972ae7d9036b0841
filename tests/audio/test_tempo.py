import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from services.audio.tempo import estimate_tempo

RATE = 22_050
KICK, SNARE, HAT = range(3)
ROCK = {KICK: (0, 8, 10), SNARE: (4, 12), HAT: range(0, 16, 2)}
FOUR = {KICK: (0, 4, 8, 12), SNARE: (4, 12), HAT: (2, 6, 10, 14)}
BREAKS = {KICK: (0, 10), SNARE: (4, 12), HAT: range(0, 16, 2)}
WALTZ = {KICK: (0,), HAT: (4, 8)}


def drum(which, rate=RATE):
    at = np.arange(rate // 5) / rate
    noise = np.random.default_rng(which).standard_normal(at.size)
    if which == KICK:
        return np.sin(2 * np.pi * (50 * at + 5 * (1 - np.exp(-30 * at)))) * np.exp(-14 * at)
    if which == SNARE:
        return 0.5 * noise * np.exp(-22 * at) + 0.4 * np.sin(2 * np.pi * 190 * at) * np.exp(
            -25 * at
        )
    return 0.2 * np.diff(noise, prepend=0.0) * np.exp(-70 * at)


def loop(bpm, pattern=ROCK, seconds=10.0, rate=RATE, steps=16, lead_in=0.0):
    signal = np.zeros(round(seconds * rate))
    step = 15.0 / bpm
    for which, places in pattern.items():
        sound = drum(which, rate)
        for bar in range(int(seconds / (steps * step)) + 1):
            for place in places:
                start = round((lead_in + (bar * steps + place) * step) * rate)
                part = sound[: max(0, signal.size - start)]
                signal[start : start + part.size] += part
    return (0.5 * signal).astype(np.float32)


def pad(seconds=12.0, rate=RATE):
    at = np.arange(round(seconds * rate)) / rate
    swell = 0.1 * np.minimum(at, 1.0)
    return swell * sum(np.sin(2 * np.pi * hertz * at + hertz) for hertz in (220.0, 277.2, 329.6))


def away_from_grid(seconds, bpm, start=0.0):
    """Signed seconds to the nearest beat of an even grid."""
    beat = 60.0 / bpm
    return (np.asarray(seconds) - start + beat / 2) % beat - beat / 2


@pytest.mark.parametrize("bpm", [61.7, 97.0, 128.35, 174.0])
@pytest.mark.parametrize("pattern", [ROCK, FOUR, BREAKS], ids=["rock", "four", "breaks"])
def test_inexact_hint_gives_the_exact_tempo(bpm, pattern):
    tempo = estimate_tempo(loop(bpm, pattern), RATE, hint_bpm=1.06 * bpm)
    assert tempo.bpm == pytest.approx(bpm, abs=0.1)
    assert tempo.hint_supported is True
    assert tempo.confidence > 0.8
    assert len(tempo.beats) == pytest.approx(10.0 * bpm / 60, abs=1)
    assert np.abs(away_from_grid(tempo.beats, bpm)).max() < 0.03


@pytest.mark.parametrize("bpm", [92.0, 104.5, 120.0, 131.0])
def test_without_a_hint_usual_tempi_are_found(bpm):
    tempo = estimate_tempo(loop(bpm, FOUR), RATE)
    assert tempo.bpm == pytest.approx(bpm, abs=0.1)
    assert tempo.hint_supported is None
    assert tempo.confidence > 0.5


def test_the_hint_decides_between_a_tempo_and_its_double():
    signal = loop(86.0, ROCK, seconds=16.0)
    slow, fast = (estimate_tempo(signal, RATE, hint_bpm=hint) for hint in (86.0, 172.0))
    assert slow.bpm == pytest.approx(86.0, abs=0.1)
    assert fast.bpm == pytest.approx(172.0, abs=0.2)
    assert slow.hint_supported
    assert fast.hint_supported


def test_ambiguous_octave_is_flagged():
    fast = estimate_tempo(loop(86.0, ROCK, seconds=16.0), RATE, hint_bpm=172.0)
    assert fast.octave_ambiguous
    assert any(bpm == pytest.approx(86.0, abs=0.5) for bpm in fast.alternatives)
    assert not estimate_tempo(loop(122.0, FOUR, seconds=16.0), RATE).octave_ambiguous


@pytest.mark.parametrize("hint", [140.0, 70.0, 120.0, 300.0])
def test_contradicted_hint_is_not_used(hint):
    tempo = estimate_tempo(loop(97.0, FOUR), RATE, hint_bpm=hint)
    assert tempo.bpm == pytest.approx(97.0, abs=0.1)
    assert tempo.hint_supported is False
    assert tempo.confidence <= 0.5


@pytest.mark.parametrize("hint", [None, 120.0])
def test_pad_has_no_tempo_with_any_hint(hint):
    tempo = estimate_tempo(pad(), RATE, hint_bpm=hint)
    assert tempo.bpm is None
    assert tempo.confidence == 0.0
    assert tempo.beats == ()
    assert tempo.hint_supported is (None if hint is None else False)


@pytest.mark.parametrize(
    "signal",
    [
        np.zeros(1),
        np.ones(1),
        np.zeros(10 * RATE),
        np.full(10 * RATE, 0.3),
        np.random.default_rng(0).standard_normal(RATE // 10),
        np.random.default_rng(1).standard_normal(3 * RATE) * 0.1,
        np.random.default_rng(2).standard_normal(12 * RATE) * 0.1,
        np.sin(np.arange(10 * RATE) * 0.05),
    ],
    ids=["zero", "one", "silence", "offset", "0.1 s", "3 s of noise", "noise", "tone"],
)
@pytest.mark.parametrize("hint", [None, 120.0])
def test_signals_without_a_beat_have_no_tempo(signal, hint):
    tempo = estimate_tempo(signal, RATE, hint_bpm=hint)
    assert tempo.bpm is None
    assert tempo.confidence == 0.0
    assert tempo.downbeat_offset_seconds is None


def choir(seed, attack=0.12, bpm=96.0, seconds=30.0):
    """Four voices with breath, each changing its pitch softly on some of the beats."""
    rng = np.random.default_rng(seed)
    mix = attack / 16 * rng.standard_normal(round(seconds * RATE))
    beat = 60.0 / bpm
    for low in (48, 55, 60, 64):
        beats = 0
        while beats * beat < seconds - 1.0:
            held = int(rng.geometric(0.6))
            first = round(beats * beat * RATE)
            at = np.arange(min(round((held * beat + 0.2) * RATE), mix.size - first)) / RATE
            level = np.minimum(at / attack, (held * beat + 0.2 - at) / 0.2).clip(0.0, 1.0)
            turn = 880 * np.pi * 2 ** ((low + rng.choice([0, 2, 4, 5, 7, 9]) - 69) / 12) * at
            wave = sum(np.sin(n * turn + low * n) / n**1.5 for n in range(1, 7))
            mix[first : first + at.size] += 0.1 * level * wave
            beats += held
    return mix.astype(np.float32)


@pytest.mark.parametrize("seed", range(4))
def test_soft_onsets_have_a_tempo_with_the_right_hint(seed):
    tempo = estimate_tempo(choir(seed), RATE, hint_bpm=97.0)
    assert tempo.bpm == pytest.approx(96.0, abs=0.15)
    assert tempo.hint_supported is True
    assert tempo.confidence > 0.1


@pytest.mark.parametrize("seed", range(4))
def test_soft_onsets_do_not_support_a_wrong_hint(seed):
    signal = choir(seed, attack=0.08)
    for ratio in (3 / 4, 4 / 5, 5 / 4, 4 / 3):
        tempo = estimate_tempo(signal, RATE, hint_bpm=96.0 * ratio)
        assert tempo.bpm == pytest.approx(96.0, abs=0.1)
        assert tempo.hint_supported is False
        assert tempo.confidence <= 0.5


def legato(seed, bpm=96.0, seconds=12.0, fade=0.2):
    """Three voices of sines that fade into the next note on some of the beats, at equal power."""
    rng = np.random.default_rng(seed)
    at = np.arange(round(seconds * RATE)) / RATE
    mix = np.zeros(at.size)
    for low in (48, 55, 64):
        start, note = 0.0, low
        while start < seconds:
            end = start + 60.0 / bpm * rng.integers(1, 3)
            note = low + int(
                rng.choice([step for step in (0, 2, 4, 5, 7, 9) if low + step != note])
            )
            rise, fall = (((at - edge) / fade + 0.5).clip(0.0, 1.0) for edge in (start, end))
            level = 0.1 * np.sin(0.5 * np.pi * rise) * np.cos(0.5 * np.pi * fall)
            mix += level * np.sin(880 * np.pi * 2 ** ((note - 69) / 12) * at)
            start = end
    return mix.astype(np.float32)


@pytest.mark.parametrize("seed", [0, 2])
def test_chords_without_attacks_have_a_tempo(seed):
    signal = legato(seed)
    for hint in (None, 97.0):
        tempo = estimate_tempo(signal, RATE, hint_bpm=hint)
        assert tempo.bpm == pytest.approx(96.0, abs=0.1)
        assert tempo.hint_supported is (None if hint is None else True)
    wrong = estimate_tempo(signal, RATE, hint_bpm=72.0)
    assert wrong.hint_supported is False


@pytest.mark.parametrize(("seconds", "seed"), [(8, 11), (10, 31), (12, 33)])
def test_short_noise_has_no_tempo_by_chance(seconds, seed):
    noise = 0.1 * np.random.default_rng(seed).standard_normal(seconds * RATE)
    assert estimate_tempo(noise, RATE).bpm is None


def clicks(bpm, faster=0.0, seconds=30.0):
    """Clicks whose tempo rises evenly by `faster` BPM."""
    signal = np.zeros(round(seconds * RATE), np.float32)
    at = 0.0
    while at < seconds - 0.1:
        start = round(at * RATE)
        signal[start : start + 100] = np.sin(0.3 * np.arange(100)) * np.exp(-np.arange(100) / 40)
        at += 60.0 / (bpm + faster * at / seconds)
    return signal


@pytest.mark.parametrize("bpm", [150.0, 180.0, 200.0, 220.0])
def test_fast_clicks_that_read_half_are_flagged(bpm):
    tempo = estimate_tempo(clicks(bpm), RATE)
    assert tempo.bpm == pytest.approx(bpm / 2, abs=0.1)
    assert tempo.octave_ambiguous


def test_only_a_hint_makes_an_ambiguous_octave_certain():
    signal = clicks(200.0, seconds=16.0)
    blind, hinted = (estimate_tempo(signal, RATE, hint_bpm=hint) for hint in (None, 100.0))
    assert blind.octave_ambiguous
    assert 0.5 < blind.confidence <= 0.75
    assert hinted.bpm == blind.bpm
    assert hinted.confidence > 0.9


@pytest.mark.parametrize("bpm", [71.0, 74.0])
def test_a_fast_tempo_of_running_eighths_is_flagged(bpm):
    reel = {HAT: range(16), KICK: (0, 2, 6, 8, 10, 14), SNARE: (4, 12)}
    tempo = estimate_tempo(loop(bpm, reel, seconds=12.0), RATE)
    assert tempo.bpm == pytest.approx(2 * bpm, abs=0.1)
    assert tempo.octave_ambiguous


def test_a_drifting_tempo_has_less_confidence():
    steady, drifting, rising = (
        estimate_tempo(clicks(120.0, faster), RATE, 120.0).confidence for faster in (0.0, 1.5, 6.0)
    )
    assert steady > 0.95
    assert drifting < 0.8
    assert rising < 0.2


@pytest.mark.parametrize("lead_in", [0.0, 0.13, 0.37, 0.71])
def test_beats_follow_a_late_start(lead_in):
    tempo = estimate_tempo(loop(110.0, ROCK, lead_in=lead_in), RATE, hint_bpm=110.0)
    assert np.abs(away_from_grid(tempo.beats, 110.0, lead_in)).max() < 0.03


@pytest.mark.parametrize("beats_late", [0, 1, 2, 3])
def test_bar_starts_with_the_kick_before_the_snare(beats_late):
    beat = 60.0 / 112.0
    pattern = {KICK: (0, 10), SNARE: (4, 12), HAT: range(0, 16, 2)}
    signal = loop(112.0, pattern, seconds=16.0, lead_in=beats_late * beat)
    tempo = estimate_tempo(signal, RATE, hint_bpm=112.0)
    assert tempo.beats_per_bar == 4
    assert tempo.downbeat_offset_seconds == pytest.approx(beats_late * beat, abs=0.03)


def test_a_waltz_has_three_beats():
    tempo = estimate_tempo(loop(150.0, WALTZ, seconds=16.0, steps=12), RATE, hint_bpm=150.0)
    assert tempo.bpm == pytest.approx(150.0, abs=0.1)
    assert tempo.beats_per_bar == 3
    assert tempo.downbeat_offset_seconds == pytest.approx(0.0, abs=0.03)


@pytest.mark.parametrize("rate", [8_000, 32_000, 44_100, 48_000, 96_000, 192_000])
def test_tempo_does_not_depend_on_the_sample_rate(rate):
    tempo = estimate_tempo(loop(118.0, FOUR, seconds=10.0, rate=rate), rate)
    assert tempo.bpm == pytest.approx(118.0, abs=0.1)


@pytest.mark.parametrize("gain", [1e-4, 0.01, 1.0, 8.0])
def test_tempo_does_not_depend_on_the_level(gain):
    tempo = estimate_tempo(loop(118.0, FOUR) * np.float32(gain), RATE)
    assert tempo.bpm == pytest.approx(118.0, abs=0.1)


def test_channels_in_opposite_phase_do_not_hide_the_music():
    signal = loop(118.0, FOUR)
    tempo = estimate_tempo(np.stack((signal, -signal)), RATE)
    assert tempo.bpm == pytest.approx(118.0, abs=0.1)


@pytest.mark.parametrize("hint", [0.0, -120.0, float("nan"), float("inf")])
def test_invalid_hint_is_refused(hint):
    with pytest.raises(ValueError, match="positive number"):
        estimate_tempo(np.zeros(RATE), RATE, hint_bpm=hint)


def test_invalid_audio_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        estimate_tempo(np.array([np.nan]), RATE)
    with pytest.raises(ValueError, match="sample rate"):
        estimate_tempo(np.zeros(10), 100)


def test_result_is_json_ready():
    found = estimate_tempo(loop(118.0, FOUR), RATE, hint_bpm=118.0).to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["bpm"] == pytest.approx(118.0, abs=0.1)
    assert found["first_beat_seconds"] == pytest.approx(0.0, abs=0.03)


@pytest.mark.parametrize("bpm", [89.95, 90.05, 119.95, 120.05, 179.9, 180.125])
def test_tempo_is_not_rounded(bpm):
    tempo = estimate_tempo(loop(bpm, BREAKS), RATE, hint_bpm=bpm)
    assert tempo.bpm == pytest.approx(bpm, abs=0.05)


def check_steady_loop(bpm, off, pattern):
    tempo = estimate_tempo(loop(bpm, pattern), RATE, hint_bpm=bpm * off)
    assert tempo.bpm == pytest.approx(bpm, abs=0.1)


steady_loops = given(
    st.floats(62.0, 190.0), st.floats(0.94, 1.06), st.sampled_from([ROCK, FOUR, BREAKS])
)


@steady_loops
def test_any_tempo_is_found_near_the_hint(bpm, off, pattern):
    check_steady_loop(bpm, off, pattern)


@pytest.mark.nightly
@steady_loops
@settings(max_examples=2000)
def test_any_tempo_is_found_near_the_hint_at_length(bpm, off, pattern):
    check_steady_loop(bpm, off, pattern)


@given(
    arrays.arrays(np.float32, st.integers(1, 30_000), elements=st.floats(-4, 4, width=32)),
    st.none() | st.floats(1.0, 1000.0),
)
def test_result_of_any_signal_is_in_range(signal, hint):
    tempo = estimate_tempo(signal, 8_000, hint_bpm=hint)
    assert 0.0 <= tempo.confidence <= 1.0
    assert tempo.bpm is None or 39.0 < tempo.bpm < 245.0
    assert all(0.0 <= beat <= signal.size / 8_000 for beat in tempo.beats)
