"""MusicGen as an engine: prompts, melodies and files to go on from become audio.

`render` may be called from several threads: the decode loop steps all their requests together.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from services.generation.engine import Rendered
from services.generation.errors import CancelledError, InvalidRequestError
from services.generation.musicgen.backends import choose_backend
from services.generation.musicgen.checkpoints import find_checkpoint
from services.generation.musicgen.codec import Codec
from services.generation.musicgen.geometry import FRAME_RATE
from services.generation.musicgen.loop import DecodeLoop
from services.generation.musicgen.melody import MelodyConditioner
from services.generation.musicgen.parts import weights_of
from services.generation.musicgen.references import read_for_continuation, read_melody
from services.generation.musicgen.request import Conditioning, DecodeRequest, Sampling
from services.generation.musicgen.text import TextEncoder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from services.generation.config import Settings
    from services.generation.engine import EngineFacts, GenerationParams, Progress, ShouldStop
    from services.generation.musicgen.backends import Backend
    from services.generation.musicgen.catalogue import PublishedModel
    from services.generation.musicgen.checkpoints import Checkpoint
    from services.generation.musicgen.handle import DecodeHandle
    from services.generation.musicgen.sequence import Turn
    from services.generation.musicgen.token_model import TokenModel

CHECK_PROMPTS = ("lo-fi beat with soft piano", "heavy techno at 130 BPM, distorted 909 drums")
"""What a quantised decoder is compared with its checkpoint on."""

PIECE_FRAMES = 25
"""Codes that are taken from the loop at once: half a second of audio."""

_DECODE_SHARE = 0.95
"""Part of the progress that belongs to the decoder; the rest is the codec's."""


class MusicGenEngine:
    """A checkpoint that is loaded."""

    def __init__(
        self,
        facts: EngineFacts,
        text: TextEncoder,
        melody: MelodyConditioner | None,
        codec: Codec,
        backend: Backend,
    ) -> None:
        """Put the parts together, and start the decode loop; `close` ends it."""
        self._facts = facts
        self._text = text
        self._melody = melody
        self._codec = codec
        self._label = backend.label
        # On a CPU the parts would only take the cores from one another: they take turns.
        self._turn = threading.Lock()
        self._is_shared = backend.device.type == "cpu"
        self._stream: torch.cuda.Stream | None = None
        if not self._is_shared:
            self._stream = torch.cuda.Stream(backend.device)  # type: ignore[no-untyped-call]
        model = _InTurns(backend.model, self._turn) if self._is_shared else backend.model
        self._loop = DecodeLoop(model)

    @classmethod
    def load(cls, model: PublishedModel, settings: Settings) -> MusicGenEngine:
        """Read the checkpoint of a published model on this machine.

        Raises:
            CheckpointError: it is not here, or damaged.
            EngineUnavailableError: the memory does not hold it.
        """
        checkpoint = find_checkpoint(model, settings.models_dir)
        return cls.of_checkpoint(checkpoint, model.facts, settings)

    @classmethod
    def of_checkpoint(
        cls, checkpoint: Checkpoint, facts: EngineFacts, settings: Settings
    ) -> MusicGenEngine:
        """Read a checkpoint; raises as `load`."""
        weights = weights_of(checkpoint)
        text = TextEncoder.load(checkpoint, weights)
        codec = Codec.load(checkpoint, weights)
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
        return cls(facts, text, melody, codec.to(backend.device), backend)

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

    def render(
        self,
        requests: Sequence[GenerationParams],
        progress: Progress,
        should_stop: ShouldStop,
    ) -> list[Rendered]:
        """Make one result a request; see `Engine`. Any number of threads may at once."""
        progress("encoding_prompt", 0.0)
        prepared = [self._prepare(request) for request in requests]
        if should_stop():
            raise CancelledError("The music was stopped before it was begun.")
        progress("generating", 0.0)
        with ExitStack() as stack:
            handles = []
            for one in prepared:
                handle = self._loop.submit(one, should_stop=should_stop)
                stack.callback(handle.cancel)
                handles.append(handle)
            watch = _Watch(handles, progress)
            return [
                self._collect(request, handle, watch, should_stop)
                for request, handle in zip(requests, handles, strict=True)
            ]

    def _prepare(self, request: GenerationParams) -> DecodeRequest:
        self._check(request)
        with self._at_work():
            (text,) = self._text.encode([request.prompt])
            prefix = None
            if request.continue_from is not None:
                prefix = self._codes_of_end(request)
            conditioning = Conditioning(text)
            if self._melody is not None:
                notes = None
                if request.melody is not None:
                    read = read_melody(request.melody, self._melody.sample_rate)
                    notes = torch.from_numpy(read[0])
                conditioning = self._melody.condition(text, notes)
        known = 0 if prefix is None else prefix.shape[1]
        return DecodeRequest(
            conditioning=(conditioning,),
            frames=known + math.ceil(request.duration_seconds * FRAME_RATE),
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

    def _codes_of_end(self, request: GenerationParams) -> NDArray[np.int64]:
        assert request.continue_from is not None
        audio = read_for_continuation(
            request.continue_from,
            self._facts.sample_rate,
            self._facts.channels,
            self._codec.samples_per_frame,
        )
        codes: NDArray[np.int64] = self._codec.encode(torch.from_numpy(audio)).numpy()
        return codes

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
            with self._at_work():
                pieces.append(stream.push(torch.from_numpy(codes)))
            watch.tell()
        with self._at_work():
            pieces.append(stream.finish())
        audio = torch.cat(pieces, dim=1).numpy()
        samples = round(request.duration_seconds * self._facts.sample_rate)
        # A file that was continued is heard in front, for the codec to go on from, and cut off.
        first = handle.prefix_frames * self._codec.samples_per_frame
        return Rendered(
            audio=np.ascontiguousarray(audio[:, first : first + samples], dtype=np.float32),
            sample_rate=self._facts.sample_rate,
            seed=request.seed,
            understood={"backend": self._label},
        )

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """The processor's cores for a moment, or a stream of the GPU beside the decoder's."""
        with (
            self._turn if self._is_shared else nullcontext(),
            torch.cuda.stream(self._stream) if self._stream is not None else nullcontext(),
        ):
            yield


@dataclass(slots=True)
class _Watch:
    """The progress of requests that were asked for together."""

    handles: Sequence[DecodeHandle]
    progress: Progress
    told: float = 0.0

    def tell(self) -> None:
        """Say how far all of them are, also where nothing moved: silence is taken for death."""
        seen = [handle.progress() for handle in self.handles]
        done = sum(one.steps_done for one in seen) / sum(one.steps_total for one in seen)
        self.told = max(self.told, _DECODE_SHARE * done)
        self.progress("generating", self.told)


class _InTurns:
    """A `TokenModel` that works only while it has the turn."""

    def __init__(self, inner: TokenModel, turn: threading.Lock) -> None:
        self._inner = inner
        self._turn = turn
        self.geometry = inner.geometry
        self.slots = inner.slots
        self.positions = inner.positions

    def begin(
        self,
        slot: int,
        conditioning: Conditioning,
        sampling: Sampling,
        opening: NDArray[np.int64],
    ) -> None:
        with self._turn:
            self._inner.begin(slot, conditioning, sampling, opening)

    def advance(self, turns: Sequence[Turn]) -> NDArray[np.int64]:
        with self._turn:
            return self._inner.advance(turns)
