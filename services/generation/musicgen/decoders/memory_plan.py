"""How many requests fit into a device's memory, before any of it is taken; without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.errors import EngineUnavailableError

if TYPE_CHECKING:
    from services.generation.musicgen.geometry import Geometry

BUCKETS = (1, 2, 4, 8, 16, 32, 64)
"""Slots that a step is made for; a step with fewer requests runs in the next larger bucket."""


HOST_RESERVE_BYTES = 12 * 2**30
"""Left to everyone else where a GPU shares the host's memory, as the GB10 does."""

DEVICE_RESERVE_BYTES = 2 * 2**30
"""Left for the codec, the text encoder, CUDA graphs and the libraries' work space."""

_GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMemory:
    """What a device says of its memory, in bytes."""

    free: int
    is_shared: bool
    """Whether it is the host's own memory."""


def bucket_of(count: int) -> int:
    """The smallest bucket for so many requests, 64 at most."""
    return next(size for size in BUCKETS if size >= count)


def weight_bytes(geometry: Geometry, bytes_a_value: int) -> int:
    """The decoder's matrices and embeddings."""
    hidden = geometry.hidden
    attentions = 2 if geometry.cross_attention else 1
    layer = attentions * 4 * hidden**2 + 2 * hidden * geometry.ffn
    ends = 2 * geometry.codebooks * geometry.codebook_size * hidden
    return (geometry.layers * layer + ends) * bytes_a_value


def slot_bytes(geometry: Geometry, positions: int, states: int, bytes_a_value: int) -> int:
    """Keys and values of one request: a CFG pair over `positions`, and the prompt's once."""
    cells = 2 * positions + (states if geometry.cross_attention else 0)
    return 2 * geometry.layers * geometry.hidden * cells * bytes_a_value


def slots_that_fit(
    memory: DeviceMemory,
    geometry: Geometry,
    *,
    positions: int,
    states: int,
    most: int,
    bytes_a_value: int = 2,
) -> int:
    """How many of `most` fit beside the weights and the reserve: all of them, or a whole bucket.

    Raises:
        EngineUnavailableError: not even one request fits.
    """
    reserve = HOST_RESERVE_BYTES if memory.is_shared else DEVICE_RESERVE_BYTES
    fixed = weight_bytes(geometry, bytes_a_value) + reserve
    each = slot_bytes(geometry, positions, states, bytes_a_value)
    counts = [*(size for size in BUCKETS if size < most), min(most, BUCKETS[-1])]
    # One slot more takes the rows that fill up a bucket.
    fitting = [count for count in counts if fixed + (count + 1) * each <= memory.free]
    if not fitting:
        need = (fixed + 2 * each) / _GIB
        raise EngineUnavailableError(
            f"The GPU has {memory.free / _GIB:.1f} GiB free and this model needs {need:.1f} GiB. "
            "End what else uses it, take a smaller model, or set DGX_MUSIC_USE_GPU=false."
        )
    return fitting[-1]
