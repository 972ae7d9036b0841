from __future__ import annotations

import re

import pytest
import torch
from transformers import (
    EncodecConfig,
    EncodecModel,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    MusicgenMelodyConfig,
    MusicgenMelodyDecoderConfig,
    MusicgenMelodyForConditionalGeneration,
    T5Config,
    T5EncoderModel,
)

from services.errors import EngineUnavailableError
from services.generation.musicgen.catalogue import MODELS, PublishedModel, published_model
from services.generation.musicgen.checkpoint.layout import decoder_tensors

T5_BASE = {
    "d_model": 768,
    "d_kv": 64,
    "d_ff": 3072,
    "num_layers": 12,
    "num_heads": 12,
    "vocab_size": 32128,
}
CODEC = {
    "audio_channels": 1,
    "sampling_rate": 32000,
    "target_bandwidths": [2.2],
    "num_filters": 64,
    "upsampling_ratios": [8, 5, 4, 4],
    "codebook_size": 2048,
    "use_causal_conv": False,
    "use_conv_shortcut": False,
}


def build_meta_model(model: PublishedModel) -> torch.nn.Module:
    """Build the whole model of transformers without memory for its weights."""
    shape = model.geometry
    decoder = {
        "hidden_size": shape.hidden,
        "ffn_dim": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_codebooks": shape.codebooks,
        "audio_channels": shape.channels,
    }
    parts = {
        "text_encoder": T5Config(**T5_BASE).to_dict(),
        "audio_encoder": EncodecConfig(**CODEC).to_dict(),
    }
    with torch.device("meta"):
        if model.takes_melody:
            inner = MusicgenMelodyDecoderConfig(**decoder).to_dict()
            return MusicgenMelodyForConditionalGeneration(
                MusicgenMelodyConfig(**parts, decoder=inner)
            )
        inner = MusicgenDecoderConfig(**decoder).to_dict()
        return MusicgenForConditionalGeneration(MusicgenConfig(**parts, decoder=inner))


def size(module: torch.nn.Module) -> int:
    values = {id(value): value for value in module.state_dict(keep_vars=True).values()}
    return sum(value.numel() * value.element_size() for value in values.values())


@pytest.mark.parametrize(
    "name", ["musicgen-small", "musicgen-stereo-small", "musicgen-large", "musicgen-stereo-melody"]
)
def test_sizes_and_tensors_are_those_of_the_architecture(name):
    model = MODELS[name]
    theirs = build_meta_model(model)
    assert model.download_bytes == pytest.approx(size(theirs), rel=2e-3)
    tensors = {
        f"decoder.{tensor}": tuple(value.shape)
        for tensor, value in theirs.decoder.state_dict().items()
    }
    assert dict(decoder_tensors(model.geometry)) == tensors
    parts = size(theirs.text_encoder) + size(theirs.audio_encoder)
    assert 4 * model.decoder_parameters == size(theirs) - parts


def test_text_encoder_and_codec_have_the_assumed_sizes():
    with torch.device("meta"):
        parts = (
            size(T5EncoderModel(T5Config(**T5_BASE))),
            size(EncodecModel(EncodecConfig(**CODEC))),
        )
    small = MODELS["musicgen-small"]
    rest = small.download_bytes - 4 * small.decoder_parameters
    assert rest == pytest.approx(sum(parts), rel=2e-3)


def test_every_model_has_commit_repository_and_licence():
    assert len(MODELS) == 10
    for name, model in MODELS.items():
        assert model.repository == f"facebook/{name}"
        assert re.fullmatch(r"[0-9a-f]{40}", model.revision or "")
        assert model.facts.output_licence == "CC-BY-NC-4.0"
        assert (model.facts.sample_rate, model.facts.channels) == (32_000, 1 + ("stereo" in name))
        assert model.takes_melody == ("melody" in name)
        assert model.facts.name == name
    assert len({model.revision for model in MODELS.values()}) == 10


@pytest.mark.parametrize(
    "name", ["musicgen-small", "small", " Small ", "facebook/musicgen-small", "MUSICGEN-SMALL"]
)
def test_a_model_is_found_by_short_and_full_names(name):
    assert published_model(name).name == "musicgen-small"


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("musicgen-smal", "'musicgen-small'"),
        ("melodie", "'musicgen-melody'"),
        ("xyz", "The models: musicgen-small, "),
    ],
)
def test_an_unknown_name_is_refused_with_a_suggestion(name, word):
    with pytest.raises(EngineUnavailableError) as caught:
        published_model(name)
    assert word in str(caught.value)


def test_the_version_has_eight_digits_of_a_known_commit():
    model = MODELS["musicgen-small"]
    assert model.facts_at("0123456789abcdef").version == "1+01234567"
    assert model.facts_at(None).version == "1"
    assert model.facts == model.facts_at(model.revision)


def test_larger_models_need_larger_downloads():
    for kind in ("musicgen-", "musicgen-stereo-"):
        sizes = [MODELS[f"{kind}{size}"].download_bytes for size in ("small", "medium", "large")]
        assert sizes == sorted(sizes)
        assert sizes[0] > 2e9


def test_melody_models_come_after_those_without_melody():
    order = [model.takes_melody for model in MODELS.values()]
    assert order == sorted(order)


def test_the_catalogue_cannot_be_changed():
    with pytest.raises(TypeError):
        MODELS["musicgen-small"] = None
