"""An engine tried out by itself, without rows and files: does it make music, and how fast."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from services.generation.engine import GenerationParams, Rendered

if TYPE_CHECKING:
    from services.generation.engine import Engine, Progress
    from services.generation.registry import EngineEntry

PROMPT = "lo-fi hip hop with a warm bass and soft drums at 84 BPM in A minor"
SEED = 7
TRIAL_SECONDS = 2.0

SILENCE = 1e-4
"""Of full scale, -80 dBFS: what stays below it all the time is no music."""

RTF = (
    "RTF, the real-time factor, is seconds of work for a second of audio: below 1 is faster than "
    "it plays."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One short take, looked at."""

    version: str
    """Of the engine, which names the commit of its weights where they do."""
    load_seconds: float
    render_seconds: float
    audio_seconds: float
    peak_dbfs: float | None
    """None of silence."""
    problems: tuple[str, ...]
    """In words; none of a sound engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One call of an engine, timed."""

    engine: str
    seconds: float
    """Of audio, each request."""
    requests: int
    wall_seconds: float
    rtf: float
    """Wall time by the audio of all requests together."""
    ms_a_step: float | None
    """Of engines that tell of their steps."""
    peak_bytes: int
    """Of the process, while it ran."""
    peak_gpu_bytes: int | None


@runtime_checkable
class BatchEngine(Protocol):
    """An engine that renders a batch in one call, as transformers' own loop does."""

    def render_batch(self, requests: Sequence[GenerationParams]) -> list[Rendered]:
        """Return one result for each request, in their order."""


def try_engine(entry: EngineEntry, progress: Progress) -> Trial:
    """Load an engine, have it make two seconds of music, and look at them.

    Raises:
        DGXMusicError: as the engine does.
    """
    began = time.perf_counter()
    engine = entry.load()
    loaded = time.perf_counter()
    facts = engine.facts
    seconds = min(max(TRIAL_SECONDS, facts.shortest_seconds), facts.longest_seconds)
    (params,) = _params(seconds, 1)
    rendered = engine.render(params, progress, _never)
    ended = time.perf_counter()
    peak = float(np.max(np.abs(rendered.audio), initial=0.0))
    return Trial(
        version=facts.version,
        load_seconds=loaded - began,
        render_seconds=ended - loaded,
        audio_seconds=rendered.audio.shape[-1] / rendered.sample_rate,
        peak_dbfs=20.0 * math.log10(peak) if 0.0 < peak < math.inf else None,
        problems=tuple(faults_of(rendered, engine, seconds)),
    )


def faults_of(rendered: Rendered, engine: Engine, seconds: float) -> list[str]:
    """Say in what an engine's audio is not what its facts and the request promise."""
    audio, facts = rendered.audio, engine.facts
    expected = (facts.channels, round(seconds * facts.sample_rate))
    faults = []
    if rendered.sample_rate != facts.sample_rate:
        faults.append(f"the rate is {rendered.sample_rate} Hz instead of {facts.sample_rate}")
    if audio.shape != expected:
        faults.append(f"the shape is {audio.shape} instead of {expected}")
    if audio.dtype != np.float32:
        faults.append(f"the samples are {audio.dtype} instead of float32")
    if not np.all(np.isfinite(audio)):
        faults.append("there are NaN or infinite samples")
    elif np.max(np.abs(audio), initial=0.0) < SILENCE:
        faults.append("it is silent")
    return faults


def measure(engine: Engine, name: str, seconds: float, requests: int) -> Measurement:
    """Time requests that are sent to an engine at once, as its worker would send them.

    Args:
        engine: loaded, and warm.
        name: to be shown.
        seconds: of audio, each request.
        requests: sent at once; an engine that takes fewer renders them in turn.

    Raises:
        DGXMusicError: as the engine does.
    """
    params = _params(seconds, requests)
    _begin_peaks()
    began = time.perf_counter()
    made = _render_all(engine, params)
    wall = time.perf_counter() - began
    steps = [one.steps for one in made if one.steps is not None and one.steps.count]
    return Measurement(
        engine=name,
        seconds=seconds,
        requests=requests,
        wall_seconds=wall,
        rtf=wall / (seconds * requests),
        ms_a_step=max(one.seconds / one.count for one in steps) * 1e3 if steps else None,
        peak_bytes=_peak_bytes(),
        peak_gpu_bytes=_peak_gpu_bytes(),
    )


def warm_up(engine: Engine) -> None:
    """Have it make a little, so that what is done once is done."""
    (params,) = _params(engine.facts.shortest_seconds, 1)
    engine.render(params, _nobody, _never)


def _render_all(engine: Engine, requests: Sequence[GenerationParams]) -> list[Rendered]:
    if isinstance(engine, BatchEngine):
        return engine.render_batch(requests)
    with ThreadPoolExecutor(min(len(requests), engine.facts.concurrent)) as threads:
        return list(threads.map(lambda params: engine.render(params, _nobody, _never), requests))


def _params(seconds: float, requests: int) -> Sequence[GenerationParams]:
    return [
        GenerationParams(prompt=PROMPT, duration_seconds=seconds, seed=SEED + number)
        for number in range(requests)
    ]


def _nobody(_stage: str, _fraction: float) -> None:
    """Nobody watches."""


def _never() -> bool:
    return False


def _begin_peaks() -> None:
    """Forget the peaks of before, where the system can."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    if "torch" in sys.modules:
        from services.generation.musicgen.gpu_probe import forget_peak

        forget_peak()


def _peak_bytes() -> int:
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        line = next(line for line in lines if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _peak_gpu_bytes() -> int | None:
    if "torch" not in sys.modules:
        return None
    from services.generation.musicgen.gpu_probe import peak_bytes

    return peak_bytes()
