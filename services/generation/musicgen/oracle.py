"""What MusicGen is measured against: transformers' own `generate`; and both without weights."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import MusicgenForConditionalGeneration
from transformers.utils import logging as transformers_logging

from services.generation.engine import Rendered
from services.generation.musicgen.catalogue import published_model
from services.generation.musicgen.checkpoint.checkpoints import (
    TOKENIZER,
    find_checkpoint,
    open_checkpoint,
)
from services.generation.musicgen.checkpoint.random_model import write_random_checkpoint
from services.generation.musicgen.engine import MusicGenEngine
from services.generation.musicgen.geometry import FRAME_RATE

if TYPE_CHECKING:
    from services.config import Settings
    from services.generation.engine import EngineFacts, GenerationParams, Progress, ShouldStop


class TransformersEngine:
    """`generate` of transformers as an engine: float32 on a CPU, bfloat16 on a GPU.

    It can neither be stopped nor tell how far it is.
    """

    def __init__(self, folder: Path, facts: EngineFacts, device: torch.device) -> None:
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        loaded: Any = MusicgenForConditionalGeneration.from_pretrained(folder, dtype=dtype)
        self._model = loaded.to(device)
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        self._tokenizer.enable_padding()
        codebooks = self._model.decoder.num_codebooks
        self._longest_lag = codebooks // self._model.config.decoder.audio_channels - 1
        self._facts = facts
        self._device = device

    @property
    def facts(self) -> EngineFacts:
        """What can be said before it runs."""
        return self._facts

    def use_decoder_of(self, dtype: torch.dtype) -> None:
        """Let all but the codec compute in a type: on a CPU the codec is fastest in float32."""
        self._model.to(dtype)
        self._model.audio_encoder.to(torch.float32)

    def render(
        self,
        params: GenerationParams,
        progress: Progress,
        should_stop: ShouldStop,  # noqa: ARG002
    ) -> Rendered:
        """Render one request."""
        progress("generating", 0.0)
        (rendered,) = self.render_batch([params])
        return rendered

    @torch.inference_mode()
    def render_batch(self, requests: Sequence[GenerationParams]) -> list[Rendered]:
        """Render the requests as one batch, as long as the longest of them."""
        encoded = self._tokenizer.encode_batch([one.prompt for one in requests])
        longest = max(one.duration_seconds for one in requests)
        torch.manual_seed(requests[0].seed)
        audio = self._model.generate(
            input_ids=torch.tensor([one.ids for one in encoded], device=self._device),
            attention_mask=torch.tensor(
                [one.attention_mask for one in encoded], device=self._device
            ),
            do_sample=True,
            guidance_scale=requests[0].cfg_coef,
            temperature=requests[0].temperature,
            top_k=requests[0].top_k,
            max_new_tokens=round(longest * FRAME_RATE) + self._longest_lag,
        )
        rate = self._facts.sample_rate
        return [
            Rendered(
                audio=np.ascontiguousarray(
                    made.float().cpu().numpy()[:, : round(one.duration_seconds * rate)]
                ),
                sample_rate=rate,
                seed=one.seed,
            )
            for one, made in zip(requests, audio, strict=True)
        ]


def random_engine(name: str, settings: Settings) -> MusicGenEngine:
    """Our engine on a checkpoint of random numbers, through the disk as any other.

    Raises:
        EngineUnavailableError: there is no model of that name.
        InvalidRequestError: it is one for melodies.
    """
    facts = published_model(name).facts_at(None)
    return MusicGenEngine.of_checkpoint(open_checkpoint(_random_checkpoint(name)), facts, settings)


def transformers_engine(
    name: str, settings: Settings, *, random_weights: bool
) -> TransformersEngine:
    """Transformers on the same checkpoint; raises as `random_engine`, or CheckpointError."""
    model = published_model(name)
    folder = (
        _random_checkpoint(name)
        if random_weights
        else find_checkpoint(model, settings.models_dir).folder
    )
    on_gpu = settings.use_gpu and torch.cuda.is_available()
    return TransformersEngine(folder, model.facts, torch.device("cuda" if on_gpu else "cpu"))


@cache
def _random_checkpoint(name: str) -> Path:
    """Written once, for both sides of a comparison; gone with the process."""
    folder = Path(tempfile.mkdtemp(prefix="dgx-music-random-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_random_checkpoint(folder, published_model(name).geometry)
    return folder
