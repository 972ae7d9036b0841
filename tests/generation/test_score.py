"""The score: names, lengths and look-up."""

import pytest

from services.generation.score import MODE_INTERVALS, PITCH_CLASSES, Key, Part, Score


def score(bars: int = 4, tempo: float = 90.0, *parts: Part) -> Score:
    return Score(tempo, bars, Key(0, "major"), "house", (), (), parts)


def test_a_score_has_its_length_in_beats_and_seconds() -> None:
    assert score(6, 90.0).beats == 24.0
    assert score(6, 90.0).seconds == pytest.approx(16.0)
    assert score(6, 90.0).seconds_at(3.0) == pytest.approx(2.0)


def test_a_part_is_found_by_its_name() -> None:
    lead = Part("lead", "lead", "lead-saw", ())
    assert score(4, 90.0, Part("bass", "bass", "bass-sub", ()), lead).part("lead") is lead


def test_a_part_that_is_missing_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="lead"):
        score().part("lead")


@pytest.mark.parametrize("mode", MODE_INTERVALS)
@pytest.mark.parametrize("tonic", range(12))
def test_a_key_has_a_name_and_seven_pitch_classes_with_its_tonic(tonic: int, mode) -> None:
    key = Key(tonic, mode)
    assert key.name == f"{PITCH_CLASSES[tonic]} {mode}"
    assert len(key.pitch_classes) == 7
    assert tonic in key.pitch_classes


@pytest.mark.parametrize(
    ("relative", "mode"),
    [(2, "dorian"), (4, "phrygian"), (5, "lydian"), (7, "mixolydian"), (9, "minor")],
)
def test_the_modes_of_c_major_share_its_notes(relative: int, mode) -> None:
    assert Key(relative, mode).pitch_classes == Key(0, "major").pitch_classes
