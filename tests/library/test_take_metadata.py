"""The metadata of a take in its file and in its row."""

from datetime import UTC, datetime

import numpy as np
import pytest

from services.audio import analyse, master
from services.generation.engine import EngineFacts, Rendered
from services.library.take_metadata import build_file_facts, build_row_metadata

RATE = 8_000
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def clicks(bpm, seconds):
    at = np.arange(round(seconds * RATE)) / RATE
    return (0.5 * np.exp(-40 * (at % (60 / bpm))) * np.sin(2 * np.pi * 150 * at))[None]


def engine():
    return EngineFacts(
        name="test",
        version="3",
        description="",
        output_licence="CC0-1.0",
        sample_rate=RATE,
        channels=1,
        shortest_seconds=0.5,
        longest_seconds=60.0,
    )


def labels(rendered):
    mastered = master(rendered.audio, RATE)
    measured = analyse(mastered.audio, RATE, rendered.tempo_bpm, mastered.loudness)
    facts = build_file_facts(
        generation_id="an-id",
        prompt="clicks",
        created_at=NOW,
        engine=engine(),
        rendered=rendered,
        mastered=mastered,
    )
    return facts, build_row_metadata(engine(), rendered, mastered, measured, -16.0)


def take(bpm=120.0, seconds=8.0, **known):
    audio = clicks(bpm, seconds).astype(np.float32)
    return Rendered(audio=audio, sample_rate=RATE, seed=7, **known)


def test_the_file_has_the_facts_that_repeat_the_take():
    facts, _ = labels(take(tempo_bpm=120.0, key="C minor", bars=4))
    assert (facts.prompt, facts.generation_id, facts.seed) == ("clicks", "an-id", 7)
    assert (facts.engine, facts.engine_version, facts.licence) == ("test", "3", "CC0-1.0")
    assert (facts.bpm, facts.key, facts.bars, facts.created_at) == (120.0, "C minor", 4, NOW)
    assert facts.loudness == master(clicks(120.0, 8.0), RATE).loudness


@pytest.mark.parametrize("loop", [True, False])
def test_a_take_is_a_loop_if_its_engine_made_one(loop):
    # Both end with their last bar; the other one has an ending there.
    facts, kept = labels(take(seconds=8.0, tempo_bpm=120.0, bars=4, loop=loop))
    assert facts.is_loop is kept["loop"] is loop


def test_a_stated_tempo_that_the_measurement_confirms_stands_alone():
    _, kept = labels(take(tempo_bpm=120.0))
    assert kept["bpm"] == 120.0
    assert not {"measured_bpm", "bpm_confidence"} & set(kept)


def test_a_tempo_that_was_not_stated_is_measured():
    _, kept = labels(take())
    assert kept["bpm"] == pytest.approx(120.0, abs=0.1)
    assert kept["bpm_confidence"] > 0.5


def test_a_measured_tempo_that_differs_from_the_stated_one_is_added():
    _, kept = labels(take(bpm=97.0, tempo_bpm=120.0))
    assert kept["bpm"] == 120.0
    assert kept["measured_bpm"] == pytest.approx(97.0, abs=0.2)
    assert 0.0 < kept["bpm_confidence"] <= 1.0


def test_unknown_facts_are_left_out():
    _, kept = labels(Rendered(audio=np.zeros((1, RATE), np.float32), sample_rate=RATE, seed=7))
    assert not {"bpm", "key", "bars", "integrated_lufs", "measured_bpm"} & set(kept)
    assert kept["flags"] == ["silent"]
