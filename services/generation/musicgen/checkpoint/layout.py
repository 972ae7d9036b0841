"""The decoder's shape in a configuration, and its tensors in a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from services.generation.musicgen.geometry import Geometry

DECODER = "decoder."
_BODY = "decoder.model.decoder."

UNUSED = frozenset({f"{_BODY}embed_positions.weights"})
"""Tensors of the published files that are computed instead of read."""

_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")

_DEFAULTS: Mapping[str, int] = {
    "num_hidden_layers": 24,
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "ffn_dim": 4096,
    "num_codebooks": 4,
    "vocab_size": 2048,
    "audio_channels": 1,
    "max_position_embeddings": 2048,
}
"""The defaults of transformers for missing values."""

_CROSS_ATTENTION = {"musicgen": True, "musicgen_melody": False}


def read_geometry(config: Mapping[str, Any]) -> Geometry:
    """Read the decoder's shape from the configuration of a checkpoint (config.json).

    Raises:
        ValueError: it is not a configuration of MusicGen, or its numbers are invalid.
    """
    kind = config.get("model_type")
    decoder = config.get("decoder")
    if kind not in _CROSS_ATTENTION:
        raise ValueError(f"the model type is {kind!r}, not musicgen")
    if not isinstance(decoder, Mapping):
        raise ValueError("it describes no decoder")
    activation, scaled = decoder.get("activation_function", "gelu"), decoder.get("scale_embedding")
    if activation != "gelu" or scaled:
        raise ValueError(f"its decoder has the activation {activation!r} or scaled embeddings")
    numbers = {name: decoder.get(name, default) for name, default in _DEFAULTS.items()}
    for name, value in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} is {value!r}")
    return Geometry(
        layers=numbers["num_hidden_layers"],
        hidden=numbers["hidden_size"],
        heads=numbers["num_attention_heads"],
        ffn=numbers["ffn_dim"],
        codebooks=numbers["num_codebooks"],
        codebook_size=numbers["vocab_size"],
        channels=numbers["audio_channels"],
        cross_attention=_CROSS_ATTENTION[kind],
        max_positions=numbers["max_position_embeddings"],
    )


def decoder_tensors(shape: Geometry) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the name and shape of every tensor of the decoder."""
    hidden = shape.hidden
    for book in range(shape.codebooks):
        yield f"{_BODY}embed_tokens.{book}.weight", (shape.codebook_size + 1, hidden)
        yield f"{DECODER}lm_heads.{book}.weight", (shape.codebook_size, hidden)
    for layer in range(shape.layers):
        at = f"{_BODY}layers.{layer}."
        for block in ("self_attn", "encoder_attn") if shape.cross_attention else ("self_attn",):
            for part in _ATTENTION:
                yield f"{at}{block}.{part}.weight", (hidden, hidden)
            yield from _norm(f"{at}{block}_layer_norm", hidden)
        yield f"{at}fc1.weight", (shape.ffn, hidden)
        yield f"{at}fc2.weight", (hidden, shape.ffn)
        yield from _norm(f"{at}final_layer_norm", hidden)
    yield from _norm(f"{_BODY}layer_norm", hidden)


def _norm(name: str, hidden: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (hidden,)
    yield f"{name}.bias", (hidden,)
