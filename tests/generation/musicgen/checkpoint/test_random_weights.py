from dataclasses import replace

import pytest
import torch

from services.errors import CheckpointError, InvalidRequestError
from services.generation.musicgen.catalogue import MODELS
from services.generation.musicgen.checkpoint.layout import read_geometry
from services.generation.musicgen.checkpoint.random_model import decoder_config, random_model
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


def test_norms_are_those_of_an_untrained_model():
    norm = "decoder.model.decoder.layers.0.self_attn_layer_norm"
    assert torch.equal(WEIGHTS.get(f"{norm}.weight"), torch.ones(GEOMETRY.hidden))
    assert torch.equal(WEIGHTS.get(f"{norm}.bias"), torch.zeros(GEOMETRY.hidden))


def test_a_melody_model_cannot_be_random():
    with pytest.raises(InvalidRequestError, match="Melody models"):
        random_model(replace(GEOMETRY, cross_attention=False))


@pytest.mark.parametrize("name", ["musicgen-small", "musicgen-stereo-large"])
def test_the_decoder_of_a_random_model_has_the_published_shape(name):
    shape = MODELS[name].geometry
    config = {"model_type": "musicgen", "decoder": decoder_config(shape).to_dict()}
    assert read_geometry(config) == shape
