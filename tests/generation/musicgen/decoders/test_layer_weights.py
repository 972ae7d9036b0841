"""The decoder's tensors as the back ends use them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from services.errors import CheckpointError
from services.generation.musicgen.checkpoint.random_weights import RandomWeights
from services.generation.musicgen.decoders.layer_weights import read_ends, read_layer, sinusoids
from tests.generation.musicgen.decoders.test_device_decoder import GEOMETRY

SOURCE = RandomWeights(GEOMETRY)
BODY = "decoder.model.decoder"


def test_queries_keys_and_values_are_fused_in_this_order() -> None:
    qkv = read_layer(SOURCE, GEOMETRY, 1).qkv
    parts = [SOURCE.get(f"{BODY}.layers.1.self_attn.{part}_proj.weight") for part in "qkv"]
    assert torch.equal(qkv, torch.cat(parts))


def test_embeddings_and_heads_are_stacked_by_codebook() -> None:
    ends = read_ends(SOURCE, GEOMETRY)
    size, rows = GEOMETRY.codebook_size, GEOMETRY.codebook_size + 1
    assert ends.embeddings.shape == (4 * rows, GEOMETRY.hidden)
    table = SOURCE.get(f"{BODY}.embed_tokens.2.weight")
    assert torch.equal(ends.embeddings[2 * rows : 3 * rows], table)
    head = SOURCE.get("decoder.lm_heads.3.weight")
    assert torch.equal(ends.heads[3 * size :], head)


def test_a_melody_decoder_has_no_cross_attention() -> None:
    melody = replace(GEOMETRY, cross_attention=False)
    assert read_layer(RandomWeights(melody), melody, 0).cross is None
    assert read_layer(SOURCE, GEOMETRY, 0).cross is not None


@pytest.mark.parametrize("change", [{"ffn": 128}, {"hidden": 32}])
def test_a_layer_of_another_shape_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="of different checkpoints"):
        read_layer(SOURCE, replace(GEOMETRY, **change), 0)


@pytest.mark.parametrize("change", [{"hidden": 32}, {"codebook_size": 64}])
def test_embeddings_of_another_shape_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="of different checkpoints"):
        read_ends(SOURCE, replace(GEOMETRY, **change))


def test_a_layer_that_does_not_exist_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"no tensor decoder\.model\.decoder\.layers\.2\."):
        read_layer(SOURCE, GEOMETRY, 2)


def test_sinusoids_do_not_depend_on_the_number_of_positions() -> None:
    table = sinusoids(40, 64)
    assert torch.equal(table[:10], sinusoids(10, 64))
    assert torch.equal(table[0], torch.cat([torch.ones(32), torch.zeros(32)]))
