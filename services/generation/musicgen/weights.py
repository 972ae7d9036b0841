"""Where the decoder's numbers come from: tensor by tensor, so that no second copy is ever whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

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
