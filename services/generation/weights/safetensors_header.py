"""Reads and checks the header of a safetensors file. No torch.

A file is eight bytes with the header's length, a JSON header, and the tensors one after another.
Format: https://huggingface.co/docs/safetensors, "Format".
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.errors import CheckpointError

ITEM_BYTES: Mapping[str, int] = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
"""Bytes per value of the accepted data types."""

_LONGEST_HEADER = 100 << 20
"""Bytes; the limit of the reference reader."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """The location of a tensor in a file."""

    path: Path
    dtype: str
    """A key of ITEM_BYTES."""
    shape: tuple[int, ...]
    start: int
    """Offset of its first byte in the file."""

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a file by name.

    Raises:
        CheckpointError: the file is missing, truncated, or not a safetensors file.
    """
    try:
        with path.open("rb") as file:
            first = file.read(8)
            length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
            if not 2 <= length <= _LONGEST_HEADER:
                raise _damage_error(path, "it does not start like a safetensors file")
            header = file.read(length)
            size = path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    if len(header) < length:
        raise _damage_error(path, "it ends within its header")
    try:
        entries = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise _damage_error(path, "its header is not JSON") from error
    return _locate_tensors(path, entries, 8 + length, size)


def _locate_tensors(path: Path, entries: Any, offset: int, size: int) -> dict[str, StoredTensor]:
    found = {}
    end = offset
    try:
        for name, entry in entries.items():
            if name == "__metadata__":
                continue
            begin, stop = entry["data_offsets"]
            if not all(type(number) is int for number in (begin, stop, *entry["shape"])):
                raise TypeError(name)
            tensor = StoredTensor(path, entry["dtype"], tuple(entry["shape"]), offset + begin)
            if begin < 0 or min(tensor.shape, default=0) < 0 or stop - begin != tensor.bytes:
                raise _damage_error(path, f"the offsets of {name} do not fit its shape")
            end = max(end, offset + stop)
            found[name] = tensor
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _damage_error(path, "its header does not describe tensors") from error
    if size != end:
        raise _damage_error(path, f"it has {size:,} bytes, and its header describes {end:,}")
    return found


def _damage_error(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged: {reason}. Install the model again.")
