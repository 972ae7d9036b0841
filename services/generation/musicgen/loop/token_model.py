"""The interface of a decoder that draws its own tokens, as the decode loop uses it.

On the CPU it is a `StepModel` followed by a sampler. A back end whose step includes the sampling,
such as a CUDA graph, implements `TokenModel` itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from services.generation.musicgen.loop.sampling import TorchSampler

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from services.generation.musicgen.geometry import Geometry
    from services.generation.musicgen.loop.request import Conditioning, Sampling
    from services.generation.musicgen.loop.sequence import StepInput
    from services.generation.musicgen.loop.step_model import StepModel


class TokenModel(Protocol):
    """A decoder with slots that draws tokens. Only one thread calls it."""

    @property
    def geometry(self) -> Geometry: ...

    @property
    def slots(self) -> int:
        """Requests that can run at once."""

    @property
    def positions(self) -> int:
        """Positions of a slot's KV cache, a prefix included."""

    def begin_window(
        self,
        slot: int,
        conditioning: Conditioning,
        sampling: Sampling,
        tokens: NDArray[np.int64],
    ) -> None:
        """Start a window in a slot and discard the one before.

        Args:
            slot: 0..slots-1.
            conditioning: the window's conditioning.
            sampling: the sampling of all its steps.
            tokens: `[codebooks, length]`, the tokens at the first positions; length may be 0.
        """

    def step(self, inputs: Sequence[StepInput]) -> NDArray[np.int64]:
        """Run one step of distinct slots and return the drawn tokens, `[inputs, codebooks]`.

        The tokens of a slot do not depend on the other slots.
        """


class Sampler(Protocol):
    """Draws tokens from logits as sampling.py describes."""

    def __call__(
        self, logits: Tensor, samplings: Sequence[Sampling], steps: Sequence[int], /
    ) -> NDArray[np.int64]:
        """Draw a token for each request and codebook.

        Args:
            logits: float32 `[2, n, codebooks, codebook_size]`, conditional first.
            samplings: the sampling of each of the n requests.
            steps: the step of each request's sequence.

        Returns:
            `[n, codebooks]`.
        """


class SampledDecoder:
    """A `TokenModel` made of a `StepModel` and a sampler."""

    def __init__(self, model: StepModel, sampler: Sampler | None = None) -> None:
        """Use a sampler, or PyTorch's when it is None."""
        self._model = model
        self._sampler = sampler or TorchSampler()
        self._first_positions = [0] * model.slots
        self._samplings: dict[int, Sampling] = {}

    @property
    def geometry(self) -> Geometry:
        return self._model.geometry

    @property
    def slots(self) -> int:
        return self._model.slots

    @property
    def positions(self) -> int:
        return self._model.positions

    def begin_window(
        self,
        slot: int,
        conditioning: Conditioning,
        sampling: Sampling,
        tokens: NDArray[np.int64],
    ) -> None:
        self._samplings[slot] = sampling
        given = conditioning.unconditional
        prefixes = [conditioning.states] if given is None else [conditioning.states, given]
        self._first_positions[slot] = self._model.admit(slot, *prefixes)
        if tokens.shape[1]:
            self._model.prefill(slot, torch.from_numpy(np.ascontiguousarray(tokens)))

    @torch.inference_mode()
    def step(self, inputs: Sequence[StepInput]) -> NDArray[np.int64]:
        slots = [each.slot for each in inputs]
        positions = [self._first_positions[each.slot] + each.position for each in inputs]
        tokens = torch.from_numpy(np.stack([each.tokens for each in inputs]))
        logits = self._model.step(slots, tokens, positions)
        samplings = [self._samplings[slot] for slot in slots]
        return self._sampler(logits, samplings, [each.step for each in inputs])
