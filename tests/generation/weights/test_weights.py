from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from services.errors import CheckpointError
from services.generation.musicgen.checkpoint.checkpoints import open_checkpoint
from services.generation.musicgen.checkpoint.layout import decoder_tensors
from services.generation.musicgen.checkpoint.parts import (
    load_codec,
    load_projection,
    load_text_encoder,
    weights_of,
)
from services.generation.musicgen.checkpoint.stored_weights import SafetensorsWeights
from tests.generation.musicgen.checkpoints import write_checkpoint, write_weights


def test_every_tensor_is_that_of_the_reference_reader(tmp_path):
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
def test_half_precision_comes_as_float32(tmp_path, dtype):
    model = write_checkpoint(tmp_path, dtype=dtype)
    weights = SafetensorsWeights(tmp_path)
    for name, value in model.decoder.state_dict().items():
        got = weights.get(f"decoder.{name}")
        assert got.dtype == torch.float32
        assert torch.equal(got, value)


def test_the_decoders_tensors_are_those_of_transformers(written):
    for kind in ("mono", "stereo", "melody", "stereo-melody"):
        model, checkpoint = written(kind)
        theirs = {
            f"decoder.{name}": tuple(value.shape)
            for name, value in model.decoder.state_dict().items()
        }
        assert dict(decoder_tensors(checkpoint.geometry)) == theirs


def test_a_tensor_that_is_not_there_is_named(written):
    weights = weights_of(written("mono")[1])
    for ask in (weights.get, weights.shape, weights.path):
        with pytest.raises(CheckpointError, match=r"no tensor decoder\.nothing.*again\."):
            ask("decoder.nothing")


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tensor_with_a_value_that_is_no_number_is_damage(tmp_path, wrong, dtype):
    tensor = torch.randn(40, 30).to(dtype)
    save_file({"a": tensor}, tmp_path / "model.safetensors")
    SafetensorsWeights(tmp_path).get("a")
    tensor[17, 3] = wrong
    save_file({"a": tensor}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged: a holds NaN or inf"):
        SafetensorsWeights(tmp_path).get("a")


def test_a_file_that_shrinks_while_it_is_used_is_an_error(tmp_path):
    write_checkpoint(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    weights = weights_of(checkpoint)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    last = max(weights.names(), key=lambda name: checkpoint.tensors[name].start)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        weights.get(last)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        weights.get("decoder.lm_heads.0.weight")


@pytest.mark.parametrize("names", ["published", "current"])
def test_both_spellings_of_a_weight_norm_give_the_same_codec(tmp_path, names):
    model = write_checkpoint(tmp_path, names=names)
    checkpoint = open_checkpoint(tmp_path)
    stored = checkpoint.tensors.keys()
    assert any("weight_g" in name for name in stored) == (names == "published")
    codec: torch.nn.Module = load_codec(checkpoint, weights_of(checkpoint))
    codes = torch.randint(0, 2048, (1, 1, 4, 20))
    with torch.inference_mode():
        got = codec.decode(codes, [None]).audio_values
        wanted = model.audio_encoder.decode(codes, [None]).audio_values
    torch.testing.assert_close(got, wanted, atol=1e-6, rtol=0)
    assert not any(parameter.requires_grad for parameter in codec.parameters())


@pytest.mark.parametrize(
    "table", ["text_encoder.shared.weight", "text_encoder.encoder.embed_tokens.weight"]
)
def test_the_table_of_words_may_have_either_name_and_is_in_memory_once(tmp_path, table):
    model = write_checkpoint(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors[table] = tensors.pop("text_encoder.shared.weight")
    write_weights(tmp_path, tensors)
    checkpoint = open_checkpoint(tmp_path)
    encoder = load_text_encoder(checkpoint, weights_of(checkpoint))
    assert encoder.shared.weight is encoder.encoder.embed_tokens.weight
    assert torch.equal(encoder.shared.weight, model.text_encoder.shared.weight)


@pytest.mark.parametrize(
    ("load", "name"),
    [
        (load_text_encoder, "text_encoder.encoder.block.1.layer.1.DenseReluDense.wo.weight"),
        (load_codec, "audio_encoder.decoder.layers.1.lstm.weight_hh_l0"),
        (load_codec, "audio_encoder.quantizer.layers.2.codebook.embed"),
    ],
)
class TestPartsThatDoNotFit:
    @pytest.fixture
    def folder(self, written, tmp_path):
        return shutil.copytree(written("mono")[1].folder, tmp_path / "changed")

    def changed(self, folder, name, value):
        tensors = load_file(folder / "model.safetensors")
        if value is None:
            del tensors[name]
        else:
            tensors |= value
        write_weights(folder, tensors)
        return open_checkpoint(folder)

    def test_a_missing_tensor_is_named(self, folder, load, name):
        checkpoint = self.changed(folder, name, None)
        with pytest.raises(CheckpointError) as caught:
            load(checkpoint, weights_of(checkpoint))
        assert name in str(caught.value)

    def test_a_tensor_of_another_shape_is_named(self, folder, load, name):
        checkpoint = self.changed(folder, name, {name: torch.zeros(3, 3)})
        with pytest.raises(CheckpointError) as caught:
            load(checkpoint, weights_of(checkpoint))
        assert name in str(caught.value)
        assert "[3, 3]" in str(caught.value)
        assert "model.safetensors" in str(caught.value)

    def test_a_tensor_too_many_is_named(self, folder, load, name):
        extra = f"{name}.more"
        checkpoint = self.changed(folder, name, {extra: torch.zeros(1)})
        with pytest.raises(CheckpointError) as caught:
            load(checkpoint, weights_of(checkpoint))
        assert extra in str(caught.value)


def test_a_codec_of_another_kind_is_refused(written):
    _, checkpoint = written("mono")
    config = {**checkpoint.config, "audio_encoder": {**checkpoint.config["audio_encoder"]}}
    config["audio_encoder"]["use_causal_conv"] = True
    with pytest.raises(CheckpointError, match=r"codec.*Install the model again\.$"):
        load_codec(replace(checkpoint, config=config), weights_of(checkpoint))


@pytest.mark.parametrize(
    "change", [{"d_model": "wide"}, {"num_heads": None}, {"feed_forward_proj": 3}, {"d_kv": -1}]
)
def test_a_configuration_of_the_text_encoder_that_cannot_be_used_is_said(written, change):
    _, checkpoint = written("mono")
    config = {**checkpoint.config, "text_encoder": {**checkpoint.config["text_encoder"], **change}}
    with pytest.raises(CheckpointError, match=r"text_encoder.*\. Install the model again\.$"):
        load_text_encoder(replace(checkpoint, config=config), weights_of(checkpoint))


def test_a_projection_is_there_where_the_widths_differ(written):
    model, checkpoint = written("mono")
    weights = weights_of(checkpoint)
    projection = load_projection(checkpoint, weights, "enc_to_dec_proj", 48)
    assert projection is not None
    states = torch.randn(5, 48)
    torch.testing.assert_close(projection(states), model.enc_to_dec_proj(states))
    assert load_projection(checkpoint, weights, "enc_to_dec_proj", 64) is None
    with pytest.raises(CheckpointError, match=r"enc_to_dec_proj\.weight"):
        load_projection(checkpoint, weights, "enc_to_dec_proj", 32)


OLD_KEYS = {
    "_name_or_path": "t5-base",
    "add_cross_attention": False,
    "bad_words_ids": None,
    "chunk_size_feed_forward": 0,
    "early_stopping": False,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    "max_length": 20,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "output_attentions": False,
    "output_past": True,
    "pruned_heads": {},
    "return_dict": True,
    "sep_token_id": None,
    "task_specific_params": {"summarization": {"num_beams": 4, "prefix": "summarize: "}},
    "temperature": 1.0,
    "tf_legacy_loss": False,
    "torch_dtype": "float16",
    "torchscript": False,
    "typical_p": 1.0,
    "use_bfloat16": False,
}
"""What releases of transformers of the time of the published files wrote into a configuration."""


def test_a_configuration_of_an_old_release_is_read_and_stays_float32(written):
    model, checkpoint = written("mono")
    parts = {
        part: {**OLD_KEYS, **checkpoint.config[part]} for part in ("text_encoder", "audio_encoder")
    }
    old = replace(checkpoint, config={**checkpoint.config, **parts})
    weights = weights_of(old)
    encoder, codec = load_text_encoder(old, weights), load_codec(old, weights)
    for module in (encoder, codec):
        assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    ids = torch.arange(3, 20)[None]
    with torch.inference_mode():
        got, wanted = encoder(ids), model.text_encoder(ids)
    torch.testing.assert_close(got.last_hidden_state, wanted.last_hidden_state)
