"""Renders a score: each part by itself, then the bus and the mix."""

from __future__ import annotations

import shutil
import threading
import zlib
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from tempfile import TemporaryFile, gettempdir
from typing import IO, TYPE_CHECKING

import numpy as np

from services.errors import CancelledError, EngineError
from services.generation.composer.synth.instrument import RenderContext
from services.generation.composer.synth.mix import (
    SendEffects,
    bus_gain,
    duck_curve,
    effects_of,
    end_fade,
    render_channel,
)
from services.generation.composer.synth.patches import PATCHES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from services.generation.composer.synth.kernels import Audio
    from services.generation.score import Part, Score

SPOOL_RESERVE_BYTES = 1 << 30
"""Free space that temporary files must leave to everything else on their disk."""

WORKERS = 2
"""Threads; the loops release the GIL. The result does not depend on their number."""


@dataclass(frozen=True, slots=True)
class RenderedScore:
    mix: Audio
    """The float32 sum of the stems in the order of the score, `[2, samples]`."""
    stems: Mapping[str, Audio]
    """Part name -> float32 `[2, samples]`, effects included, in the order of the score.

    Empty unless asked for.
    """


def render_score(
    score: Score,
    *,
    sample_rate: int,
    samples: int,
    seed: int,
    progress: Callable[[str, float], None],
    should_stop: Callable[[], bool],
    stems: bool = False,
) -> RenderedScore:
    """Render a score: the same bytes for the same score and seed, in every process.

    Args:
        score: what to play.
        sample_rate: Hz.
        samples: length of everything returned; the last 25 ms fade to zero, except of a loop,
            whose length is that of the score.
        seed: of the synthesiser's noise and phases.
        progress: called with a stage and the fraction done, from this thread only.
        should_stop: asked about every 50 ms, from this thread only.
        stems: keep the audio of each part beside the mix.

    Raises:
        EngineError: the score names a patch that does not exist.
        CancelledError: `should_stop` returned True.
    """
    unknown = sorted({part.patch for part in score.parts} - PATCHES.keys())
    if unknown:
        raise EngineError(f"The synthesiser has no patch named {', '.join(unknown)}.")
    halt = threading.Event()

    def check() -> None:
        if halt.is_set():
            raise CancelledError("The render was cancelled.")

    def make_context(part: Part) -> RenderContext:
        # The part's name, not its place: a part sounds the same whatever plays beside it.
        entropy = [seed, zlib.crc32(part.name.encode())]
        rng = np.random.Generator(np.random.PCG64(entropy))
        beat = 60.0 / score.tempo_bpm
        return RenderContext(sample_rate, samples, beat, rng, check, score.loop)

    duck = duck_curve(score, sample_rate, samples)
    effects = effects_of(score.genre)
    with ExitStack() as files, ThreadPoolExecutor(WORKERS, thread_name_prefix="synth") as pool:
        channels = _open_channels(score.parts, samples, files, stems=stems)
        jobs = [
            pool.submit(channel.render, make_context(channel.part), effects, duck)
            for channel in channels
        ]
        try:
            _watch(jobs, score.parts, progress, should_stop)
        finally:
            halt.set()
        rendered = _mix(channels, sample_rate, samples, stems=stems, loop=score.loop)
    progress("mixing", 1.0)
    return rendered


class _Channel:
    """A part on its way to the mix.

    The gain of the bus is known once all parts are summed, and is then applied to each of them:
    applied to the sum, it would round the mix differently. Until then the audio is in a temporary
    file, where there is one and it has space, so that a render does not need the memory of all
    parts at once.
    """

    def __init__(self, part: Part, spool: IO[bytes] | None) -> None:
        self.part = part
        self._spool = spool
        self._audio: Audio | None = None

    def render(
        self, context: RenderContext, effects: SendEffects, duck: NDArray[np.float32]
    ) -> None:
        audio = render_channel(PATCHES[self.part.patch], self.part, context, effects, duck)
        if self._spool is None or not _write(self._spool, audio):
            self._audio = audio

    def load(self) -> Audio:
        """Return the audio as it reaches the bus, float32 `[2, samples]`."""
        if self._audio is not None:
            return self._audio
        assert self._spool is not None
        self._spool.seek(0)
        return np.fromfile(self._spool, dtype=np.float32).reshape(2, -1)


def _open_channels(
    parts: tuple[Part, ...], samples: int, files: ExitStack, *, stems: bool
) -> list[_Channel]:
    total = 2 * np.dtype(np.float32).itemsize * samples * len(parts)
    spools = not stems and _temporary_space() > total + SPOOL_RESERVE_BYTES
    return [_Channel(part, _open_spool(files) if spools else None) for part in parts]


def _temporary_space() -> int:
    try:
        return shutil.disk_usage(gettempdir()).free
    except OSError:
        return 0


def _open_spool(files: ExitStack) -> IO[bytes] | None:
    try:
        return files.enter_context(TemporaryFile())
    except OSError:
        return None


def _write(spool: IO[bytes], audio: Audio) -> bool:
    try:
        audio.tofile(spool)
    except OSError:
        with suppress(OSError):
            spool.truncate(0)
        return False
    return True


def _watch(
    jobs: list[Future[None]],
    parts: tuple[Part, ...],
    progress: Callable[[str, float], None],
    should_stop: Callable[[], bool],
) -> None:
    """Wait for the parts in order, report each one, and stop when asked to."""
    done = 0
    while done < len(jobs):
        if should_stop():
            raise CancelledError("The render was cancelled.")
        wait(jobs[done : done + 1], timeout=0.05)
        while done < len(jobs) and jobs[done].done():
            jobs[done].result()
            done += 1
            progress(f"playing {parts[done - 1].name}", 0.95 * done / len(jobs))


def _mix(
    channels: list[_Channel], sample_rate: int, samples: int, *, stems: bool, loop: bool
) -> RenderedScore:
    """Apply one gain curve to all parts and add them, always in the order of the score."""
    total = np.zeros((2, samples), dtype=np.float32)
    for channel in channels:
        total += channel.load()
    gain = bus_gain(total, sample_rate, loop=loop)
    if not loop:
        gain *= end_fade(samples, sample_rate)
    total[:] = 0.0
    kept = {}
    for channel in channels:
        audio = channel.load()
        np.multiply(audio, gain, out=audio)
        total += audio
        if stems:
            kept[channel.part.name] = audio
    return RenderedScore(total, kept)
