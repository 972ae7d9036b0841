"""Test and time an engine by itself, without jobs and files."""

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

from services.generation.engine import SILENT_PEAK, GenerationParams, Rendered

if TYPE_CHECKING:
    from services.generation.engine import Engine, Progress
    from services.generation.registry import EngineEntry

PROMPT = "lo-fi hip hop with a warm bass and soft drums at 84 BPM in A minor"
SEED = 7
TRIAL_SECONDS = 2.0

RTF = (
    "RTF, the real-time factor, is seconds of work per second of audio: below 1 is faster than "
    "real time."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """The result of a short test render."""

    version: str
    """The engine's version, with the commit of its weights if that is known."""
    load_seconds: float
    render_seconds: float
    audio_seconds: float
    peak_dbfs: float | None
    """None for silence."""
    problems: tuple[str, ...]
    """One phrase each; empty if the engine works."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One timed call of an engine."""

    engine: str
    seconds: float
    """Seconds of audio of each request."""
    requests: int
    wall_seconds: float
    rtf: float
    """Wall time divided by the audio seconds of all requests."""
    ms_a_step: float | None
    """None for engines that report no steps."""
    peak_bytes: int
    """Peak memory of the process during the call."""
    peak_gpu_bytes: int | None


@runtime_checkable
class BatchEngine(Protocol):
    """An engine that renders a batch in one call, as transformers' own loop does."""

    def render_batch(self, requests: Sequence[GenerationParams]) -> list[Rendered]:
        """Return one result for each request, in their order."""


def try_engine(entry: EngineEntry, progress: Progress) -> Trial:
    """Load an engine, render two seconds of music, and check them.

    Raises:
        DGXMusicError: whatever the engine raises.
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
        problems=tuple(find_faults(rendered, engine, seconds)),
    )


def find_faults(rendered: Rendered, engine: Engine, seconds: float) -> list[str]:
    """Return how a render differs from the engine's facts and the request, one phrase each."""
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
    elif np.max(np.abs(audio), initial=0.0) < SILENT_PEAK:
        faults.append("it is silent")
    return faults


def measure(engine: Engine, name: str, seconds: float, requests: int) -> Measurement:
    """Time requests that are sent to an engine at once, as its worker would send them.

    Args:
        engine: the engine, loaded and warm.
        name: its name in the result.
        seconds: seconds of audio of each request.
        requests: requests sent at once; an engine that takes fewer renders them in turn.

    Raises:
        DGXMusicError: whatever the engine raises.
    """
    params = _params(seconds, requests)
    _reset_peaks()
    began = time.perf_counter()
    rendered = _render_all(engine, params)
    wall = time.perf_counter() - began
    steps = [one.steps for one in rendered if one.steps is not None and one.steps.count]
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
    """Render briefly, to get work that is done only once out of the way."""
    (params,) = _params(engine.facts.shortest_seconds, 1)
    engine.render(params, _ignore_progress, _never)


def _render_all(engine: Engine, requests: Sequence[GenerationParams]) -> list[Rendered]:
    def render(params: GenerationParams) -> Rendered:
        return engine.render(params, _ignore_progress, _never)

    if isinstance(engine, BatchEngine):
        return engine.render_batch(requests)
    with ThreadPoolExecutor(min(len(requests), engine.facts.concurrent)) as threads:
        return list(threads.map(render, requests))


def _params(seconds: float, requests: int) -> Sequence[GenerationParams]:
    return [
        GenerationParams(prompt=PROMPT, duration_seconds=seconds, seed=SEED + number)
        for number in range(requests)
    ]


def _ignore_progress(_stage: str, _fraction: float) -> None:
    return


def _never() -> bool:
    return False


def _reset_peaks() -> None:
    with suppress(OSError):  # not every kernel lets a process reset its peak
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    if "torch" in sys.modules:
        from services.generation.musicgen.gpu_probe import reset_peak

        reset_peak()


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
