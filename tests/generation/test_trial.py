"""Test renders and measurements of engines."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from services.generation.engine import (
    EngineFacts,
    GenerationParams,
    Progress,
    Rendered,
    ShouldStop,
    Steps,
)
from services.generation.registry import EngineEntry
from services.generation.trial import find_faults, measure, try_engine, warm_up
from tests.conftest import LIMIT_SECONDS

FACTS = EngineFacts(
    name="tone",
    version="1",
    description="A sine.",
    output_licence="CC0-1.0",
    sample_rate=8_000,
    channels=1,
    shortest_seconds=1.0,
    longest_seconds=30.0,
)


SHARED = replace(FACTS, concurrent=3)


@dataclass
class Tone:
    facts: EngineFacts = FACTS
    level: float = 0.5
    steps: Steps | None = None

    def render(
        self, params: GenerationParams, _progress: Progress, _should_stop: ShouldStop
    ) -> Rendered:
        return Rendered(
            audio=self.wave(round(params.duration_seconds * 8_000)),
            sample_rate=8_000,
            seed=params.seed,
            steps=self.steps,
        )

    def wave(self, samples: int) -> np.ndarray:
        return (self.level * np.sin(np.arange(samples) * 0.2))[None].astype(np.float32)


def made(**changed: object) -> Rendered:
    audio = Tone().wave(16_000)
    return replace(Rendered(audio=audio, sample_rate=8_000, seed=1), **changed)


def silent(_stage: str, _fraction: float) -> None:
    return


def test_a_working_engine_has_no_faults() -> None:
    trial = try_engine(EngineEntry(FACTS, Tone, lambda: None), silent)
    assert trial.problems == ()
    assert trial.audio_seconds == 2.0
    assert trial.peak_dbfs == pytest.approx(-6.02, abs=0.01)


@pytest.mark.parametrize(
    ("changed", "phrase"),
    [
        ({"audio": np.zeros((1, 16_000), np.float32)}, "silent"),
        ({"audio": np.full((1, 16_000), np.nan, np.float32)}, "NaN"),
        ({"audio": np.full((1, 16_000), np.inf, np.float32)}, "infinite"),
        ({"audio": np.ones((1, 15_999), np.float32)}, "shape"),
        ({"audio": np.ones((2, 16_000), np.float32)}, "shape"),
        ({"audio": np.ones((1, 0), np.float32)}, "shape"),
        ({"audio": np.ones((1, 16_000))}, "float64"),
        ({"sample_rate": 44_100}, "44100 Hz"),
    ],
)
def test_each_fault_of_the_audio_is_reported(changed: dict[str, object], phrase: str) -> None:
    assert phrase in "; ".join(find_faults(made(**changed), Tone(), 2.0))


def test_a_silent_engine_is_reported() -> None:
    trial = try_engine(EngineEntry(FACTS, lambda: Tone(level=0.0), lambda: None), silent)
    assert trial.problems == ("it is silent",)
    assert trial.peak_dbfs is None


def test_a_measurement_counts_the_audio_of_all_requests() -> None:
    row = measure(Tone(steps=Steps(100, 0.25)), "tone", 2.0, 4)
    assert row.rtf == pytest.approx(row.wall_seconds / 8.0)
    assert row.ms_a_step == pytest.approx(2.5)
    assert row.peak_bytes > 10 * 2**20
    assert measure(Tone(), "tone", 1.0, 1).ms_a_step is None


def test_requests_reach_an_engine_together_as_far_as_it_takes_them() -> None:
    together = threading.Barrier(3)

    @dataclass
    class Batching(Tone):
        facts: EngineFacts = SHARED

        def wave(self, samples: int) -> np.ndarray:
            together.wait(LIMIT_SECONDS)
            return super().wave(samples)

    assert measure(Batching(), "batching", 1.0, 6).requests == 6
    assert not together.broken


def test_an_engine_with_a_batch_of_its_own_gets_all_requests_in_one_call() -> None:
    batches = []

    class OneCall(Tone):
        def render_batch(self, requests: Sequence[GenerationParams]) -> list[Rendered]:
            batches.append(len(requests))
            return [made(seed=params.seed) for params in requests]

    measure(OneCall(), "one call", 2.0, 4)
    assert batches == [4]


def test_a_measurement_has_its_own_memory_peak() -> None:
    @dataclass
    class Greedy(Tone):
        def wave(self, samples: int) -> np.ndarray:
            np.ones(25_000_000)
            return super().wave(samples)

    before = measure(Tone(), "tone", 1.0, 1).peak_bytes
    assert measure(Greedy(), "greedy", 1.0, 1).peak_bytes > before + 150 * 2**20
    assert measure(Tone(), "tone", 1.0, 1).peak_bytes < before + 100 * 2**20


@pytest.mark.parametrize(
    ("shortest", "longest", "seconds"), [(1.0, 30.0, 2.0), (5.0, 30.0, 5.0), (0.5, 1.5, 1.5)]
)
def test_a_test_render_is_two_seconds_long_if_the_engine_allows_it(
    shortest: float, longest: float, seconds: float
) -> None:
    facts = replace(FACTS, shortest_seconds=shortest, longest_seconds=longest)
    trial = try_engine(EngineEntry(facts, lambda: Tone(facts), lambda: None), silent)
    assert (trial.audio_seconds, trial.problems) == (seconds, ())


def test_all_faults_are_reported_together() -> None:
    audio = np.zeros((2, 5))
    faults = find_faults(made(audio=audio, sample_rate=44_100), Tone(), 2.0)
    assert len(faults) == 4


@pytest.mark.parametrize(("level", "is_silent"), [(0.9e-4, True), (1.1e-4, False)])
def test_silence_is_below_80_dbfs(level: float, is_silent: bool) -> None:
    audio = np.full((1, 16_000), level, np.float32)
    assert find_faults(made(audio=audio), Tone(), 2.0) == (["it is silent"] if is_silent else [])


def test_a_measurement_reports_the_slowest_step() -> None:
    steps = iter([Steps(10, 0.1), Steps(10, 0.3), Steps(0, 9.0), None])

    @dataclass
    class Uneven(Tone):
        def render(self, params: GenerationParams, *_: object) -> Rendered:
            return replace(super().render(params, silent, lambda: False), steps=next(steps))

    row = measure(Uneven(), "uneven", 1.0, 4)
    assert row.ms_a_step == pytest.approx(30.0)
    assert (row.engine, row.seconds, row.requests) == ("uneven", 1.0, 4)


def test_requests_of_a_measurement_have_different_seeds() -> None:
    seen: list[GenerationParams] = []

    @dataclass
    class Watched(Tone):
        def render(self, params: GenerationParams, *_: object) -> Rendered:
            seen.append(params)
            return super().render(params, silent, lambda: False)

    measure(Watched(), "watched", 1.0, 3)
    warm_up(Watched())
    assert [one.seed for one in seen] == [7, 8, 9, 7]
    assert [one.duration_seconds for one in seen] == [1.0] * 4


def test_the_gpu_peak_is_unknown_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert measure(Tone(), "tone", 1.0, 1).peak_gpu_bytes is None


def test_the_memory_peak_is_known_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", fail)
    monkeypatch.setattr(Path, "write_text", fail)
    assert measure(Tone(), "tone", 1.0, 1).peak_bytes > 10 * 2**20
