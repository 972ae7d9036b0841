"""The interface between engines and the rest of the system.

An engine turns parameters into float audio. It does not deal with files, databases or loudness.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from services.errors import InvalidRequestError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from services.config import CpuPrecision, Settings
    from services.generation.score import Score

SEED_LIMIT = 2**32
"""Seeds are 0 <= seed < SEED_LIMIT."""

SHORTEST_REFERENCE_SECONDS = 1.0
"""Least length of an audio file that an engine can use as a melody or continue."""

SILENT_PEAK = 1e-4
"""Peak amplitude, -80 dBFS, below which a reference counts as silent."""

Progress = Callable[[str, float], None]
"""Called with a stage in plain words and the fraction done, 0 to 1, which never decreases."""

ShouldStop = Callable[[], bool]
"""Called often; when it returns True, the engine raises CancelledError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """The settings that engines are loaded with, named as in `Settings`.

    They are apart because an engine process starts in half the time without the others.
    """

    models_dir: Path
    worker_concurrency: int
    use_gpu: bool
    cpu_precision: CpuPrecision

    @classmethod
    def of(cls, settings: Settings) -> EngineSettings:
        return cls(
            models_dir=settings.models_dir,
            worker_concurrency=settings.worker_concurrency,
            use_gpu=settings.use_gpu,
            cpu_precision=settings.cpu_precision,
        )


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """The properties of an engine that are known before it is loaded."""

    name: str
    version: str
    description: str
    output_licence: str
    """SPDX identifier of the licence of the audio."""
    sample_rate: int
    """Hz."""
    channels: int
    shortest_seconds: float
    longest_seconds: float
    concurrent: int = 1
    """Calls of `render` that a loaded engine takes at once, each from a thread of its own."""
    takes_melody: bool = False
    """It can follow the melody of an audio file."""
    takes_continuation: bool = False
    """Whether it can continue an audio file."""
    most_parts: int = 0
    """Instruments that a take has at most, each with its audio and notes; 0 if it has no parts."""

    @property
    def has_parts(self) -> bool:
        """Whether it can give stems and notes."""
        return self.most_parts > 0

    counts_bars: bool = False
    """Whether it can make an exact number of bars, and loops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationParams:
    """The parameters of one render; only neural engines use the sampling fields."""

    prompt: str
    duration_seconds: float
    seed: int
    temperature: float = 1.0
    top_k: int = 250
    top_p: float = 0.0
    cfg_coef: float = 3.0
    melody: Path | None = None
    """An audio file whose melody the music follows."""
    continue_from: Path | None = None
    """An audio file that the music continues; the result begins where the file ends."""
    bars: int | None = None
    """Bars to make; None for those that fit the duration. They fill the duration of a loop."""
    loop: bool = False
    """Whether the end leads back to the start, and tails go on there."""
    stems: bool = False
    """Whether to return each part's audio beside the mix; a stem takes the memory of a mix."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.duration_seconds) and self.duration_seconds > 0):
            raise InvalidRequestError("The duration must be a positive number of seconds.")
        if not 0 <= self.seed < SEED_LIMIT:
            raise InvalidRequestError(f"The seed must be from 0 to {SEED_LIMIT - 1}.")


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of a neural engine's decode loop that a request took part in."""

    count: int
    seconds: float
    """Time of these steps; requests in the same batch share them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """The result of an engine: unmastered audio, and facts about it."""

    audio: NDArray[np.float32]
    """`[channels, samples]`, finite, not mastered; samples == round(duration * sample_rate)."""
    sample_rate: int
    """Hz."""
    seed: int
    tempo_bpm: float | None = None
    key: str | None = None
    """E.g. "C minor", "F# major", "E dorian"."""
    bars: int | None = None
    """Whole bars from the first sample; the audio after them is their tail."""
    loop: bool = False
    """The audio can be repeated without a gap or a click: whole bars, their tail at the start."""
    stems: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """Part name -> `[channels, samples]`; they sum to `audio` within 1e-6.

    Empty unless the request asked for stems, and always empty from an engine that has no parts.
    """
    score: Score | None = None
    steps: Steps | None = None
    """None for engines without a decode loop."""
    understood: Mapping[str, Any] = field(default_factory=dict)
    """Facts from the prompt, JSON-ready: tempo, key, genre, mood, instruments, ..."""


@runtime_checkable
class Engine(Protocol):
    """Renders audio from parameters."""

    @property
    def facts(self) -> EngineFacts: ...

    def render(
        self, params: GenerationParams, progress: Progress, should_stop: ShouldStop
    ) -> Rendered:
        """Render one request.

        An engine with `facts.concurrent > 1` is called from that many threads at once, and may
        batch these calls.

        Args:
            params: of the request.
            progress: called with the stage and the fraction done.
            should_stop: called often; True stops the render.

        Raises:
            InvalidRequestError: the engine cannot render these parameters.
            EngineError: the engine failed.
            CancelledError: `should_stop` returned True.
        """
