"""Sampling in C (draw.c)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from services.generation.musicgen.decoders.native.library import Draw, library

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from services.generation.musicgen.loop.request import Sampling


class NativeSampler:
    """A `Sampler` in C. It takes a tenth of the time: PyTorch spends most of it on overhead."""

    def __init__(self) -> None:
        """Load the library.

        Raises:
            NativeUnavailableError: it cannot be built or loaded.
        """
        self._library = library()

    def __call__(
        self, logits: Tensor, samplings: Sequence[Sampling], steps: Sequence[int]
    ) -> NDArray[np.int64]:
        _, requests, codebooks, size = logits.shape
        logits = logits.contiguous()
        draws = (Draw * requests)(
            *(
                Draw(s.seed, step, s.top_p, s.guidance, s.temperature, min(s.top_k, size), s.greedy)
                for s, step in zip(samplings, steps, strict=True)
            )
        )
        tokens = np.empty((requests, codebooks), dtype=np.int64)
        code = self._library.musicgen_draw(
            requests, codebooks, size, logits.data_ptr(), draws, tokens.ctypes.data
        )
        if code:
            raise MemoryError("There is no memory for sampling.")
        return tokens
