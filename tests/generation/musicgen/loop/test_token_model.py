"""A decoder made of a step model and a sampler."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from services.generation.musicgen.catalogue import MODELS
from services.generation.musicgen.loop.request import Conditioning, Sampling
from services.generation.musicgen.loop.sampling import TorchSampler
from services.generation.musicgen.loop.sequence import StepInput
from services.generation.musicgen.loop.token_model import SampledDecoder
from tests.generation.musicgen.oracle import decoder_of
from tests.generation.musicgen.tiny import tiny_melody_model

STATES = torch.zeros(3, 8)


class Recorder:
    """A step model with a prefix of five positions that records its calls."""

    geometry = MODELS["musicgen-small"].geometry
    slots = 3
    positions = 40

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def admit(self, slot: int, *prefixes: torch.Tensor) -> int:
        self.calls.append(("admit", slot, len(prefixes)))
        return 5 if slot else 0

    def prefill(self, slot: int, tokens: torch.Tensor) -> None:
        self.calls.append(("prefill", slot, tokens.tolist()))

    def step(self, slots: list[int], tokens: torch.Tensor, positions: list[int]) -> torch.Tensor:
        self.calls.append(("step", slots, tokens.tolist(), positions))
        return torch.zeros(2, len(slots), 4, 16)


class Echo:
    """A sampler that returns the step in each cell and records the sampling."""

    def __init__(self) -> None:
        self.samplings: list[Any] = []

    def __call__(self, logits: torch.Tensor, samplings: Any, steps: Any) -> Any:
        self.samplings.append(list(samplings))
        return np.repeat(np.array(steps)[:, None], logits.shape[2], axis=1)


def test_sizes_are_those_of_the_step_model() -> None:
    model = SampledDecoder(Recorder())
    assert (model.geometry, model.slots, model.positions) == (Recorder.geometry, 3, 40)


def test_tokens_are_prefilled_in_memory_order_if_there_are_any() -> None:
    recorder = Recorder()
    model = SampledDecoder(recorder, Echo())
    grid = np.arange(12).reshape(4, 3)
    model.begin_window(1, Conditioning(STATES), Sampling(), grid[:, :2])
    model.begin_window(2, Conditioning(STATES, STATES), Sampling(), grid[:, :0])
    assert recorder.calls == [
        ("admit", 1, 1),
        ("prefill", 1, [[0, 1], [3, 4], [6, 7], [9, 10]]),
        ("admit", 2, 2),
    ]


def test_a_step_counts_positions_after_the_prefix_of_each_slot() -> None:
    recorder, echo = Recorder(), Echo()
    model = SampledDecoder(recorder, echo)
    samplings = [Sampling(seed=slot) for slot in range(3)]
    for slot in range(3):
        model.begin_window(slot, Conditioning(STATES), samplings[slot], np.zeros((4, 0)))
    inputs = [StepInput(2, np.full(4, 7), 3, 30), StepInput(0, np.full(4, 8), 4, 40)]
    assert model.step(inputs).tolist() == [[30] * 4, [40] * 4]
    assert recorder.calls[-1] == ("step", [2, 0], [[7] * 4, [8] * 4], [8, 4])
    assert echo.samplings == [[samplings[2], samplings[0]]]


def test_without_a_sampler_pytorch_draws() -> None:
    sampled = SampledDecoder(Recorder())
    explicit = SampledDecoder(Recorder(), TorchSampler())
    for model in (sampled, explicit):
        model.begin_window(0, Conditioning(STATES), Sampling(seed=4), np.zeros((4, 0)))
    inputs = [StepInput(0, np.zeros(4, dtype=np.int64), 0, 11)]
    assert sampled.step(inputs).tolist() == explicit.step(inputs).tolist()


def test_a_new_window_replaces_prefix_and_sampling_of_its_slot() -> None:
    model = SampledDecoder(decoder_of(tiny_melody_model(), slots=2), TorchSampler())
    greedy, drawn = Sampling(greedy=True), Sampling(seed=3, top_k=0)
    long, short = torch.randn(20, 64), torch.randn(6, 64)
    start = [StepInput(0, np.full(4, 2048), 0, 0)]

    def first_tokens(states: torch.Tensor, sampling: Sampling) -> list[int]:
        model.begin_window(0, Conditioning(states), sampling, np.zeros((4, 0)))
        tokens: list[int] = model.step(start)[0].tolist()
        return tokens

    alone = first_tokens(short, greedy)
    first_tokens(long, drawn)
    assert first_tokens(short, greedy) == alone
