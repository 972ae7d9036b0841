"""Attention of one step in Triton, for a decoder on a GPU.

Only the used positions of each row are read: the KV cache is most of what a step reads from memory.
The positions of a row are split among programs whose softmaxes are joined afterwards
(flash-decoding, Dao et al. 2023), because a single row would leave most of a GPU idle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import triton
import triton.language as tl

if TYPE_CHECKING:
    from torch import Tensor

SPLIT = 128
"""Positions per program."""
BLOCK = 32
"""Positions read at once."""


@triton.jit
def _self_kernel(
    qkv: Any,
    keys: Any,
    values: Any,
    cache_rows: Any,
    positions: Any,
    sums: Any,
    peaks: Any,
    weights: Any,
    heads: Any,
    capacity: Any,
    splits: Any,
    scale: Any,
    SIZE: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    size = tl.arange(0, SIZE)
    place = (row * heads + head) * splits + split
    position = tl.load(positions + row)
    first = split * SPLIT
    if first > position:
        tl.store(peaks + place, -float("inf"))
        return
    hidden = heads * SIZE
    new = qkv + row * 3 * hidden + head * SIZE + size
    query = tl.load(new).to(tl.float32) * scale
    base = (tl.load(cache_rows + row) * heads + head) * capacity * SIZE
    peak = -float("inf")
    weight = 0.0
    total = tl.zeros([SIZE], tl.float32)
    last = tl.minimum(first + SPLIT, position)
    for start in range(first, last, BLOCK):
        where = start + tl.arange(0, BLOCK)
        there = where < last
        cell = base + where[:, None] * SIZE + size[None, :]
        key = tl.load(keys + cell, mask=there[:, None], other=0.0).to(tl.float32)
        score = tl.sum(key * query[None, :], axis=1)
        score = tl.where(there, score, -float("inf"))
        higher = tl.maximum(peak, tl.max(score, axis=0))
        share = tl.exp(score - higher)
        fade = tl.exp(peak - higher)
        value = tl.load(values + cell, mask=there[:, None], other=0.0).to(tl.float32)
        total = total * fade + tl.sum(share[:, None] * value, axis=0)
        weight = weight * fade + tl.sum(share, axis=0)
        peak = higher
    if position < first + SPLIT:
        # This program adds the new position, which is not in the cache yet.
        key = tl.load(new + hidden)
        value = tl.load(new + 2 * hidden)
        cell = base + position * SIZE + size
        tl.store(keys + cell, key)
        tl.store(values + cell, value)
        score = tl.sum(key.to(tl.float32) * query, axis=0)
        higher = tl.maximum(peak, score)
        share = tl.exp(score - higher)
        fade = tl.exp(peak - higher)
        total = total * fade + share * value.to(tl.float32)
        weight = weight * fade + share
        peak = higher
    tl.store(sums + place * SIZE + size, total)
    tl.store(peaks + place, peak)
    tl.store(weights + place, weight)


@triton.jit
def _join_kernel(
    sums: Any,
    peaks: Any,
    weights: Any,
    out: Any,
    splits: Any,
    SIZE: tl.constexpr,
    SPLITS: tl.constexpr,
) -> None:
    place = tl.program_id(0)
    size = tl.arange(0, SIZE)
    part = tl.arange(0, SPLITS)
    cell = place * splits + part
    peak = tl.load(peaks + cell, mask=part < splits, other=-float("inf"))
    there = peak > -float("inf")
    share = tl.where(there, tl.exp(peak - tl.max(peak, axis=0)), 0.0)
    weight = tl.load(weights + cell, mask=there, other=0.0)
    one = tl.load(sums + cell[:, None] * SIZE + size[None, :], mask=there[:, None], other=0.0)
    total = tl.sum(one * share[:, None], axis=0) / tl.sum(weight * share, axis=0)
    tl.store(out + place * SIZE + size, total.to(out.dtype.element_ty))


@triton.jit
def _cross_kernel(
    queries: Any,
    keys: Any,
    values: Any,
    slots: Any,
    lengths: Any,
    out: Any,
    heads: Any,
    capacity: Any,
    scale: Any,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row, head = tl.program_id(0), tl.program_id(1)
    size = tl.arange(0, SIZE)
    place = (row * heads + head) * SIZE + size
    slot = tl.load(slots + row)
    length = tl.load(lengths + slot)
    query = tl.load(queries + place).to(tl.float32) * scale
    base = (slot * heads + head) * capacity * SIZE
    peak = -float("inf")
    weight = 0.0
    total = tl.zeros([SIZE], tl.float32)
    for start in range(0, length, BLOCK):
        where = start + tl.arange(0, BLOCK)
        there = where < length
        cell = base + where[:, None] * SIZE + size[None, :]
        key = tl.load(keys + cell, mask=there[:, None], other=0.0).to(tl.float32)
        score = tl.where(there, tl.sum(key * query[None, :], axis=1), -float("inf"))
        higher = tl.maximum(peak, tl.max(score, axis=0))
        share = tl.exp(score - higher)
        fade = tl.exp(peak - higher)
        value = tl.load(values + cell, mask=there[:, None], other=0.0).to(tl.float32)
        total = total * fade + tl.sum(share[:, None] * value, axis=0)
        weight = weight * fade + tl.sum(share, axis=0)
        peak = higher
    tl.store(out + place, (total / weight).to(out.dtype.element_ty))


class TritonAttention:
    """The kernels above as a `device_decoder.SlotAttention`.

    Its work space is allocated once for the largest batch, since CUDA graphs reuse addresses.
    """

    def __init__(self, rows: int, heads: int, size: int, positions: int, device: Any) -> None:
        import torch

        if size & (size - 1):
            raise ValueError(f"The head size must be a power of two, not {size}.")
        self._heads = heads
        self._size = size
        self._splits = -(-positions // SPLIT)
        places = rows * heads * self._splits
        self._sums = torch.empty(places * size, dtype=torch.float32, device=device)
        self._peaks = torch.empty(places, dtype=torch.float32, device=device)
        self._weights = torch.empty(places, dtype=torch.float32, device=device)

    def attend_self(
        self, qkv: Tensor, keys: Tensor, values: Tensor, cache_rows: Tensor, positions: Tensor
    ) -> Tensor:
        rows = qkv.shape[0]
        out = qkv.new_empty(rows, self._heads * self._size)
        _self_kernel[(rows, self._heads, self._splits)](
            qkv,
            keys,
            values,
            cache_rows,
            positions,
            self._sums,
            self._peaks,
            self._weights,
            self._heads,
            keys.shape[2],
            self._splits,
            self._size**-0.5,
            SIZE=self._size,
            SPLIT=SPLIT,
            BLOCK=BLOCK,
        )
        _join_kernel[(rows * self._heads,)](
            self._sums,
            self._peaks,
            self._weights,
            out,
            self._splits,
            SIZE=self._size,
            SPLITS=triton.next_power_of_2(self._splits),
        )
        return out

    def attend_cross(
        self, queries: Tensor, keys: Tensor, values: Tensor, slots: Tensor, lengths: Tensor
    ) -> Tensor:
        out = queries.new_empty(queries.shape)
        _cross_kernel[(queries.shape[0], self._heads)](
            queries,
            keys,
            values,
            slots,
            lengths,
            out,
            self._heads,
            keys.shape[2],
            self._size**-0.5,
            SIZE=self._size,
            BLOCK=BLOCK,
        )
        return out
