"""The interface of a decoder that returns logits: one implementation per back end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from services.generation.musicgen.geometry import Geometry


class StepModel(Protocol):
    """A decoder with slots; each slot has its own KV cache and position.

    A slot is a CFG pair of rows: a conditional one, and an unconditional one whose cross-attention
    is exactly zero (zero encoder states through projections without bias) and is not computed.
    """

    @property
    def geometry(self) -> Geometry: ...

    @property
    def slots(self) -> int:
        """Requests that can run at once."""

    @property
    def positions(self) -> int:
        """Positions of a slot's KV cache, a prefix included."""

    def admit(self, slot: int, states: Tensor, unconditional: Tensor | None = None) -> int:
        """Start a sequence in a slot and discard the one before.

        Args:
            slot: 0..slots-1.
            states: float32 `[length, hidden]`, the conditioning in the decoder's width, without
                padding: the input of the cross-attention, or the prefix of a decoder without it.
            unconditional: float32 `[length, hidden]`, the prefix of the unconditional row, for a
                decoder without cross-attention only; zeros when it is None. Melody checkpoints
                have the projection of a silent chroma there, which is not zero.

        Returns:
            The position of the first token: 0, or the length of the prefix.
        """

    def prefill(self, slot: int, tokens: Tensor) -> None:
        """Fill the KV cache with int64 `[codebooks, length]` from the first position on."""

    def step(self, slots: Sequence[int], tokens: Tensor, positions: Sequence[int]) -> Tensor:
        """Run one step of some slots.

        Args:
            slots: distinct slots.
            tokens: int64 `[len(slots), codebooks]`: the tokens at `positions`.
            positions: the position of each slot; its cache is filled up to there.

        Returns:
            float32 logits `[2, len(slots), codebooks, codebook_size]`: conditional, unconditional.
            The logits of a slot are bitwise independent of the other slots in the step.
        """
