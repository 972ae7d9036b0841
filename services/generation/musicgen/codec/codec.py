"""Streaming EnCodec: codes to audio while they are drawn, and audio to codes.

The decoder is a convolution over code frames, an LSTM over time, and an upsampling stack with 640
samples per frame. The LSTM's state is carried from block to block. The stack runs over 98 frames at
a time with neighbours on both sides, whose samples are discarded: its data stays in the processor's
cache, and the result is that of a single pass over all frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from services.generation.musicgen.codec.layers import BLOCK_FRAMES, CodecLayers, StateStream

if TYPE_CHECKING:
    from torch import Tensor

    from services.generation.musicgen.checkpoint.checkpoints import Checkpoint
    from services.generation.musicgen.checkpoint.stored_weights import SafetensorsWeights

NEIGHBOURS = 2
"""Frames on each side of a chunk that are upsampled with it.

The samples of the published codec depend on one: half a frame from the first upsampling, and less
than half from all that follows. The second frame is a reserve."""

CHUNK_FRAMES = BLOCK_FRAMES - NEIGHBOURS
"""Two seconds: longer chunks are no faster on a CPU, and a stop waits for at most one. A chunk is
ready as soon as a block has passed the LSTM."""


class Codec:
    """The codec of a checkpoint.

    Codes are int64 `[codebooks, frames]`; in stereo, left and right alternate. Audio is float32
    `[channels, samples]` on the CPU.
    """

    def __init__(self, layers: CodecLayers, channels: int) -> None:
        self._layers = layers
        self.channels = channels

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        weights: SafetensorsWeights,
        device: torch.device = torch.device("cpu"),  # noqa: B008  (it does not change)
    ) -> Codec:
        """Load the codec of a checkpoint to a device, in float32.

        Raises:
            CheckpointError: a tensor is missing, damaged or of another shape.
        """
        layers = CodecLayers.load(checkpoint, weights, device)
        return cls(layers, checkpoint.geometry.channels)

    @property
    def samples_per_frame(self) -> int:
        """640 in the published models: 50 frames a second at 32 kHz."""
        return self._layers.hop

    @torch.inference_mode()
    def encode(self, audio: Tensor) -> Tensor:
        """Encode audio `[channels, samples]` at the codec's rate, as transformers does.

        The last frame is padded if it is incomplete.

        Raises:
            ValueError: the audio has another shape.
        """
        if audio.ndim != 2 or audio.shape[0] != self.channels or not audio.shape[1]:
            raise ValueError(f"Expected {self.channels} channels, got shape {tuple(audio.shape)}.")
        codes = torch.cat([self._layers.encode(channel[None, None]) for channel in audio])
        return codes.transpose(0, 1).reshape(-1, codes.shape[2])

    def stream(self, chunk_frames: int = CHUNK_FRAMES) -> CodecStream:
        """Start to decode the codes of one clip.

        Raises:
            ValueError: `chunk_frames` is less than 1.
        """
        return CodecStream(self._layers, self.channels, chunk_frames)


class CodecStream:
    """Decodes the codes of one clip as they arrive. Use it from one thread at a time."""

    def __init__(self, layers: CodecLayers, channels: int, chunk_frames: int) -> None:
        if chunk_frames < 1:
            raise ValueError(f"A chunk needs at least 1 frame, not {chunk_frames}.")
        self._layers = layers
        self._channels = channels
        self._chunk = chunk_frames
        self._state_stream = StateStream(layers, channels)
        self._states = torch.empty(channels, layers.width, 0, device=layers.device)
        self._first = 0
        """Frame of the first of `_states`."""
        self._done = 0
        """Frames whose samples were returned."""
        self._is_finished = False

    @torch.inference_mode()
    def push(self, codes: Tensor) -> Tensor:
        """Add int64 `[codebooks, frames]` and return the audio that later codes cannot change.

        The audio `[channels, samples]` has whole chunks, often none.

        Raises:
            ValueError: the codes are not valid, or the stream is finished.
        """
        self._require_open()
        rows = _split_channels(codes, self._layers, self._channels)
        self._states = torch.cat([self._states, self._state_stream.push(rows)], dim=2)
        chunks = [torch.empty(self._channels, 0)]
        while self._done + self._chunk + NEIGHBOURS <= self._available:
            chunks.append(self._upsample_to(self._done + self._chunk))
        return torch.cat(chunks, dim=1)

    @torch.inference_mode()
    def finish(self) -> Tensor:
        """Return the rest of the audio, `[channels, samples]`, and end the stream.

        Raises:
            ValueError: the stream is finished.
        """
        self._require_open()
        self._is_finished = True
        self._states = torch.cat([self._states, self._state_stream.finish()], dim=2)
        chunks = [torch.empty(self._channels, 0)]
        while self._done < self._available:
            chunks.append(self._upsample_to(min(self._available, self._done + self._chunk)))
        return torch.cat(chunks, dim=1)

    @property
    def _available(self) -> int:
        """Frames that have passed the LSTM."""
        return self._first + self._states.shape[2]

    def _require_open(self) -> None:
        if self._is_finished:
            raise ValueError("The stream is finished.")

    def _upsample_to(self, end: int) -> Tensor:
        low, high = max(0, self._done - NEIGHBOURS), min(self._available, end + NEIGHBOURS)
        window = self._states[:, :, low - self._first : high - self._first]
        count = self._layers.rows_at_once
        rows = [window[row : row + count] for row in range(0, self._channels, count)]
        samples = torch.cat([self._layers.upsample(each) for each in rows])
        hop = self._layers.hop
        audio = samples[:, (self._done - low) * hop : (end - low) * hop]
        self._done = end
        keep = max(0, end - NEIGHBOURS)
        self._states = self._states[:, :, keep - self._first :]
        self._first = keep
        return audio


def _split_channels(codes: Tensor, layers: CodecLayers, channels: int) -> Tensor:
    """Check `[codebooks, frames]` and return `[channels, codebooks of a channel, frames]`."""
    if codes.ndim != 2 or codes.shape[0] != channels * layers.codebooks or not codes.shape[1]:
        raise ValueError(
            f"Expected codes [{channels * layers.codebooks}, frames], got {tuple(codes.shape)}."
        )
    if not 0 <= int(codes.min()) <= int(codes.max()) < layers.codebook_size:
        raise ValueError(f"Codes must be from 0 to {layers.codebook_size - 1}.")
    return torch.stack([codes[channel::channels] for channel in range(channels)])
