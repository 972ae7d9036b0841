import pytest
import torch

from services.generation.musicgen.device_decoder import DeviceDecoder
from services.generation.musicgen.graphed_decoder import GraphedDecoder
from services.generation.musicgen.random_weights import RandomWeights
from services.generation.musicgen.request import Sampling
from services.generation.musicgen.sampling import SamplingTensors, draw, guide
from tests.musicgen.test_device_decoder import GEOMETRY, _states

SLOTS = 3
SAMPLINGS = [
    Sampling(seed=5, guidance=2.0, temperature=0.7, top_k=250),
    Sampling(seed=6, top_k=0),
    Sampling(seed=7, top_k=600, top_p=0.8),
    Sampling(greedy=True),
]


@pytest.fixture(scope="module")
def decoders():
    cpu = torch.device("cpu")
    made = [
        DeviceDecoder(RandomWeights(GEOMETRY), GEOMETRY, SLOTS, 40, device=cpu, dtype=torch.float32)
        for _ in range(2)
    ]
    for decoder in made:
        for slot in range(SLOTS):
            decoder.admit(slot, _states(3 + slot, slot))
    return GraphedDecoder(made[0]), made[1]


@pytest.mark.parametrize("slots", [[0], [1, 0], [2, 0, 1]])
def test_what_it_draws_is_a_step_guided_and_sampled(decoders, slots):
    graphed, plain = decoders
    generator = torch.Generator().manual_seed(1)
    for now in range(4):
        sampling = [SAMPLINGS[(slot + now) % len(SAMPLINGS)] for slot in slots]
        tokens = torch.randint(0, 2049, (len(slots), 4), generator=generator)
        positions = [now] * len(slots)
        steps = [now + 10 * slot for slot in slots]
        found = graphed.advance(slots, tokens, positions, sampling, steps)
        tensors = SamplingTensors.of(sampling)
        logits = guide(plain.step(slots, tokens, positions), tensors.guidance)
        assert torch.equal(found, draw(logits, tensors, torch.tensor(steps)))
