"""The decoder of MusicGen in plain PyTorch on the CPU: the reference, and portable 8 bits."""

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
"""Positions up to which keys and values of both rows of a pair are widened together."""


@dataclass(slots=True)
class _Slot:
    """What a slot knows of its sequence besides the keys and values of its positions."""

    first: int = 0
    """Where the first token stands: behind the prefix."""
    cross: tuple[tuple[Tensor, Tensor], ...] = ()
    """Keys and values of the conditioning of each layer, `[1, heads, length, head_size]`."""


class TorchDecoder:
    """A `StepModel` with static keys and values: `[row, head, position, value]` a slot.

    Row 0 of a slot is the conditional one. A step computes each CFG pair by itself (linear.py says
    why). Memory for keys and values is touched only as positions are reached, on huge pages most of
    it with the first. Beside int8 they are bfloat16, which is read and widened sooner than float32
    is read.
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
            slots: how many requests at once.
            positions: how many positions a slot can hold, a prefix included.
            linear: "fp32" is exact; "int8" has 8-bit weights and activations in linear layers.

        Raises:
            CheckpointError: a tensor is missing, damaged or of another shape.
            EngineUnavailableError: PyTorch has no 8-bit linear layers here.
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
        kept = torch.float32 if linear == "fp32" else torch.bfloat16
        self._keys = [torch.empty(shape, dtype=kept) for _ in self._layers]
        self._values = [torch.empty(shape, dtype=kept) for _ in self._layers]
        most = geometry.hidden * max(positions, 2 * min(positions, _BOTH_ROWS))
        self._widened = None if linear == "fp32" else torch.empty(2, most)
        """Keys and values of a row in float32, if they are kept in less."""
        self._slots = [_Slot() for _ in range(slots)]

    @property
    def geometry(self) -> Geometry:
        """See `StepModel.geometry`."""
        return self._geometry

    @property
    def slots(self) -> int:
        """See `StepModel.slots`."""
        return len(self._slots)

    @property
    def positions(self) -> int:
        """See `StepModel.positions`."""
        return self._positions

    @torch.inference_mode()
    def admit(self, slot: int, states: Tensor, unconditional: Tensor | None = None) -> int:
        """See `StepModel.admit`."""
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
        """See `StepModel.prefill`."""
        embedded = self._embed(tokens.T)
        self._transform([slot], [self._slots[slot].first], embedded.expand(1, 2, -1, -1))

    @torch.inference_mode()
    def step(self, slots: Sequence[int], tokens: Tensor, positions: Sequence[int]) -> Tensor:
        """See `StepModel.step`."""
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
        """Run `[slots, 2, rows, hidden]`, which stand from `starts` on, through all layers."""
        rows = embedded.shape[2]
        where = torch.tensor(starts)[:, None] + torch.arange(rows)
        hidden = embedded + self._sinusoids[where][:, None]
        for number, layer in enumerate(self._layers):
            fused = layer.query_key_value(normalise(layer.norm, hidden))
            hidden = hidden + layer.out(self._attend(number, slots, starts, fused))
            if layer.cross is not None:
                hidden = hidden + self._attend_across(number, layer.cross, slots, hidden)
            hidden = hidden + layer.feed_forward(hidden)
        return hidden

    def _attend(
        self, number: int, slots: Sequence[int], starts: Sequence[int], fused: Tensor
    ) -> Tensor:
        """Queries, keys and values `[slots, 2, rows, 3 * hidden]` -> `[slots, 2, rows, hidden]`."""
        heads, head_size = self._geometry.heads, self._geometry.head_size
        rows = fused.shape[2]
        parts = fused.view(len(slots), 2, rows, 3, heads, head_size).permute(0, 3, 1, 4, 2, 5)
        mixed = []
        for slot, start, (query, key, value) in zip(slots, starts, parts.unbind(), strict=True):
            keys, values = self._keys[number][slot], self._values[number][slot]
            end = start + rows
            keys[:, :, start:end], values[:, :, start:end] = key, value
            mixed.append(self._look_back(query, keys[:, :, :end], values[:, :, :end]))
        return torch.stack(mixed).transpose(2, 3).flatten(3)

    def _look_back(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Queries `[2, heads, rows, head_size]` at the last of the positions of keys and values."""
        rows, positions = query.shape[2], keys.shape[2]
        mask = _causal(positions - rows, rows)
        if self._widened is None:
            return functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        # So many rows at a time that what was widened is still in the cache.
        some = 2 if positions <= _BOTH_ROWS else 1
        shape = (some, *keys.shape[1:])
        wide_keys, wide_values = self._widened[:, : math.prod(shape)].view(2, *shape)
        mixed = [
            functional.scaled_dot_product_attention(
                query[row : row + some],
                wide_keys.copy_(keys[row : row + some]),
                wide_values.copy_(values[row : row + some]),
                attn_mask=mask,
            )
            for row in range(0, 2, some)
        ]
        return mixed[0] if some == 2 else torch.cat(mixed)

    def _attend_across(
        self, number: int, cross: CrossAttention, slots: Sequence[int], hidden: Tensor
    ) -> Tensor:
        """`[slots, 2, rows, hidden]` of the conditioning; the unconditional rows are zero."""
        heads, head_size = self._geometry.heads, self._geometry.head_size
        # Both rows are projected though one is needed: kernels for one row are far slower.
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
    """Which of the positions up to the last each of the rows from `start` on may see."""
    if rows == 1:
        return None
    return torch.ones(rows, start + rows, dtype=torch.bool).tril(start)
