"""What the decode loop asks of a decoder: the seam between the loop and each back end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from services.generation.musicgen.geometry import Geometry


class StepModel(Protocol):
    """A decoder with slots: each has its own keys and values, and stands at its own position.

    Every slot is a CFG pair: the conditional row, and the unconditional one, whose cross-attention
    is exactly zero (zero encoder states through projections without bias) and is left out.
    """

    @property
    def geometry(self) -> Geometry:
        """The shape of the decoder."""

    @property
    def slots(self) -> int:
        """How many requests at once."""

    @property
    def positions(self) -> int:
        """How many positions a slot can hold, a prefix included."""

    def admit(self, slot: int, states: Tensor, unconditional: Tensor | None = None) -> int:
        """Begin a sequence in a slot; what it held is forgotten.

        Args:
            slot: 0..slots-1.
            states: float32 `[length, hidden]`, the conditioning in the decoder's width, without
                padding. Keys and values of the cross-attention are made of it; in a decoder without
                cross-attention it is the prefix.
            unconditional: float32 `[length, hidden]`, the prefix of the unconditional row, for a
                decoder without cross-attention only; zeros when it is None. Melody checkpoints
                have the projection of a silent chroma there, which is not zero.

        Returns:
            The position of the first token: 0, or the length of the prefix.
        """

    def prefill(self, slot: int, tokens: Tensor) -> None:
        """Take in int64 `[codebooks, length]` from the first position on, ahead of the steps."""

    def step(self, slots: Sequence[int], tokens: Tensor, positions: Sequence[int]) -> Tensor:
        """One step of the named slots.

        Args:
            slots: which, each once.
            tokens: int64 `[len(slots), codebooks]`: what stands at `positions`.
            positions: of each slot; keys and values up to it are there.

        Returns:
            float32 logits `[2, len(slots), codebooks, codebook_size]`: conditional, unconditional.
            A slot's logits are bitwise the same whoever its neighbours are.
        """
