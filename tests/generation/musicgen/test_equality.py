"""Loop and decoder draw the codes of transformers.generate on the same random weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import MusicgenDecoderConfig

from services.generation.musicgen.decoders.native.decoder import NativeDecoder
from services.generation.musicgen.decoders.torch_decoder import TorchDecoder
from services.generation.musicgen.loop.loop import DecodeLoop
from services.generation.musicgen.loop.request import Conditioning, DecodeRequest, Sampling
from services.generation.musicgen.loop.token_model import SampledDecoder
from services.generation.weights.weights import StateDictWeights
from tests.conftest import LIMIT_SECONDS
from tests.generation.musicgen.oracle import Reference, decoder_of, drawing, generate, prompts
from tests.generation.musicgen.tiny import geometry_of, tiny_melody_model, tiny_model

FRAMES = 24
GREEDY = Sampling(greedy=True)


@pytest.fixture(scope="module", params=["mono", "stereo"])
def model(request: pytest.FixtureRequest) -> Any:
    return tiny_model(stereo=request.param == "stereo")


@pytest.fixture(scope="module", params=["mono", "stereo"])
def melody(request: pytest.FixtureRequest) -> Any:
    return tiny_melody_model(stereo=request.param == "stereo")


class Recording:
    """A step model that records the logits of each slot."""

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
        return [
            handle.result(LIMIT_SECONDS)
            for handle in [loop.submit(request) for request in requests]
        ]


def assert_equal(
    model: Any, reference: Reference, requests: list[DecodeRequest], decoder: Any = None
) -> None:
    recording = Recording(decoder or decoder_of(model, slots=len(requests)))
    codes = decode(recording, requests)
    for number, made in enumerate(codes):
        np.testing.assert_array_equal(made, reference.codes[number].numpy())
        wanted = torch.stack(reference.logits)[:, :, number]
        got = torch.stack(recording.logits[number])
        assert (got - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_one_prompt_equals_transformers(model: Any) -> None:
    reference = generate(model, prompts([7]), FRAMES)
    assert reference.codes.unique().numel() > FRAMES
    request = DecodeRequest(
        conditioning=tuple(reference.conditioning), frames=FRAMES, sampling=GREEDY
    )
    assert_equal(model, reference, [request])


def test_padded_prompts_equal_transformers(model: Any) -> None:
    reference = generate(model, prompts([12, 5, 9]), FRAMES)
    requests = [
        DecodeRequest(conditioning=(given,), frames=FRAMES, sampling=GREEDY)
        for given in reference.conditioning
    ]
    assert [len(given.states) for given in reference.conditioning] == [12, 5, 9]
    assert_equal(model, reference, requests)


@pytest.mark.nightly
@pytest.mark.parametrize("make", [TorchDecoder, NativeDecoder])
def test_padded_prompts_equal_transformers_in_the_shape_of_small(make: Any) -> None:
    model = tiny_model(decoder=MusicgenDecoderConfig())
    assert (model.config.decoder.hidden_size, model.config.decoder.num_hidden_layers) == (1024, 24)
    reference = generate(model, prompts([12, 40]), FRAMES)
    assert reference.codes.unique().numel() > FRAMES
    requests = [
        DecodeRequest(conditioning=(given,), frames=FRAMES, sampling=GREEDY)
        for given in reference.conditioning
    ]
    weights = StateDictWeights(model.state_dict())
    decoder = make(weights, geometry_of(model.config), len(requests), FRAMES + 3, "fp32")
    assert_equal(model, reference, requests, decoder)


@pytest.mark.parametrize("known", [1, 2, 11])
def test_continuation_equals_transformers(model: Any, known: int) -> None:
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


def test_melody_equals_transformers(melody: Any) -> None:
    reference = generate(melody, melody_inputs([7]), FRAMES)
    request = DecodeRequest(
        conditioning=tuple(reference.conditioning), frames=FRAMES, sampling=GREEDY
    )
    assert reference.conditioning[0].unconditional is not None
    assert reference.conditioning[0].unconditional.abs().sum() > 0
    assert_equal(melody, reference, [request])


def test_melody_batch_with_continuation_equals_transformers(melody: Any) -> None:
    prefix = torch.randint(0, 2048, (2, melody.decoder.config.num_codebooks, 5))
    reference = generate(melody, melody_inputs([8, 8]), FRAMES, prefix)
    requests = [
        DecodeRequest(conditioning=(given,), frames=FRAMES, sampling=GREEDY, prefix=codes.numpy())
        for given, codes in zip(reference.conditioning, prefix, strict=True)
    ]
    assert_equal(melody, reference, requests)


def drawn(seed: int) -> Sampling:
    return Sampling(seed=seed, temperature=1.3, top_k=40, top_p=0.9, guidance=2.5)


def test_sampled_tokens_equal_transformers_for_the_same_noise(model: Any) -> None:
    sampling = [drawn(5), drawn(2**32 - 1)]
    settings = drawing(sampling, model.decoder.config.num_codebooks)
    reference = generate(model, prompts([7, 4]), FRAMES, **settings)
    requests = [
        DecodeRequest(conditioning=(given,), frames=FRAMES, sampling=each)
        for given, each in zip(reference.conditioning, sampling, strict=True)
    ]
    assert_equal(model, reference, requests)
    assert not torch.equal(reference.codes, generate(model, prompts([7, 4]), FRAMES).codes)


@pytest.mark.parametrize(("frames", "known"), [(45, 0), (36, 0), (45, 4), (45, 19)])
def test_windows_equal_the_extension_of_audiocraft(frames: int, known: int) -> None:
    # Windows of 16 frames start every 10, each with the last 6 of the one before as prompt.
    model, inputs, sampling = tiny_model(), prompts([7]), drawn(11)
    codes = torch.randint(0, 2048, (1, 4, known))
    prefix, conditioning = codes.numpy()[0], ()
    for start in range(0, frames, 10):
        stop = min(start + 16, frames)
        if stop <= codes.shape[-1]:
            continue
        given = codes[:, :, start:]
        settings = drawing([sampling], 4, start)
        window = generate(
            model, inputs, stop - start, given if given.shape[-1] else None, **settings
        )
        codes = torch.cat([codes[:, :, :start], window.codes], dim=2)
        conditioning = tuple(window.conditioning)
    request = DecodeRequest(
        conditioning=conditioning, frames=frames, sampling=sampling, prefix=prefix
    )
    made = decode(decoder_of(model), [request], window_frames=16, stride_frames=10)[0]
    np.testing.assert_array_equal(made, codes[0].numpy())


def random_request(seed: int, length: int, **fields: Any) -> DecodeRequest:
    random = torch.Generator().manual_seed(seed)
    given = Conditioning(torch.randn(length, 64, generator=random))
    fields = {"frames": FRAMES, "sampling": drawn(seed)} | fields
    return DecodeRequest(conditioning=(given,), **fields)


@pytest.mark.parametrize("linear", ["fp32", "int8"])
def test_requests_that_join_at_different_steps_equal_their_single_runs(linear: str) -> None:
    model = tiny_model()
    prefix = np.arange(20).reshape(4, 5)
    requests = {
        0: random_request(1, 9),
        5: random_request(2, 4, frames=12),
        9: random_request(3, 6, prefix=prefix),
    }
    single = decoder_of(model, linear=linear)
    alone = [decode(single, [each])[0] for each in requests.values()]
    handles = []
    with DecodeLoop(SampledDecoder(decoder_of(model, slots=3, linear=linear))) as loop:

        def join(done: int, _: int) -> None:
            if done in requests:
                handles.append(loop.submit(requests[done]))

        handles.append(loop.submit(requests[0], progress=join))
        handles[0].result(LIMIT_SECONDS)
        together = [handle.result(LIMIT_SECONDS) for handle in handles]
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_codes_depend_on_the_seed_and_not_on_slot_or_batch() -> None:
    decoder = decoder_of(tiny_model(), slots=3)
    first = decode(decoder, [random_request(7, 5)])[0]
    neighbours = [
        random_request(8, 12, sampling=Sampling(seed=8, top_k=0)),
        random_request(9, 3, sampling=Sampling(seed=9, top_k=500, top_p=0.5, guidance=9.0)),
    ]
    np.testing.assert_array_equal(first, decode(decoder, [*neighbours, random_request(7, 5)])[2])
    other = random_request(7, 5, sampling=drawn(8))
    assert (decode(decoder, [other])[0] != first).any()


def test_a_slot_uses_the_sampling_of_its_current_request() -> None:
    decoder = decoder_of(tiny_model())
    requests = [
        random_request(4, 5),
        random_request(4, 5, sampling=Sampling(seed=6, temperature=0.5, guidance=1.5)),
    ]
    one_after_the_other = decode(decoder, requests)
    alone = [decode(decoder, [each])[0] for each in requests]
    np.testing.assert_array_equal(one_after_the_other, alone)
    assert (alone[0] != alone[1]).any()
