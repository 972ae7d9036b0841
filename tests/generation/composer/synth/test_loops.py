"""A loop's audio: what rings past the end is heard at the start, and every effect is periodic."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from services.generation.composer.synth import render_score
from services.generation.composer.synth.instrument import add_around
from services.generation.composer.synth.patches import PATCHES
from services.generation.score import Key, Note, Part, Score

if TYPE_CHECKING:
    from numpy.typing import NDArray

RATE = 16_000


def make_score(*parts: Part, bars: int = 1, loop: bool = True, tempo: float = 120.0) -> Score:
    return Score(
        tempo_bpm=tempo,
        bars=bars,
        key=Key(9, "minor"),
        genre="house",
        sections=(),
        chords=(),
        parts=parts,
        loop=loop,
    )


def render(score: Score, rate: int = RATE) -> NDArray[np.float32]:
    return render_score(
        score,
        sample_rate=rate,
        samples=round(score.seconds * rate),
        seed=1,
        progress=lambda _stage, _fraction: None,
        should_stop=lambda: False,
    ).mix


def repeat(part: Part, bars: int) -> Part:
    """Return the part of one bar played `bars` times; its brightness repeats as well."""
    return replace(
        part,
        notes=tuple(
            replace(note, start=note.start + 4.0 * bar)
            for bar in range(bars)
            for note in part.notes
        ),
        brightness=tuple(
            (beat + 4.0 * bar, value) for bar in range(bars) for beat, value in part.brightness
        ),
    )


# Notes that do not depend on chance, so that every bar of the repeated score sounds the same.
BASS = Part(
    name="bass",
    role="bass",
    patch="bass-saw",
    notes=(Note(0.0, 0.5, 45, 0.8), Note(1.5, 0.5, 48, 0.7), Note(3.5, 0.5, 52, 0.9)),
    reverb=0.5,
    delay=0.6,
    sidechain=0.7,
)
DRUMS = Part(
    name="drums",
    role="drums",
    patch="kit-house",
    notes=(Note(0.0, 0.3, 36, 0.9), Note(1.0, 0.3, 36, 0.9), Note(3.75, 0.3, 36, 0.9)),
    brightness=((0.0, 0.2), (3.9, 0.45), (4.0, 0.2)),
    reverb=0.3,
)


def test_a_loop_equals_a_bar_from_the_middle_of_its_repetition() -> None:
    loop = render(make_score(BASS, DRUMS))
    bars = 7
    played = render(
        make_score(repeat(BASS, bars), repeat(DRUMS, bars), bars=bars, loop=False),
    )
    length = loop.shape[1]
    later = played[:, -2 * length : -length]
    assert np.abs(later - loop).max() < 1e-5
    first = played[:, :length]
    assert np.abs(first - loop).max() > 0.05 * np.abs(loop).max()


@pytest.mark.parametrize("patch", PATCHES)
def test_no_instrument_clicks_where_the_loop_starts_again(patch: str) -> None:
    drums = patch.startswith("kit-")
    pitch = 46 if drums else 57
    part = Part(
        name="part",
        role="drums" if drums else "chords",
        patch=patch,
        notes=(Note(0.6, 0.3, 42 if drums else 52, 0.6), Note(1.7, 2.3, pitch, 0.9)),
        reverb=0.3,
        delay=0.4,
        brightness=((0.0, 0.3), (2.0, 0.6), (4.0, 0.3)),
    )
    # The bar does not last a whole number of samples.
    audio = render(make_score(part, tempo=231.7), 24_000)
    assert np.abs(audio[:, :200]).max() > 1e-4, "the tail is heard at the start"
    steps = np.abs(np.diff(audio, axis=1)).max(axis=0)
    seam = np.abs(audio[:, 0] - audio[:, -1]).max()
    assert seam <= max(np.quantile(steps, 0.999), 2 * steps[[0, 1, -2, -1]].max())


def test_a_kick_at_the_start_ducks_the_end_of_a_loop() -> None:
    held = replace(BASS, notes=(Note(0.0, 4.0, 45, 0.8),), reverb=0.0, delay=0.0, sidechain=1.0)
    kick = replace(DRUMS, notes=(Note(0.0, 0.3, 36, 0.05),), brightness=(), gain_db=-60.0)
    audio = render(make_score(held, kick))
    lead = round(0.002 * RATE)
    assert np.abs(audio[:, -lead:]).max() < 0.5 * np.abs(audio[:, -2000 : -10 * lead]).max()


@pytest.mark.parametrize(("begin", "length"), [(0, 3), (5, 3), (6, 5), (7, 30), (9, 1)])
def test_a_sound_goes_on_at_the_start_as_often_as_it_is_long(begin: int, length: int) -> None:
    out = np.zeros((2, 7), dtype=np.float32)
    add_around(out, np.ones((1, length), dtype=np.float32), begin)
    expected = np.bincount(np.arange(begin, begin + length) % 7, minlength=7)
    assert np.array_equal(out, np.stack([expected, expected]))


def test_the_stems_of_a_loop_sum_to_its_mix() -> None:
    score = make_score(BASS, DRUMS)
    rendered = render_score(
        score,
        sample_rate=RATE,
        samples=round(score.seconds * RATE),
        seed=1,
        progress=lambda _stage, _fraction: None,
        should_stop=lambda: False,
        stems=True,
    )
    total = np.sum([stem.astype(np.float64) for stem in rendered.stems.values()], axis=0)
    assert np.abs(total - rendered.mix).max() < 1e-6
