"""From a score to stems and their mix."""

from __future__ import annotations

import threading
import zlib
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from services.errors import CancelledError, EngineError
from services.generation.composer.synth.instrument import Stage
from services.generation.composer.synth.mix import (
    Space,
    bus_gain,
    duck_curve,
    end_fade,
    space_of,
    strip,
)
from services.generation.composer.synth.patches import PATCHES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from services.generation.composer.synth.kernels import Audio
    from services.generation.score import Part, Score

WORKERS = 2
"""Threads; the loops release the GIL. The result does not depend on their number."""


@dataclass(frozen=True, slots=True)
class RenderedScore:
    """What a score sounds like."""

    stems: Mapping[str, Audio]
    """Part name -> float32 `[2, samples]`, effects included, in the order of the score."""
    mix: Audio
    """Their float32 sum in that order, `[2, samples]`."""


def render_score(
    score: Score,
    *,
    sample_rate: int,
    samples: int,
    seed: int,
    progress: Callable[[str, float], None],
    should_stop: Callable[[], bool],
) -> RenderedScore:
    """Play a score: the same bytes for the same score and seed, in every process.

    `sample_rate` in Hz; `samples` is the length of everything returned, the last 25 ms of which
    fade to zero. `progress` and `should_stop` are called from this thread only.

    Raises:
        EngineError: the score names a patch that does not exist.
        CancelledError: `should_stop` said so.
    """
    unknown = sorted({part.patch for part in score.parts} - PATCHES.keys())
    if unknown:
        raise EngineError(f"The synthesiser has no patch named {', '.join(unknown)}.")
    halt = threading.Event()

    def check() -> None:
        if halt.is_set():
            raise CancelledError("The render was cancelled.")

    def stage_of(part: Part) -> Stage:
        # The part's name, not its place: a part sounds the same whatever plays beside it.
        entropy = [seed, zlib.crc32(part.name.encode())]
        rng = np.random.Generator(np.random.PCG64(entropy))
        return Stage(sample_rate, samples, 60.0 / score.tempo_bpm, rng, check)

    duck = duck_curve(score, sample_rate, samples)
    space = space_of(score.genre)
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="synth") as pool:
        jobs = [pool.submit(_strip, part, stage_of(part), space, duck) for part in score.parts]
        try:
            _watch(jobs, score.parts, progress, should_stop)
        finally:
            halt.set()
    rendered = _sum([job.result() for job in jobs], score.parts, sample_rate, samples)
    progress("mixing", 1.0)
    return rendered


def _strip(part: Part, stage: Stage, space: Space, duck: NDArray[np.float32]) -> Audio:
    return strip(PATCHES[part.patch], part, stage, space, duck)


def _watch(
    jobs: list[Future[Audio]],
    parts: tuple[Part, ...],
    progress: Callable[[str, float], None],
    should_stop: Callable[[], bool],
) -> None:
    """Wait for the parts, telling how far they are and asking whether to go on."""
    told = 0
    while told < len(jobs):
        if should_stop():
            raise CancelledError("The render was cancelled.")
        wait(jobs[told : told + 1], timeout=0.05)
        while told < len(jobs) and jobs[told].done():
            jobs[told].result()
            told += 1
            progress(f"playing {parts[told - 1].name}", 0.95 * told / len(jobs))


def _sum(
    strips: list[Audio], parts: tuple[Part, ...], sample_rate: int, samples: int
) -> RenderedScore:
    """Put one gain curve on all strips and add them, always in the order of the score."""
    total = np.zeros((2, samples), dtype=np.float32)
    for audio in strips:
        total += audio
    gain = bus_gain(total, sample_rate) * end_fade(samples, sample_rate)
    total[:] = 0.0
    for audio in strips:
        np.multiply(audio, gain, out=audio)
        total += audio
    stems = {part.name: audio for part, audio in zip(parts, strips, strict=True)}
    return RenderedScore(stems, total)
