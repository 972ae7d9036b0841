"""Harmony: chords of numerals, cadences, voice leading, and a clear key."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generation.composer.arrangement import arrange
from services.generation.composer.compose import compose
from services.generation.composer.genres import GENRES
from services.generation.composer.harmony import BAR, build_chord, compose_harmony
from services.generation.composer.progressions import progressions
from services.generation.composer.prompt import parse_prompt
from services.generation.composer.voicing import Voicer, tones_without_clashes
from services.generation.score import MODE_INTERVALS, Chord, Key, Score

MODES = list(MODE_INTERVALS)


@pytest.mark.parametrize(
    ("numeral", "key", "colour", "symbol"),
    [
        ("I", Key(0, "major"), "triad", "C"),
        ("ii", Key(0, "major"), "seventh", "Dm7"),
        ("V", Key(0, "major"), "seventh", "G7"),
        ("I", Key(0, "major"), "ninth", "Cmaj7"),
        ("vii", Key(0, "major"), "seventh", "Bm7b5"),
        ("i", Key(0, "minor"), "seventh", "Cm7"),
        ("i", Key(0, "minor"), "ninth", "Cm9"),
        ("VI", Key(0, "minor"), "triad", "Ab"),
        ("V", Key(0, "minor"), "triad", "G"),
        ("v", Key(0, "minor"), "triad", "Gm"),
        ("V", Key(9, "minor"), "seventh", "E7"),
        ("V", Key(9, "minor"), "ninth", "E7"),
        ("IV", Key(2, "dorian"), "seventh", "G7"),
        ("II", Key(4, "phrygian"), "seventh", "Fmaj7"),
        ("i", Key(4, "phrygian"), "ninth", "Em7"),
        ("VII", Key(7, "mixolydian"), "triad", "F"),
        ("II", Key(5, "lydian"), "triad", "G"),
        ("i", Key(4, "minor"), "power", "E5"),
        ("IV", Key(0, "major"), "ninth", "Fmaj9"),
    ],
)
def test_numerals_become_the_chords_of_the_key(
    numeral: str, key: Key, colour: str, symbol: str
) -> None:
    assert build_chord(numeral, key, colour)[2] == symbol


@given(
    st.sampled_from(["i", "ii", "iii", "iv", "V", "vi", "vii"]),
    st.integers(0, 11),
    st.sampled_from(MODES),
    st.sampled_from(["power", "triad", "seventh", "ninth"]),
)
def test_chords_have_a_symbol_start_on_their_root_and_stay_in_the_key(
    numeral: str, tonic: int, mode: str, colour: str
) -> None:
    key = Key(tonic, mode)
    root, classes, symbol = build_chord(numeral, key, colour)
    assert classes[0] == root
    assert len(set(classes)) == len(classes)
    outside = set(classes) - key.pitch_classes
    raised = (key.tonic + 11) % 12
    assert outside <= ({raised} if numeral == "V" else set())
    assert symbol[-1] not in "#b" or len(symbol) == 2


@pytest.mark.parametrize("genre", GENRES)
@pytest.mark.parametrize("mode", MODES)
def test_progressions_of_every_genre_and_mode_start_on_the_tonic(genre: str, mode: str) -> None:
    loops = progressions(genre, mode)
    assert len(loops) >= 3
    for loop in loops:
        assert loop.split()[0].split("/")[0] in ("i", "I")
        for numeral in loop.replace("/", " ").split():
            assert numeral.upper() in ("I", "II", "III", "IV", "V", "VI", "VII")


def timeline(genre: str, bars: int, seed: int, *, mode: str = "minor", loop: bool = False):
    passages = arrange(bars, GENRES[genre].form, loop=loop)
    key = Key(0, mode)
    harmony = compose_harmony(
        passages, genre=genre, key=key, colour="seventh", seed=seed, loop=loop
    )
    return passages, harmony


@given(
    st.sampled_from(list(GENRES)),
    st.integers(1, 120),
    st.integers(0, 10_000),
    st.sampled_from(MODES),
    st.booleans(),
)
def test_sections_begin_on_the_tonic(
    genre: str, bars: int, seed: int, mode: str, loop: bool
) -> None:
    passages, harmony = timeline(genre, bars, seed, mode=mode, loop=loop)
    for passage in passages:
        assert harmony.at(passage.section.start_bar * BAR).root == 0
    assert harmony.at(bars * BAR) == harmony.chords[0 if loop else -1]


@pytest.mark.parametrize("mode", MODES)
def test_a_piece_ends_with_a_cadence(mode: str) -> None:
    _, harmony = timeline("house", 10, 3, mode=mode)
    assert harmony.chords[-1].root == 0
    assert harmony.chords[-2].root != 0


def test_a_loop_need_not_end_on_the_tonic() -> None:
    roots = [timeline("lo-fi", 8, seed, loop=True)[1].chords[-1].root for seed in range(10)]
    assert any(root != 0 for root in roots)


def test_a_section_does_not_end_on_the_tonic_before_another() -> None:
    for seed in range(20):
        passages, harmony = timeline("techno", 64, seed)
        for passage in passages[:-1]:
            if passage.section.bars >= 4:
                assert harmony.at(passage.end_bar * BAR - 1.0).root != 0


@given(st.integers(0, 320).map(lambda n: n / 8), st.integers(4, 160).map(lambda n: n / 8))
def test_between_cuts_the_chords_to_its_range(start: float, length: float) -> None:
    _, harmony = timeline("lo-fi", 16, 5)
    pieces = list(harmony.between(start, start + length))
    assert pieces[0][0] == start
    assert sum(duration for _, duration, _ in pieces) == pytest.approx(length)
    for at, duration, chord in pieces:
        assert chord.start - 1e-6 <= at
        assert at + duration <= chord.start + chord.duration + 1e-6


def chord(*classes: int) -> Chord:
    return Chord(0.0, 4.0, classes[0], classes, "")


@given(
    st.lists(
        st.tuples(
            st.integers(0, 11),
            st.sampled_from([(0, 4, 7), (0, 3, 7), (0, 3, 7, 10), (0, 4, 7, 11, 2), (0, 7)]),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_voicings_stay_in_the_register_and_play_every_tone_once(
    chords: list[tuple[int, tuple[int, ...]]],
) -> None:
    voicer = Voicer(50, 71, 5)
    for root, shape in chords:
        classes = tuple((root + step) % 12 for step in shape)
        voicing = voicer.voice(classes)
        assert all(50 <= pitch <= 71 for pitch in voicing)
        assert sorted(pitch % 12 for pitch in voicing) == sorted(classes)


def test_a_chord_with_too_many_tones_drops_its_fifth() -> None:
    voicing = Voicer(50, 74, 4).voice((0, 4, 7, 11, 2))
    assert {pitch % 12 for pitch in voicing} == {0, 4, 11, 2}


@pytest.mark.parametrize(
    ("classes", "above", "around"),
    [
        ((0, 4, 7), (0, 4, 7), (0, 4, 7)),
        ((0, 4, 7, 11), (4, 7, 11), (4, 7)),
        ((0, 3, 7, 10, 2), (0, 7, 10, 2), (0, 7, 10)),
        ((5, 9, 0, 4, 7), (9, 0, 4, 7), (9, 0, 7)),
        ((0, 7), (0, 7), (0, 7)),
    ],
)
def test_tones_that_clash_with_a_chord_are_left_out(
    classes: tuple[int, ...], above: tuple[int, ...], around: tuple[int, ...]
) -> None:
    assert tones_without_clashes(chord(*classes)) == above
    assert tones_without_clashes(chord(*classes), around=True) == around


def test_voice_leading_moves_each_voice_little() -> None:
    voicer = Voicer(50, 71, 3)
    loop = [(0, 3, 7), (8, 0, 3), (3, 7, 10), (10, 2, 5)] * 3
    voicings = [voicer.voice(item) for item in loop]
    moves = [
        abs(high - low)
        for one, other in itertools.pairwise(voicings)
        for low, high in zip(one, other, strict=True)
    ]
    assert sum(moves) / len(moves) <= 2.0
    assert max(moves) <= 5
    assert voicings[4:8] == voicings[8:]


# Krumhansl and Kessler (1982), probe-tone ratings.
PROFILES = {
    "major": (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
    "minor": (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
}


def heard_key(score: Score) -> tuple[int, str]:
    weights = [0.0] * 12
    for part in score.parts:
        if part.role not in ("drums", "texture"):
            for note in part.notes:
                weights[note.pitch % 12] += note.duration * note.velocity

    def likeness(tonic: int, mode: str) -> float:
        turned = weights[tonic:] + weights[:tonic]
        mean = sum(turned) / 12
        centre = sum(PROFILES[mode]) / 12
        return (
            sum(
                (weight - mean) * (rating - centre)
                for weight, rating in zip(turned, PROFILES[mode], strict=True)
            )
            / sum((rating - centre) ** 2 for rating in PROFILES[mode]) ** 0.5
        )

    return max(
        ((tonic, mode) for tonic in range(12) for mode in PROFILES), key=lambda k: likeness(*k)
    )


@pytest.mark.parametrize("genre", GENRES)
@pytest.mark.parametrize("mode", ["major", "minor"])
def test_a_key_profile_finds_the_key_of_a_score(genre: str, mode: str) -> None:
    right = 0
    for seed in range(12):
        parsed = parse_prompt(f"{genre} in {('C', 'D', 'Eb', 'F#', 'G', 'A')[seed % 6]} {mode}")
        score = compose(parsed, duration_seconds=16.0, seed=seed)
        right += heard_key(score) == (parsed.key.tonic, mode)
    assert right >= 10


def test_half_bar_chords_split_a_bar() -> None:
    for seed in range(60):
        _, harmony = timeline("lo-fi", 16, seed, mode="major")
        lengths = {chord.duration for chord in harmony.chords}
        if 2.0 in lengths:
            halves = [chord for chord in harmony.chords if chord.duration == 2.0]
            assert all(chord.start % 2.0 == 0.0 for chord in halves)
            return
    raise AssertionError("no half-bar chord in 60 seeds")


@pytest.mark.parametrize("genre", ["ambient", "drum and bass"])
def test_long_pieces_of_slow_genres_hold_chords_for_two_bars(genre: str) -> None:
    slow = [
        all(chord.duration >= 8.0 for chord in timeline(genre, 64, seed)[1].chords[:3])
        for seed in range(20)
    ]
    assert sum(slow) > 10


def test_a_repeated_chord_starts_anew_only_with_a_phrase_of_its_section() -> None:
    passages, harmony = timeline("techno", 16, 3)
    for chord, following in itertools.pairwise(harmony.chords):
        if chord.symbol == following.symbol:
            starts = [passage.section.start_bar * BAR for passage in passages]
            section = max(start for start in starts if start <= following.start)
            assert (following.start - section) % (4 * BAR) == 0.0


def test_voicings_avoid_semitones_and_low_clusters() -> None:
    voicing = Voicer(41, 62, 5).voice((0, 4, 7, 11, 2))
    gaps = [high - low for low, high in itertools.pairwise(voicing)]
    assert 1 not in gaps
    assert all(gap >= 3 for low, gap in zip(voicing, gaps, strict=False) if low < 55)


def test_a_new_voicer_starts_near_the_middle_of_its_register() -> None:
    voicing = Voicer(48, 84, 3).voice((0, 4, 7))
    assert abs(sum(voicing) / 3 - 66) <= 3
