import numpy as np
import pytest
import torch

from services.generation.musicgen.checkpoint.random_weights import RandomWeights
from services.generation.musicgen.decoders.device_decoder import DeviceDecoder, MaskedAttention
from services.generation.musicgen.decoders.graphed_decoder import GraphedDecoder
from services.generation.musicgen.loop.request import Conditioning, Sampling
from services.generation.musicgen.loop.sequence import StepInput
from services.generation.musicgen.loop.token_model import SampledDecoder
from tests.generation.musicgen.decoders.test_device_decoder import (
    GEOMETRY,
    _states,
    triton_attention,
)

SLOTS = 3
SAMPLINGS = [
    Sampling(seed=5, guidance=2.0, temperature=0.7, top_k=250),
    Sampling(seed=6, top_k=0),
    Sampling(seed=7, top_k=600, top_p=0.8),
]


class Strict(MaskedAttention):
    """Accepts only contiguous tensors, as the Triton kernels do."""

    def attend_self(self, *given):
        assert all(tensor.is_contiguous() for tensor in given)
        return super().attend_self(*given)

    def attend_cross(self, *given):
        assert all(tensor.is_contiguous() for tensor in given)
        return super().attend_cross(*given)


def _decoder(attention):
    cpu = torch.device("cpu")
    weights = RandomWeights(GEOMETRY)
    return DeviceDecoder(
        weights, GEOMETRY, SLOTS, 40, device=cpu, dtype=torch.float32, attention=attention
    )


@pytest.fixture(scope="module", params=["strict", "triton"])
def models(request):
    attention = Strict()
    if request.param == "triton":
        attention = triton_attention(rows=8, positions=40)
    return GraphedDecoder(_decoder(attention)), SampledDecoder(_decoder(MaskedAttention()))


@pytest.mark.parametrize("slots", [[0], [1, 0], [2, 0, 1]])
def test_a_graphed_step_draws_the_tokens_of_a_plain_one(models, slots):
    random = np.random.default_rng(1)
    for slot in slots:
        opening = random.integers(0, 2049, (4, slot))
        for model in models:
            model.begin_window(
                slot, Conditioning(_states(3 + slot, slot)), SAMPLINGS[slot], opening
            )
    for now in range(4):
        inputs = [
            StepInput(slot=slot, tokens=random.integers(0, 2049, 4), position=slot + now, step=now)
            for slot in slots
        ]
        found, wanted = (model.step(inputs) for model in models)
        assert np.array_equal(found, wanted)


def test_greedy_and_drawn_requests_share_a_step(models):
    for model in models:
        model.begin_window(0, Conditioning(_states(3, 0)), Sampling(greedy=True), np.zeros((4, 0)))
        model.begin_window(1, Conditioning(_states(3, 0)), Sampling(seed=1), np.zeros((4, 0)))
    inputs = [StepInput(slot=slot, tokens=np.full(4, 2048), position=0, step=0) for slot in (0, 1)]
    found, wanted = (model.step(inputs) for model in models)
    assert np.array_equal(found, wanted)
    assert not np.array_equal(*found)
