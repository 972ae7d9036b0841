import pytest
import torch

from services.errors import CheckpointError
from services.generation.musicgen.checkpoint.random_weights import RandomWeights
from tests.generation.musicgen.decoders.test_device_decoder import GEOMETRY
from tests.generation.musicgen.tiny import tiny_model

WEIGHTS = RandomWeights(GEOMETRY)


def test_random_weights_have_the_shapes_of_transformers():
    state = tiny_model().decoder.state_dict()
    shapes = {f"decoder.{name}": tuple(value.shape) for name, value in state.items()}
    assert shapes
    assert {name: WEIGHTS.shape(name) for name in shapes} == shapes
    assert all(WEIGHTS.get(name).shape == shape for name, shape in shapes.items())


def test_values_depend_on_the_name_only():
    names = [f"decoder.model.decoder.layers.{index}.fc1.weight" for index in (0, 0, 1)]
    first, again, other = (WEIGHTS.get(name) for name in names)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_unknown_name_is_refused():
    with pytest.raises(CheckpointError, match="no tensor"):
        WEIGHTS.get("decoder.nothing")
