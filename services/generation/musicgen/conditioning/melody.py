"""Encodes a melody for a melody model as the strongest of twelve notes at each moment.

This follows MusicgenMelodyFeatureExtractor and MusicgenMelodyForConditionalGeneration of
transformers, whose extractor needs torchaudio, which this project does not install. As in
transformers, and unlike in the models' own code, the whole mix is analysed and not separated stems.
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
    """Parameters of the note analysis; the defaults are those of all published models."""

    sample_rate: int = 32_000
    window: int = 16_384
    """Samples."""
    hop: int = 4_096
    """Samples."""
    notes: int = 12
    longest_seconds: int = 30


class MelodyConditioner:
    """Puts a melody, projected to the decoder's width, before the states of a prompt."""

    def __init__(self, settings: ChromaSettings, length: int, projection: Projection) -> None:
        self._settings = settings
        self._length = length
        self._projection = projection

    @classmethod
    def load(cls, checkpoint: Checkpoint, weights: SafetensorsWeights) -> MelodyConditioner:
        """Load the conditioner of a melody model.

        Raises:
            CheckpointError: a setting or tensor is missing, damaged or of another shape.
        """
        settings = _read_settings(checkpoint)
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
            raise CheckpointError(f"A decoder with {hidden} values is too narrow for melodies.")
        return cls(settings, length, projection)

    @property
    def sample_rate(self) -> int:
        """Hz, for the audio of `condition`."""
        return self._settings.sample_rate

    @torch.inference_mode()
    def condition(
        self, text: Tensor, melody: Tensor | None, start_seconds: float = 0.0
    ) -> Conditioning:
        """Return the conditioning of a window.

        Without a melody, and in the unconditional row, the first note marks silence. The
        unconditional row has zeros for the prompt.

        Args:
            text: float32 `[length, hidden]` from the text encoder.
            melody: float32 `[samples]` at `sample_rate`, repeated at its end; None for no melody.
            start_seconds: start of the window in the melody; 30 s from there are used.
        """
        if melody is not None:
            start = round(start_seconds * self.sample_rate) % melody.shape[0]
            melody = torch.cat([melody[start:], melody[:start]])
        silence = torch.zeros(1, self._settings.notes)
        silence[0, 0] = 1.0
        notes = silence if melody is None else chroma(melody, self._settings)
        return Conditioning(
            torch.cat([self._project(notes), text]),
            torch.cat([self._project(silence), torch.zeros_like(text)]),
        )

    def _project(self, notes: Tensor) -> Tensor:
        repeated = notes.repeat(math.ceil(self._length / notes.shape[0]), 1)
        return self._projection(repeated[: self._length])


@torch.inference_mode()
def chroma(audio: Tensor, settings: ChromaSettings | None = None) -> Tensor:
    """Find the strongest note of each window.

    Args:
        audio: float32 `[samples]`, mono.
        settings: parameters; None is those of the published models.

    Returns:
        float32 `[windows, notes]`, a single 1 in each row; column 0 is C.
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
    # transformers divides too. Notes that become equal by rounding count as the first of them.
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


def _read_settings(checkpoint: Checkpoint) -> ChromaSettings:
    path = checkpoint.folder / _PREPROCESSOR
    if not path.is_file():
        return ChromaSettings()
    found = read_json(path)
    return ChromaSettings(
        sample_rate=_read_number(found, path, "sampling_rate", 32_000),
        window=_read_number(found, path, "n_fft", 16_384),
        hop=_read_number(found, path, "hop_length", 4_096),
        notes=_read_number(found, path, "num_chroma", 12),
        longest_seconds=_read_number(found, path, "chunk_length", 30),
    )


def _read_number(found: Mapping[str, Any], path: Path, name: str, default: int) -> int:
    value = found.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(f"{path} has a {name} of {value!r}. Install the model again.")
    return value
