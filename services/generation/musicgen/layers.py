"""The weights of the decoder in the form that the CPU computes with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from services.generation.musicgen.linear import Linear, LinearKind
from services.generation.musicgen.weights import WeightSource, read

if TYPE_CHECKING:
    from services.generation.musicgen.geometry import Geometry

DECODER = "decoder.model.decoder"
"""What the published names of the decoder's tensors begin with, but for the heads."""


@dataclass(frozen=True, slots=True)
class Norm:
    """Layer normalisation over the last dimension."""

    weight: Tensor
    bias: Tensor

    def __call__(self, hidden: Tensor) -> Tensor:
        """`[..., hidden]` -> `[..., hidden]`."""
        return functional.layer_norm(hidden, self.weight.shape, self.weight, self.bias)


@dataclass(frozen=True, slots=True)
class CrossAttention:
    """Attention to the conditioning; keys and values are fused, and made once a sequence."""

    norm: Norm
    query: Linear
    key_value: Linear
    out: Linear


@dataclass(frozen=True, slots=True)
class Layer:
    """One block of the decoder, normalised before each part."""

    norm: Norm
    query_key_value: Linear
    out: Linear
    cross: CrossAttention | None
    ffn_norm: Norm
    ffn_in: Linear
    ffn_out: Linear


class LayerReader:
    """Reads the tensors of a checkpoint one at a time and packs them."""

    def __init__(self, source: WeightSource, geometry: Geometry, linear: LinearKind) -> None:
        self._source = source
        self._geometry = geometry
        self._linear = linear

    def embeddings(self) -> Tensor:
        """float32 `[codebooks * (codebook_size + 1), hidden]`: one table below the other."""
        geometry = self._geometry
        rows = geometry.codebook_size + 1
        tables = torch.empty(geometry.codebooks * rows, geometry.hidden)
        for codebook in range(geometry.codebooks):
            name = f"{DECODER}.embed_tokens.{codebook}.weight"
            tables[codebook * rows : (codebook + 1) * rows] = read(
                self._source, name, rows, geometry.hidden
            )
        return tables

    def layer(self, number: int) -> Layer:
        """The block of that number."""
        name, hidden, ffn = f"layers.{number}", self._geometry.hidden, self._geometry.ffn
        return Layer(
            norm=self.norm(f"{name}.self_attn_layer_norm"),
            query_key_value=self._square(f"{name}.self_attn", "q_proj", "k_proj", "v_proj"),
            out=self._square(f"{name}.self_attn", "out_proj"),
            cross=self._cross_attention(name) if self._geometry.cross_attention else None,
            ffn_norm=self.norm(f"{name}.final_layer_norm"),
            ffn_in=self._pack(read(self._source, f"{DECODER}.{name}.fc1.weight", ffn, hidden)),
            ffn_out=self._pack(read(self._source, f"{DECODER}.{name}.fc2.weight", hidden, ffn)),
        )

    def norm(self, name: str) -> Norm:
        """The normalisation of that name."""
        hidden = self._geometry.hidden
        return Norm(
            read(self._source, f"{DECODER}.{name}.weight", hidden),
            read(self._source, f"{DECODER}.{name}.bias", hidden),
        )

    def heads(self) -> Linear:
        """The heads of all codebooks as one: `[codebooks * codebook_size, hidden]`."""
        shape = (self._geometry.codebook_size, self._geometry.hidden)
        heads = [
            read(self._source, f"decoder.lm_heads.{codebook}.weight", *shape)
            for codebook in range(self._geometry.codebooks)
        ]
        return self._pack(torch.cat(heads))

    def _cross_attention(self, layer: str) -> CrossAttention:
        attention = f"{layer}.encoder_attn"
        return CrossAttention(
            norm=self.norm(f"{attention}_layer_norm"),
            query=self._square(attention, "q_proj"),
            key_value=self._square(attention, "k_proj", "v_proj"),
            out=self._square(attention, "out_proj"),
        )

    def _square(self, name: str, *parts: str) -> Linear:
        hidden = self._geometry.hidden
        weights = [
            read(self._source, f"{DECODER}.{name}.{part}.weight", hidden, hidden) for part in parts
        ]
        return self._pack(torch.cat(weights))

    def _pack(self, weight: Tensor) -> Linear:
        return Linear(self._linear, weight)


def sinusoids(positions: int, hidden: int) -> Tensor:
    """float32 `[positions, hidden]`: cosines, then sines, computed as transformers does."""
    half = hidden // 2
    rates = torch.exp(torch.arange(half).float() * -(math.log(10000) / (half - 1)))
    angles = torch.arange(positions).float()[:, None] * rates
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)
