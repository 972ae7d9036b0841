"""One block of the decoder on the CPU, with packed weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from services.generation.musicgen.linear import Linear, LinearKind

if TYPE_CHECKING:
    from torch import Tensor

    from services.generation.musicgen.decoders.layer_weights import LayerWeights, Norm


@dataclass(frozen=True, slots=True)
class CrossAttention:
    """Attention to the conditioning; keys and values are fused and computed once per window."""

    norm: Norm
    query: Linear
    key_value: Linear
    out: Linear


@dataclass(frozen=True, slots=True)
class Layer:
    """One block of the decoder; a norm precedes each part."""

    norm: Norm
    query_key_value: Linear
    out: Linear
    cross: CrossAttention | None
    ffn_norm: Norm
    ffn_in: Linear
    ffn_out: Linear

    def feed_forward(self, hidden: Tensor) -> Tensor:
        """Compute the feed-forward part: `[pairs, ..., hidden]` to the same shape."""
        return self.ffn_out(functional.gelu(self.ffn_in(normalise(self.ffn_norm, hidden))))


def pack_layer(weights: LayerWeights, linear: LinearKind) -> Layer:
    cross = None
    if weights.cross is not None:
        cross = CrossAttention(
            norm=weights.cross.norm,
            query=Linear(linear, weights.cross.query),
            key_value=Linear(linear, torch.cat([weights.cross.key, weights.cross.value])),
            out=Linear(linear, weights.cross.out),
        )
    return Layer(
        norm=weights.norm,
        query_key_value=Linear(linear, weights.qkv),
        out=Linear(linear, weights.out),
        cross=cross,
        ffn_norm=weights.ffn_norm,
        ffn_in=Linear(linear, weights.fc1),
        ffn_out=Linear(linear, weights.fc2),
    )


def normalise(norm: Norm, hidden: Tensor) -> Tensor:
    return functional.layer_norm(hidden, norm.weight.shape, norm.weight, norm.bias)
