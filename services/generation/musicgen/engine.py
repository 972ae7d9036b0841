"""The MusicGen engine: renders prompts, melodies and continuations of files.

Several threads may call `render` at once: the decode loop steps their requests as one batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from services.errors import CancelledError, InvalidRequestError
from services.generation.engine import Rendered
from services.generation.musicgen.checkpoint.checkpoints import find_checkpoint
from services.generation.musicgen.checkpoint.parts import open_weights
from services.generation.musicgen.codec.codec import Codec
from services.generation.musicgen.conditioning.melody import MelodyConditioner
from services.generation.musicgen.conditioning.references import read_for_continuation, read_melody
from services.generation.musicgen.conditioning.text import TextEncoder
from services.generation.musicgen.decoders.backends import choose_backend
from services.generation.musicgen.decoders.device_decoder import MAX_STATES
from services.generation.musicgen.geometry import FRAME_RATE
from services.generation.musicgen.loop.compute_thread import ComputeThread
from services.generation.musicgen.loop.loop import DecodeLoop
from services.generation.musicgen.loop.request import Conditioning, DecodeRequest, Sampling
from services.generation.musicgen.loop.windows import plan_windows

if TYPE_CHECKING:
    from services.audio.arrays import Audio
    from services.config import Settings
    from services.generation.engine import (
        EngineFacts,
        EngineSettings,
        GenerationParams,
        Progress,
        ShouldStop,
    )
    from services.generation.musicgen.catalogue import PublishedModel
    from services.generation.musicgen.checkpoint.checkpoints import Checkpoint
    from services.generation.musicgen.decoders.backends import Backend
    from services.generation.musicgen.loop.handle import DecodeHandle
    from services.generation.musicgen.loop.loop import Execute

T = TypeVar("T")

CHECK_PROMPTS = (
    "lo-fi beat with soft piano",
    "heavy techno at 130 BPM with distorted 909 drums, an acid bass line that opens up slowly,"
    " dark pads far in the back and a vocal chop on every fourth bar",
)
"""Prompts of the check of a quantised decoder: the first is short enough to be folded into the
weights, the second is not."""

STREAM_FRAMES = 25
"""Code frames read from the loop at a time: half a second of audio."""

_DECODER_SHARE = 0.95
"""Share of the decoder in the progress; the rest is the codec's."""


class MusicGenEngine:
    """A loaded checkpoint with its running decode loop."""

    def __init__(self, facts: EngineFacts, parts: _Parts, compute: ComputeThread) -> None:
        """Start the decode loop; `close` ends it and the compute thread."""
        self._facts = facts
        self._text = parts.text
        self._melody = parts.melody
        self._codec = parts.codec
        self._label = parts.backend.label
        self._compute = compute
        self._execute: Execute = compute
        if parts.backend.device.type == "cpu":
            self._loop = DecodeLoop(parts.backend.model, execute=compute)
        else:
            # The codec runs in a stream of its own, in parallel with the decoder.
            stream = torch.cuda.Stream(parts.backend.device)  # type: ignore[no-untyped-call]
            self._execute = partial(_run_on_stream, stream)
            self._loop = DecodeLoop(parts.backend.model)

    @classmethod
    def load(cls, model: PublishedModel, settings: Settings | EngineSettings) -> MusicGenEngine:
        """Load the checkpoint of a published model from this machine.

        Raises:
            CheckpointError: it is missing or damaged.
            EngineUnavailableError: it does not fit into memory.
        """
        checkpoint = find_checkpoint(model, settings.models_dir)
        return cls.from_checkpoint(checkpoint, model.facts_at(checkpoint.revision), settings)

    @classmethod
    def from_checkpoint(
        cls, checkpoint: Checkpoint, facts: EngineFacts, settings: Settings | EngineSettings
    ) -> MusicGenEngine:
        """Load a checkpoint; raises as `load`."""
        compute = ComputeThread()
        with ExitStack() as on_failure:
            on_failure.callback(compute.close)
            engine = cls(facts, compute(partial(_load_parts, checkpoint, settings)), compute)
            on_failure.pop_all()
        return engine

    @property
    def facts(self) -> EngineFacts:
        return self._facts

    @property
    def label(self) -> str:
        """Precision and back end, as "int8, native"."""
        return self._label

    def close(self) -> None:
        """End the decode loop; running and waiting requests fail."""
        self._loop.close()
        self._compute.close()

    def render(
        self, params: GenerationParams, progress: Progress, should_stop: ShouldStop
    ) -> Rendered:
        """Render as `Engine.render`; the requests of all callers run as one batch."""
        progress("encoding_prompt", 0.0)
        prepared = self._prepare(params)
        if should_stop():
            raise CancelledError("The music was stopped before it started.")
        progress("generating", 0.0)
        handle = self._loop.submit(prepared, should_stop=should_stop)
        try:
            reporter = _ProgressReporter(handle, progress)
            return self._collect(params, handle, reporter, should_stop)
        finally:
            handle.cancel()

    def _prepare(self, request: GenerationParams) -> DecodeRequest:
        self._check(request)
        facts, ending, melody = self._facts, None, None
        if request.continue_from is not None:
            frame = self._codec.samples_per_frame
            ending = read_for_continuation(
                request.continue_from, facts.sample_rate, facts.channels, frame
            )
        if request.melody is not None and self._melody is not None:
            melody = read_melody(request.melody, self._melody.sample_rate)[0]
        return self._execute(partial(self._encode, request, ending, melody))

    def _encode(
        self, request: GenerationParams, ending: Audio | None, melody: Audio | None
    ) -> DecodeRequest:
        """Encode the prompt, the `[channels, samples]` to continue and the melody `[samples]`."""
        (text,) = self._text.encode([request.prompt])
        prefix = None if ending is None else self._codec.encode(torch.from_numpy(ending)).numpy()
        known = 0 if prefix is None else prefix.shape[1]
        frames = known + math.ceil(request.duration_seconds * FRAME_RATE)
        conditioning: tuple[Conditioning, ...] = (Conditioning(text),)
        if self._melody is not None and melody is None:
            conditioning = (self._melody.condition(text, None),)
        elif self._melody is not None:
            # Each window follows the melody from the window's own start.
            samples = torch.from_numpy(melody)
            starts = [(window.start - known) / FRAME_RATE for window in plan_windows(frames, known)]
            conditioning = tuple(self._melody.condition(text, samples, start) for start in starts)
        limit = MAX_STATES - (len(conditioning[0].states) - len(text))
        if len(text) > limit:
            raise InvalidRequestError(
                f"The prompt is {len(text)} tokens long, and {self._facts.name} takes {limit} at "
                "most. Use fewer words."
            )
        return DecodeRequest(
            conditioning=conditioning,
            frames=frames,
            prefix=prefix,
            sampling=Sampling(
                seed=request.seed,
                guidance=request.cfg_coef,
                temperature=request.temperature,
                top_k=request.top_k,
                top_p=request.top_p,
            ),
        )

    def _check(self, request: GenerationParams) -> None:
        facts = self._facts
        if not facts.shortest_seconds <= request.duration_seconds <= facts.longest_seconds:
            raise InvalidRequestError(
                f"{facts.name} makes {facts.shortest_seconds:g} to {facts.longest_seconds:g} "
                f"seconds, not {request.duration_seconds:g}."
            )
        if request.melody is not None and self._melody is None:
            raise InvalidRequestError(f"{facts.name} cannot follow a melody; musicgen-melody can.")

    def _collect(
        self,
        request: GenerationParams,
        handle: DecodeHandle,
        reporter: _ProgressReporter,
        should_stop: ShouldStop,
    ) -> Rendered:
        """Decode the codes of a request to audio while the loop draws them."""
        stream = self._codec.stream()
        chunks = []
        for codes in handle.stream(STREAM_FRAMES, while_waiting=reporter.report):
            if should_stop():
                raise CancelledError("The music was stopped before it was finished.")
            chunks.append(self._execute(partial(stream.push, torch.from_numpy(codes))))
            reporter.report()
        chunks.append(self._execute(stream.finish))
        audio = np.concatenate([chunk.numpy() for chunk in chunks], axis=1)
        samples = round(request.duration_seconds * self._facts.sample_rate)
        # The codec decodes a continued file too, for a seamless start; its samples are cut off.
        first = handle.prefix_frames * self._codec.samples_per_frame
        return Rendered(
            audio=np.ascontiguousarray(audio[:, first : first + samples], dtype=np.float32),
            sample_rate=self._facts.sample_rate,
            seed=request.seed,
            steps=handle.steps,
            understood={"backend": self._label},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    text: TextEncoder
    melody: MelodyConditioner | None
    codec: Codec
    backend: Backend


def _load_parts(checkpoint: Checkpoint, settings: Settings | EngineSettings) -> _Parts:
    weights = open_weights(checkpoint)
    text = TextEncoder.load(checkpoint, weights)
    melody = None
    if not checkpoint.geometry.cross_attention:
        melody = MelodyConditioner.load(checkpoint, weights)
    backend = choose_backend(
        weights,
        checkpoint.geometry,
        slots=settings.worker_concurrency,
        use_gpu=settings.use_gpu,
        cpu_precision=settings.cpu_precision,
        conditioning=text.encode(CHECK_PROMPTS),
    )
    codec = Codec.load(checkpoint, weights, backend.device)
    return _Parts(text=text, melody=melody, codec=codec, backend=backend)


def _run_on_stream(stream: torch.cuda.Stream, action: Callable[[], T], /) -> T:
    with torch.cuda.stream(stream):
        return action()


@dataclass(slots=True)
class _ProgressReporter:
    """Reports the progress of a request."""

    handle: DecodeHandle
    progress: Progress
    reported: float = 0.0

    def report(self) -> None:
        """Report even without progress: an engine that is silent for long counts as stuck."""
        current = self.handle.progress()
        done = _DECODER_SHARE * current.steps_done / current.steps_total
        self.reported = max(self.reported, done)
        self.progress("generating", self.reported)
