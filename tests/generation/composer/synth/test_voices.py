"""Voices: subtractive, FM and strings, and rendering of the notes of a part."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generation.composer.synth.bass import Sub808, upright
from services.generation.composer.synth.curves import Adsr, control_points, control_times
from services.generation.composer.synth.instrument import (
    Instrument,
    RenderContext,
    Tone,
    add_at,
    cut_at_next,
    make_instrument,
    make_tone,
    play_notes,
)
from services.generation.composer.synth.keys import piano, rhodes
from services.generation.composer.synth.leads import bell, flute, guitar
from services.generation.composer.synth.strings import string
from services.generation.composer.synth.subtractive import (
    Filter,
    Layer,
    Lfo,
    Subtractive,
    pitch_bend,
)
from services.generation.composer.synth.textures import impact, riser, vinyl, wind
from services.generation.score import Note, Part

RATE = 48_000


def tone(pitch=69, velocity=0.8, held=1.0, **fields):
    rng = np.random.Generator(np.random.PCG64(fields.pop("seed", 1)))
    return Tone(pitch, velocity, held, RATE, rng, **fields)


def spectrum(audio, begin=0.1, seconds=0.8):
    """Amplitudes in bins of 1 Hz."""
    wave = audio[0, int(begin * RATE) : int((begin + seconds) * RATE)].astype(np.float64)
    return np.abs(np.fft.rfft(wave * np.hanning(wave.size), RATE))


def at(amplitudes, hertz, width=8):
    return float(amplitudes[int(hertz) - width : int(hertz) + width + 1].max())


def db(ratio):
    return 20.0 * math.log10(ratio)


def plain(**fields):
    return Subtractive((Layer("sine"),), Adsr(0.01, 0.1, 1.0, 0.1), **fields)


VOICES = [plain().play, Sub808().play, upright, rhodes, piano, bell, flute, guitar]
VOICES += [vinyl, riser, impact, wind]


@pytest.mark.parametrize("voice", VOICES)
@pytest.mark.parametrize("held", [0.001, 0.3])
def test_a_voice_starts_and_ends_at_zero(voice, held):
    audio = voice(tone(57, held=held))
    peak = np.max(np.abs(audio))
    assert audio.dtype == np.float32
    assert audio.shape[0] in {1, 2}
    assert np.max(np.abs(audio[:, 0])) <= 0.02 * peak + 1e-6
    assert np.max(np.abs(audio[:, -8:])) <= 0.02 * peak + 1e-6


@pytest.mark.parametrize("voice", VOICES)
def test_a_voice_is_finite_at_any_pitch(voice):
    for pitch in (0, 21, 60, 108, 127):
        audio = voice(tone(pitch, velocity=1.0, held=0.2))
        assert np.all(np.isfinite(audio))
        assert np.max(np.abs(audio)) < 12.0


@pytest.mark.parametrize("semitones", [-12.0, 7.0, 12.0])
def test_a_layer_can_be_transposed(semitones):
    audio = Subtractive((Layer("sine", semitones=semitones),)).play(tone(69))
    assert int(np.argmax(spectrum(audio))) == pytest.approx(440 * 2 ** (semitones / 12), abs=1)


@pytest.mark.parametrize("voices", [2, 5, 7])
def test_a_bank_is_about_as_loud_as_one_voice(voices):
    one = Subtractive((Layer("saw"),)).play(tone())
    many = [
        np.std(Subtractive((Layer("saw", voices=voices, cents=15.0),)).play(tone(seed=seed)))
        for seed in range(6)
    ]
    assert db(float(np.mean(many)) / np.std(one)) == pytest.approx(0.0, abs=2.0)


def test_a_voice_without_width_is_mono():
    assert plain().play(tone()).shape[0] == 1
    assert Subtractive((Layer("saw", voices=2, width=0.5),)).play(tone()).shape[0] == 2


def test_vibrato_has_its_depth_and_rate():
    audio = plain(vibrato=Lfo(5.0, 50.0)).play(tone(held=2.0))[0].astype(np.float64)
    rising = np.flatnonzero((audio[:-1] < 0) & (audio[1:] >= 0))[20:-20]
    exact = rising + audio[rising] / (audio[rising] - audio[rising + 1])
    cents = 1200.0 * np.log2(RATE / np.diff(exact) / 440.0)
    assert cents.max() == pytest.approx(50.0, abs=4.0)
    assert cents.min() == pytest.approx(-50.0, abs=4.0)
    turns = np.sum((cents[:-1] < 0) & (cents[1:] >= 0))
    assert turns == pytest.approx(5.0 * (exact[-1] - exact[0]) / RATE, abs=1.0)


def test_the_filter_envelope_opens_and_closes():
    adsr = Adsr(0.01, 0.3, 0.0, 0.1)
    voice = Subtractive((Layer("saw"),), filter=Filter(300.0, envelope_octaves=4.0, envelope=adsr))
    audio = voice.play(tone(45, held=1.0))
    early, late = spectrum(audio, 0.02, 0.1), spectrum(audio, 0.8, 0.1)
    assert early[2_000:6_000].sum() > 20.0 * late[2_000:6_000].sum()


def test_the_filter_tracks_the_key():
    seconds = control_times(4, RATE)
    for key_tracking in (0.0, 0.5, 1.0):
        low, high = (
            Filter(1_000.0, key_tracking=key_tracking).curve(tone(pitch), seconds)[0]
            for pitch in (60, 72)
        )
        assert high / low == pytest.approx(2.0**key_tracking)


def test_brightness_moves_the_filter_by_octaves_either_way():
    seconds = control_times(4, RATE)
    shut, open_ = (
        Filter(1_000.0).curve(tone(60, breakpoints=((0.0, value),)), seconds)[0]
        for value in (0.0, 1.0)
    )
    assert shut == pytest.approx(1_000.0 / 16.0)
    assert open_ == pytest.approx(16_000.0)


def test_drive_adds_odd_harmonics():
    clean, driven = (spectrum(plain(drive=drive).play(tone(57))) for drive in (0.0, 3.0))
    assert db(at(driven, 660) / at(driven, 220)) > -25.0
    assert db(at(clean, 660) / at(clean, 220)) < -60.0


def test_a_voice_can_have_noise():
    clean, breathy = (
        spectrum(plain(noise_level=noise_level).play(tone(57))) for noise_level in (0.0, 0.1)
    )
    assert np.median(breathy[3_000:9_000]) > 100.0 * np.median(clean[3_000:9_000])


@given(st.integers(24, 60), st.integers(24, 60), st.floats(0.05, 3.0))
def test_a_slide_begins_at_the_note_and_ends_at_the_target(pitch, target, held):
    seconds = np.array([0.0, held, held + 1.0])
    factors = pitch_bend(tone(pitch, held=held, glide_to=target), seconds)
    assert factors[0] == pytest.approx(1.0)
    assert factors[1:] == pytest.approx(2.0 ** ((target - pitch) / 12.0))


def test_an_808_falls_to_its_pitch():
    audio = Sub808().play(tone(36, held=1.0))[0]
    rising = np.flatnonzero((audio[:-1] < 0) & (audio[1:] >= 0))
    assert rising[1] - rising[0] < 0.9 * (rising[11] - rising[10])
    assert RATE / np.mean(np.diff(rising[8:30])) == pytest.approx(65.41, rel=0.003)


@pytest.mark.parametrize("pitch", [28, 40, 52, 64, 76, 88])
def test_a_string_is_tuned_within_a_cent(pitch):
    one = tone(pitch, held=2.0)
    wave = string(one, 2 * RATE, position=0.2, softness=0.5, damping=0.3, sustain=6.0)
    padded = np.abs(np.fft.rfft(wave[0] * np.hanning(2 * RATE), 1 << 21))
    hertz = np.fft.rfftfreq(1 << 21, 1 / RATE)
    near = np.abs(hertz - one.frequency) < 0.03 * one.frequency
    found = hertz[near][np.argmax(padded[near])]
    assert abs(1200.0 * math.log2(found / one.frequency)) < 1.0


@pytest.mark.parametrize("sustain", [0.8, 2.0])
def test_a_string_decays_in_its_sustain_time(sustain):
    wave = string(
        tone(57), int(2.0 * RATE), position=0.2, softness=0.9, damping=0.1, sustain=sustain
    )
    early, late = spectrum(wave, 0.2, 0.3), spectrum(wave, 0.9, 0.3)
    fallen = db(at(early, 220) / at(late, 220))
    assert fallen == pytest.approx(60.0 * 0.7 / sustain, rel=0.12)


def test_a_softer_finger_is_darker():
    def top(softness):
        wave = string(tone(57), RATE, position=0.2, softness=softness, damping=0.2, sustain=2.0)
        amplitudes = spectrum(wave, 0.02, 0.3)
        return amplitudes[2_000:].sum() / amplitudes.sum()

    assert top(0.9) < 0.7 * top(0.2)


def test_piano_partials_are_stretched():
    amplitudes = spectrum(piano(tone(48, velocity=1.0, held=2.0)), 0.05, 1.9)
    first, tenth = 130.813, 10 * 130.813
    found = np.argmax(amplitudes[int(tenth) - 15 : int(tenth) + 25]) + int(tenth) - 15
    assert int(np.argmax(amplitudes)) < 5 * first
    assert 1.0 < found - tenth < 12.0


def test_dampers_stop_a_piano_and_a_rhodes():
    for voice in (piano, rhodes):
        audio = voice(tone(60, held=0.5))
        assert audio.shape[1] < 0.75 * RATE
        held = voice(tone(60, held=1.5))[:, : audio.shape[1]]
        assert np.std(held[:, int(0.6 * RATE) :]) > 3.0 * np.std(audio[:, int(0.6 * RATE) :])


def test_a_hard_rhodes_note_has_a_tine():
    def tine(velocity):
        amplitudes = spectrum(rhodes(tone(60, velocity=velocity)), 0.0, 0.2)
        return amplitudes[3_300:4_100].max() / amplitudes[255:270].max()

    assert tine(1.0) > 2.0 * tine(0.3)


def test_the_partials_of_a_bell_decay_before_its_fundamental():
    audio = bell(tone(72, held=2.0))
    early, late = spectrum(audio, 0.0, 0.3), spectrum(audio, 1.2, 0.3)
    inharmonic = 3.5 * 523.25
    assert at(late, inharmonic) / at(late, 523) < 0.5 * at(early, inharmonic) / at(early, 523)


def test_a_flute_has_a_chiff():
    audio = flute(tone(72, held=1.0))
    noise = [np.median(spectrum(audio, begin, 0.08)[1_700:2_000]) for begin in (0.04, 0.7)]
    assert noise[0] > 1.3 * noise[1]


def test_notes_are_added_at_their_times():
    out = np.zeros((2, 10), dtype=np.float32)
    add_at(out, np.ones((1, 4), dtype=np.float32), 2)
    add_at(out, np.ones((2, 8), dtype=np.float32), 5)
    add_at(out, np.ones((2, 8), dtype=np.float32), 99)
    assert out[0].tolist() == [0, 0, 1, 1, 1, 2, 1, 1, 1, 1]
    assert np.array_equal(out[0], out[1])


def test_a_later_note_ends_an_earlier_one():
    notes = [Note(0.0, 4.0, 40, 0.8), Note(1.0, 0.5, 43, 0.8), Note(3.0, 2.0, 45, 0.8)]
    assert [note.duration for note in cut_at_next(notes)] == [1.0, 0.5, 2.0]
    twins = cut_at_next([Note(0.0, 1.0, 40, 0.8), Note(0.0, 1.0, 47, 0.8)])
    assert [note.duration for note in twins] == [0.01, 1.0]


def test_a_tone_has_its_times_in_seconds():
    context = RenderContext(RATE, RATE, 0.5, np.random.default_rng(1))
    part = Part("x", "lead", "lead-saw", (), brightness=((2.0, 0.1), (6.0, 0.9)))
    made = make_tone(Note(4.0, 2.0, 60, 0.7, glide_to=62), part, context)
    assert (made.pitch, made.velocity, made.held, made.glide_to) == (60, 0.7, 1.0, 62)
    assert made.breakpoints == ((-1.0, 0.1), (1.0, 0.9))
    assert made.octaves(np.array([0.0])) == pytest.approx(0.0)


def test_the_order_of_notes_in_a_part_does_not_matter():
    notes = (Note(0.0, 0.5, 60, 0.8), Note(1.0, 0.5, 64, 0.8), Note(1.0, 0.5, 67, 0.8))
    parts = [Part("x", "lead", "p", order) for order in (notes, notes[::-1])]
    one, other = (
        play_notes(plain().play, part, RenderContext(RATE, RATE, 0.5, np.random.default_rng(1)))
        for part in parts
    )
    assert np.array_equal(one, other)


def test_an_instrument_applies_its_inserts_and_its_level():
    def double(audio, context):
        return audio * np.float32(2.0)

    part = Part("x", "lead", "p", (Note(0.0, 1.0, 60, 0.8),))
    bare, polished = (
        instrument.render(part, RenderContext(RATE, RATE, 0.5, np.random.default_rng(1)))
        for instrument in (
            make_instrument(plain().play),
            replace(make_instrument(plain().play, double), level_db=-6.0206),
        )
    )
    assert isinstance(make_instrument(plain().play), Instrument)
    assert np.allclose(bare, polished, atol=1e-5)


def test_the_length_of_a_note_covers_its_release():
    assert tone(held=0.5).length(0.25) == int(0.75 * RATE)
    assert tone(held=0.0001).length(0.0) >= 32
    assert control_points(tone(held=0.5).length(0.25)) * 32 >= 0.75 * RATE


def test_wind_is_stereo_and_balanced():
    audio = wind(tone(60, held=12.0))
    assert abs(np.corrcoef(audio)[0, 1]) < 0.8
    assert abs(db(np.std(audio[0]) / np.std(audio[1]))) < 6.0
