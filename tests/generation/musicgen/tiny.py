"""MusicGen with random weights: the real architecture in a size for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    EncodecConfig,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    MusicgenMelodyConfig,
    MusicgenMelodyForConditionalGeneration,
    T5Config,
)

from services.generation.musicgen.checkpoint.layout import read_geometry

if TYPE_CHECKING:
    from services.generation.musicgen.geometry import Geometry

VOCABULARY = 200


def geometry_of(config: Any) -> Geometry:
    """Return the decoder's shape in a configuration of transformers."""
    return read_geometry(config.to_dict())


def tiny_model(
    *, stereo: bool = False, seed: int = 0, decoder: MusicgenDecoderConfig | None = None
) -> MusicgenForConditionalGeneration:
    """Return a model whose greatest logit is always well above the second.

    Args:
        stereo: whether the tiny decoder has eight codebooks.
        seed: seed of the weights.
        decoder: configuration of the decoder; None is two layers of 64 values.
    """
    torch.manual_seed(seed)
    text = T5Config(d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, vocab_size=VOCABULARY)
    codec = EncodecConfig(
        audio_channels=1,
        sampling_rate=32000,
        target_bandwidths=[2.2],
        num_filters=4,
        upsampling_ratios=[8, 5, 4, 4],
        codebook_size=2048,
        use_causal_conv=False,
        use_conv_shortcut=False,
        hidden_size=16,
    )
    decoder = decoder or MusicgenDecoderConfig(
        vocab_size=2048,
        hidden_size=64,
        ffn_dim=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_codebooks=8 if stereo else 4,
        audio_channels=2 if stereo else 1,
    )
    config = MusicgenConfig(
        text_encoder=text.to_dict(), audio_encoder=codec.to_dict(), decoder=decoder.to_dict()
    )
    model: Any = MusicgenForConditionalGeneration(config).eval()
    generation = model.generation_config
    generation.do_sample, generation.guidance_scale = True, 3.0
    generation.bos_token_id = generation.pad_token_id = generation.decoder_start_token_id = 2048
    generation.max_length = 1500
    spread(model)
    return model


def tiny_melody_model(
    *, stereo: bool = False, seed: int = 0
) -> MusicgenMelodyForConditionalGeneration:
    """Return a melody model of the same size, with a prefix of 20 chroma frames and the text."""
    torch.manual_seed(seed)
    plain = tiny_model(stereo=stereo, seed=seed).config
    decoder = {**plain.decoder.to_dict(), "model_type": "musicgen_melody_decoder"}
    config = MusicgenMelodyConfig(
        text_encoder=plain.text_encoder.to_dict(),
        audio_encoder=plain.audio_encoder.to_dict(),
        decoder=decoder,
        chroma_length=20,
    )
    model: Any = MusicgenMelodyForConditionalGeneration(config).eval()
    torch.nn.init.normal_(model.audio_enc_to_dec_proj.bias)
    generation = model.generation_config
    generation.do_sample, generation.guidance_scale = True, 3.0
    generation.bos_token_id = generation.pad_token_id = generation.decoder_start_token_id = 2048
    generation.max_length = 1500
    spread(model)
    return model


@torch.no_grad()
def spread(model: Any) -> None:
    """Scale random weights up, whose logits are almost flat."""
    for parameter in model.decoder.lm_heads.parameters():
        parameter.mul_(8)
    for embedding in model.decoder.model.decoder.embed_tokens:
        embedding.weight.mul_(8)
    for layer in model.decoder.model.decoder.layers:
        for attention in (layer.self_attn, getattr(layer, "encoder_attn", None)):
            if attention is not None:
                for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                    getattr(attention, part).weight.mul_(2)
        layer.fc1.weight.mul_(2)
        layer.fc2.weight.mul_(2)
