"""The tensors of a checkpoint on the disk, read one at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from services.errors import CheckpointError
from services.generation.musicgen.checkpoint.checkpoints import stored_tensors

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
"""One tensor, two names: weight norms before and after torch 2, and one table that is tied."""


class SafetensorsWeights:
    """A WeightSource over the safetensors files of a folder.

    The files are read, not mapped: what was read counts once in the memory of the process, and a
    file that is cut off while it is used is an error and not a dead process.
    """

    def __init__(self, folder: Path, tensors: Mapping[str, StoredTensor] | None = None) -> None:
        """Open a folder; `tensors` are its headers where they have been read already.

        Raises:
            CheckpointError: there are no files, or one is damaged.
        """
        self._folder = folder
        self._tensors = stored_tensors(folder) if tensors is None else tensors

    def get(self, name: str) -> Tensor:
        """One tensor as float32 on the CPU.

        Raises:
            CheckpointError: there is none of that name, the file is damaged, or what it holds are
                no numbers.
        """
        stored = self._stored(name)
        raw = torch.empty(stored.bytes, dtype=torch.uint8)
        _fill(raw, stored)
        values = raw.view(_DTYPES[stored.dtype]).view(stored.shape).to(torch.float32)
        # A sum is the least that reads them all, and is no number where one of them is none.
        if not math.isfinite(float(values.sum())):
            raise CheckpointError(
                f"{stored.path} is damaged: {name} holds NaN or infinity. Install the model again."
            )
        return values

    def shape(self, name: str) -> tuple[int, ...]:
        """Its shape, without reading it; raises as `get`."""
        return self._stored(name).shape

    def path(self, name: str) -> Path:
        """The file it lies in; raises as `get`."""
        return self._stored(name).path

    def names(self, prefix: str = "") -> set[str]:
        """The names in the files that begin so."""
        return {name for name in self._tensors if name.startswith(prefix)}

    def _stored(self, name: str) -> StoredTensor:
        for spelling in spellings(name):
            if spelling in self._tensors:
                return self._tensors[spelling]
        raise CheckpointError(
            f"The checkpoint in {self._folder} has no tensor {name}. Install the model again."
        )


def spellings(name: str) -> Iterator[str]:
    """The name, and those that other releases of torch and transformers give the same tensor."""
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
                        f"{stored.path} is damaged: it ended while it was read. Install the model "
                        "again."
                    )
                view = view[count:]
    except OSError as error:
        raise CheckpointError(f"{stored.path} cannot be read: {error.strerror}.") from error
