"""transformers' MusicGen in a published shape with random weights, and its checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    EncodecConfig,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    T5Config,
)

from services.errors import InvalidRequestError
from services.generation.musicgen.checkpoint.checkpoints import TOKENIZER

if TYPE_CHECKING:
    from pathlib import Path

    from services.generation.musicgen.geometry import Geometry


def random_model(geometry: Geometry) -> Any:
    """Build a random model in float32, ready to generate: T5-base, the decoder, EnCodec at 32 kHz.

    Raises:
        InvalidRequestError: the geometry is that of a melody model.
    """
    if not geometry.cross_attention:
        raise InvalidRequestError("Melody models cannot have random weights.")
    decoder = decoder_config(geometry)
    text = T5Config(d_model=768, d_kv=64, d_ff=3072, num_layers=12, num_heads=12)
    codec = EncodecConfig(
        audio_channels=1,
        sampling_rate=32000,
        target_bandwidths=[2.2],
        num_filters=64,
        upsampling_ratios=[8, 5, 4, 4],
        codebook_size=geometry.codebook_size,
        use_causal_conv=False,
        use_conv_shortcut=False,
    )
    torch.manual_seed(0)
    config = MusicgenConfig(
        text_encoder=text.to_dict(), audio_encoder=codec.to_dict(), decoder=decoder.to_dict()
    )
    model: Any = MusicgenForConditionalGeneration(config)
    model.eval()
    settings = model.generation_config
    settings.do_sample, settings.guidance_scale = True, 3.0
    settings.bos_token_id = settings.pad_token_id = geometry.pad_token
    settings.decoder_start_token_id = geometry.pad_token
    return model


def decoder_config(geometry: Geometry) -> MusicgenDecoderConfig:
    """Return transformers' configuration of a decoder."""
    return MusicgenDecoderConfig(
        vocab_size=geometry.codebook_size,
        hidden_size=geometry.hidden,
        ffn_dim=geometry.ffn,
        num_hidden_layers=geometry.layers,
        num_attention_heads=geometry.heads,
        num_codebooks=geometry.codebooks,
        audio_channels=geometry.channels,
    )


def write_random_checkpoint(folder: Path, geometry: Geometry) -> None:
    """Write a random model in the layout of a published one; its tokenizer knows no words."""
    random_model(geometry).save_pretrained(folder, max_shard_size="100GB")
    words = {"<pad>": 0, "</s>": 1, "<unk>": 2}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    tokenizer.save(str(folder / TOKENIZER))
