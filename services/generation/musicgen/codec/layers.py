"""The layers of an EnCodec model, cut where a clip can be cut."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from services.audio.arrays import MAX_CHANNELS
from services.generation.musicgen.checkpoint.parts import load_codec
from services.generation.musicgen.codec.lstm import recurrence
from services.generation.musicgen.codec.stack import CodecStack

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import EncodecModel

    from services.generation.musicgen.checkpoint.checkpoints import Checkpoint
    from services.generation.musicgen.checkpoint.stored_weights import SafetensorsWeights
    from services.generation.musicgen.codec.lstm import Memory

BLOCK_FRAMES = 100
"""What goes through the LSTM at once. Blocks lie where they lie, however the codes arrive, so that
the same codes are the same audio to the last bit."""


class CodecLayers:
    """transformers' EncodecModel as the steps of a decode in pieces."""

    def __init__(self, model: EncodecModel, device: torch.device) -> None:
        """Take a model over, for a device."""
        whole: Any = model
        whole.to(device)
        first, remembering, *upsampling = whole.decoder.layers
        whole.decoder = None  # what is packed below is not kept twice
        self._model = whole
        self.device = device
        self._first = first
        self._recurrence = recurrence(remembering.lstm, device)
        self._stack = CodecStack(upsampling, device)
        self.context = (int(first.kernel_size) - 1) // 2
        """Frames on each side that the first convolution reads."""
        self.width = int(remembering.lstm.hidden_size)
        self.hop = int(self._model.config.hop_length)
        """Samples a frame."""
        self.codebooks = int(self._model.config.num_quantizers)
        """Of one channel."""
        self.codebook_size = int(self._model.config.codebook_size)
        self.rows_at_once = 1 if device.type == "cpu" else MAX_CHANNELS
        """Channels of a clip that go through the stack together; a CPU's cache has room for one.

        Clips never do: what a clip sounds like must not depend on its neighbours, to the last bit.
        """

    @classmethod
    def load(
        cls, checkpoint: Checkpoint, weights: SafetensorsWeights, device: torch.device
    ) -> CodecLayers:
        """Read them from a checkpoint, float32; raises CheckpointError."""
        return cls(load_codec(checkpoint, weights), device)

    def encode(self, audio: Tensor) -> Tensor:
        """Codes `[rows, codebooks, frames]` of audio `[rows, 1, samples]`, on the CPU."""
        codes: Tensor = self._model.encode(audio.to(self.device)).audio_codes[0]
        return codes.cpu()

    def embed(self, codes: Tensor) -> Tensor:
        """Codes `[rows, codebooks, frames]` as sums of vectors, `[rows, size, frames]`."""
        vectors: Tensor = self._model.quantizer.decode(codes.transpose(0, 1).to(self.device))
        return vectors

    def mix(self, vectors: Tensor) -> Tensor:
        """The first convolution: `[rows, size, frames]` to `[rows, width, frames]`."""
        mixed: Tensor = self._first(vectors)
        return mixed

    def recur(self, mixed: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        """The LSTM with its shortcut over `[rows, width, frames]`, from a state to a state."""
        steps = mixed.permute(2, 0, 1)
        states, memory = self._recurrence(steps, memory)
        return (states + steps).permute(1, 2, 0), memory

    def upsample(self, states: Tensor) -> Tensor:
        """`[rows, width, frames]` to samples `[rows, frames * hop]`, on the CPU."""
        return self._stack(states).float().cpu()


class Recurrence:
    """The first convolution, which looks ahead, and the LSTM, which remembers."""

    def __init__(self, layers: CodecLayers, rows: int) -> None:
        self._layers = layers
        self._nothing = torch.empty(rows, layers.width, 0, device=layers.device)
        self._vectors: Tensor | None = None
        self._first = 0
        """The frame that `_vectors` begins with."""
        self._done = 0
        """Frames that have been through the LSTM."""
        self._memory: Memory | None = None

    def push(self, codes: Tensor) -> Tensor:
        """Take codes `[rows, codebooks, some]`; give what is certain, `[rows, width, n]`."""
        vectors = self._layers.embed(codes)
        if self._vectors is not None:
            vectors = torch.cat([self._vectors, vectors], dim=2)
        self._vectors = vectors
        states = [self._nothing]
        while self._done + BLOCK_FRAMES + self._layers.context <= self._known:
            states.append(self._advance(self._done + BLOCK_FRAMES))
        return torch.cat(states, dim=2)

    def finish(self) -> Tensor:
        """The states of the last frames, `[rows, width, n]`."""
        states = [self._nothing]
        while self._done < self._known:
            states.append(self._advance(min(self._done + BLOCK_FRAMES, self._known)))
        return torch.cat(states, dim=2)

    @property
    def _known(self) -> int:
        return self._first + (0 if self._vectors is None else self._vectors.shape[2])

    def _advance(self, end: int) -> Tensor:
        assert self._vectors is not None
        until = min(self._known, end + self._layers.context)
        mixed = self._layers.mix(self._vectors[:, :, : until - self._first])
        mixed = mixed[:, :, self._done - self._first : end - self._first]
        states, self._memory = self._layers.recur(mixed, self._memory)
        self._done = end
        keep = max(0, end - self._layers.context)
        self._vectors = self._vectors[:, :, keep - self._first :]
        self._first = keep
        return states
