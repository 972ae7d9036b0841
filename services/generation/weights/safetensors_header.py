"""The safetensors format without torch: what a file says it holds, checked against what is there.

A file is eight bytes of length, a JSON header of that length, and the tensors one after the other.
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
"""Bytes a value of the number types that a checkpoint may have."""

_LONGEST_HEADER = 100 << 20
"""What the reference reader accepts."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies."""

    path: Path
    dtype: str
    """A key of ITEM_BYTES."""
    shape: tuple[int, ...]
    start: int
    """Its first byte in the file."""

    @property
    def bytes(self) -> int:
        """How many it takes."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file by name.

    Raises:
        CheckpointError: the file is missing, is cut off, or is no safetensors file.
    """
    try:
        with path.open("rb") as file:
            first = file.read(8)
            length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
            if not 2 <= length <= _LONGEST_HEADER:
                raise _damaged(path, "it does not begin as a safetensors file does")
            header = file.read(length)
            size = path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    if len(header) < length:
        raise _damaged(path, "it ends within its header")
    try:
        entries = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "its header is not JSON") from error
    return _located(path, entries, 8 + length, size)


def _located(path: Path, entries: Any, offset: int, size: int) -> dict[str, StoredTensor]:
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
                raise _damaged(path, f"the place of {name} does not fit its shape")
            end = max(end, offset + stop)
            found[name] = tensor
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, "its header does not describe tensors") from error
    if size != end:
        raise _damaged(path, f"it has {size:,} bytes where its header tells of {end:,}")
    return found


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged: {what}. Install the model again.")
