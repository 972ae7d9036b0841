"""transformers' `generate` as an engine for comparison, and both engines with random weights."""

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
    """transformers' `generate` as an engine: float32 on a CPU, bfloat16 on a GPU.

    It cannot be stopped and reports no progress.
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
        return self._facts

    def set_dtype(self, dtype: torch.dtype) -> None:
        """Convert everything except the codec, which is fastest in float32 on a CPU."""
        self._model.to(dtype)
        self._model.audio_encoder.to(torch.float32)

    def render(
        self,
        params: GenerationParams,
        progress: Progress,
        should_stop: ShouldStop,  # noqa: ARG002
    ) -> Rendered:
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
                    samples.float().cpu().numpy()[:, : round(one.duration_seconds * rate)]
                ),
                sample_rate=rate,
                seed=one.seed,
            )
            for one, samples in zip(requests, audio, strict=True)
        ]


def random_engine(name: str, settings: Settings) -> MusicGenEngine:
    """Return our engine on a checkpoint of random weights, which is written to disk first.

    Raises:
        EngineUnavailableError: no model has that name.
        InvalidRequestError: it is a melody model.
    """
    facts = published_model(name).facts_at(None)
    checkpoint = open_checkpoint(_random_checkpoint(name))
    return MusicGenEngine.from_checkpoint(checkpoint, facts, settings)


def transformers_engine(
    name: str, settings: Settings, *, random_weights: bool
) -> TransformersEngine:
    """Return transformers on the same checkpoint; raises as `random_engine`, or CheckpointError."""
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
    # Both sides of a comparison use the same one; it is deleted when the process ends.
    folder = Path(tempfile.mkdtemp(prefix="dgx-music-random-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_random_checkpoint(folder, published_model(name).geometry)
    return folder
