"""Properties of every score: whole bars, notes in range, harmony, requested instruments."""

import hashlib
import math
import os
import subprocess
import sys
import time
from bisect import bisect_right
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generation.composer.compose import compose
from services.generation.composer.genres import GENRES
from services.generation.composer.plan import make_plan
from services.generation.composer.prompt import parse_prompt
from services.generation.composer.styles import STYLES
from services.generation.composer.vocabulary import INSTRUMENTS
from services.generation.score import Part, Score

LOOSE = 0.025
"""Seconds that an onset may be off the swung grid."""


PATCHES = {
    "kit-trap", "kit-boombap", "kit-lofi", "kit-house", "kit-techno", "kit-dnb", "kit-synthwave",
    "kit-soft", "bass-808", "bass-sub", "bass-reese", "bass-saw", "bass-acid", "bass-upright",
    "keys-rhodes", "keys-piano", "keys-organ", "stab-house", "pad-warm", "pad-air",
    "pad-supersaw", "strings", "lead-pluck", "lead-bell", "lead-saw", "lead-square",
    "lead-flute", "guitar-pluck", "arp-pluck", "brass-synth", "vinyl", "noise-riser", "impact",
    "wind",
}  # fmt: skip
KIT = {35, 36, 37, 38, 39, 40, 41, 42, 44, 45, 46, 48, 49, 51, 54, 56, 70, 75}


def write(prompt: str, seconds: float = 16.0, seed: int = 1) -> Score:
    return compose(parse_prompt(prompt), duration_seconds=seconds, seed=seed)


def pitched(score: Score) -> list[Part]:
    return [part for part in score.parts if part.role not in ("drums", "texture")]


def digest(score: Score) -> str:
    return hashlib.sha256(repr(score).encode()).hexdigest()


prompts = st.builds(
    "{}{}{}".format,
    st.sampled_from(list(STYLES)),
    st.sampled_from(["", " in C minor", " in F# major", " E dorian", " B phrygian", " A lydian"]),
    st.sampled_from(["", ", dark", ", happy", ", sparse", ", busy", ", seamless loop", ", drop"]),
)
durations = st.one_of(st.floats(1.0, 30.0), st.sampled_from([1.0, 16.0, 45.0, 90.0]))
seeds = st.integers(0, 2**32 - 1)


@given(prompts, durations, seeds)
def test_every_score_has_whole_bars_and_values_in_range(
    prompt: str, seconds: float, seed: int
) -> None:
    score = write(prompt, seconds, seed)
    bar = 240.0 / score.tempo_bpm
    assert score.bars == max(1, math.floor(seconds / bar + 1e-6))
    assert len({part.name for part in score.parts}) == len(score.parts)
    for part in score.parts:
        assert part.notes
        assert list(part.notes) == sorted(part.notes, key=lambda note: (note.start, note.pitch))
        assert -6.0 <= part.gain_db <= 4.0
        assert -1.0 <= part.pan <= 1.0
        for level in (part.reverb, part.delay, part.sidechain):
            assert 0.0 <= level <= 1.0
        for note in part.notes:
            assert 0.0 <= note.start < score.beats
            assert note.duration > 0.0
            assert note.start + note.duration <= score.beats + 1e-9
            assert 0.0 < note.velocity <= 1.0
            assert 0 <= note.pitch <= 127


@given(prompts, durations, seeds)
def test_no_pitch_sounds_twice_at_once_in_a_part(prompt: str, seconds: float, seed: int) -> None:
    for part in write(prompt, seconds, seed).parts:
        ends: dict[int, float] = {}
        for note in part.notes:
            assert note.start >= ends.get(note.pitch, 0.0) - 1e-9
            ends[note.pitch] = note.start + note.duration


@given(prompts, durations, seeds)
def test_bass_and_lead_play_one_note_at_a_time(prompt: str, seconds: float, seed: int) -> None:
    score = write(prompt, seconds, seed)
    allowance = 2 * LOOSE * score.tempo_bpm / 60.0
    for part in score.parts:
        if part.role in ("bass", "lead"):
            for note, following in pairwise(part.notes):
                assert note.start + note.duration <= following.start + allowance


@given(prompts, durations, seeds)
def test_sections_and_chords_cover_the_piece_without_gaps(
    prompt: str, seconds: float, seed: int
) -> None:
    score = write(prompt, seconds, seed)
    bar = 0
    for section in score.sections:
        assert section.start_bar == bar
        assert section.bars >= 1
        assert 0.0 <= section.energy <= 1.0
        bar += section.bars
    assert bar == score.bars
    beat = 0.0
    for chord in score.chords:
        assert chord.start == pytest.approx(beat)
        assert chord.pitch_classes[0] == chord.root
        beat += chord.duration
    assert beat == pytest.approx(score.beats)
    assert len({section.name for section in score.sections}) == len(score.sections)


@given(prompts, durations, seeds)
def test_brightness_is_a_line_over_the_piece(prompt: str, seconds: float, seed: int) -> None:
    score = write(prompt, seconds, seed)
    for part in pitched(score):
        beats = [beat for beat, _ in part.brightness]
        assert beats == sorted(set(beats))
        assert beats[0] == 0.0
        assert beats[-1] == score.beats
        assert all(0.0 <= value <= 1.0 for _, value in part.brightness)


@given(prompts, durations, seeds)
def test_pitched_notes_are_in_the_scale_or_the_chord(
    prompt: str, seconds: float, seed: int
) -> None:
    score = write(prompt, seconds, seed)
    starts = [chord.start for chord in score.chords]
    for part in pitched(score):
        for note in part.notes:
            chord = score.chords[max(0, bisect_right(starts, note.start + 0.1) - 1)]
            assert note.pitch % 12 in score.key.pitch_classes | set(chord.pitch_classes)


@given(prompts, durations, seeds)
def test_onsets_keep_to_the_swung_grid(prompt: str, seconds: float, seed: int) -> None:
    parsed = parse_prompt(prompt)
    plan = make_plan(parsed, duration_seconds=seconds, seed=seed)
    score = compose(parsed, duration_seconds=seconds, seed=seed)
    # Sixteenths, and inside them 32nds, 24ths and 48ths, which rolls and triplets use.
    grid = sorted(
        {plan.feel.apply_swing(n / 24) for n in range(24)}
        | {plan.feel.apply_swing(n / 8) for n in range(8)}
    )
    for part in score.parts:
        for note in part.notes:
            inside = note.start % 1.0
            off = min(min(abs(inside - at), 1.0 - abs(inside - at)) for at in grid)
            assert off * 60.0 / score.tempo_bpm <= LOOSE


@given(prompts, seeds)
def test_grid_genres_are_not_humanised(prompt: str, seed: int) -> None:
    parsed = parse_prompt(prompt)
    plan = make_plan(parsed, duration_seconds=8.0, seed=seed)
    loose = {"hip-hop", "lo-fi", "ambient"}
    assert (plan.feel.humanise == 0.0) == (parsed.genre not in loose)
    assert 0.5 <= plan.feel.swing <= 0.62


@pytest.mark.parametrize("genre", GENRES)
def test_a_long_piece_has_sections_that_differ(genre: str) -> None:
    score = write(genre, 180.0, 4)
    assert len(score.sections) >= 5
    playing = []
    for section in score.sections:
        first, end = section.start_bar * 4.0, (section.start_bar + section.bars) * 4.0
        inside = [[n for n in part.notes if first <= n.start < end] for part in score.parts]
        playing.append((sum(map(bool, inside)), sum(map(len, inside)) / section.bars))
    assert len({parts for parts, _ in playing}) >= 2
    densities = [density for _, density in playing]
    assert max(densities) > 1.4 * min(densities)
    assert all(one != other for one, other in pairwise(playing))


@pytest.mark.parametrize("genre", GENRES)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_short_clip_has_its_full_groove_by_the_third_bar(genre: str, seed: int) -> None:
    score = write(genre, 16.0, seed)
    full = next(s for s in score.sections if s.name in ("groove", "drop"))
    assert full.start_bar <= 2
    for part in score.parts:
        if part.role in ("drums", "bass", "chords", "pad") and genre != "ambient":
            heard = {int(note.start // 4) for note in part.notes}
            for note in part.notes:
                heard |= set(
                    range(int(note.start // 4), math.ceil((note.start + note.duration) / 4))
                )
            assert len(heard) >= 0.6 * score.bars


@pytest.mark.parametrize("genre", [genre for genre in GENRES if genre != "ambient"])
def test_a_single_bar_still_has_a_groove(genre: str) -> None:
    score = write(f"{genre} 240 bpm", 1.0)
    assert score.bars == 1
    assert len(score.part("drums").notes) >= 6
    assert {"drums", "bass"} <= {part.name for part in score.parts}


@pytest.mark.parametrize("tempo", ["40", "61.7", "92.5", "140", "173.3", "240"])
@pytest.mark.parametrize("seconds", [1.0, 16.0, 600.0])
def test_tempo_is_exact_and_every_length_works(tempo: str, seconds: float) -> None:
    score = write(f"house {tempo} bpm", seconds)
    assert score.tempo_bpm == float(tempo)
    assert score.bars == max(1, math.floor(seconds * float(tempo) / 240.0 + 1e-6))


def test_whole_bars_survive_rounding_of_the_duration() -> None:
    assert write("house 120 bpm", 16.0).bars == 8
    assert write("trap 140 bpm", 240.0 / 140.0 * 7).bars == 7


@pytest.mark.parametrize("genre", GENRES)
def test_a_score_has_four_to_nine_parts(genre: str) -> None:
    sizes = [len(write(genre, 30.0, seed).parts) for seed in range(12)]
    assert min(sizes) >= 4
    assert max(sizes) <= 9
    assert sum(sizes) / len(sizes) >= 5


ASKED = {
    name: instrument
    for name, instrument in INSTRUMENTS.items()
    if instrument.patch not in (None, "noise-riser")
}
WITH_SOUND = {name: item.patch for name, item in INSTRUMENTS.items() if item.patch}


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("genre", ["trap", "house", "ambient"])
def test_a_requested_instrument_plays(name: str, genre: str) -> None:
    parsed = parse_prompt(f"{genre} with {name}")
    assert name in parsed.instrumentation.requested
    for seconds in (4.0, 16.0, 60.0):
        score = compose(parsed, duration_seconds=seconds, seed=2)
        assert ASKED[name].patch in {part.patch for part in score.parts}


@pytest.mark.parametrize("name", WITH_SOUND)
def test_an_excluded_instrument_does_not_play(name: str) -> None:
    for genre in GENRES:
        parsed = parse_prompt(f"{genre}, no {name}")
        for seed in range(2):
            score = compose(parsed, duration_seconds=8.0, seed=seed)
            assert WITH_SOUND[name] not in {part.patch for part in score.parts}


@given(st.sampled_from(list(GENRES)), st.sets(st.sampled_from(list(WITH_SOUND)), min_size=1))
def test_any_set_of_instruments_can_be_excluded(genre: str, names: set[str]) -> None:
    parsed = parse_prompt(f"{genre}, " + ", ".join(f"no {name}" for name in sorted(names)))
    score = compose(parsed, duration_seconds=8.0, seed=1)
    refused = {WITH_SOUND[name] for name in parsed.instrumentation.excluded}
    assert score.parts
    assert not refused & {part.patch for part in score.parts}


def test_a_slot_whose_every_sound_is_excluded_stays_empty() -> None:
    score = write("trap, no 808 bass, no sub bass, no synth bass", 30.0)
    assert "bass" not in {part.role for part in score.parts}


def test_all_of_several_requested_instruments_play() -> None:
    score = write("lo-fi with piano, strings, flute, bells, guitar, organ and vinyl")
    patches = {part.patch for part in score.parts}
    wanted = {"keys-piano", "strings", "lead-flute", "lead-bell", "guitar-pluck", "keys-organ"}
    assert wanted | {"vinyl"} <= patches


@pytest.mark.parametrize("genre", GENRES)
def test_excluded_slots_stay_empty(genre: str) -> None:
    for seed in range(4):
        names = {part.role for part in write(f"{genre}, no drums", 16.0, seed).parts}
        assert "drums" not in names
        assert "bass" not in {
            part.role for part in write(f"{genre} without bass", 16.0, seed).parts
        }
        assert "lead" not in {part.role for part in write(f"{genre}, no melody", 16.0, seed).parts}


@pytest.mark.parametrize("genre", GENRES)
def test_only_drums_means_only_drums_from_start_to_end(genre: str) -> None:
    score = write(f"{genre}, only drums", 30.0)
    assert [part.role for part in score.parts] == ["drums"]
    bars = {int(note.start // 4) for note in score.parts[0].notes}
    assert len(bars) >= 0.4 * score.bars


def test_a_solo_piano_plays_chords_and_lead() -> None:
    score = write("solo piano ballad in D major", 30.0)
    assert {part.patch for part in score.parts} == {"keys-piano"}
    assert {part.role for part in score.parts} == {"chords", "lead"}


def test_single_drums_can_be_excluded_and_requested() -> None:
    no_hats = {note.pitch for note in write("boom bap, no hats").part("drums").notes}
    assert not no_hats & {42, 44, 46}
    assert 36 in no_hats
    assert 56 in {note.pitch for note in write("house with cowbell").part("drums").notes}
    only_kick = {note.pitch for note in write("techno, only kick").part("drums").notes}
    assert only_kick <= {35, 36}


def test_a_prompt_that_excludes_everything_still_makes_a_sound() -> None:
    score = write("no drums, no bass, no chords, no pads, no lead, no arp, no texture")
    assert score.parts
    assert all(part.notes for part in score.parts)


def test_emphasis_moves_the_gain() -> None:
    plain, heavy = write("trap with 808 bass"), write("trap with heavy 808 bass")
    assert heavy.part("bass").gain_db == plain.part("bass").gain_db + 2.0


def test_a_loop_has_neither_intro_nor_ending() -> None:
    score = write("seamless house loop 120 bpm", 16.0)
    assert [section.name for section in score.sections] == ["groove", "variation"]
    last_bar = [n for n in score.part("drums").notes if n.start >= score.beats - 1.0]
    assert last_bar


@pytest.mark.parametrize("genre", GENRES)
def test_a_piece_ends_on_its_tonic(genre: str) -> None:
    for seconds in (16.0, 60.0, 180.0):
        score = write(genre, seconds, 6)
        assert score.chords[-1].root == score.key.tonic
        assert score.chords[-1].start <= score.beats - 4.0
        bass = [part for part in score.parts if part.role == "bass"]
        for part in bass:
            assert part.notes[-1].pitch % 12 == score.key.tonic


@pytest.mark.parametrize("genre", GENRES)
def test_two_seeds_give_different_pieces_in_one_style(genre: str) -> None:
    scores = [write(genre, 16.0, seed) for seed in range(6)]
    assert len({digest(score) for score in scores}) == 6
    assert len({(score.tempo_bpm, score.key, score.bars) for score in scores}) == 1
    tunes = {tuple(n.pitch for p in pitched(score) for n in p.notes) for score in scores}
    assert len(tunes) == 6
    if genre != "ambient":
        rhythms = {tuple(n.start for n in score.part("drums").notes) for score in scores}
        assert len(rhythms) >= 5


def test_a_longer_piece_keeps_its_groove_and_its_patches() -> None:
    short, long = write("house in C minor", 30.0, 9), write("house in C minor", 31.0, 9)
    assert [part.patch for part in short.parts] == [part.patch for part in long.parts]
    first = [note for note in short.part("drums").notes if note.start < 12.0]
    assert first == [note for note in long.part("drums").notes if note.start < 12.0]


def test_an_added_instrument_leaves_the_other_parts_unchanged() -> None:
    plain, more = write("trap in C minor 140 bpm"), write("trap in C minor 140 bpm with strings")
    assert plain.part("drums").notes == more.part("drums").notes
    assert plain.part("bass").notes == more.part("bass").notes
    assert plain.chords == more.chords


@pytest.mark.parametrize("hash_seed", ["0", "12345"])
def test_every_process_writes_the_same_notes(hash_seed: str) -> None:
    code = (
        "import hashlib\n"
        "from services.generation.composer.compose import compose\n"
        "from services.generation.composer.prompt import parse_prompt\n"
        "for prompt in ('dark trap with bells', 'lo-fi', 'house no bass', '???'):\n"
        "    score = compose(parse_prompt(prompt), duration_seconds=30.0, seed=77)\n"
        "    print(hashlib.sha256(repr(score).encode()).hexdigest())\n"
    )
    env = {**os.environ, "PYTHONHASHSEED": hash_seed}
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    ).stdout
    here = [
        digest(write(p, 30.0, 77))
        for p in ("dark trap with bells", "lo-fi", "house no bass", "???")
    ]
    assert out.split() == here


@pytest.mark.parametrize(("seconds", "limit"), [(16.0, 0.03), (180.0, 0.15)])
def test_composing_is_quick(seconds: float, limit: float) -> None:
    parsed = parse_prompt("drum and bass with busy arps")

    def took() -> float:
        start = time.process_time()
        compose(parsed, duration_seconds=seconds, seed=3)
        return time.process_time() - start

    assert min(took() for _ in range(4)) < limit


def test_composing_imports_nothing_beyond_the_standard_library() -> None:
    code = (
        "import sys\n"
        "import services.generation.composer.compose\n"
        "import services.daw.midi\n"
        "print([m for m in ('numpy', 'scipy', 'numba', 'pydantic') if m in sys.modules])\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_scores_name_only_patches_and_drums_that_exist() -> None:
    for style in STYLES:
        for seed in range(3):
            for part in write(style, 30.0, seed).parts:
                assert part.patch in PATCHES
                assert (part.role == "drums") == part.patch.startswith("kit-")
                if part.role == "drums":
                    assert {note.pitch for note in part.notes} <= KIT


@pytest.mark.parametrize("genre", GENRES)
def test_every_voice_plays_in_a_third_of_the_bars(genre: str) -> None:
    for seed in range(6):
        score = write(f"{genre} 120 bpm", 16.0, seed)
        for part in pitched(score):
            bars = {int(note.start // 4) for note in part.notes}
            for note in part.notes:
                bars |= set(
                    range(int(note.start // 4), math.ceil((note.start + note.duration) / 4))
                )
            assert len(bars) >= 0.3 * score.bars
