"""Rhythm: swing, humanising, overlaps and monophonic lines."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generation.composer.random_streams import RandomStream
from services.generation.composer.rhythm import SHORTEST, Feel, make_monophonic, perform
from services.generation.score import Note


@given(st.floats(0.0, 64.0), st.floats(0.5, 0.66))
def test_swing_keeps_order_and_leaves_eighths_in_place(beat: float, swing: float) -> None:
    feel = Feel(swing=swing)
    assert feel.apply_swing(beat) <= feel.apply_swing(beat + 0.01)
    assert feel.apply_swing(round(beat * 2) / 2) == pytest.approx(round(beat * 2) / 2)
    assert feel.apply_swing(beat) - beat <= (swing - 0.5) * 0.5 + 1e-9


def test_swing_delays_the_second_sixteenth_by_its_share() -> None:
    assert Feel(swing=0.6).apply_swing(0.25) == pytest.approx(0.3)
    assert Feel(swing=0.5).apply_swing(0.25) == 0.25


notes = st.lists(
    st.builds(
        Note,
        start=st.integers(0, 64).map(lambda n: n / 8),
        duration=st.floats(0.05, 6.0),
        pitch=st.integers(36, 40),
        velocity=st.floats(0.0, 1.5),
    ),
    max_size=40,
)


@given(notes, st.floats(0.5, 0.62), st.floats(0.0, 0.02), st.integers(0, 99))
def test_played_notes_of_one_pitch_never_overlap(
    written: list[Note], swing: float, loose: float, seed: int
) -> None:
    feel = Feel(swing, loose, 0.01)
    played = perform(written, feel, role="drums", end=8.0, rng=RandomStream(seed))
    ends: dict[int, float] = {}
    for note in played:
        assert 0.0 <= note.start < 8.0
        assert note.duration >= SHORTEST - 1e-9
        assert note.start + note.duration <= 8.0 + 1e-9
        assert 0.05 <= note.velocity <= 1.0
        assert note.start >= ends.get(note.pitch, 0.0) - 1e-9
        ends[note.pitch] = note.start + note.duration


@given(notes)
def test_a_monophonic_line_has_no_overlaps(written: list[Note]) -> None:
    line = make_monophonic(written)
    for note, following in itertools.pairwise(line):
        assert note.start + note.duration <= following.start + 1e-9
    assert {note.start for note in line} == {note.start for note in written}


def play(*written: Note, feel: Feel | None = None, role: str = "lead", end: float = 8.0):
    return perform(written, feel or Feel(), role=role, end=end, rng=RandomStream(1))


def test_a_note_after_the_end_is_dropped_and_one_across_it_is_cut() -> None:
    assert play(Note(8.0, 1.0, 60, 0.8), Note(7.0, 4.0, 62, 0.8)) == [Note(7.0, 1.0, 62, 0.8)]


def test_a_note_ends_where_its_pitch_starts_again() -> None:
    played = play(Note(0.0, 4.0, 60, 0.8), Note(1.0, 1.0, 60, 0.6), Note(2.0, 1.0, 64, 0.5))
    assert [(note.start, note.duration) for note in played] == [(0.0, 1.0), (1.0, 1.0), (2.0, 1.0)]


def test_of_two_equal_onsets_of_one_pitch_the_louder_stays() -> None:
    assert play(Note(0.0, 1.0, 60, 0.3), Note(0.0, 1.0, 60, 0.9)) == [Note(0.0, 1.0, 60, 0.9)]


def test_only_the_snares_of_the_drums_are_late() -> None:
    feel = Feel(late_snare=0.02)
    notes = (Note(1.0, 0.5, 38, 0.8), Note(2.0, 0.5, 36, 0.8))
    assert [note.start for note in play(*notes, feel=feel, role="drums")] == [1.02, 2.0]
    assert [note.start for note in play(*notes, feel=feel, role="bass")] == [1.0, 2.0]


def test_humanising_moves_every_part_but_textures() -> None:
    notes = tuple(Note(float(beat), 0.5, 60, 0.8) for beat in range(1, 7))
    moved = play(*notes, feel=Feel(humanise=0.02))
    assert all(abs(note.start - round(note.start)) <= 0.02 for note in moved)
    assert len({note.start - round(note.start) for note in moved}) > 3
    assert play(*notes, feel=Feel(humanise=0.02), role="texture") == list(notes)


def test_a_slide_survives_shortening() -> None:
    line = make_monophonic([Note(0.0, 4.0, 30, 0.8, glide_to=42), Note(1.0, 1.0, 33, 0.8)])
    assert line[0] == Note(0.0, 1.0, 30, 0.8, glide_to=42)
