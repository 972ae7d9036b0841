"""Where the decoder's numbers come from: tensor by tensor, so that no second copy is ever whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from services.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor


class WeightSource(Protocol):
    """The tensors of a checkpoint under their published names.

    Such as `decoder.model.decoder.layers.0.self_attn.q_proj.weight`.
    """

    def get(self, name: str) -> Tensor:
        """One tensor as float32 on the CPU, read when asked for.

        Raises:
            CheckpointError: there is none of that name, or the file is damaged.
        """

    def shape(self, name: str) -> tuple[int, ...]:
        """Its shape, without reading it; raises as `get`."""


class StateDictWeights:
    """The tensors of a model that is already in memory."""

    def __init__(self, state_dict: Mapping[str, Tensor]) -> None:
        self._tensors = state_dict

    def get(self, name: str) -> Tensor:
        """See `WeightSource.get`."""
        return self._find(name).detach().float().cpu()

    def shape(self, name: str) -> tuple[int, ...]:
        """See `WeightSource.shape`."""
        return tuple(self._find(name).shape)

    def _find(self, name: str) -> Tensor:
        try:
            return self._tensors[name]
        except KeyError as error:
            raise CheckpointError(f"The model has no tensor {name}.") from error


def read(source: WeightSource, name: str, *shape: int) -> Tensor:
    """One tensor of a known shape, as float32 on the CPU.

    Raises:
        CheckpointError: it is not there, or has another shape.
    """
    found = source.shape(name)
    if found != shape:
        raise CheckpointError(
            f"The tensor {name} has the shape {list(found)}; the configuration says {list(shape)}."
            " The weights and the configuration are not of one checkpoint. Install the model again."
        )
    return source.get(name)
