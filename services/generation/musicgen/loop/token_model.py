"""What the decode loop drives: a decoder that draws its own tokens.

On the CPU that is a `StepModel` with the sampler behind it. A back end whose step includes the
sampling, such as a CUDA graph, is a `TokenModel` by itself.
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
    from services.generation.musicgen.loop.sequence import Turn
    from services.generation.musicgen.loop.step_model import StepModel


class TokenModel(Protocol):
    """A decoder with slots that draws tokens. Called by one thread."""

    @property
    def geometry(self) -> Geometry:
        """The shape of the decoder."""

    @property
    def slots(self) -> int:
        """How many requests at once."""

    @property
    def positions(self) -> int:
        """How many positions a slot can hold, a prefix included."""

    def begin(
        self,
        slot: int,
        conditioning: Conditioning,
        sampling: Sampling,
        opening: NDArray[np.int64],
    ) -> None:
        """Begin a window in a slot; what it held is forgotten.

        Args:
            slot: 0..slots-1.
            conditioning: of the window.
            sampling: of all its steps.
            opening: `[codebooks, length]`, what stands at the first positions; length may be 0.
        """

    def advance(self, turns: Sequence[Turn]) -> NDArray[np.int64]:
        """One step of some slots, each once: the tokens drawn for each, `[turns, codebooks]`.

        What a slot draws does not depend on the others.
        """


class Sampler(Protocol):
    """Draws tokens from logits; sampling.py says how."""

    def __call__(
        self, logits: Tensor, samplings: Sequence[Sampling], steps: Sequence[int], /
    ) -> NDArray[np.int64]:
        """Draw a token for each request and codebook.

        Args:
            logits: float32 `[2, n, codebooks, codebook_size]`, conditional first.
            samplings: of the n requests.
            steps: the number of the step in each request's piece.

        Returns:
            `[n, codebooks]`.
        """


class SampledDecoder:
    """A `StepModel` and a sampler, as a `TokenModel`."""

    def __init__(self, model: StepModel, sampler: Sampler | None = None) -> None:
        """Put them together; None is the sampler by PyTorch."""
        self._model = model
        self._sampler = sampler or TorchSampler()
        self._first = [0] * model.slots
        self._sampling: dict[int, Sampling] = {}

    @property
    def geometry(self) -> Geometry:
        """See `TokenModel.geometry`."""
        return self._model.geometry

    @property
    def slots(self) -> int:
        """See `TokenModel.slots`."""
        return self._model.slots

    @property
    def positions(self) -> int:
        """See `TokenModel.positions`."""
        return self._model.positions

    def begin(
        self,
        slot: int,
        conditioning: Conditioning,
        sampling: Sampling,
        opening: NDArray[np.int64],
    ) -> None:
        """See `TokenModel.begin`."""
        self._sampling[slot] = sampling
        given = conditioning.unconditional
        prefixes = [conditioning.states] if given is None else [conditioning.states, given]
        self._first[slot] = self._model.admit(slot, *prefixes)
        if opening.shape[1]:
            self._model.prefill(slot, torch.from_numpy(np.ascontiguousarray(opening)))

    @torch.inference_mode()
    def advance(self, turns: Sequence[Turn]) -> NDArray[np.int64]:
        """See `TokenModel.advance`."""
        slots = [turn.slot for turn in turns]
        positions = [self._first[turn.slot] + turn.position for turn in turns]
        tokens = torch.from_numpy(np.stack([turn.tokens for turn in turns]))
        logits = self._model.step(slots, tokens, positions)
        samplings = [self._sampling[slot] for slot in slots]
        return self._sampler(logits, samplings, [turn.step for turn in turns])
