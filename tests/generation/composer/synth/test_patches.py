"""Every patch: it sounds in tune, on time, without clicks and at its level."""

from __future__ import annotations

import math

import numpy as np
import pytest

from services.errors import CancelledError
from services.generation.composer.synth import PATCHES
from services.generation.composer.synth.instrument import RenderContext
from services.generation.composer.synth.subtractive import Layer, Subtractive
from services.generation.score import Note, Part

RATE = 48_000
BEAT = 0.5

KITS = ("trap", "boombap", "lofi", "house", "techno", "dnb", "synthwave", "soft")
BASSES = ("bass-808", "bass-sub", "bass-reese", "bass-saw", "bass-acid", "bass-upright")
CHORDS = ("keys-rhodes", "keys-piano", "keys-organ", "stab-house")
PADS = ("pad-warm", "pad-air", "pad-supersaw", "strings")
LEADS = (
    "lead-pluck",
    "lead-bell",
    "lead-saw",
    "lead-square",
    "lead-flute",
    "guitar-pluck",
    "arp-pluck",
    "brass-synth",
)
TEXTURES = ("vinyl", "noise-riser", "impact", "wind")
PITCHED = (*BASSES, *CHORDS, *PADS, *LEADS)
HELD = ("bass-sub", "keys-organ", *PADS, "lead-saw", "lead-square", "lead-flute", "brass-synth")
CLEAN = (
    "arp-pluck",
    "brass-synth",
    "guitar-pluck",
    "keys-organ",
    "keys-piano",
    "keys-rhodes",
    "lead-pluck",
    "lead-saw",
    "lead-square",
    "pad-supersaw",
    "stab-house",
    "strings",
)
QUICK = ("bass-808", "bass-saw", "keys-rhodes", "keys-piano", "stab-house", "lead-pluck")


def play(patch, notes, seconds, *, brightness=(), seed=1):
    rng = np.random.Generator(np.random.PCG64(seed))
    context = RenderContext(RATE, int(seconds * RATE), BEAT, rng)
    part = Part("x", "lead", patch, tuple(notes), brightness=brightness)
    return PATCHES[patch].render(part, context)


def note(pitch, beats=2.0, start=0.0, velocity=0.8):
    return Note(start, beats, pitch, velocity)


def home(patch):
    """Return a typical pitch of a patch."""
    return 33 if patch in BASSES else 69


def rms_db(audio):
    return 10.0 * math.log10(float(np.mean(audio.astype(np.float64) ** 2)) + 1e-20)


def loudest_db(audio, seconds=0.4):
    """Return the level of the loudest window of that length."""
    length = int(seconds * RATE)
    power = np.concatenate([[0.0], np.cumsum((audio.astype(np.float64) ** 2).mean(axis=0))])
    return 10.0 * math.log10(float(np.max(power[length:] - power[:-length])) / length + 1e-20)


def share_db(audio, low, high):
    """Return the energy between two frequencies relative to all of it."""
    power = (np.abs(np.fft.rfft(audio.astype(np.float64))) ** 2).sum(axis=0)
    hertz = np.fft.rfftfreq(audio.shape[1], 1.0 / RATE)
    return 10.0 * math.log10(power[(hertz >= low) & (hertz < high)].sum() / power.sum() + 1e-20)


def energy_above(audio, low):
    return float(np.mean(audio**2)) * 10.0 ** (share_db(audio, low, 20_000.0) / 10.0)


def cents_off(audio, pitch):
    """Return the distance of the energy around the fundamental from the pitch."""
    right = 440.0 * 2.0 ** ((pitch - 69) / 12.0)
    wave = audio.sum(axis=0).astype(np.float64) * np.hanning(audio.shape[1])
    bins = 1 << 20
    low, high = (right * 2.0 ** (cents / 1200.0) * bins / RATE for cents in (-45.0, 45.0))
    near = np.arange(math.ceil(low), math.ceil(high))
    power = np.abs(np.fft.rfft(wave, bins)[near]) ** 2
    return 1200.0 * math.log2((near * RATE / bins * power).sum() / power.sum() / right)


def test_the_patches_have_the_names_that_scores_use():
    kits = {f"kit-{name}" for name in KITS}
    assert set(PATCHES) == kits | set(PITCHED) | set(TEXTURES)


@pytest.mark.parametrize("patch", [*PITCHED, *TEXTURES])
def test_a_note_sounds_and_ends_and_is_finite(patch):
    audio = play(patch, [note(home(patch))], 5.0)
    assert audio.dtype == np.float32
    assert audio.shape == (2, 5 * RATE)
    assert np.all(np.isfinite(audio))
    assert rms_db(audio[:, :RATE]) > -60.0
    assert rms_db(audio[:, -RATE:]) < -100.0


@pytest.mark.parametrize("patch", PITCHED)
def test_patches_are_in_tune(patch):
    """Within 3 cents, averaged over the random phases of detuned banks."""
    pitches = (31, 40) if patch in BASSES else (52, 64, 81)
    short = patch in {"stab-house", "lead-pluck", "arp-pluck"}
    begin = 0.05 if short else 0.3
    for pitch in pitches:
        off = [
            cents_off(
                play(patch, [note(pitch, 8.0)], 3.3, seed=seed)[:, int(begin * RATE) :], pitch
            )
            for seed in range(3)
        ]
        assert abs(np.mean(off)) < 3.0, (pitch, off)


@pytest.mark.parametrize("patch", BASSES)
def test_a_bass_has_its_level_and_is_mono(patch):
    audio = play(patch, [note(33)], 1.5)
    assert -20.5 < loudest_db(audio) < -12.0
    assert np.max(np.abs(audio[0] - audio[1])) < 1e-6


@pytest.mark.parametrize("patch", [*CHORDS, *PADS])
def test_a_chord_has_its_level(patch):
    audio = play(patch, [note(pitch, 4.0) for pitch in (57, 60, 64, 67)], 2.5)
    assert -25.0 < loudest_db(audio) < -18.0
    assert np.max(np.abs(audio)) < 0.7


@pytest.mark.parametrize("patch", LEADS)
def test_a_lead_has_its_level(patch):
    audio = play(patch, [note(72, 1.0)], 1.2)
    assert -25.5 < loudest_db(audio) < -18.0
    assert np.max(np.abs(audio)) < 0.55


@pytest.mark.parametrize("patch", [*PITCHED, "wind", "impact"])
def test_harder_is_louder(patch):
    soft, hard = (play(patch, [note(home(patch), velocity=v)], 1.5) for v in (0.3, 1.0))
    assert rms_db(hard) - rms_db(soft) > 4.0


@pytest.mark.parametrize("patch", ["bass-saw", "keys-rhodes", "keys-piano", "pad-warm", "lead-saw"])
def test_harder_is_brighter(patch):
    soft, hard = (play(patch, [note(home(patch), velocity=v)], 1.5) for v in (0.3, 1.0))
    assert share_db(hard, 1_500.0, 16_000.0) > share_db(soft, 1_500.0, 16_000.0) + 1.0


@pytest.mark.parametrize("patch", PITCHED)
def test_brightness_closes_and_opens_the_filter(patch):
    levels = [
        energy_above(audio, 700.0 if patch in BASSES else 1_200.0)
        for audio in (
            play(patch, [note(home(patch))], 1.5, brightness=((0.0, value),))
            for value in (0.1, 0.5, 1.0)
        )
    ]
    assert levels[0] < 0.7 * levels[1]
    assert levels[1] <= levels[2] * 1.02


def test_brightness_moves_within_a_note():
    audio = play("pad-warm", [note(60, 8.0)], 4.0, brightness=((0.0, 0.0), (8.0, 1.0)))
    early, late = audio[:, RATE // 2 : RATE], audio[:, 3 * RATE : 3 * RATE + RATE // 2]
    assert share_db(late, 1_500.0, 20_000.0) > share_db(early, 1_500.0, 20_000.0) + 15.0


def test_brightness_of_one_half_does_not_change_the_patch():
    plain = play("lead-saw", [note(69)], 1.5)
    assert np.array_equal(plain, play("lead-saw", [note(69)], 1.5, brightness=((0.0, 0.5),)))


@pytest.mark.parametrize("patch", HELD)
def test_held_sounds_begin_and_end_without_a_click(patch):
    """The second difference at a note's edges is as within the note, or too small to hear."""
    audio = play(patch, [note(home(patch), 2.0, start=1.0)], 2.6).astype(np.float64)
    bend = np.abs(np.diff(audio, 2)).max(axis=0)
    begin, end = int(0.5 * RATE), int(1.5 * RATE)
    inside = bend[begin + 1_200 : end - 1_200].max()
    edges = max(bend[begin - 96 : begin + 480].max(), bend[end - 480 : end + 4_800].max())
    assert edges < max(1.6 * inside, 0.004 * np.max(np.abs(audio)))
    assert np.max(np.abs(audio[:, : begin - 1])) == 0.0


@pytest.mark.parametrize("patch", QUICK)
def test_a_struck_note_sounds_within_5_ms(patch):
    begin = int(0.5 * RATE)
    level = np.abs(play(patch, [note(home(patch), 1.0, start=1.0)], 1.2)).max(axis=0)
    first = int(np.argmax(level > 0.1 * level.max()))
    assert begin <= first + 1
    assert first - begin <= int(0.005 * RATE)


@pytest.mark.parametrize("patch", [*CHORDS, *PADS, *LEADS])
def test_a_patch_keeps_its_level_in_mono(patch):
    audio = play(patch, [note(pitch, 4.0) for pitch in (60, 64, 67)], 2.5)
    assert rms_db(0.5 * (audio[0] + audio[1])) > rms_db(audio) - 3.5


@pytest.mark.parametrize("patch", ["pad-warm", "pad-air", "pad-supersaw", "strings"])
def test_pads_are_wide_and_balanced(patch):
    audio = play(patch, [note(pitch, 8.0) for pitch in (57, 60, 64, 67)], 4.5)
    side, middle = audio[0] - audio[1], audio[0] + audio[1]
    assert -12.0 < rms_db(side) - rms_db(middle) < 0.0
    assert abs(rms_db(audio[0]) - rms_db(audio[1])) < 2.5


@pytest.mark.parametrize("patch", CLEAN)
def test_high_notes_do_not_alias(patch):
    """Energy between the harmonics of C7 is below -50 dB."""
    hertz = 440.0 * 2.0 ** ((96 - 69) / 12.0)
    audio = play(patch, [note(96, 2.0)], 1.0, brightness=((0.0, 1.0),))[0, 2_400:24_000]
    power = np.abs(np.fft.rfft(audio * np.blackman(audio.size))) ** 2
    at = np.fft.rfftfreq(audio.size, 1.0 / RATE) / hertz
    nearest = np.maximum(np.round(at), 1.0)
    off_cents = 1200.0 * np.abs(np.log2(np.maximum(at, 1e-3) / nearest))
    assert 10.0 * math.log10(power[off_cents > 60.0].sum() / power.sum()) < -50.0


def test_an_808_has_harmonics_for_small_speakers():
    """Harmonics above 150 Hz have -24 to -8 dB of its energy."""
    audio = play("bass-808", [note(31, 3.0)], 1.5)
    assert -24.0 < share_db(audio, 150.0, 2_000.0) < -8.0


def test_an_808_slides_to_its_target():
    slide = Note(0.0, 4.0, 33, 0.8, glide_to=40)
    audio = play("bass-808", [slide], 2.2)
    assert abs(cents_off(audio[:, int(0.2 * RATE) : int(0.95 * RATE)], 33)) < 5.0
    assert share_db(audio[:, int(1.92 * RATE) : 2 * RATE], 70.0, 95.0) > -4.0


def test_a_mono_bass_ends_a_note_when_the_next_one_starts():
    together = play("bass-sub", [note(28, 4.0), note(40, 2.0, start=2.0)], 2.5)
    alone = play("bass-sub", [note(40, 2.0, start=2.0)], 2.5)
    late = slice(int(1.2 * RATE), int(1.9 * RATE))
    assert np.max(np.abs(together[:, late] - alone[:, late])) < 1e-3


def test_a_reese_moves():
    audio = play("bass-reese", [note(33, 8.0)], 4.0)
    bright = [
        share_db(audio[:, begin : begin + 9_600], 400.0, 5_000.0)
        for begin in range(9_600, 3 * RATE, 9_600)
    ]
    assert max(bright) - min(bright) > 4.0


def test_a_riser_rises_until_its_note_ends():
    audio = play("noise-riser", [note(60, 8.0)], 4.5)
    quarters = [rms_db(audio[:, k * RATE : (k + 1) * RATE]) for k in range(4)]
    assert quarters == sorted(quarters)
    assert quarters[3] - quarters[0] > 15.0
    assert rms_db(audio[:, int(4.1 * RATE) :]) < -80.0


def test_an_impact_is_loudest_at_its_start():
    audio = play("impact", [note(60, 1.0)], 3.0)
    assert rms_db(audio[:, : RATE // 4]) > rms_db(audio[:, RATE:]) + 15.0


def test_vinyl_crackles_at_a_low_level():
    audio = play("vinyl", [note(60, 8.0)], 4.0)
    assert -50.0 < rms_db(audio) < -36.0
    assert np.max(np.abs(audio)) > 8.0 * np.std(audio)


def test_the_same_random_numbers_give_the_same_bytes():
    for patch in ("pad-supersaw", "kit-house", "vinyl", "guitar-pluck"):
        one, again = (play(patch, [note(42)], 1.0, seed=7) for _ in range(2))
        assert one.tobytes() == again.tobytes()
        assert not np.array_equal(one, play(patch, [note(42)], 1.0, seed=8))


def test_a_cancelled_part_stops_between_notes():
    def refuse():
        raise CancelledError("stop")

    rng = np.random.Generator(np.random.PCG64(1))
    context = RenderContext(RATE, RATE, BEAT, rng, refuse)
    for patch in ("lead-saw", "kit-trap"):
        with pytest.raises(CancelledError):
            PATCHES[patch].render(Part("x", "lead", patch, (note(42),)), context)


def test_notes_outside_the_piece_are_cut_or_left_out():
    stage_end = play("lead-saw", [note(69, 2.0, start=1.9), note(69, 2.0, start=90.0)], 1.0)
    assert np.any(stage_end[:, int(0.96 * RATE) :])
    early = play("lead-saw", [note(69, 1.0, start=-0.01)], 1.0)
    assert np.any(early[:, :480])


def test_voices_compare_by_their_settings():
    voice = Subtractive((Layer("sine"),))
    assert voice == Subtractive((Layer("sine"),))
    assert hash(voice) == hash(Subtractive((Layer("sine"),)))
