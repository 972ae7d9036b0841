"""The decoder's tensors, fused the way every back end multiplies them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from services.generation.musicgen.geometry import Geometry
    from services.generation.musicgen.weights import WeightSource

_DECODER = "decoder.model.decoder"


@dataclass(frozen=True, slots=True)
class Norm:
    """Layer norm, each `[hidden]`."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True, slots=True)
class CrossWeights:
    """Attention to the prompt, each `[hidden, hidden]`."""

    norm: Norm
    query: Tensor
    key: Tensor
    value: Tensor
    out: Tensor


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer; matrices are `[out, in]`."""

    norm: Norm
    qkv: Tensor
    """`[3 * hidden, hidden]`: query, key, value."""
    out: Tensor
    cross: CrossWeights | None
    """None in a decoder without cross-attention."""
    ffn_norm: Norm
    fc1: Tensor
    fc2: Tensor


@dataclass(frozen=True, slots=True)
class EndWeights:
    """What stands before the first layer and after the last."""

    embeddings: Tensor
    """`[codebooks * (codebook_size + 1), hidden]`."""
    norm: Norm
    heads: Tensor
    """`[codebooks * codebook_size, hidden]`."""


def read_layer(source: WeightSource, geometry: Geometry, index: int) -> LayerWeights:
    """Read one layer in float32; raises CheckpointError as the source does."""
    name = f"{_DECODER}.layers.{index}"

    def norm(which: str) -> Norm:
        return Norm(source.get(f"{name}.{which}.weight"), source.get(f"{name}.{which}.bias"))

    def weight(which: str) -> Tensor:
        return source.get(f"{name}.{which}.weight")

    cross = None
    if geometry.cross_attention:
        cross = CrossWeights(
            norm=norm("encoder_attn_layer_norm"),
            query=weight("encoder_attn.q_proj"),
            key=weight("encoder_attn.k_proj"),
            value=weight("encoder_attn.v_proj"),
            out=weight("encoder_attn.out_proj"),
        )
    return LayerWeights(
        norm=norm("self_attn_layer_norm"),
        qkv=torch.cat([weight(f"self_attn.{part}_proj") for part in "qkv"]),
        out=weight("self_attn.out_proj"),
        cross=cross,
        ffn_norm=norm("final_layer_norm"),
        fc1=weight("fc1"),
        fc2=weight("fc2"),
    )


def read_ends(source: WeightSource, geometry: Geometry) -> EndWeights:
    """Read the embeddings, the last norm and the output heads in float32."""
    books = range(geometry.codebooks)
    return EndWeights(
        embeddings=torch.cat(
            [source.get(f"{_DECODER}.embed_tokens.{book}.weight") for book in books]
        ),
        norm=Norm(
            source.get(f"{_DECODER}.layer_norm.weight"), source.get(f"{_DECODER}.layer_norm.bias")
        ),
        heads=torch.cat([source.get(f"decoder.lm_heads.{book}.weight") for book in books]),
    )


def sinusoids(positions: int, hidden: int) -> Tensor:
    """Position embeddings, float32 `[positions, hidden]`: cosines, then sines.

    Computed and not read: a checkpoint may hold fewer rows than a sequence is long.
    """
    half = hidden // 2
    steps = torch.arange(half, dtype=torch.int64).float()
    rates = torch.exp(steps * -(math.log(10000) / (half - 1)))
    angles = torch.arange(positions, dtype=torch.int64).float()[:, None] * rates
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)
