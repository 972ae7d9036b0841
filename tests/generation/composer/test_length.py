"""How long a piece is: bars, durations and the habit of making loops."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.errors import InvalidRequestError
from services.generation.composer.engine import FACTS
from services.generation.composer.length import settle_length
from services.generation.composer.prompt import parse_prompt
from services.generation.length import MOST_BARS, Length


def settle(prompt: str, duration: float | None = None, **stated: int | bool) -> Length:
    length = Length(duration_seconds=duration, **stated)
    return settle_length(prompt, length, FACTS, usual_seconds=16.0)


def samples(length: Length) -> float:
    assert length.duration_seconds is not None
    return length.duration_seconds * FACTS.sample_rate


@pytest.mark.parametrize(
    ("prompt", "duration", "bars"),
    [
        ("trap at 140", None, 8),
        ("trap at 140", 30.0, 16),
        ("trap at 140, loop", 2.0, 1),
        ("techno 132 bpm", 7.0, 4),
        ("house 119 bpm", 16.0, 8),
        ("drum and bass 174 bpm", 16.0, 8),
        ("lo-fi 80 bpm", 16.0, 4),
        ("house 240 bpm", 30.0, 16),
    ],
)
def test_a_beat_is_a_loop_of_the_bars_that_fit(
    prompt: str, duration: float | None, bars: int
) -> None:
    settled = settle(prompt, duration)
    assert (settled.bars, settled.loop) == (bars, True)
    tempo = parse_prompt(prompt).tempo_bpm
    assert samples(settled) == pytest.approx(round(bars * 240 / tempo * FACTS.sample_rate))


@pytest.mark.parametrize(
    ("prompt", "duration"),
    [
        ("ambient 70 bpm", 16.0),
        ("orchestral 90 bpm", 16.0),
        ("trap at 140", 30.1),
        ("trap at 140", 6.0),
        ("trap loop at 140", 1.0),
        ("house 124 with a long intro and a drop", 16.0),
        ("trap without drums", 16.0),
        ("solo piano, lo-fi", 16.0),
    ],
)
def test_other_pieces_keep_their_duration_and_form(prompt: str, duration: float) -> None:
    assert settle(prompt, duration) == Length(duration_seconds=duration, loop=False)


def test_a_request_decides_against_the_habit_and_the_prompt() -> None:
    assert settle("trap loop at 140", loop=False) == Length(duration_seconds=16.0, loop=False)
    assert settle("ambient 60 bpm", 16.0, loop=True).bars == 4
    assert settle("ambient 60 bpm, seamless loop", 60.0).bars == 16
    assert settle("house 120", 120.0, loop=True).bars == 64


def test_bars_decide_the_duration_of_any_piece() -> None:
    assert settle("house 120", bars=6, loop=False) == Length(
        duration_seconds=12.0, bars=6, loop=False
    )
    assert settle("house 120", bars=3) == Length(duration_seconds=6.0, bars=3, loop=True)
    assert settle("house 120", bars=32).loop is False
    assert settle("house 120", 6.04, bars=3).bars == 3


@pytest.mark.parametrize(
    ("prompt", "bars"),
    [
        ("8 bar techno loop", 8),
        ("4-bar trap loop", 4),
        ("four bars of house", 4),
        ("sixteen-bar lo-fi loop", 16),
        ("house, 12 bars", 12),
    ],
)
def test_bars_in_the_prompt_are_heard(prompt: str, bars: int) -> None:
    assert settle(prompt).bars == bars
    assert settle(prompt, bars=2).bars == 2


@pytest.mark.parametrize(
    "prompt", ["12-bar blues", "house with barstools", "8 bars, then 4 bars", "0 bars", "900 bars"]
)
def test_other_numbers_and_bars_are_no_length(prompt: str) -> None:
    assert parse_prompt(prompt).bars is None


@pytest.mark.parametrize(
    ("stated", "sentence"),
    [
        ({"duration": 16.0, "bars": 4}, "4 bars at 120 BPM last 8.00 s, not 16 s"),
        ({"bars": 301}, "Ask for at most 300 bars"),
        ({"duration": 1.0, "loop": True}, "A loop has at least one bar, which lasts 2.00 s"),
    ],
)
def test_a_length_that_cannot_be_is_explained(
    stated: dict[str, float | bool], sentence: str
) -> None:
    with pytest.raises(InvalidRequestError, match=sentence):
        settle("house 120 bpm", **stated)  # type: ignore[arg-type]


@given(
    st.floats(40.0, 240.0).map(lambda tempo: round(tempo, 2)),
    st.floats(1.0, 600.0),
    st.none() | st.booleans(),
)
def test_a_settled_length_settles_to_itself(
    tempo: float, duration: float, loop: bool | None
) -> None:
    prompt = f"house {tempo} bpm"
    try:
        settled = settle(prompt, duration, loop=loop)
    except InvalidRequestError:
        assert loop
        assert duration * 1.1 < 240.0 / tempo
        return
    again = settle_length(prompt, settled, FACTS, usual_seconds=16.0)
    assert again == settled
    assert samples(settled) == pytest.approx(round(samples(settled)), abs=1.0)
    if settled.loop:
        assert settled.bars is not None
        assert settled.bars.bit_count() == 1
        assert settled.bars <= MOST_BARS
        assert settled.duration_seconds <= min(1.1 * duration, 600.0) + 1e-4
