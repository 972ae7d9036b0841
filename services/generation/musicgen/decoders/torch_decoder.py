"""The decoder in plain PyTorch on the CPU: the exact reference, and portable int8."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from services.generation.musicgen.decoders.layer_weights import read_ends, read_layer, sinusoids
from services.generation.musicgen.decoders.layers import CrossAttention, normalise, pack_layer
from services.generation.musicgen.linear import Linear

if TYPE_CHECKING:
    from services.generation.musicgen.geometry import Geometry
    from services.generation.musicgen.linear import LinearKind
    from services.generation.weights.weights import WeightSource


_BOTH_ROWS = 384
"""Longest cache for which both rows of a pair are converted to float32 together."""


@dataclass(slots=True)
class _Slot:
    """The state of a slot besides its KV cache."""

    first: int = 0
    """Position of the first token, after the prefix."""
    cross: tuple[tuple[Tensor, Tensor], ...] = ()
    """Keys and values of the conditioning for each layer, `[1, heads, length, head_size]`."""


class TorchDecoder:
    """A `StepModel` with a static KV cache, `[row, head, position, value]` per slot.

    Row 0 of a slot is the conditional one. A step computes each CFG pair by itself (see linear.py).
    The operating system provides the cache's memory as positions are reached, or with huge pages
    most of it at the first one. With int8 weights the cache is bfloat16: reading and converting it
    is faster than reading float32.
    """

    def __init__(
        self,
        source: WeightSource,
        geometry: Geometry,
        slots: int,
        positions: int,
        linear: LinearKind = "fp32",
    ) -> None:
        """Read and pack the weights.

        Args:
            source: the tensors of the checkpoint.
            geometry: the shape they must have.
            slots: requests that can run at once.
            positions: positions of a slot's cache, a prefix included.
            linear: "fp32" is exact; "int8" has 8-bit weights and activations in linear layers.

        Raises:
            CheckpointError: a tensor is missing, damaged or of another shape.
            EngineUnavailableError: this build of PyTorch has no 8-bit linear layers.
        """
        self._geometry = geometry
        self._positions = positions
        ends = read_ends(source, geometry)
        self._embeddings = ends.embeddings
        self._norm = ends.norm
        self._heads = Linear(linear, ends.heads)
        self._layers = [
            pack_layer(read_layer(source, geometry, index), linear)
            for index in range(geometry.layers)
        ]
        self._offsets = torch.arange(geometry.codebooks) * (geometry.codebook_size + 1)
        self._sinusoids = sinusoids(positions, geometry.hidden)
        shape = (slots, 2, geometry.heads, positions, geometry.head_size)
        cached = torch.float32 if linear == "fp32" else torch.bfloat16
        self._keys = [torch.empty(shape, dtype=cached) for _ in self._layers]
        self._values = [torch.empty(shape, dtype=cached) for _ in self._layers]
        most = geometry.hidden * max(positions, 2 * min(positions, _BOTH_ROWS))
        self._widened = None if linear == "fp32" else torch.empty(2, most)
        """Work space for keys and values in float32, if the cache is bfloat16."""
        self._slots = [_Slot() for _ in range(slots)]

    @property
    def geometry(self) -> Geometry:
        return self._geometry

    @property
    def slots(self) -> int:
        return len(self._slots)

    @property
    def positions(self) -> int:
        return self._positions

    @torch.inference_mode()
    def admit(self, slot: int, states: Tensor, unconditional: Tensor | None = None) -> int:
        if self._geometry.cross_attention:
            self._slots[slot] = _Slot(cross=self._cross_keys_values(states))
            return 0
        if unconditional is None:
            unconditional = torch.zeros_like(states)
        self._slots[slot] = _Slot(first=len(states))
        self._transform([slot], [0], torch.stack([states, unconditional])[None])
        return len(states)

    @torch.inference_mode()
    def prefill(self, slot: int, tokens: Tensor) -> None:
        embedded = self._embed(tokens.T)
        self._transform([slot], [self._slots[slot].first], embedded.expand(1, 2, -1, -1))

    @torch.inference_mode()
    def step(self, slots: Sequence[int], tokens: Tensor, positions: Sequence[int]) -> Tensor:
        embedded = self._embed(tokens)[:, None, None].expand(-1, 2, 1, -1)
        hidden = self._transform(slots, positions, embedded)[:, :, 0]
        logits = self._heads(normalise(self._norm, hidden))
        shape = (len(slots), 2, self._geometry.codebooks, self._geometry.codebook_size)
        return logits.view(shape).transpose(0, 1)

    def _embed(self, tokens: Tensor) -> Tensor:
        # [rows, codebooks] -> [rows, hidden]
        return self._embeddings[tokens + self._offsets].sum(1)

    def _cross_keys_values(self, states: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
        heads, head_size = self._geometry.heads, self._geometry.head_size
        pairs = []
        for layer in self._layers:
            assert layer.cross is not None
            fused = layer.cross.key_value(states[None]).view(-1, 2, heads, head_size)
            keys, values = fused.permute(1, 2, 0, 3).contiguous()[:, None]
            pairs.append((keys, values))
        return tuple(pairs)

    def _transform(self, slots: Sequence[int], starts: Sequence[int], embedded: Tensor) -> Tensor:
        """Run `[slots, 2, rows, hidden]`, at the positions from `starts` on, through all layers."""
        rows = embedded.shape[2]
        where = torch.tensor(starts)[:, None] + torch.arange(rows)
        hidden = embedded + self._sinusoids[where][:, None]
        for number, layer in enumerate(self._layers):
            fused = layer.query_key_value(normalise(layer.norm, hidden))
            hidden = hidden + layer.out(self._attend_self(number, slots, starts, fused))
            if layer.cross is not None:
                hidden = hidden + self._attend_cross(number, layer.cross, slots, hidden)
            hidden = hidden + layer.feed_forward(hidden)
        return hidden

    def _attend_self(
        self, number: int, slots: Sequence[int], starts: Sequence[int], fused: Tensor
    ) -> Tensor:
        """Queries, keys and values `[slots, 2, rows, 3 * hidden]` to `[slots, 2, rows, hidden]`."""
        heads, head_size = self._geometry.heads, self._geometry.head_size
        rows = fused.shape[2]
        parts = fused.view(len(slots), 2, rows, 3, heads, head_size).permute(0, 3, 1, 4, 2, 5)
        mixed = []
        for slot, start, (query, key, value) in zip(slots, starts, parts.unbind(), strict=True):
            keys, values = self._keys[number][slot], self._values[number][slot]
            end = start + rows
            keys[:, :, start:end], values[:, :, start:end] = key, value
            mixed.append(self._attend_cached(query, keys[:, :, :end], values[:, :, :end]))
        return torch.stack(mixed).transpose(2, 3).flatten(3)

    def _attend_cached(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend with `[2, heads, rows, head_size]` queries at the last positions of the cache."""
        rows, positions = query.shape[2], keys.shape[2]
        mask = _causal(positions - rows, rows)
        if self._widened is None:
            return functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        # As many rows at a time as stay in the processor's cache after the conversion.
        count = 2 if positions <= _BOTH_ROWS else 1
        shape = (count, *keys.shape[1:])
        wide_keys, wide_values = self._widened[:, : math.prod(shape)].view(2, *shape)
        mixed = [
            functional.scaled_dot_product_attention(
                query[row : row + count],
                wide_keys.copy_(keys[row : row + count]),
                wide_values.copy_(values[row : row + count]),
                attn_mask=mask,
            )
            for row in range(0, 2, count)
        ]
        return mixed[0] if count == 2 else torch.cat(mixed)

    def _attend_cross(
        self, number: int, cross: CrossAttention, slots: Sequence[int], hidden: Tensor
    ) -> Tensor:
        """Return `[slots, 2, rows, hidden]`; the unconditional rows are zero."""
        heads, head_size = self._geometry.heads, self._geometry.head_size
        # Both rows are projected though one would do: kernels for one row are far slower.
        queries = cross.query(normalise(cross.norm, hidden))[:, :1].view(
            len(slots), 1, -1, heads, head_size
        )
        mixed = torch.zeros_like(hidden)
        for row, slot, query in zip(mixed, slots, queries.transpose(2, 3), strict=True):
            keys, values = self._slots[slot].cross[number]
            attended = functional.scaled_dot_product_attention(query, keys, values)
            row[:1] = attended.transpose(1, 2).flatten(2)
        return cross.out(mixed)


def _causal(start: int, rows: int) -> Tensor | None:
    """Return the mask `[rows, start + rows]` of rows from `start` on; None masks nothing."""
    if rows == 1:
        return None
    return torch.ones(rows, start + rows, dtype=torch.bool).tril(start)
