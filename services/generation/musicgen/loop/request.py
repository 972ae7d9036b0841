"""The requests of the decode loop. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.errors import InvalidRequestError
from services.generation.engine import SEED_LIMIT

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from services.generation.musicgen.geometry import Geometry


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are drawn from logits."""

    seed: int = 0
    guidance: float = 3.0
    """Scale of classifier-free guidance; 1 turns it off."""
    temperature: float = 1.0
    top_k: int = 250
    """Number of likeliest tokens to draw from; 0 is all."""
    top_p: float = 0.0
    """Draw from the likeliest tokens that together reach this probability; 0 and 1 are all."""
    greedy: bool = False
    """Take the likeliest token, whatever the other fields say."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < SEED_LIMIT:
            raise InvalidRequestError(f"The seed must be from 0 to {SEED_LIMIT - 1}.")
        if not math.isfinite(self.guidance):
            raise InvalidRequestError("The guidance must be a finite number.")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise InvalidRequestError("The temperature must be a positive number.")
        if self.top_k < 0:
            raise InvalidRequestError("top_k must be 0 (off) or more.")
        if not 0 <= self.top_p <= 1:
            raise InvalidRequestError("top_p must be from 0 to 1.")


@dataclass(frozen=True, slots=True, eq=False)
class Conditioning:
    """The conditioning of a window, in the decoder's width."""

    states: Tensor
    """float32 `[length, hidden]`, without padding."""
    unconditional: Tensor | None = None
    """`[length, hidden]`: the prefix of the unconditional row of a melody checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecodeRequest:
    """Codes to draw.

    Raises:
        InvalidRequestError: no conditioning, or no frame to draw.
    """

    conditioning: tuple[Conditioning, ...]
    """One for each window of 30 s; the last one also serves the windows after it."""
    frames: int
    """All code frames, the prefix included."""
    sampling: Sampling = Sampling()
    prefix: NDArray[np.int64] | None = None
    """Codes `[codebooks, frames]` to continue; the result starts with them."""

    def __post_init__(self) -> None:
        if not self.conditioning:
            raise InvalidRequestError("The request has no conditioning.")
        if self.frames <= self.prefix_frames:
            raise InvalidRequestError(
                f"{self.frames} frames cannot continue {self.prefix_frames}. Ask for a longer take."
            )

    @property
    def prefix_frames(self) -> int:
        return 0 if self.prefix is None else int(self.prefix.shape[1])


def check_fits(request: DecodeRequest, geometry: Geometry) -> None:
    """Check the shapes of a request against those of a decoder.

    Raises:
        InvalidRequestError: the conditioning or the prefix belongs to another model.
    """
    for given in request.conditioning:
        unconditional = given.states if given.unconditional is None else given.unconditional
        shapes = [tuple(given.states.shape), tuple(unconditional.shape)]
        if shapes[0] != shapes[1] or shapes[0][1:] != (geometry.hidden,) or 0 in shapes[0]:
            raise InvalidRequestError(
                f"The conditioning has the shapes {shapes[0]} and {shapes[1]};"
                f" this model needs (length, {geometry.hidden})."
            )
    prefix = request.prefix
    if prefix is None:
        return
    if prefix.shape[0] != geometry.codebooks:
        raise InvalidRequestError(
            f"The codes to continue have {prefix.shape[0]} codebooks;"
            f" this model has {geometry.codebooks}."
        )
    if prefix.size and not (prefix.min() >= 0 and prefix.max() < geometry.codebook_size):
        raise InvalidRequestError(
            f"The codes to continue are not all from 0 to {geometry.codebook_size - 1}."
        )
