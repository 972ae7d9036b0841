"""Melody, bass and chords: motifs, roots and registers."""

import statistics
from bisect import bisect_right
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generation.composer.bass import BASS_STYLES
from services.generation.composer.comping import COMPING_STYLES
from services.generation.composer.compose import compose
from services.generation.composer.genres import GENRES
from services.generation.composer.melody import MOTIF_BEATS, REGISTERS, make_motif
from services.generation.composer.plan import make_plan
from services.generation.composer.prompt import parse_prompt
from services.generation.composer.random_streams import RandomStream
from services.generation.composer.styles import STYLES
from services.generation.composer.voices import choose_voices
from services.generation.score import Chord, Note, Score


def write(prompt: str, seconds: float = 30.0, seed: int = 1) -> Score:
    return compose(parse_prompt(prompt), duration_seconds=seconds, seed=seed)


def sounding(score: Score, note: Note) -> Chord:
    starts = [chord.start for chord in score.chords]
    return score.chords[max(0, bisect_right(starts, note.start + 0.1) - 1)]


@pytest.mark.parametrize("style", list(STYLES))
def test_the_bass_plays_the_root_at_chord_changes(style: str) -> None:
    for seed in range(3):
        score = write(f"{style} with bass", 30.0, seed)
        notes = score.part("bass").notes
        for chord in score.chords:
            inside = [
                note
                for note in notes
                if chord.start - 0.1 <= note.start < chord.start + chord.duration - 0.1
            ]
            if inside:
                assert inside[0].pitch % 12 == chord.root


@pytest.mark.parametrize("genre", GENRES)
def test_bass_and_lead_stay_in_their_registers(genre: str) -> None:
    for seed in range(4):
        score = write(f"{genre} with bass and melody", 30.0, seed)
        bass, lead = score.part("bass"), score.part("lead")
        assert all(26 <= note.pitch <= 54 for note in bass.notes)
        assert min(note.pitch for note in lead.notes) > 50
        low, high = REGISTERS.get(lead.patch, (62, 84))
        assert all(low <= note.pitch <= high for note in lead.notes)


@pytest.mark.parametrize("seed", range(4))
def test_an_808_follows_the_kick_and_sometimes_slides(seed: int) -> None:
    score = write("trap 140 bpm", 60.0, seed)
    kicks = {note.start for note in score.part("drums").notes if note.pitch == 36}
    notes = [note for note in score.part("bass").notes if note.start % 4 != 0]
    together = sum(note.start in kicks for note in notes)
    assert together > 0.6 * len(notes)
    slides = [note for note in score.part("bass").notes if note.glide_to is not None]
    assert all(note.glide_to != note.pitch for note in slides)


def test_slides_occur_in_most_trap_pieces() -> None:
    sliding = [
        any(note.glide_to is not None for note in write("trap", 30.0, seed).part("bass").notes)
        for seed in range(8)
    ]
    assert sum(sliding) >= 5


def test_progressive_house_bass_plays_off_the_beat() -> None:
    for seed in range(8):
        plan = make_plan(parse_prompt("progressive house"), duration_seconds=16.0, seed=seed)
        score = compose(parse_prompt("progressive house"), duration_seconds=16.0, seed=seed)
        bass = [note.start % 1.0 for note in score.part("bass").notes if note.start < 24.0]
        assert all(at > 0.2 for at in bass)
        assert plan.feel.swing >= 0.5


def test_disco_bass_alternates_octaves() -> None:
    voices = {
        seed: next(v for v in choose_voices(parse_prompt("disco"), seed) if v.slot == "bass")
        for seed in range(3)
    }
    for seed, voice in voices.items():
        assert voice.style == "octaves"
        notes = write("disco", 16.0, seed).part("bass").notes
        leaps = [abs(b.pitch - a.pitch) for a, b in pairwise(notes)]
        assert leaps.count(12) > len(leaps) / 2


@pytest.mark.parametrize("genre", GENRES)
def test_every_playing_style_of_a_genre_exists(genre: str) -> None:
    assert set(GENRES[genre].playing_styles["bass"]) <= set(BASS_STYLES)
    assert set(GENRES[genre].playing_styles["chords"]) <= set(COMPING_STYLES)


def test_every_bass_style_of_a_style_exists() -> None:
    assert {style.bass for style in STYLES.values()} <= {None, *BASS_STYLES}


@pytest.mark.parametrize("genre", GENRES)
def test_the_melody_has_chord_tones_on_strong_beats(genre: str) -> None:
    on, strong = 0, 0
    for seed in range(8):
        score = write(f"{genre} with melody", 60.0, seed)
        for note in score.part("lead").notes:
            if min(note.start % 2.0, 2.0 - note.start % 2.0) < 0.06:
                strong += 1
                on += note.pitch % 12 in sounding(score, note).pitch_classes
    assert strong > 40
    assert on >= 0.95 * strong


@pytest.mark.parametrize("genre", GENRES)
def test_the_melody_moves_mostly_by_step(genre: str) -> None:
    moves = [
        abs(after.pitch - note.pitch)
        for seed in range(10)
        for note, after in pairwise(write(f"{genre} with melody", 30.0, seed).part("lead").notes)
        if after.start - note.start < 2.0
    ]
    assert statistics.median(moves) <= 3
    assert sum(move > 9 for move in moves) < 0.05 * len(moves)


@pytest.mark.parametrize("genre", ["trap", "house", "synthwave", "drum and bass", "lo-fi"])
def test_the_motif_returns(genre: str) -> None:
    for seed in range(5):
        parsed = parse_prompt(f"{genre} straight with melody, seamless loop")
        plan = make_plan(parsed, duration_seconds=30.0, seed=seed)
        score = compose(parsed, duration_seconds=30.0, seed=seed)
        groove = plan.passages[0]
        if groove.section.bars < 4:
            continue
        step = 0.25

        def rhythm(start: float, score: Score = score, step: float = step) -> list[int]:
            return [
                round((note.start - start) / step)
                for note in score.part("lead").notes
                if start - 0.1 <= note.start < start + 3.8
            ]

        assert rhythm(0.0) == rhythm(MOTIF_BEATS)
        assert rhythm(0.0)


@pytest.mark.parametrize("genre", GENRES)
def test_the_melody_has_rests(genre: str) -> None:
    for seed in range(4):
        score = write(f"{genre} with melody", 60.0, seed)
        sung = sum(note.duration for note in score.part("lead").notes)
        assert sung < 0.9 * score.beats


@given(st.integers(0, 10_000), st.floats(0.05, 1.0))
def test_motifs_fit_two_bars_and_stay_within_an_octave(seed: int, density: float) -> None:
    motif = make_motif(RandomStream(seed), density)
    assert motif.onsets
    assert all(0.0 <= onset < MOTIF_BEATS for onset in motif.onsets)
    assert list(motif.onsets) == sorted(set(motif.onsets))
    assert len(motif.onsets) == len(motif.lengths) == len(motif.line)
    assert max(motif.line) - min(motif.line) <= 10
    for version in (motif.invert(), motif.answer(), motif.vary(RandomStream(seed, "v"))):
        assert len(version.onsets) == len(version.lengths) == len(version.line)
    assert motif.answer().onsets[-1] == 4.0
    assert motif.invert().invert() == motif


def test_busier_moods_play_more_notes() -> None:
    def count(mood: str) -> int:
        return sum(
            len(
                write(f"{mood} trap with melody in C minor, 140 bpm", 30.0, seed).part("lead").notes
            )
            for seed in range(10)
        )

    assert count("sparse") < count("") < count("busy")


@pytest.mark.parametrize("genre", GENRES)
def test_chords_and_pads_stay_in_their_register(genre: str) -> None:
    for seed in range(4):
        for part in write(f"{genre} with keys and pads", 30.0, seed).parts:
            if part.role in ("chords", "pad"):
                assert all(41 <= note.pitch <= 74 for note in part.notes)


@pytest.mark.parametrize("style", ["lo-fi", "jazz", "ambient", "cinematic", "hip-hop", "disco"])
def test_held_chords_and_pads_rarely_clash(style: str) -> None:
    for seed in range(4):
        score = write(
            f"{style} in C {'major' if seed % 2 else 'minor'} with keys and pads", 60, seed
        )
        held = [
            [note for note in part.notes if note.duration >= 1.0]
            for part in score.parts
            if part.role in ("chords", "pad")
        ]
        rubs = sum(
            max(0.0, min(a.start + a.duration, b.start + b.duration) - max(a.start, b.start))
            for a in held[0]
            for b in held[1]
            if abs(a.pitch - b.pitch) in (1, 13)
        )
        assert rubs <= 0.05 * score.beats


def test_lo_fi_chords_have_ninths() -> None:
    score = write("lo-fi with rhodes in C major", 30.0, 3)
    assert any(len(chord.pitch_classes) == 5 for chord in score.chords)


def test_further_leads_play_other_patches() -> None:
    score = write("trap with bells and flute and saw lead", 60.0)
    leads = [part for part in score.parts if part.role == "lead"]
    assert len(leads) >= 2
    assert len({part.patch for part in leads}) == len(leads)


def test_a_happy_mood_raises_the_melody() -> None:
    plain = write("house with flute in C major 124 bpm", 30.0, 5).part("lead").notes
    dreamy = write("happy bright house with flute in C major 124 bpm", 30.0, 5).part("lead").notes
    assert statistics.mean(n.pitch for n in dreamy) > statistics.mean(n.pitch for n in plain)


def test_a_solo_piano_has_a_left_hand() -> None:
    score = write("solo piano in C major", 30.0)
    low = [note for note in score.part("chords").notes if note.pitch < 48]
    assert {note.pitch % 12 for note in low} == {chord.root for chord in score.chords}
    band = write("house with piano in C major", 30.0)
    assert not [note for note in band.part("chords").notes if note.pitch < 48]


def test_a_requested_voice_plays_in_every_loud_section() -> None:
    score = write("house with arp, 124 bpm", 180.0)
    starts = [note.start for note in score.part("arp").notes]
    for section in score.sections:
        if section.energy >= 0.6:
            first, end = section.start_bar * 4.0, (section.start_bar + section.bars) * 4.0
            assert sum(first <= at < end for at in starts) >= section.bars
