"""The decoder's tensors, fused as all back ends multiply them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from services.generation.weights.weights import read_tensor

if TYPE_CHECKING:
    from torch import Tensor

    from services.generation.musicgen.geometry import Geometry
    from services.generation.weights.weights import WeightSource

_DECODER = "decoder.model.decoder"


@dataclass(frozen=True, slots=True)
class Norm:
    """Layer norm; both are `[hidden]`."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True, slots=True)
class CrossWeights:
    """Attention to the prompt; matrices are `[hidden, hidden]`."""

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
    """The weights before the first layer and after the last."""

    embeddings: Tensor
    """`[codebooks * (codebook_size + 1), hidden]`."""
    norm: Norm
    heads: Tensor
    """`[codebooks * codebook_size, hidden]`."""


def read_layer(source: WeightSource, geometry: Geometry, index: int) -> LayerWeights:
    """Read one layer in float32.

    Raises:
        CheckpointError: a tensor is missing, damaged or of another shape.
    """
    name, hidden = f"{_DECODER}.layers.{index}", geometry.hidden

    def norm(which: str) -> Norm:
        return _read_norm(source, f"{name}.{which}", hidden)

    def weight(which: str, out: int = hidden, into: int = hidden) -> Tensor:
        return read_tensor(source, f"{name}.{which}.weight", out, into)

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
        fc1=weight("fc1", out=geometry.ffn),
        fc2=weight("fc2", into=geometry.ffn),
    )


def read_ends(source: WeightSource, geometry: Geometry) -> EndWeights:
    """Read the embeddings, the last norm and the output heads in float32.

    Raises:
        CheckpointError: a tensor is missing, damaged or of another shape.
    """
    books, size, hidden = range(geometry.codebooks), geometry.codebook_size, geometry.hidden
    tables = [
        read_tensor(source, f"{_DECODER}.embed_tokens.{book}.weight", size + 1, hidden)
        for book in books
    ]
    heads = [read_tensor(source, f"decoder.lm_heads.{book}.weight", size, hidden) for book in books]
    return EndWeights(
        embeddings=torch.cat(tables),
        norm=_read_norm(source, f"{_DECODER}.layer_norm", hidden),
        heads=torch.cat(heads),
    )


def _read_norm(source: WeightSource, name: str, hidden: int) -> Norm:
    return Norm(
        read_tensor(source, f"{name}.weight", hidden),
        read_tensor(source, f"{name}.bias", hidden),
    )


def sinusoids(positions: int, hidden: int) -> Tensor:
    """Return position embeddings, float32 `[positions, hidden]`: cosines, then sines.

    They are not read from the checkpoint, which may have fewer rows than a sequence needs.
    """
    half = hidden // 2
    steps = torch.arange(half, dtype=torch.int64).float()
    rates = torch.exp(steps * -(math.log(10000) / (half - 1)))
    angles = torch.arange(positions, dtype=torch.int64).float()[:, None] * rates
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)
