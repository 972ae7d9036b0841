"""The decoder on a GPU: all memory is static, as CUDA graphs of a step need it.

The same code runs on a CPU without graphs; the tests use that.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own name for it)

from services.generation.musicgen.decoders.layer_weights import read_ends, read_layer, sinusoids
from services.generation.musicgen.decoders.memory_plan import bucket_for

if TYPE_CHECKING:
    from torch import Tensor

    from services.generation.musicgen.decoders.layer_weights import Norm
    from services.generation.musicgen.geometry import Geometry
    from services.generation.weights.weights import WeightSource

MAX_STATES = 512
"""Most conditioning states of a request; every slot has memory for them."""

log = logging.getLogger(__name__)


class SlotAttention(Protocol):
    """Attention with one new position per row; all tensors are contiguous."""

    def attend_self(
        self, qkv: Tensor, keys: Tensor, values: Tensor, cache_rows: Tensor, positions: Tensor
    ) -> Tensor:
        """Add the new position to the cache and attend to all of it.

        Args:
            qkv: `[rows, 3 * hidden]` of the new position.
            keys: the cache, `[cache rows, heads, capacity, head size]`.
            values: the cache, in the shape of the keys.
            cache_rows: int64 `[rows]`, the cache row of each row.
            positions: int64 `[rows]`, the new position of each row.

        Returns:
            `[rows, hidden]`.
        """

    def attend_cross(
        self, queries: Tensor, keys: Tensor, values: Tensor, slots: Tensor, lengths: Tensor
    ) -> Tensor:
        """Attend to the prompts.

        Args:
            queries: `[n, hidden]`.
            keys: `[slots, heads, capacity, head size]`.
            values: in the shape of the keys.
            slots: int64 `[n]`, the slot of each query.
            lengths: int64 `[slots]`, states of each slot, at least one.

        Returns:
            `[n, hidden]`.
        """


class MaskedAttention:
    """torch's attention over the whole capacity of a slot, with unused positions masked."""

    def attend_self(
        self, qkv: Tensor, keys: Tensor, values: Tensor, cache_rows: Tensor, positions: Tensor
    ) -> Tensor:
        rows, heads, size = qkv.shape[0], keys.shape[1], keys.shape[3]
        query, key, value = qkv.view(rows, 3, heads, size).unbind(1)
        keys[cache_rows, :, positions] = key
        values[cache_rows, :, positions] = value
        mask = torch.arange(keys.shape[2], device=qkv.device)[None] <= positions[:, None]
        out = F.scaled_dot_product_attention(
            query.unsqueeze(2), keys[cache_rows], values[cache_rows], attn_mask=mask[:, None, None]
        )
        return out.reshape(rows, heads * size)

    def attend_cross(
        self, queries: Tensor, keys: Tensor, values: Tensor, slots: Tensor, lengths: Tensor
    ) -> Tensor:
        heads, size = keys.shape[1], keys.shape[3]
        mask = torch.arange(keys.shape[2], device=queries.device)[None] < lengths[slots][:, None]
        out = F.scaled_dot_product_attention(
            queries.view(-1, heads, 1, size), keys[slots], values[slots], mask[:, None, None]
        )
        return out.reshape(queries.shape)


@dataclass(frozen=True, slots=True)
class _Layer:
    """The weights and KV cache of a layer on the device."""

    norm: Norm
    qkv: Tensor
    out: Tensor
    cross: _Cross | None
    ffn_norm: Norm
    fc1: Tensor
    fc2: Tensor
    keys: Tensor
    """`[2 * (slots + 1), heads, positions, head size]`: conditional rows, then unconditional."""
    values: Tensor


@dataclass(frozen=True, slots=True)
class _Cross:
    norm: Norm
    query: Tensor
    key: Tensor
    value: Tensor
    out: Tensor
    keys: Tensor
    """`[slots + 1, heads, MAX_STATES, head size]`."""
    values: Tensor


def load_triton_attention(
    rows: int, geometry: Geometry, positions: int, device: torch.device, dtype: torch.dtype
) -> SlotAttention | None:
    """Return the Triton attention, which reads used positions only; None if it does not run.

    The kernels are run once, which compiles them; that needs a C compiler.

    Raises:
        torch.OutOfMemoryError: the device has too little memory.
    """
    try:
        from services.generation.musicgen.decoders.slot_attention import TritonAttention

        attention = TritonAttention(rows, geometry.heads, geometry.head_size, positions, device)
        cache = torch.zeros(1, geometry.heads, 1, geometry.head_size, device=device, dtype=dtype)
        hidden = torch.zeros(1, geometry.hidden, device=device, dtype=dtype)
        first = torch.zeros(1, dtype=torch.int64, device=device)
        attention.attend_self(hidden.repeat(1, 3), cache, cache.clone(), first, first)
        attention.attend_cross(hidden, cache, cache, first, first + 1)
    except torch.OutOfMemoryError:
        raise
    # Triton and its compilers raise errors of many unrelated classes.
    except Exception as error:  # noqa: BLE001
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        log.warning("skipped the faster attention by Triton: %s", reason)
        return None
    return attention


class DeviceDecoder:
    """A `StepModel` with weights and KV cache on a device."""

    def __init__(
        self,
        source: WeightSource,
        geometry: Geometry,
        slots: int,
        positions: int,
        *,
        device: torch.device,
        dtype: torch.dtype = torch.bfloat16,
        attention: SlotAttention | None = None,
    ) -> None:
        """Copy the weights to the device layer by layer, and allocate the slots.

        Raises:
            CheckpointError: the source lacks a tensor.
            torch.OutOfMemoryError: the device has too little memory.
        """
        self.geometry = geometry
        self.slots = slots
        self.positions = positions
        self.device = device
        self._dtype = dtype
        ends = read_ends(source, geometry)
        self._embeddings = self._to_device(ends.embeddings)
        self._norm = self._norm_to_device(ends.norm)
        self._heads = self._to_device(ends.heads)
        self._sinusoids = self._to_device(sinusoids(positions, geometry.hidden))
        self._book_rows = torch.arange(geometry.codebooks, device=device) * (
            geometry.codebook_size + 1
        )
        self._layers = [self._load_layer(source, index) for index in range(geometry.layers)]
        self._lengths = torch.ones(slots + 1, dtype=torch.int64, device=device)
        self._first_positions = [0] * slots
        if attention is None and device.type == "cuda":
            rows = 2 * bucket_for(slots)
            attention = load_triton_attention(rows, geometry, positions, device, dtype)
        self._attention = attention or MaskedAttention()

    @torch.inference_mode()
    def admit(self, slot: int, states: Tensor, unconditional: Tensor | None = None) -> int:
        states = self._to_device(states)
        length = states.shape[0]
        if not self.geometry.cross_attention:
            if unconditional is None:
                unconditional = torch.zeros_like(states)
            self._fill_cache(slot, torch.stack([states, self._to_device(unconditional)]), 0)
            self._first_positions[slot] = length
            return length
        if not 1 <= length <= MAX_STATES:
            raise ValueError(f"{length} states do not fit into {MAX_STATES}.")
        heads, size = self.geometry.heads, self.geometry.head_size
        for layer in self._layers:
            assert layer.cross is not None
            for weight, cache in (
                (layer.cross.key, layer.cross.keys),
                (layer.cross.value, layer.cross.values),
            ):
                projected = F.linear(states, weight).view(length, heads, size).transpose(0, 1)
                cache[slot, :, :length] = projected
        self._lengths[slot] = length
        return 0

    @torch.inference_mode()
    def prefill(self, slot: int, tokens: Tensor) -> None:
        tokens = tokens.to(self.device)
        length = tokens.shape[1]
        embedded = F.embedding(tokens + self._book_rows[:, None], self._embeddings).sum(0)
        self._fill_cache(slot, embedded.expand(2, length, -1), self._first_positions[slot])

    @torch.inference_mode()
    def step(self, slots: Sequence[int], tokens: Tensor, positions: Sequence[int]) -> Tensor:
        ids = torch.tensor(slots, dtype=torch.int64, device=self.device)
        where = torch.tensor(positions, dtype=torch.int64, device=self.device)
        return self.logits(ids, tokens.to(self.device), where)

    def logits(self, ids: Tensor, tokens: Tensor, positions: Tensor) -> Tensor:
        """Compute a step without synchronising with the host, so that a CUDA graph can capture it.

        Args:
            ids: int64 `[n]`, the slots.
            tokens: int64 `[n, codebooks]`.
            positions: int64 `[n]`.

        Returns:
            float32 `[2, n, codebooks, codebook_size]`.
        """
        count, ids = ids.shape[0], ids.contiguous()
        rows = torch.cat([ids, ids + self.slots + 1])
        where = torch.cat([positions, positions])
        embedded = F.embedding(tokens + self._book_rows, self._embeddings).sum(1)
        hidden = (embedded + self._sinusoids[positions]).repeat(2, 1)
        for layer in self._layers:
            qkv = F.linear(self._normalise(hidden, layer.norm), layer.qkv)
            attended = self._attention.attend_self(qkv, layer.keys, layer.values, rows, where)
            hidden = torch.addmm(hidden, attended, layer.out.T)
            if layer.cross is not None:
                self._add_cross(layer.cross, hidden[:count], ids)
            hidden = self._feed_forward(layer, hidden)
        logits = F.linear(self._normalise(hidden, self._norm), self._heads)
        books, size = self.geometry.codebooks, self.geometry.codebook_size
        return logits.float().view(2, count, books, size)

    def _add_cross(self, cross: _Cross, conditional: Tensor, ids: Tensor) -> None:
        query = F.linear(self._normalise(conditional, cross.norm), cross.query)
        attended = self._attention.attend_cross(query, cross.keys, cross.values, ids, self._lengths)
        conditional.addmm_(attended, cross.out.T)

    def _feed_forward(self, layer: _Layer, hidden: Tensor) -> Tensor:
        wide = F.gelu(F.linear(self._normalise(hidden, layer.ffn_norm), layer.fc1))
        return torch.addmm(hidden, wide, layer.fc2.T)

    def _fill_cache(self, slot: int, embedded: Tensor, first: int) -> None:
        """Run `[2, length, hidden]` through the layers and store its keys and values.

        The positions before `first` must have been filled in the same way.
        """
        length = embedded.shape[1]
        last = first + length
        heads, size = self.geometry.heads, self.geometry.head_size
        pair = torch.tensor([slot, slot + self.slots + 1], device=self.device)
        mask = torch.ones(length, last, dtype=torch.bool, device=self.device).tril(first)
        hidden = embedded + self._sinusoids[first:last]
        for layer in self._layers:
            qkv = F.linear(self._normalise(hidden, layer.norm), layer.qkv)
            query, key, value = qkv.view(2, length, 3, heads, size).permute(2, 0, 3, 1, 4)
            layer.keys[pair, :, first:last] = key
            layer.values[pair, :, first:last] = value
            attended = F.scaled_dot_product_attention(
                query, layer.keys[pair, :, :last], layer.values[pair, :, :last], attn_mask=mask
            )
            hidden = hidden + F.linear(attended.transpose(1, 2).flatten(2), layer.out)
            if layer.cross is not None:
                ids = torch.full((length,), slot, device=self.device)
                conditional = hidden[0].clone()
                self._add_cross(layer.cross, conditional, ids)
                hidden = torch.stack([conditional, hidden[1]])
            flat = self._feed_forward(layer, hidden.flatten(0, 1))
            hidden = flat.view(2, length, -1)

    def _load_layer(self, source: WeightSource, index: int) -> _Layer:
        read = read_layer(source, self.geometry, index)
        heads, size = self.geometry.heads, self.geometry.head_size

        def allocate(rows: int, capacity: int) -> Tensor:
            return torch.zeros(rows, heads, capacity, size, dtype=self._dtype, device=self.device)

        cross = None
        if read.cross is not None:
            cross = _Cross(
                norm=self._norm_to_device(read.cross.norm),
                query=self._to_device(read.cross.query),
                key=self._to_device(read.cross.key),
                value=self._to_device(read.cross.value),
                out=self._to_device(read.cross.out),
                keys=allocate(self.slots + 1, MAX_STATES),
                values=allocate(self.slots + 1, MAX_STATES),
            )
        return _Layer(
            norm=self._norm_to_device(read.norm),
            qkv=self._to_device(read.qkv),
            out=self._to_device(read.out),
            cross=cross,
            ffn_norm=self._norm_to_device(read.ffn_norm),
            fc1=self._to_device(read.fc1),
            fc2=self._to_device(read.fc2),
            keys=allocate(2 * (self.slots + 1), self.positions),
            values=allocate(2 * (self.slots + 1), self.positions),
        )

    def _to_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, self._dtype)

    def _norm_to_device(self, norm: Norm) -> Norm:
        return type(norm)(self._to_device(norm.weight), self._to_device(norm.bias))

    def _normalise(self, hidden: Tensor, norm: Norm) -> Tensor:
        return F.layer_norm(hidden, hidden.shape[-1:], norm.weight, norm.bias)
