"""Bass styles, bar by bar."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.generation.composer.bass import BASS_STYLES, BassBar
from services.generation.composer.random_streams import RandomStream
from services.generation.composer.rhythm import make_monophonic
from services.generation.score import Chord, Key, Note

OFF_THE_BEAT = ("offbeat", "rolling", "rumble")
LOW = 31
C, F, G = ((0, 4, 7), (5, 9, 0), (7, 11, 2))


def chord(classes: tuple[int, ...], start: float = 0.0, duration: float = 4.0) -> Chord:
    return Chord(start, duration, classes[0], classes, "")


def bar(*chords: tuple[int, ...], index: int = 0, following=G, seed: int = 1, **fields) -> BassBar:
    length = 4.0 / len(chords)
    placed = tuple((k * length, length, chord(item)) for k, item in enumerate(chords))
    values = {"kicks": (0.0, 1.5, 2.5), "energy": 0.8, "key": Key(0, "major"), "low": LOW}
    return BassBar(
        chords=placed,
        next_chord=chord(following),
        index=index,
        rng=RandomStream(seed),
        **values | fields,
    )


def play(style: str, bass_bar: BassBar) -> list[Note]:
    return make_monophonic(BASS_STYLES[style](bass_bar))


@pytest.mark.parametrize("style", BASS_STYLES)
@given(seed=st.integers(0, 10_000), index=st.integers(0, 7), low=st.integers(27, 31))
@settings(max_examples=25)
def test_a_bar_stays_inside_four_beats_and_the_register(
    style: str, seed: int, index: int, low: int
) -> None:
    notes = play(style, bar(C, F, index=index, seed=seed, low=low))
    assert notes
    for note in notes:
        assert 0.0 <= note.start < 4.0
        assert note.start + note.duration <= 4.0 + 1e-9
        assert 26 <= note.pitch <= low + 24
        assert 0.4 < note.velocity <= 1.0


@pytest.mark.parametrize("style", [name for name in BASS_STYLES if name not in OFF_THE_BEAT])
def test_each_chord_starts_on_its_root(style: str) -> None:
    for seed in range(8):
        starts = {note.start: note.pitch % 12 for note in play(style, bar(C, F, seed=seed))}
        assert (starts[0.0], starts.get(2.0, 5)) == (0, 5)


@pytest.mark.parametrize("style", OFF_THE_BEAT)
def test_off_beat_styles_leave_the_beat_to_the_kick(style: str) -> None:
    for seed in range(8):
        for index in (0, 1):
            notes = play(style, bar(C, seed=seed, index=index))
            assert all(note.start % 1.0 > 0.0 for note in notes)


def test_an_808_plays_with_the_kick() -> None:
    notes = play("808", bar(C, kicks=(0.0, 0.75, 2.5)))
    assert [note.start for note in notes] == [0.0, 0.75, 2.5]


def test_an_808_slides_into_the_next_bar_in_odd_bars_only() -> None:
    def slides(index: int) -> int:
        bars = [play("808", bar(C, index=index, seed=seed)) for seed in range(200)]
        return sum(notes[-1].glide_to is not None for notes in bars)

    assert slides(0) == 0
    assert 60 < slides(1) < 120


@pytest.mark.parametrize("style", ["walking", "upright", "boom", "eighths", "reese"])
def test_the_step_into_the_next_bar_is_next_to_its_root(style: str) -> None:
    root = bar(C).next_root()
    last = {
        notes[-1].pitch
        for seed in range(20)
        if (notes := play(style, bar(C, index=1, seed=seed)))[-1].start >= 2.5
    }
    assert any(0 < abs(pitch - root) <= 2 for pitch in last)


def test_the_next_root_is_the_nearest_octave_above_the_lowest_note() -> None:
    assert bar(C, following=G).next_root() == 31
    assert bar(G, following=C).next_root() == 36
    assert bar(G, following=(5, 9, 0), low=27).next_root() == 29


def test_walking_plays_a_chord_tone_on_every_beat_but_the_last() -> None:
    for seed in range(10):
        notes = play("walking", bar(C, seed=seed))
        assert [note.start for note in notes] == [0.0, 1.0, 2.0, 3.0]
        assert all(note.pitch % 12 in C for note in notes[:3])


def test_acid_slides_only_between_neighbouring_sixteenths() -> None:
    for seed in range(20):
        notes = play("acid", bar(C, seed=seed))
        for note, following in pairwise(notes):
            if note.glide_to is not None:
                assert following.start - note.start == 0.25
                assert note.glide_to == following.pitch != note.pitch


def test_octaves_alternate() -> None:
    pitches = [note.pitch for note in play("octaves", bar(C))]
    assert [high - low for low, high in zip(pitches[::2], pitches[1::2], strict=True)] == [12] * 4


def test_a_drone_holds_every_chord() -> None:
    assert [(note.start, note.duration) for note in play("drone", bar(C, F))] == [
        (0.0, 2.0),
        (2.0, 2.0),
    ]
