"""The layers of an EnCodec model as separate steps, so that a clip can be decoded in parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from services.audio.arrays import MAX_CHANNELS
from services.generation.musicgen.checkpoint.parts import load_codec
from services.generation.musicgen.codec.lstm import pack_lstm
from services.generation.musicgen.codec.stack import CodecStack

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import EncodecModel

    from services.generation.musicgen.checkpoint.checkpoints import Checkpoint
    from services.generation.musicgen.checkpoint.stored_weights import SafetensorsWeights
    from services.generation.musicgen.codec.lstm import LstmState

BLOCK_FRAMES = 100
"""Frames that pass the LSTM at once. Block boundaries do not depend on how the codes arrive: the
same codes give bitwise the same audio."""


class CodecLayers:
    """The layers of transformers' EncodecModel."""

    def __init__(self, model: EncodecModel, device: torch.device) -> None:
        """Move a model to a device, and take its decoder apart."""
        whole: Any = model
        whole.to(device)
        first, recurrent, *upsampling = whole.decoder.layers
        whole.decoder = None  # frees the layers that are packed below
        self._model = whole
        self.device = device
        self._first = first
        self._lstm = pack_lstm(recurrent.lstm, device)
        self._stack = CodecStack(upsampling, device)
        self.context = (int(first.kernel_size) - 1) // 2
        """Frames on each side that the first convolution reads."""
        self.width = int(recurrent.lstm.hidden_size)
        self.hop = int(self._model.config.hop_length)
        """Samples per frame."""
        self.codebooks = int(self._model.config.num_quantizers)
        """Codebooks of one channel."""
        self.codebook_size = int(self._model.config.codebook_size)
        self.rows_at_once = 1 if device.type == "cpu" else MAX_CHANNELS
        """Channels that pass the stack together; more than one do not fit into a CPU's cache.

        Different clips never share a call: the audio of a clip must not depend on other clips.
        """

    @classmethod
    def load(
        cls, checkpoint: Checkpoint, weights: SafetensorsWeights, device: torch.device
    ) -> CodecLayers:
        """Load the layers of a checkpoint in float32; raises CheckpointError."""
        return cls(load_codec(checkpoint, weights), device)

    def encode(self, audio: Tensor) -> Tensor:
        """Encode audio `[rows, 1, samples]` to `[rows, codebooks, frames]` on the CPU."""
        codes: Tensor = self._model.encode(audio.to(self.device)).audio_codes[0]
        return codes.cpu()

    def embed(self, codes: Tensor) -> Tensor:
        """Turn codes `[rows, codebooks, frames]` into sums of vectors, `[rows, size, frames]`."""
        vectors: Tensor = self._model.quantizer.decode(codes.transpose(0, 1).to(self.device))
        return vectors

    def convolve(self, vectors: Tensor) -> Tensor:
        """Apply the first convolution: `[rows, size, frames]` to `[rows, width, frames]`."""
        convolved: Tensor = self._first(vectors)
        return convolved

    def recur(self, convolved: Tensor, state: LstmState | None) -> tuple[Tensor, LstmState]:
        """Apply the LSTM and its shortcut to `[rows, width, frames]`; None is the initial state."""
        steps = convolved.permute(2, 0, 1)
        outputs, state = self._lstm(steps, state)
        return (outputs + steps).permute(1, 2, 0), state

    def upsample(self, states: Tensor) -> Tensor:
        """Turn `[rows, width, frames]` into samples `[rows, frames * hop]` on the CPU."""
        return self._stack(states).float().cpu()


class StateStream:
    """The first convolution, which reads ahead, and the LSTM for the codes of one clip."""

    def __init__(self, layers: CodecLayers, rows: int) -> None:
        self._layers = layers
        self._empty = torch.empty(rows, layers.width, 0, device=layers.device)
        self._vectors: Tensor | None = None
        self._first = 0
        """Frame of the first of `_vectors`."""
        self._done = 0
        """Frames that have passed the LSTM."""
        self._lstm_state: LstmState | None = None

    def push(self, codes: Tensor) -> Tensor:
        """Add codes `[rows, codebooks, frames]`; return the finished states `[rows, width, n]`."""
        vectors = self._layers.embed(codes)
        if self._vectors is not None:
            vectors = torch.cat([self._vectors, vectors], dim=2)
        self._vectors = vectors
        states = [self._empty]
        while self._done + BLOCK_FRAMES + self._layers.context <= self._available:
            states.append(self._advance(self._done + BLOCK_FRAMES))
        return torch.cat(states, dim=2)

    def finish(self) -> Tensor:
        """Return the states of the last frames, `[rows, width, n]`."""
        states = [self._empty]
        while self._done < self._available:
            states.append(self._advance(min(self._done + BLOCK_FRAMES, self._available)))
        return torch.cat(states, dim=2)

    @property
    def _available(self) -> int:
        return self._first + (0 if self._vectors is None else self._vectors.shape[2])

    def _advance(self, end: int) -> Tensor:
        assert self._vectors is not None
        until = min(self._available, end + self._layers.context)
        convolved = self._layers.convolve(self._vectors[:, :, : until - self._first])
        convolved = convolved[:, :, self._done - self._first : end - self._first]
        states, self._lstm_state = self._layers.recur(convolved, self._lstm_state)
        self._done = end
        keep = max(0, end - self._layers.context)
        self._vectors = self._vectors[:, :, keep - self._first :]
        self._first = keep
        return states
