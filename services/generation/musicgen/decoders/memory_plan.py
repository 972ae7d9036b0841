"""Plans how many requests fit into a device's memory, before allocating any. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.errors import EngineUnavailableError

if TYPE_CHECKING:
    from services.generation.musicgen.geometry import Geometry

BUCKETS = (1, 2, 4, 8, 16, 32, 64)
"""Batch sizes of a step; a smaller batch is padded to the next bucket."""

HOST_RESERVE_BYTES = 12 * 2**30
"""Kept free for other programs if the GPU shares the host's memory, as the GB10 does."""

DEVICE_RESERVE_BYTES = 2 * 2**30
"""Kept free for the codec, the text encoder, CUDA graphs and the libraries' work space."""

_GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMemory:
    free: int
    """Bytes."""
    is_shared: bool
    """Whether the host uses the same memory."""


def bucket_for(count: int) -> int:
    """Return the smallest bucket that holds so many requests, 64 at most."""
    return next(size for size in BUCKETS if size >= count)


def weight_bytes(geometry: Geometry, bytes_a_value: int) -> int:
    """Return the size of the decoder's matrices and embeddings."""
    hidden = geometry.hidden
    attentions = 2 if geometry.cross_attention else 1
    layer = attentions * 4 * hidden**2 + 2 * hidden * geometry.ffn
    ends = 2 * geometry.codebooks * geometry.codebook_size * hidden
    return (geometry.layers * layer + ends) * bytes_a_value


def slot_bytes(geometry: Geometry, positions: int, states: int, bytes_a_value: int) -> int:
    """Return the size of a slot's KV cache: a CFG pair over `positions`, and `states` once."""
    cells = 2 * positions + (states if geometry.cross_attention else 0)
    return 2 * geometry.layers * geometry.hidden * cells * bytes_a_value


def plan_slots(
    memory: DeviceMemory,
    geometry: Geometry,
    *,
    positions: int,
    states: int,
    most: int,
    bytes_a_value: int = 2,
) -> int:
    """Return the number of slots that fit beside weights and reserve: `most`, or a full bucket.

    Raises:
        EngineUnavailableError: not even one slot fits.
    """
    reserve = HOST_RESERVE_BYTES if memory.is_shared else DEVICE_RESERVE_BYTES
    fixed = weight_bytes(geometry, bytes_a_value) + reserve
    each = slot_bytes(geometry, positions, states, bytes_a_value)
    counts = [*(size for size in BUCKETS if size < most), min(most, BUCKETS[-1])]
    # Rows that pad a bucket need one extra slot.
    fitting = [count for count in counts if fixed + (count + 1) * each <= memory.free]
    if not fitting:
        need = (fixed + 2 * each) / _GIB
        raise EngineUnavailableError(
            f"The GPU has {memory.free / _GIB:.1f} GiB free and this model needs {need:.1f} GiB. "
            "Close other programs that use the GPU, use a smaller model, or set "
            "DGX_MUSIC_USE_GPU=false."
        )
    return fitting[-1]
