"""A melody to what a melody model is conditioned on: at each moment, the strongest of twelve notes.

After MusicgenMelodyFeatureExtractor and MusicgenMelodyForConditionalGeneration of transformers,
whose extractor needs a package that this project does without. As there, and unlike the models'
authors, the melody is taken from the whole sound and not from its separated voices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from transformers.audio_utils import chroma_filter_bank

from services.errors import CheckpointError
from services.generation.musicgen.checkpoint.checkpoints import read_json
from services.generation.musicgen.checkpoint.parts import load_projection
from services.generation.musicgen.loop.request import Conditioning

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from services.generation.musicgen.checkpoint.checkpoints import Checkpoint
    from services.generation.musicgen.checkpoint.parts import Projection
    from services.generation.musicgen.checkpoint.stored_weights import SafetensorsWeights

_PREPROCESSOR = "preprocessor_config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChromaSettings:
    """How notes are read; the defaults are those of all published models."""

    sample_rate: int = 32_000
    window: int = 16_384
    """Samples."""
    hop: int = 4_096
    """Samples from one window to the next."""
    notes: int = 12
    longest_seconds: int = 30


class MelodyConditioner:
    """Notes in the decoder's width, in front of the states of the prompt."""

    def __init__(self, settings: ChromaSettings, length: int, projection: Projection) -> None:
        self._settings = settings
        self._length = length
        self._projection = projection

    @classmethod
    def load(cls, checkpoint: Checkpoint, weights: SafetensorsWeights) -> MelodyConditioner:
        """Read it from the checkpoint of a melody model.

        Raises:
            CheckpointError: something is missing, damaged or of another shape.
        """
        settings = _settings(checkpoint)
        length = checkpoint.config.get("chroma_length", 235)
        if not isinstance(length, int) or length < 1:
            raise CheckpointError(f"{checkpoint.folder} has a chroma_length of {length!r}.")
        notes = checkpoint.config.get("num_chroma", settings.notes)
        if notes != settings.notes:
            raise CheckpointError(
                f"{checkpoint.folder} has {notes} notes in config.json and {settings.notes} in "
                f"{_PREPROCESSOR}."
            )
        projection = load_projection(checkpoint, weights, "audio_enc_to_dec_proj", settings.notes)
        if projection is None:
            hidden = checkpoint.geometry.hidden
            raise CheckpointError(f"A decoder of {hidden} values is too narrow for melodies.")
        return cls(settings, length, projection)

    @property
    def sample_rate(self) -> int:
        """Hz, of the audio that `condition` takes."""
        return self._settings.sample_rate

    @torch.inference_mode()
    def condition(
        self, text: Tensor, melody: Tensor | None, start_seconds: float = 0.0
    ) -> Conditioning:
        """Put a melody, or the sign for none, before a prompt.

        The unconditional half gets the sign for none, then zeros.

        Args:
            text: float32 `[length, hidden]` from the text encoder.
            melody: float32 `[samples]` at `sample_rate`, which begins again at its end.
            start_seconds: where in the melody the window begins, of which 30 s are read.
        """
        if melody is not None:
            begin = round(start_seconds * self.sample_rate) % melody.shape[0]
            melody = torch.cat([melody[begin:], melody[:begin]])
        nothing = torch.zeros(1, self._settings.notes)
        nothing[0, 0] = 1.0
        notes = nothing if melody is None else chroma(melody, self._settings)
        return Conditioning(
            torch.cat([self._states(notes), text]),
            torch.cat([self._states(nothing), torch.zeros_like(text)]),
        )

    def _states(self, notes: Tensor) -> Tensor:
        repeated = notes.repeat(math.ceil(self._length / notes.shape[0]), 1)
        return self._projection(repeated[: self._length])


@torch.inference_mode()
def chroma(audio: Tensor, settings: ChromaSettings | None = None) -> Tensor:
    """The strongest note of each window.

    Args:
        audio: float32 `[samples]`, mono.
        settings: how to read; None takes those of the published models.

    Returns:
        Float32 `[windows, notes]`, a single 1 in each row; row 0 is C.
    """
    settings = settings or ChromaSettings()
    audio = audio[: settings.longest_seconds * settings.sample_rate]
    if (short := settings.window - audio.shape[0]) > 0:
        audio = torch.nn.functional.pad(audio, (short // 2, short - short // 2))
    window = torch.hann_window(settings.window)
    spectrum = torch.stft(
        audio,
        settings.window,
        settings.hop,
        window=window,
        center=True,
        pad_mode="reflect",
        return_complex=True,
    )
    power = (spectrum / window.square().sum().sqrt()).abs().square()
    raw = _filters(settings) @ power
    # Divided by the strongest, as there: notes that this rounds to the same go to the first.
    loudest = raw.abs().amax(dim=0, keepdim=True).clamp_min(1e-6)
    strongest = (raw / loudest).argmax(dim=0)
    return torch.nn.functional.one_hot(strongest, settings.notes).float()


@cache
def _filters(settings: ChromaSettings) -> Tensor:
    bank = chroma_filter_bank(
        num_frequency_bins=settings.window,
        num_chroma=settings.notes,
        sampling_rate=settings.sample_rate,
        tuning=0,
    )
    return torch.from_numpy(bank).float()


def _settings(checkpoint: Checkpoint) -> ChromaSettings:
    path = checkpoint.folder / _PREPROCESSOR
    if not path.is_file():
        return ChromaSettings()
    found = read_json(path)
    return ChromaSettings(
        sample_rate=_number(found, path, "sampling_rate", 32_000),
        window=_number(found, path, "n_fft", 16_384),
        hop=_number(found, path, "hop_length", 4_096),
        notes=_number(found, path, "num_chroma", 12),
        longest_seconds=_number(found, path, "chunk_length", 30),
    )


def _number(found: Mapping[str, Any], path: Path, name: str, default: int) -> int:
    value = found.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(f"{path} has a {name} of {value!r}. Install the model again.")
    return value
