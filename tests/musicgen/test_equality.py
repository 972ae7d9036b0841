"""The loop and the decoder make what transformers.generate makes, on the same random weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from services.generation.musicgen.loop import DecodeLoop
from services.generation.musicgen.request import DecodeRequest, Sampling
from services.generation.musicgen.token_model import SampledDecoder
from tests.musicgen.oracle import Reference, decoder_of, generate, prompts
from tests.musicgen.tiny import tiny_melody_model, tiny_model

FRAMES = 24
GREEDY = Sampling(greedy=True)


@pytest.fixture(scope="module", params=["mono", "stereo"])
def model(request: pytest.FixtureRequest) -> Any:
    return tiny_model(stereo=request.param == "stereo")


@pytest.fixture(scope="module", params=["mono", "stereo"])
def melody(request: pytest.FixtureRequest) -> Any:
    return tiny_melody_model(stereo=request.param == "stereo")


class Recording:
    """A step model that keeps the logits of each slot."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.logits: list[list[torch.Tensor]] = [[] for _ in range(model.slots)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def step(self, slots: Any, tokens: Any, positions: Any) -> torch.Tensor:
        logits: torch.Tensor = self._model.step(slots, tokens, positions)
        for index, slot in enumerate(slots):
            self.logits[slot].append(logits[:, index])
        return logits


def decode(
    step_model: Any, requests: list[DecodeRequest], **windows: int
) -> list[np.ndarray[Any, np.dtype[np.int64]]]:
    with DecodeLoop(SampledDecoder(step_model), **windows) as loop:
        return [handle.result(60) for handle in [loop.submit(request) for request in requests]]


def assert_equal(model: Any, reference: Reference, requests: list[DecodeRequest]) -> None:
    recording = Recording(decoder_of(model, slots=len(requests)))
    codes = decode(recording, requests)
    for number, made in enumerate(codes):
        np.testing.assert_array_equal(made, reference.codes[number].numpy())
        wanted = torch.stack(reference.logits)[:, :, number]
        got = torch.stack(recording.logits[number])
        assert (got - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_one_prompt(model: Any) -> None:
    reference = generate(model, prompts([7]), FRAMES)
    assert reference.codes.unique().numel() > FRAMES
    request = DecodeRequest(
        conditioning=tuple(reference.conditioning), frames=FRAMES, sampling=GREEDY
    )
    assert_equal(model, reference, [request])


def test_padded_prompts_of_three_lengths(model: Any) -> None:
    reference = generate(model, prompts([12, 5, 9]), FRAMES)
    requests = [
        DecodeRequest(conditioning=(given,), frames=FRAMES, sampling=GREEDY)
        for given in reference.conditioning
    ]
    assert [len(given.states) for given in reference.conditioning] == [12, 5, 9]
    assert_equal(model, reference, requests)


@pytest.mark.parametrize("known", [1, 2, 11])
def test_continuation(model: Any, known: int) -> None:
    prefix = torch.randint(0, 2048, (2, model.decoder.config.num_codebooks, known))
    reference = generate(model, prompts([6, 9]), FRAMES, prefix)
    requests = [
        DecodeRequest(conditioning=(given,), frames=FRAMES, sampling=GREEDY, prefix=codes.numpy())
        for given, codes in zip(reference.conditioning, prefix, strict=True)
    ]
    assert (reference.codes[:, :, :known] == prefix).all()
    assert_equal(model, reference, requests)


def melody_inputs(lengths: list[int]) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    return prompts(lengths) | {"input_features": torch.rand(len(lengths), 14, 12, generator=random)}


def test_melody(melody: Any) -> None:
    reference = generate(melody, melody_inputs([7]), FRAMES)
    request = DecodeRequest(
        conditioning=tuple(reference.conditioning), frames=FRAMES, sampling=GREEDY
    )
    assert reference.conditioning[0].unconditional is not None
    assert reference.conditioning[0].unconditional.abs().sum() > 0
    assert_equal(melody, reference, [request])


def test_melody_batch_and_continuation(melody: Any) -> None:
    prefix = torch.randint(0, 2048, (2, melody.decoder.config.num_codebooks, 5))
    reference = generate(melody, melody_inputs([8, 8]), FRAMES, prefix)
    requests = [
        DecodeRequest(conditioning=(given,), frames=FRAMES, sampling=GREEDY, prefix=codes.numpy())
        for given, codes in zip(reference.conditioning, prefix, strict=True)
    ]
    assert_equal(melody, reference, requests)
