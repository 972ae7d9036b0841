"""Random streams: independent of each other, and the same everywhere."""

import pytest

from services.generation.composer.random_streams import RandomStream


def test_random_streams_of_different_names_are_independent() -> None:
    assert RandomStream(1, "a").random() == RandomStream(1, "a").random()
    assert (
        len(
            {
                RandomStream(1, "a").random(),
                RandomStream(1, "b").random(),
                RandomStream(2, "a").random(),
            }
        )
        == 3
    )
    assert RandomStream(1, "a", "b").random() != RandomStream(1, "ab").random()


def test_weighted_choices_follow_their_weights() -> None:
    rng = RandomStream(5)
    picks = [rng.weighted_choice({"often": 9.0, "seldom": 1.0}) for _ in range(500)]
    assert 400 < picks.count("often") < 490
    assert not RandomStream(1).chance(0.0)
    assert RandomStream(1).chance(1.0)


def test_a_stream_is_the_same_on_every_machine() -> None:
    # A change of these values is a change of the music of every seed.
    stream = RandomStream(7, "kit")
    assert stream.random() == pytest.approx(0.47959841716415064, abs=1e-15)
    assert stream.randrange(1000) == 69


def test_names_and_numbers_of_a_stream_are_joined_in_order() -> None:
    assert RandomStream(1, 2).random() == RandomStream("1", "2").random()
    assert RandomStream(1, 2).random() != RandomStream(2, 1).random()
