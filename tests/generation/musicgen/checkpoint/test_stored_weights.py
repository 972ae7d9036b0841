"""Tensors read from the safetensors files of a checkpoint."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from services.errors import CheckpointError
from services.generation.musicgen.checkpoint.checkpoints import open_checkpoint
from services.generation.musicgen.checkpoint.layout import decoder_tensors
from services.generation.musicgen.checkpoint.parts import (
    open_weights,
)
from services.generation.musicgen.checkpoint.stored_weights import (
    SafetensorsWeights,
    spellings,
)
from tests.generation.musicgen.checkpoints import write_checkpoint


def test_every_tensor_equals_that_of_the_reference_reader(tmp_path):
    write_checkpoint(tmp_path, shards=2)
    weights = SafetensorsWeights(tmp_path)
    for path in tmp_path.glob("*.safetensors"):
        for name, wanted in load_file(path).items():
            got = weights.get(name)
            assert got.dtype == torch.float32
            assert torch.equal(got, wanted.float())
            assert weights.shape(name) == tuple(wanted.shape)
            assert weights.path(name) == path


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_float32(tmp_path, dtype):
    model = write_checkpoint(tmp_path, dtype=dtype)
    weights = SafetensorsWeights(tmp_path)
    for name, value in model.decoder.state_dict().items():
        got = weights.get(f"decoder.{name}")
        assert got.dtype == torch.float32
        assert torch.equal(got, value)


def test_decoder_tensors_are_those_of_transformers(written):
    for kind in ("mono", "stereo", "melody", "stereo-melody"):
        model, checkpoint = written(kind)
        theirs = {
            f"decoder.{name}": tuple(value.shape)
            for name, value in model.decoder.state_dict().items()
        }
        assert dict(decoder_tensors(checkpoint.geometry)) == theirs


def test_a_tensor_that_is_not_there_is_named(written):
    weights = open_weights(written("mono")[1])
    for ask in (weights.get, weights.shape, weights.path):
        with pytest.raises(CheckpointError, match=r"no tensor decoder\.nothing.*again\."):
            ask("decoder.nothing")


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tensor_with_nan_or_infinity_is_damaged(tmp_path, wrong, dtype):
    tensor = torch.randn(40, 30).to(dtype)
    save_file({"a": tensor}, tmp_path / "model.safetensors")
    SafetensorsWeights(tmp_path).get("a")
    tensor[17, 3] = wrong
    save_file({"a": tensor}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged: a holds NaN or inf"):
        SafetensorsWeights(tmp_path).get("a")


def test_a_file_that_is_truncated_while_in_use_is_an_error(tmp_path):
    write_checkpoint(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    weights = open_weights(checkpoint)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    last = max(weights.names(), key=lambda name: checkpoint.tensors[name].start)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        weights.get(last)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        weights.get("decoder.lm_heads.0.weight")


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (torch.float64, 0.5),
        (torch.int64, -3),
        (torch.int32, 70_000),
        (torch.int16, -3),
        (torch.int8, -3),
        (torch.uint8, 200),
        (torch.bool, True),
    ],
)
def test_every_data_type_is_read_as_float32(tmp_path, dtype, value):
    save_file({"a": torch.full((2, 3), value, dtype=dtype)}, tmp_path / "model.safetensors")
    read = SafetensorsWeights(tmp_path).get("a")
    assert torch.equal(read, torch.full((2, 3), float(value)))


@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (1, 1, 1)])
def test_tensors_of_unusual_shapes_are_read(tmp_path, shape):
    save_file({"a": torch.ones(shape)}, tmp_path / "model.safetensors")
    weights = SafetensorsWeights(tmp_path)
    assert weights.shape("a") == shape
    assert torch.equal(weights.get("a"), torch.ones(shape))


def test_names_are_listed_by_prefix(tmp_path):
    tensors = {name: torch.ones(1) for name in ("codec.a", "codec.b", "decoder.a")}
    save_file(tensors, tmp_path / "model.safetensors")
    weights = SafetensorsWeights(tmp_path)
    assert weights.names("codec.") == {"codec.a", "codec.b"}
    assert weights.names() == tensors.keys()
    assert weights.names("none") == set()


def test_spellings_are_symmetric():
    name = "audio_encoder.layers.0.conv.parametrizations.weight.original0"
    other = "audio_encoder.layers.0.conv.weight_g"
    assert list(spellings(name)) == [name, other]
    assert list(spellings(other)) == [other, name]
    assert list(spellings("decoder.lm_heads.0.weight")) == ["decoder.lm_heads.0.weight"]


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors\."):
        SafetensorsWeights(tmp_path)
