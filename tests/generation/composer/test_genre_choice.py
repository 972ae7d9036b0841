"""The choice of a genre for a prompt that names none."""

from collections import Counter

import pytest

from services.generation.composer.genre_choice import choose_genre
from services.generation.composer.genres import GENRES
from services.generation.composer.instrumentation import Instrumentation
from services.generation.composer.random_streams import RandomStream


def count(*, requested=(), excluded=(), moods=(), tempo=None, draws: int = 200) -> Counter[str]:
    instrumentation = Instrumentation(tuple(requested), tuple(excluded), (), ())
    return Counter(
        choose_genre(instrumentation, tuple(moods), tempo, RandomStream(seed))
        for seed in range(draws)
    )


def test_a_prompt_without_a_hint_may_get_any_genre() -> None:
    assert set(count()) == set(GENRES)


@pytest.mark.parametrize(
    ("name", "genre"),
    [
        ("808 bass", "trap"),
        ("reese bass", "drum and bass"),
        ("acid bass", "techno"),
        ("vinyl", "lo-fi"),
        ("wind", "ambient"),
    ],
)
def test_a_typical_instrument_makes_its_genre_the_most_likely(name: str, genre: str) -> None:
    assert count(requested=[name]).most_common(1)[0][0] == genre


def test_an_excluded_instrument_counts_as_its_own_hint() -> None:
    assert count(excluded=["drums"])["ambient"] > 2 * count()["ambient"]
    assert count(excluded=["vinyl"]) == count()


def test_moods_multiply() -> None:
    once, twice = count(moods=["calm"]), count(moods=["calm", "dreamy"])
    assert count()["ambient"] < once["ambient"] < twice["ambient"]


@pytest.mark.parametrize("tempo", [60.0, 90.0, 140.0, 174.0])
def test_a_tempo_keeps_to_genres_of_that_tempo(tempo: float) -> None:
    fits = {
        name
        for name, genre in GENRES.items()
        if 0.93 * genre.tempo[0] <= tempo <= 1.07 * genre.tempo[2]
    }
    drawn = count(tempo=tempo)
    assert sum(drawn[name] for name in fits) > 0.65 * drawn.total()


def test_the_same_stream_gives_the_same_genre() -> None:
    assert count(draws=20) == count(draws=20)
