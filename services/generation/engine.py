"""The interface of an engine, which turns parameters into float audio.

An engine knows nothing of takes, databases or loudness.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from services.errors import InvalidRequestError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from services.generation.score import Score

SEED_LIMIT = 2**32
"""Seeds are 0 <= seed < SEED_LIMIT."""

Progress = Callable[[str, float], None]
"""Called with a stage in plain words and the fraction done, 0..1, which never decreases."""

ShouldStop = Callable[[], bool]
"""Called often; once it returns True the engine raises CancelledError."""


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What is known of an engine before it is loaded."""

    name: str
    version: str
    description: str
    output_licence: str
    """SPDX identifier of the licence of its output."""
    sample_rate: int
    """Hz."""
    channels: int
    shortest_seconds: float
    longest_seconds: float
    concurrent: int = 1
    """Calls of `render` that one loaded engine takes at once, each from its own thread."""
    takes_melody: bool = False
    """It can follow the melody of an audio file."""
    takes_continuation: bool = False
    """It can continue an audio file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationParams:
    """The parameters of one take; temperature to `cfg_coef` are for neural engines only."""

    prompt: str
    duration_seconds: float
    seed: int
    temperature: float = 1.0
    top_k: int = 250
    top_p: float = 0.0
    cfg_coef: float = 3.0
    melody: Path | None = None
    """An audio file whose melody the take follows."""
    continue_from: Path | None = None
    """An audio file that the take continues; the result begins where the file ends."""
    stems: bool = False
    """Return each part's audio beside the mix; it takes the memory of one mix a part."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.duration_seconds) and self.duration_seconds > 0):
            raise InvalidRequestError("The duration must be a positive number of seconds.")
        if not 0 <= self.seed < SEED_LIMIT:
            raise InvalidRequestError(f"The seed must be from 0 to {SEED_LIMIT - 1}.")


@dataclass(frozen=True, slots=True)
class Steps:
    """The decoder steps of a neural engine that a request was part of."""

    count: int
    seconds: float
    """Duration of these steps; requests in the same batch share them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """The audio of a take with what the engine knows about it."""

    audio: NDArray[np.float32]
    """`[channels, samples]`, finite, not mastered; samples == round(duration * sample_rate)."""
    sample_rate: int
    """Hz."""
    seed: int
    tempo_bpm: float | None = None
    key: str | None = None
    """E.g. "C minor", "F# major", "E dorian"."""
    bars: int | None = None
    """Whole bars from the first sample; their tail follows."""
    stems: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """Part name -> `[channels, samples]`; they sum to `audio` within 1e-6.

    Empty unless the request asked for stems, and always empty from an engine that has no parts.
    """
    score: Score | None = None
    steps: Steps | None = None
    """None for an engine that does not work in steps."""
    understood: Mapping[str, Any] = field(default_factory=dict)
    """JSON-ready: what the engine read in the prompt, as genre, key, mood, instruments."""


@runtime_checkable
class Engine(Protocol):
    @property
    def facts(self) -> EngineFacts: ...

    def render(
        self,
        requests: Sequence[GenerationParams],
        progress: Progress,
        should_stop: ShouldStop,
    ) -> list[Rendered]:
        """Return one result for each request, in their order.

        Raises:
            InvalidRequestError: a request is outside what the engine can do.
            EngineError: the engine failed.
            CancelledError: `should_stop` returned True.
        """
