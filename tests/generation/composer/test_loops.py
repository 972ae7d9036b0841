"""Loops of the composer: a full groove from the first beat, a turnaround, and a silent seam."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from benchmarks.loops import GENRES_WITH_BEAT, make_loop, measure_genres, measure_seam
from services.generation.composer.compose import compose
from services.generation.composer.engine import FACTS, ComposerEngine
from services.generation.composer.genres import GENRES
from services.generation.composer.grooves import GROOVES
from services.generation.composer.prompt import parse_prompt
from services.generation.engine import GenerationParams

if TYPE_CHECKING:
    from pathlib import Path

    from services.generation.score import Score

KICKS = {35, 36}


def write(prompt: str, bars: int, seed: int) -> Score:
    return compose(parse_prompt(prompt), duration_seconds=1.0, seed=seed, bars=bars, loop=True)


@pytest.mark.parametrize("genre", GENRES_WITH_BEAT)
@pytest.mark.parametrize("bars", [1, 2, 4, 8, 16])
def test_a_loop_has_its_groove_in_every_bar(genre: str, bars: int) -> None:
    for seed in range(6):
        score = write(genre, bars, seed)
        assert score.loop
        assert score.bars == bars == sum(section.bars for section in score.sections)
        drums = score.part("drums").notes
        # A humanised hit may be a little early.
        kicks = {int((note.start + 0.1) // 4) for note in drums if note.pitch in KICKS}
        assert kicks == set(range(bars))
        for role in ("bass", "drums"):
            first = [part for part in score.parts if part.role == role]
            assert min(note.start for part in first for note in part.notes) < 1.0


@pytest.mark.parametrize("genre", GENRES_WITH_BEAT)
def test_the_last_bar_of_a_loop_leads_back(genre: str) -> None:
    filled = 0
    for seed in range(6):
        score = write(genre, 8, seed)
        drums = [(n.start % 4, n.pitch) for n in score.part("drums").notes]
        starts = [int(note.start // 4) for note in score.part("drums").notes]
        bars = [
            {hit for hit, at in zip(drums, starts, strict=True) if at == bar} for bar in range(8)
        ]
        filled += bars[7] not in bars[:7]
        # A cadence: the loop does not rest on the chord that it begins with.
        assert score.chords[-1].root != score.key.tonic or score.chords[-1].duration < 4.0
    assert filled >= (0 if GROOVES[GENRES[genre].groove].fills == ("none",) else 5)


def test_no_loop_writes_the_same_notes_as_a_prompt_without_one() -> None:
    plain = parse_prompt("trap in C minor 140 bpm")
    assert compose(plain, duration_seconds=16.0, seed=3, loop=False) == compose(
        plain, duration_seconds=16.0, seed=3
    )
    assert compose(plain, duration_seconds=1.0, seed=3, bars=9, loop=False) == compose(
        plain, duration_seconds=16.0, seed=3
    )


def test_a_bass_slides_to_the_first_chord_at_the_end_of_a_loop() -> None:
    slides = [
        (score, part.notes[-1])
        for seed in range(40)
        for score in [write("trap", 4, seed)]
        for part in score.parts
        if part.role == "bass" and part.notes[-1].glide_to is not None
    ]
    assert slides
    for score, note in slides:
        assert note.glide_to is not None
        roots = {score.chords[0].root, note.pitch % 12}
        assert note.glide_to % 12 in roots


def test_a_loop_has_its_bars_whatever_duration_and_prompt_say() -> None:
    params = GenerationParams(
        prompt="8 bar house loop 240 bpm", duration_seconds=1.5, seed=1, bars=1, loop=True
    )
    rendered = ComposerEngine().render(params, lambda *_: None, lambda: False)
    assert (rendered.bars, rendered.loop) == (1, True)
    assert rendered.audio.shape == (2, FACTS.sample_rate)
    (note,) = rendered.understood["notes"]
    assert note.startswith("The prompt says 8 bars")


@pytest.mark.parametrize(
    ("prompt", "bars", "seed"),
    [("drum and bass 173.3 bpm", 2, 1), ("lo-fi 88 bpm", 1, 2), ("house 127 bpm, loud", 2, 3)],
)
def test_the_seam_of_a_delivered_loop_is_silent(
    prompt: str, bars: int, seed: int, tmp_path: Path
) -> None:
    audio = make_loop(prompt, seed, tmp_path, bars=bars)
    seam = measure_seam(audio)
    assert seam.step <= 1.0
    assert seam.flux <= 1.0


def test_the_measure_finds_a_step_and_a_click() -> None:
    time = np.arange(48_000) / 48_000.0
    cut, whole = (
        np.stack([0.5 * np.sin(2 * np.pi * hertz * time)] * 2).astype(np.float32)
        for hertz in (110.25, 110.0)
    )
    assert measure_seam(cut).step > 1.0
    assert measure_seam(whole).is_silent
    whole[:, -20:-17] += 0.4
    clicking = measure_seam(whole)
    assert clicking.step <= 1.0 < clicking.flux


@pytest.mark.nightly
def test_the_seam_of_every_genre_is_silent() -> None:
    seams = list(measure_genres(12))
    assert {genre for genre, _, _ in seams} == set(GENRES_WITH_BEAT)
    assert [found for found in seams if not found[2].is_silent] == []
