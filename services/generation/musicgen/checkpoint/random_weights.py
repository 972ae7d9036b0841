"""Random weights for a decoder of any shape: speed and memory do not depend on the values."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import torch

from services.errors import CheckpointError
from services.generation.musicgen.checkpoint.layout import decoder_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from services.generation.musicgen.geometry import Geometry

_DEVIATION = 0.02
"""Standard deviation of the published models' initialisation."""


class RandomWeights:
    """A `WeightSource` that draws each tensor when it is read, with the same values each time."""

    def __init__(self, geometry: Geometry) -> None:
        self._shapes = dict(decoder_tensors(geometry))

    def get(self, name: str) -> Tensor:
        """Draw a tensor; layer norms have the values of an untrained model."""
        shape = self.shape(name)
        if "norm" in name:
            return torch.ones(shape) if name.endswith("weight") else torch.zeros(shape)
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        return torch.randn(shape, generator=generator) * _DEVIATION

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self._shapes:
            raise CheckpointError(f"A MusicGen decoder has no tensor {name}.")
        return self._shapes[name]
