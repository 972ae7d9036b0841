"""MusicGen as an engine: prompts, melodies and files to go on from become audio.

`render` may be called from several threads: the decode loop steps all their requests together.
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
from services.generation.musicgen.checkpoint.parts import weights_of
from services.generation.musicgen.codec.codec import Codec
from services.generation.musicgen.conditioning.melody import MelodyConditioner
from services.generation.musicgen.conditioning.references import read_for_continuation, read_melody
from services.generation.musicgen.conditioning.text import TextEncoder
from services.generation.musicgen.decoders.backends import choose_backend
from services.generation.musicgen.decoders.device_decoder import MOST_STATES
from services.generation.musicgen.geometry import FRAME_RATE
from services.generation.musicgen.loop.loop import DecodeLoop
from services.generation.musicgen.loop.processor import Processor
from services.generation.musicgen.loop.request import Conditioning, DecodeRequest, Sampling
from services.generation.musicgen.loop.windows import windows

if TYPE_CHECKING:
    from services.audio.arrays import Audio
    from services.config import Settings
    from services.generation.engine import EngineFacts, GenerationParams, Progress, ShouldStop
    from services.generation.musicgen.catalogue import PublishedModel
    from services.generation.musicgen.checkpoint.checkpoints import Checkpoint
    from services.generation.musicgen.decoders.backends import Backend
    from services.generation.musicgen.loop.handle import DecodeHandle
    from services.generation.musicgen.loop.loop import Work

T = TypeVar("T")

CHECK_PROMPTS = (
    "lo-fi beat with soft piano",
    "heavy techno at 130 BPM with distorted 909 drums, an acid bass line that opens up slowly,"
    " dark pads far in the back and a vocal chop on every fourth bar",
)
"""What a quantised decoder is compared with its checkpoint on: a prompt that it may fold into its
weights, and one that is too long for that."""

PIECE_FRAMES = 25
"""Codes that are taken from the loop at once: half a second of audio."""

_DECODE_SHARE = 0.95
"""Part of the progress that belongs to the decoder; the rest is the codec's."""


class MusicGenEngine:
    """A checkpoint that is loaded."""

    def __init__(
        self,
        facts: EngineFacts,
        parts: _Parts,
        processor: Processor,
    ) -> None:
        """Start the decode loop on what was read; `close` ends it."""
        self._facts = facts
        self._text = parts.text
        self._melody = parts.melody
        self._codec = parts.codec
        self._label = parts.backend.label
        self._processor = processor
        self._work: Work = processor
        if parts.backend.device.type == "cpu":
            self._loop = DecodeLoop(parts.backend.model, work=processor)
        else:
            stream = torch.cuda.Stream(parts.backend.device)  # type: ignore[no-untyped-call]
            self._work = partial(_beside_the_decoder, stream)
            self._loop = DecodeLoop(parts.backend.model)

    @classmethod
    def load(cls, model: PublishedModel, settings: Settings) -> MusicGenEngine:
        """Read the checkpoint of a published model on this machine.

        Raises:
            CheckpointError: it is not here, or damaged.
            EngineUnavailableError: the memory does not hold it.
        """
        checkpoint = find_checkpoint(model, settings.models_dir)
        return cls.of_checkpoint(checkpoint, model.facts_at(checkpoint.revision), settings)

    @classmethod
    def of_checkpoint(
        cls, checkpoint: Checkpoint, facts: EngineFacts, settings: Settings
    ) -> MusicGenEngine:
        """Read a checkpoint; raises as `load`."""
        processor = Processor()
        with ExitStack() as if_it_fails:
            if_it_fails.callback(processor.close)
            engine = cls(facts, processor(partial(_read, checkpoint, settings)), processor)
            if_it_fails.pop_all()
        return engine

    @property
    def facts(self) -> EngineFacts:
        """What can be said before it runs."""
        return self._facts

    @property
    def label(self) -> str:
        """Precision and back end, as "int8, native"."""
        return self._label

    def close(self) -> None:
        """End the decode loop; what is at work fails."""
        self._loop.close()
        self._processor.close()

    def render(
        self, params: GenerationParams, progress: Progress, should_stop: ShouldStop
    ) -> Rendered:
        """See `Engine`; the decode loop steps the requests of all callers as one batch."""
        progress("encoding_prompt", 0.0)
        prepared = self._prepare(params)
        if should_stop():
            raise CancelledError("The music was stopped before it was begun.")
        progress("generating", 0.0)
        handle = self._loop.submit(prepared, should_stop=should_stop)
        try:
            return self._collect(params, handle, _Watch(handle, progress), should_stop)
        finally:
            handle.cancel()

    def _prepare(self, request: GenerationParams) -> DecodeRequest:
        self._check(request)
        facts, end, notes = self._facts, None, None
        if request.continue_from is not None:
            frame = self._codec.samples_per_frame
            end = read_for_continuation(
                request.continue_from, facts.sample_rate, facts.channels, frame
            )
        if request.melody is not None and self._melody is not None:
            notes = read_melody(request.melody, self._melody.sample_rate)[0]
        return self._work(partial(self._condition, request, end, notes))

    def _condition(
        self, request: GenerationParams, end: Audio | None, notes: Audio | None
    ) -> DecodeRequest:
        """What the loop is asked for, with the end of a file, and with a melody `[samples]`."""
        (text,) = self._text.encode([request.prompt])
        prefix = None if end is None else self._codec.encode(torch.from_numpy(end)).numpy()
        known = 0 if prefix is None else prefix.shape[1]
        frames = known + math.ceil(request.duration_seconds * FRAME_RATE)
        conditioning: tuple[Conditioning, ...] = (Conditioning(text),)
        if self._melody is not None and notes is None:
            conditioning = (self._melody.condition(text, None),)
        elif self._melody is not None:
            # The melody goes on where a window begins.
            melody = torch.from_numpy(notes)
            starts = [(window.start - known) / FRAME_RATE for window in windows(frames, known)]
            conditioning = tuple(self._melody.condition(text, melody, start) for start in starts)
        room = MOST_STATES - (len(conditioning[0].states) - len(text))
        if len(text) > room:
            raise InvalidRequestError(
                f"The prompt is {len(text)} tokens long, and {self._facts.name} takes {room} at "
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
        watch: _Watch,
        should_stop: ShouldStop,
    ) -> Rendered:
        """Decode the codes of a request as they come."""
        stream = self._codec.stream()
        pieces = []
        for codes in handle.stream(PIECE_FRAMES, while_waiting=watch.tell):
            if should_stop():
                raise CancelledError("The music was stopped before it was finished.")
            pieces.append(self._work(partial(stream.push, torch.from_numpy(codes))))
            watch.tell()
        pieces.append(self._work(stream.finish))
        audio = np.concatenate([piece.numpy() for piece in pieces], axis=1)
        samples = round(request.duration_seconds * self._facts.sample_rate)
        # A file that was continued is heard in front, for the codec to go on from, and cut off.
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
    """What is read of a checkpoint."""

    text: TextEncoder
    melody: MelodyConditioner | None
    codec: Codec
    backend: Backend


def _read(checkpoint: Checkpoint, settings: Settings) -> _Parts:
    weights = weights_of(checkpoint)
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


def _beside_the_decoder(stream: torch.cuda.Stream, action: Callable[[], T], /) -> T:
    with torch.cuda.stream(stream):
        return action()


@dataclass(slots=True)
class _Watch:
    """Reports the progress of a request."""

    handle: DecodeHandle
    progress: Progress
    told: float = 0.0

    def tell(self) -> None:
        """Report also when nothing moved: an engine that is silent for long counts as stuck."""
        seen = self.handle.progress()
        self.told = max(self.told, _DECODE_SHARE * seen.steps_done / seen.steps_total)
        self.progress("generating", self.told)
