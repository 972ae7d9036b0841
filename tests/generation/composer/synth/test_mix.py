"""The mixer and its effects: pan, ducking, sends, lows, bus compressor."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generation.composer.synth import PATCHES
from services.generation.composer.synth.effects import Echo, Reverb, chorus, cut_lows, tape, tremolo
from services.generation.composer.synth.instrument import RenderContext
from services.generation.composer.synth.mix import (
    SendEffects,
    apply_pan,
    bus_gain,
    duck_curve,
    effects_of,
    end_fade,
    make_lows_mono,
    render_channel,
)
from services.generation.score import Key, Note, Part, Score

RATE = 48_000
HITS = (Note(0.0, 0.25, 36, 0.9), Note(2.0, 0.25, 36, 0.9))


def context(seconds=1.0):
    rng = np.random.Generator(np.random.PCG64(3))
    return RenderContext(RATE, int(seconds * RATE), 0.5, rng)


def tone(hertz, seconds=1.0, left=1.0, right=1.0):
    wave = np.sin(2.0 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE)
    return np.stack([left * wave, right * wave]).astype(np.float32)


def click(seconds=1.0):
    audio = np.zeros((2, int(seconds * RATE)), dtype=np.float32)
    audio[:, 0] = 1.0
    return audio


def score(*parts, genre="house"):
    return Score(120.0, 2, Key(0, "minor"), genre, (), (), parts)


def db(ratio):
    return 20.0 * math.log10(ratio)


def channel_of(part, *, seconds=2.0, duck=None, effects=None):
    where = context(seconds)
    curve = np.zeros(where.samples, np.float32) if duck is None else duck
    return render_channel(PATCHES[part.patch], part, where, effects or SendEffects(), curve)


def lead(**fields):
    return Part("lead", "lead", "lead-saw", (Note(0.0, 1.0, 69, 0.8),), **fields)


@given(st.floats(-1.0, 1.0))
def test_pan_keeps_the_power(pan):
    audio = np.ones((2, 4), dtype=np.float32)
    apply_pan(audio, pan)
    assert float((audio[:, 0] ** 2).sum()) == pytest.approx(2.0, abs=1e-5)
    assert (audio[0, 0] > audio[1, 0]) == (pan < 0) or abs(pan) < 1e-6


def test_pan_at_the_ends_is_one_side_only():
    for pan, silent in ((-1.0, 1), (1.0, 0)):
        audio = np.ones((2, 4), dtype=np.float32)
        apply_pan(audio, pan)
        assert np.max(np.abs(audio[silent])) < 1e-6


def test_ducking_is_deepest_at_the_kick_and_over_before_the_next():
    curve = duck_curve(score(Part("d", "drums", "kit-house", HITS)), RATE, 2 * RATE)
    assert curve[RATE] == pytest.approx(1.0, abs=1e-3)
    assert curve[0] == pytest.approx(1.0, abs=1e-3)
    assert np.max(curve[int(0.45 * RATE) : int(0.99 * RATE)]) < 1e-3
    assert np.max(np.abs(np.diff(curve))) < 0.02


def test_only_kicks_duck_the_other_parts():
    snare = Part("d", "drums", "kit-house", (Note(0.0, 0.25, 38, 0.9),))
    melody = Part("l", "lead", "lead-saw", (Note(0.0, 0.25, 36, 0.9),))
    assert not np.any(duck_curve(score(snare, melody), RATE, RATE))


def test_a_part_is_ducked_by_its_depth():
    duck = np.full(2 * RATE, 0.5, np.float32)
    free, half = channel_of(lead()), channel_of(lead(sidechain=1.0), duck=duck)
    assert db(np.std(half) / np.std(free)) == pytest.approx(-6.02, abs=0.05)


def test_drums_do_not_duck_themselves():
    part = Part("d", "drums", "kit-house", HITS, sidechain=1.0)
    ducked = channel_of(part, duck=np.ones(2 * RATE, np.float32))
    assert np.max(np.abs(ducked)) > 0.3


def test_gain_is_in_decibels():
    assert db(np.std(channel_of(lead(gain_db=-6.0))) / np.std(channel_of(lead()))) == pytest.approx(
        -6.0, abs=0.01
    )


@pytest.mark.parametrize("send", ["reverb", "delay"])
def test_sends_add_a_tail_and_leave_the_onset_unchanged(send):
    dry, wet = channel_of(lead()), channel_of(lead(**{send: 0.5}))
    tail = slice(int(0.9 * RATE), int(1.5 * RATE))
    assert np.std(wet[:, tail]) > 1e-3
    assert np.std(dry[:, tail]) < 1e-4
    assert np.allclose(dry[:, :480], wet[:, :480], atol=1e-4)


def test_reverb_is_quieter_than_the_dry_signal():
    dry, wet = channel_of(lead()), channel_of(lead(reverb=0.3))
    held = slice(2_400, 24_000)
    assert -26.0 < db(np.std((wet - dry)[:, held]) / np.std(dry[:, held])) < -6.0


def test_the_mixer_filters_a_part_without_its_own_filter():
    def share(value):
        part = Part("d", "drums", "kit-house", (Note(0.0, 1, 42, 0.8),), brightness=((0.0, value),))
        return float(np.std(channel_of(part)))

    assert share(0.0) < 0.3 * share(0.5)
    assert share(1.0) == share(0.5)


def test_lows_become_mono_and_highs_stay_stereo():
    low = make_lows_mono(tone(50.0, left=1.0, right=-1.0), RATE)[:, RATE // 2 :]
    high = make_lows_mono(tone(1_000.0, left=1.0, right=-1.0), RATE)[:, RATE // 2 :]
    assert np.std(low) < 0.05
    assert np.std(high) == pytest.approx(math.sqrt(0.5), rel=0.02)


def test_mono_lows_pass_and_dc_is_removed():
    audio = make_lows_mono(tone(50.0, 2.0) + np.float32(0.5), RATE)[:, RATE:]
    assert abs(db(np.std(audio) / math.sqrt(0.5))) < 0.6
    assert abs(float(audio.mean())) < 1e-3


def test_the_bus_does_not_compress_quiet_music():
    assert np.min(bus_gain(0.02 * tone(440.0), RATE)) == 1.0


def test_the_bus_compresses_loud_music_two_to_one():
    gain = bus_gain(tone(440.0, 2.0), RATE)
    # A full-scale sine is at -3 dB, 12 dB over the threshold.
    assert db(float(gain[-1])) == pytest.approx(-6.0, abs=0.3)
    assert np.max(np.abs(np.diff(gain))) < 1e-3


def test_the_end_fades_to_zero():
    fade = end_fade(RATE, RATE)
    assert fade[-1] == 0.0
    assert fade[: RATE - int(0.03 * RATE)].min() == 1.0
    assert np.all(np.diff(fade) <= 0.0)
    assert end_fade(1, RATE).tolist() == [0.0]


@pytest.mark.parametrize("seconds", [0.8, 2.0, 5.0])
def test_a_reverb_decays_in_its_time(seconds):
    tail = Reverb(seconds=seconds, brightness=0.9, low=20.0, high=20_000.0).render(click(3.0), RATE)
    energy = np.cumsum((tail.astype(np.float64) ** 2).sum(axis=0)[::-1])[::-1]
    level = 10.0 * np.log10(energy / energy[0] + 1e-12)
    begin, end = (int(np.argmax(level < at)) for at in (-5.0, -20.0))
    assert 60.0 / 15.0 * (end - begin) / RATE == pytest.approx(seconds, rel=0.3)


def test_a_reverb_is_dense_and_wide_after_its_predelay():
    tail = Reverb(seconds=2.0, predelay=0.02).render(click(2.0), RATE)
    piece = tail[:, int(0.3 * RATE) : int(0.8 * RATE)].astype(np.float64)
    assert not np.any(tail[:, : int(0.02 * RATE)])
    assert abs(np.corrcoef(piece)[0, 1]) < 0.3
    kurtosis = np.mean(piece[0] ** 4) / np.mean(piece[0] ** 2) ** 2
    assert kurtosis < 12.0


def test_high_frequencies_of_a_reverb_decay_first():
    tail = Reverb(seconds=2.0, brightness=0.2).render(click(2.0), RATE).astype(np.float64)

    def share(begin):
        power = np.abs(np.fft.rfft(tail[0, begin : begin + 8_192])) ** 2
        return power[850:].sum() / power.sum()

    assert share(int(1.2 * RATE)) < 0.3 * share(int(0.05 * RATE))


def test_a_reverb_is_linear():
    rng = np.random.default_rng(4)
    one, other = (rng.standard_normal((2, 9_600)).astype(np.float32) for _ in range(2))
    reverb = Reverb()
    together = reverb.render(one + other, RATE)
    assert np.allclose(together, reverb.render(one, RATE) + reverb.render(other, RATE), atol=1e-4)


def test_the_echo_is_synchronised_to_the_tempo():
    out = Echo(beats=0.75, low=20.0).render(click(2.0), RATE, 0.5)
    assert abs(int(np.argmax(np.abs(out[0]))) - int(0.375 * RATE)) <= 3
    assert abs(int(np.argmax(np.abs(out[1]))) - int(0.75 * RATE)) <= 6


def test_chorus_keeps_the_level_and_widens():
    rng = np.random.default_rng(5)
    mono = np.tile(rng.standard_normal(RATE).astype(np.float32), (2, 1))
    out = chorus(2.0, 0.5, 0.5)(mono, context())
    assert abs(db(np.std(out) / np.std(mono))) < 1.0
    assert np.std(out[0] - out[1]) > 0.2 * np.std(out)


def test_tape_has_wow_and_flutter_and_no_highs():
    out = tape()(tone(1_000.0, 4.0), context(4.0))[0, 4_800:].astype(np.float64)
    crossings = np.flatnonzero((out[:-1] < 0) & (out[1:] >= 0))
    exact = crossings + out[crossings] / (out[crossings] - out[crossings + 1])
    cents = 1200.0 * np.log2(RATE / np.diff(exact) / 1_000.0)
    assert abs(cents.mean()) < 1.0
    assert 3.0 < np.abs(cents).max() < 9.0
    assert np.std(tape()(tone(15_000.0), context())) < 0.3


def test_tremolo_moves_between_the_sides_at_its_rate():
    out = tremolo(4.0, 0.5)(np.ones((2, RATE), dtype=np.float32), context())
    spectrum = np.abs(np.fft.rfft(out[0] - 1.0))
    assert int(np.argmax(spectrum)) == 4
    assert np.allclose(out.sum(axis=0), 2.0, atol=1e-5)


def test_cutting_lows_keeps_the_highs():
    assert np.std(cut_lows(200.0)(tone(40.0), context())[:, RATE // 2 :]) < 0.04
    assert np.std(cut_lows(200.0)(tone(2_000.0), context())) > 0.69


@pytest.mark.parametrize("genre", ["lo-fi", "Lo-Fi", "lofi"])
def test_a_genre_is_found_in_any_spelling(genre):
    assert effects_of(genre).on_tape


def test_an_unknown_genre_has_default_effects():
    assert effects_of("polka") == SendEffects()
    assert effects_of("ambient").reverb.seconds > 2.0 * SendEffects().reverb.seconds


def test_tape_dulls_chords_but_not_drums():
    chords = Part("c", "chords", "pad-supersaw", (Note(0.0, 3.0, 69, 0.8),))
    drums = Part("d", "drums", "kit-house", (Note(0.0, 1.0, 42, 0.8),))

    def top(part, effects):
        power = np.abs(np.fft.rfft(channel_of(part, effects=effects)[0])) ** 2
        return power[24_000:].sum()

    assert top(chords, SendEffects(on_tape=True)) < 0.5 * top(chords, SendEffects())
    assert top(drums, SendEffects(on_tape=True)) == top(drums, SendEffects())
