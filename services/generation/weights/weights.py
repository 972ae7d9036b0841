"""Sources of a decoder's weights, read tensor by tensor to avoid a complete second copy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from services.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor


class WeightSource(Protocol):
    """The tensors of a checkpoint under their published names.

    An example is `decoder.model.decoder.layers.0.self_attn.q_proj.weight`.
    """

    def get(self, name: str) -> Tensor:
        """Read one tensor as float32 on the CPU.

        Raises:
            CheckpointError: the tensor is missing, or its file is damaged.
        """

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor without reading it; raises as `get`."""


class StateDictWeights:
    """A `WeightSource` of a model that is in memory."""

    def __init__(self, state_dict: Mapping[str, Tensor]) -> None:
        self._tensors = state_dict

    def get(self, name: str) -> Tensor:
        return self._find(name).detach().float().cpu()

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._find(name).shape)

    def _find(self, name: str) -> Tensor:
        try:
            return self._tensors[name]
        except KeyError as error:
            raise CheckpointError(f"The model has no tensor {name}.") from error


def read_tensor(source: WeightSource, name: str, *shape: int) -> Tensor:
    """Read a tensor that must have a certain shape, as float32 on the CPU.

    Raises:
        CheckpointError: it is missing, damaged or of another shape.
    """
    found = source.shape(name)
    if found != shape:
        raise CheckpointError(
            f"The tensor {name} has the shape {list(found)}; the configuration says {list(shape)}."
            " Weights and configuration are of different checkpoints. Install the model again."
        )
    return source.get(name)
