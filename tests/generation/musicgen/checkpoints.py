"""Tiny checkpoints with random weights, in the layout of the published ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    EncodecConfig,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    MusicgenMelodyConfig,
    MusicgenMelodyDecoderConfig,
    MusicgenMelodyForConditionalGeneration,
    T5Config,
)

from tests.generation.musicgen.tiny import VOCABULARY, spread

Kind = Literal["mono", "stereo", "melody", "stereo-melody"]

CHROMA_LENGTH = 20
"""Rows of melody conditioning; 235 in the published models."""

_WORDS = ("▁a", "▁the", "▁beat", "▁with", "▁bass", "▁lo", "▁fi", "▁at", "▁drum", "▁and", "▁in")
_PIECES = [*_WORDS, "ing", "er", "s"]
_LETTERS = "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789,.-'&!?"


def write_checkpoint(
    folder: Path,
    kind: Kind = "mono",
    *,
    seed: int = 0,
    shards: int = 1,
    dtype: torch.dtype = torch.float32,
    names: Literal["published", "current"] = "published",
) -> Any:
    """Write a tiny checkpoint and return its model in eval mode.

    Args:
        folder: created if it does not exist.
        kind: the layout of musicgen-small or of its stereo and melody variants.
        seed: seed of the weights.
        shards: 1 writes model.safetensors; more write an index and so many files.
        dtype: dtype of the file; the model has the rounded values in float32.
        names: names of the codec's weight norms: those of the published files or of torch 2.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = checkpoint_model(kind, seed=seed)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.copy_(value.to(dtype).float())
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    write_weights(folder, _tensors(model, names, dtype), shards)
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    _write_json(folder / "tokenizer_config.json", _TOKENIZER_CONFIG)
    _write_json(folder / "preprocessor_config.json", _preprocessor(kind))
    return model


def checkpoint_model(kind: Kind = "mono", *, seed: int = 0) -> Any:
    """Return a tiny model; its text encoder is narrower than its decoder, as in published ones."""
    torch.manual_seed(seed)
    text = T5Config(d_model=48, d_kv=12, d_ff=96, num_layers=2, num_heads=4, vocab_size=VOCABULARY)
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
    channels = 2 if kind.startswith("stereo") else 1
    shape = {
        "vocab_size": 2048,
        "hidden_size": 64,
        "ffn_dim": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_codebooks": 4 * channels,
        "audio_channels": channels,
    }
    parts = {"text_encoder": text.to_dict(), "audio_encoder": codec.to_dict()}
    model: Any
    if kind.endswith("melody"):
        decoder = MusicgenMelodyDecoderConfig(**shape).to_dict()
        melody = MusicgenMelodyConfig(**parts, decoder=decoder, chroma_length=CHROMA_LENGTH)
        model = MusicgenMelodyForConditionalGeneration(melody)
    else:
        decoder = MusicgenDecoderConfig(**shape).to_dict()
        model = MusicgenForConditionalGeneration(MusicgenConfig(**parts, decoder=decoder))
    generation = model.generation_config
    generation.do_sample, generation.guidance_scale = True, 3.0
    generation.bos_token_id = generation.pad_token_id = generation.decoder_start_token_id = 2048
    generation.max_length = 1500
    spread(model)
    _enliven(model.audio_encoder)
    return model.eval()


def write_weights(folder: Path, tensors: dict[str, torch.Tensor], shards: int = 1) -> None:
    """Write model.safetensors, or its shards with their index."""
    about = {"format": "pt"}
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", about)
        return
    names = sorted(tensors)
    index: dict[str, str] = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = names[number * len(names) // shards : (number + 1) * len(names) // shards]
        index |= dict.fromkeys(part, file)
        save_file({name: tensors[name] for name in part}, folder / file, about)
    total = sum(tensor.nbytes for tensor in tensors.values())
    _write_json(
        folder / "model.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": index},
    )


def tiny_tokenizer() -> Tokenizer:
    """Return a tokenizer like T5's: unigrams, words start with a mark, prompts end with </s>."""
    special = ["<pad>", "</s>", "<unk>"]
    pieces = special + _PIECES + [letter for letter in _LETTERS if letter not in _PIECES]
    scored = [(piece, 0.0 if piece in special else -1.0 - len(pieces) / 100) for piece in pieces]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=2))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(special)
    return tokenizer


def _enliven(codec: Any) -> None:
    # A new codec ignores its codes: the codebooks are empty, and biases dominate.
    for layer in codec.quantizer.layers:
        layer.codebook.embed.copy_(torch.randn_like(layer.codebook.embed))
    with torch.no_grad():
        for name, parameter in codec.decoder.named_parameters():
            if name.endswith("original0"):
                parameter.mul_(2)
            if name.endswith("conv.bias"):
                parameter.zero_()


def _tensors(model: Any, names: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    found = {}
    for name, value in model.state_dict().items():
        if name == "text_encoder.encoder.embed_tokens.weight":
            continue  # the same values as text_encoder.shared.weight
        if names == "published":
            name = name.replace("parametrizations.weight.original0", "weight_g")  # noqa: PLW2901
            name = name.replace("parametrizations.weight.original1", "weight_v")  # noqa: PLW2901
        kept = value.to(dtype) if value.is_floating_point() else value
        found[name] = kept.detach().clone().contiguous()
    if names == "published":
        hidden = model.config.decoder.hidden_size
        found["decoder.model.decoder.embed_positions.weights"] = torch.zeros(8, hidden)
    return found


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


_TOKENIZER_CONFIG = {
    "eos_token": "</s>",
    "extra_ids": 0,
    "model_max_length": 512,
    "pad_token": "<pad>",
    "tokenizer_class": "T5Tokenizer",
    "unk_token": "<unk>",
}


def _preprocessor(kind: Kind) -> dict[str, object]:
    if not kind.endswith("melody"):
        return {
            "feature_extractor_type": "EncodecFeatureExtractor",
            "feature_size": 2 if kind == "stereo" else 1,
            "padding_side": "left",
            "padding_value": 0.0,
            "return_attention_mask": True,
            "sampling_rate": 32000,
        }
    return {
        "chunk_length": 30,
        "feature_extractor_type": "MusicgenMelodyFeatureExtractor",
        "feature_size": 12,
        "hop_length": 4096,
        "n_fft": 16384,
        "num_chroma": 12,
        "padding_value": 0.0,
        "return_attention_mask": False,
        "sampling_rate": 32000,
        "stem_indices": [3, 2],
    }
