"""Reads the tensors of a checkpoint from disk, one at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from services.errors import CheckpointError
from services.generation.musicgen.checkpoint.checkpoints import list_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from services.generation.weights.safetensors_header import StoredTensor

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

_OTHER_NAMES = (
    (".parametrizations.weight.original0", ".weight_g"),
    (".parametrizations.weight.original1", ".weight_v"),
    ("text_encoder.shared.weight", "text_encoder.encoder.embed_tokens.weight"),
)
"""Alternative names of a tensor: weight norms since and before torch 2, and a tied table."""


class SafetensorsWeights:
    """A `WeightSource` over the safetensors files of a folder.

    The files are read and not mapped: mapped pages would count as memory of the process, and a file
    that is truncated while it is mapped would crash it.
    """

    def __init__(self, folder: Path, tensors: Mapping[str, StoredTensor] | None = None) -> None:
        """Open a folder; `tensors` are those of its headers, if they were read already.

        Raises:
            CheckpointError: a file is missing or damaged.
        """
        self._folder = folder
        self._tensors = list_tensors(folder) if tensors is None else tensors

    def get(self, name: str) -> Tensor:
        """Read one tensor as float32 on the CPU.

        Raises:
            CheckpointError: the tensor is missing, its file is damaged, or a value is not finite.
        """
        stored = self._stored(name)
        raw = torch.empty(stored.bytes, dtype=torch.uint8)
        _fill(raw, stored)
        values = raw.view(_DTYPES[stored.dtype]).view(stored.shape).to(torch.float32)
        # The cheapest check of all values: a sum is finite only if every value is.
        if not math.isfinite(float(values.sum())):
            raise CheckpointError(
                f"{stored.path} is damaged: {name} holds NaN or infinity. Install the model again."
            )
        return values

    def shape(self, name: str) -> tuple[int, ...]:
        return self._stored(name).shape

    def path(self, name: str) -> Path:
        """Return the file of a tensor; raises as `get`."""
        return self._stored(name).path

    def names(self, prefix: str = "") -> set[str]:
        return {name for name in self._tensors if name.startswith(prefix)}

    def _stored(self, name: str) -> StoredTensor:
        for spelling in spellings(name):
            if spelling in self._tensors:
                return self._tensors[spelling]
        raise CheckpointError(
            f"The checkpoint in {self._folder} has no tensor {name}. Install the model again."
        )


def spellings(name: str) -> Iterator[str]:
    """Yield a tensor's name and its names in other releases of torch and transformers."""
    yield name
    for one, other in _OTHER_NAMES:
        if one in name:
            yield name.replace(one, other)
        if other in name:
            yield name.replace(other, one)


def _fill(raw: Tensor, stored: StoredTensor) -> None:
    view = memoryview(raw.numpy().data)
    try:
        with stored.path.open("rb", buffering=0) as file:
            file.seek(stored.start)
            while view:
                count = file.readinto(view)
                if not count:
                    raise CheckpointError(
                        f"{stored.path} is damaged: it is too short. Install the model again."
                    )
                view = view[count:]
    except OSError as error:
        raise CheckpointError(f"{stored.path} cannot be read: {error.strerror}.") from error
