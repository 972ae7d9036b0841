"""The decoder's shape in a configuration, and its tensors."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from services.generation.musicgen.catalogue import MODELS
from services.generation.musicgen.checkpoint.layout import UNUSED, decoder_tensors, read_geometry


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "the model type is None"),
        ({"model_type": "musicgen"}, "no decoder"),
        ({"model_type": "musicgen", "decoder": [1]}, "no decoder"),
        ({"model_type": "t5", "decoder": {}}, "'t5'"),
    ],
)
def test_a_configuration_of_another_kind_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_geometry(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation_function": "relu"}, "the activation 'relu'"),
        ({"scale_embedding": True}, "scaled embeddings"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"ffn_dim": 0}, "ffn_dim is 0"),
        ({"vocab_size": 2048.0}, "vocab_size is 2048.0"),
        ({"hidden_size": 100, "num_attention_heads": 16}, "16 heads do not divide"),
    ],
)
def test_a_decoder_of_another_kind_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_geometry({"model_type": "musicgen", "decoder": change})


def test_a_melody_model_has_no_cross_attention() -> None:
    assert not read_geometry({"model_type": "musicgen_melody", "decoder": {}}).cross_attention


@pytest.mark.parametrize("name", sorted(MODELS))
def test_tensors_have_the_parameters_of_the_catalogue(name: str) -> None:
    model = MODELS[name]
    tensors = dict(decoder_tensors(model.geometry))
    assert len(tensors) == len(list(decoder_tensors(model.geometry)))
    assert not UNUSED & tensors.keys()
    hidden = model.geometry.hidden
    projections = 769 * hidden + (13 * hidden if model.takes_melody else 0)
    stored = sum(math.prod(shape) for shape in tensors.values())
    assert stored + projections == model.decoder_parameters


def test_each_layer_adds_the_same_tensors() -> None:
    shape = replace(MODELS["musicgen-small"].geometry, layers=1)
    counts = [len(dict(decoder_tensors(replace(shape, layers=count)))) for count in (1, 2, 3)]
    assert counts[2] - counts[1] == counts[1] - counts[0] == 16
