"""The text encoder, the codec and the projections of a checkpoint as modules."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from services.errors import CheckpointError
from services.generation.musicgen.checkpoint.checkpoints import open_checkpoint
from services.generation.musicgen.checkpoint.parts import (
    Projection,
    load_codec,
    load_projection,
    load_text_encoder,
    open_weights,
)
from tests.generation.musicgen.checkpoints import write_checkpoint, write_weights


@pytest.mark.parametrize("names", ["published", "current"])
def test_both_spellings_of_a_weight_norm_give_the_same_codec(tmp_path, names):
    model = write_checkpoint(tmp_path, names=names)
    checkpoint = open_checkpoint(tmp_path)
    stored = checkpoint.tensors.keys()
    assert any("weight_g" in name for name in stored) == (names == "published")
    codec: torch.nn.Module = load_codec(checkpoint, open_weights(checkpoint))
    codes = torch.randint(0, 2048, (1, 1, 4, 20))
    with torch.inference_mode():
        got = codec.decode(codes, [None]).audio_values
        wanted = model.audio_encoder.decode(codes, [None]).audio_values
    torch.testing.assert_close(got, wanted, atol=1e-6, rtol=0)
    assert not any(parameter.requires_grad for parameter in codec.parameters())


@pytest.mark.parametrize(
    "table", ["text_encoder.shared.weight", "text_encoder.encoder.embed_tokens.weight"]
)
def test_the_embedding_table_has_either_name_and_one_copy_in_memory(tmp_path, table):
    model = write_checkpoint(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors[table] = tensors.pop("text_encoder.shared.weight")
    write_weights(tmp_path, tensors)
    checkpoint = open_checkpoint(tmp_path)
    encoder = load_text_encoder(checkpoint, open_weights(checkpoint))
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
            load(checkpoint, open_weights(checkpoint))
        assert name in str(caught.value)

    def test_a_tensor_of_another_shape_is_named(self, folder, load, name):
        checkpoint = self.changed(folder, name, {name: torch.zeros(3, 3)})
        with pytest.raises(CheckpointError) as caught:
            load(checkpoint, open_weights(checkpoint))
        assert name in str(caught.value)
        assert "[3, 3]" in str(caught.value)
        assert "model.safetensors" in str(caught.value)

    def test_an_unexpected_tensor_is_named(self, folder, load, name):
        extra = f"{name}.more"
        checkpoint = self.changed(folder, name, {extra: torch.zeros(1)})
        with pytest.raises(CheckpointError) as caught:
            load(checkpoint, open_weights(checkpoint))
        assert extra in str(caught.value)


def test_a_codec_of_another_kind_is_refused(written):
    _, checkpoint = written("mono")
    config = {**checkpoint.config, "audio_encoder": {**checkpoint.config["audio_encoder"]}}
    config["audio_encoder"]["use_causal_conv"] = True
    with pytest.raises(CheckpointError, match=r"codec.*Install the model again\.$"):
        load_codec(replace(checkpoint, config=config), open_weights(checkpoint))


@pytest.mark.parametrize(
    "change", [{"d_model": "wide"}, {"num_heads": None}, {"feed_forward_proj": 3}, {"d_kv": -1}]
)
def test_an_invalid_configuration_of_the_text_encoder_is_refused(written, change):
    _, checkpoint = written("mono")
    config = {**checkpoint.config, "text_encoder": {**checkpoint.config["text_encoder"], **change}}
    with pytest.raises(CheckpointError, match=r"text_encoder.*\. Install the model again\.$"):
        load_text_encoder(replace(checkpoint, config=config), open_weights(checkpoint))


def test_a_projection_is_loaded_if_the_widths_differ(written):
    model, checkpoint = written("mono")
    weights = open_weights(checkpoint)
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
    weights = open_weights(old)
    encoder, codec = load_text_encoder(old, weights), load_codec(old, weights)
    for module in (encoder, codec):
        assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    ids = torch.arange(3, 20)[None]
    with torch.inference_mode():
        got, wanted = encoder(ids), model.text_encoder(ids)
    torch.testing.assert_close(got.last_hidden_state, wanted.last_hidden_state)


@pytest.mark.parametrize(
    "change",
    [
        {"normalize": True},
        {"chunk_length_s": 1.0, "overlap": 0.1},
        {"norm_type": "time_group_norm"},
    ],
)
def test_each_other_kind_of_codec_is_refused(written, change):
    _, checkpoint = written("mono")
    config = {
        **checkpoint.config,
        "audio_encoder": {**checkpoint.config["audio_encoder"], **change},
    }
    with pytest.raises(CheckpointError, match="not the one that MusicGen was trained with"):
        load_codec(replace(checkpoint, config=config), open_weights(checkpoint))


def test_a_projection_maps_the_last_dimension():
    projection = Projection(torch.tensor([[1.0, 2.0], [0.0, 1.0], [1.0, 0.0]]), torch.ones(3))
    states = torch.tensor([[[1.0, 1.0]], [[2.0, 0.0]]])
    assert projection(states).tolist() == [[[4.0, 2.0, 2.0]], [[3.0, 1.0, 3.0]]]
