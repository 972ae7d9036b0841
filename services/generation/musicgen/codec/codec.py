"""EnCodec in pieces: codes to audio while they are made, and audio to codes.

The decoder is a convolution over the code frames, an LSTM over time, and a stack that makes 640
samples of a frame. The LSTM's state goes from piece to piece; the stack runs over 98 frames at a
time with a few neighbours on both sides, whose own samples are thrown away, so that its work stays
in the processor's cache and the result is that of one pass over all of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from services.generation.musicgen.codec.layers import BLOCK_FRAMES, CodecLayers, Recurrence

if TYPE_CHECKING:
    from torch import Tensor

    from services.generation.musicgen.checkpoint.checkpoints import Checkpoint
    from services.generation.musicgen.checkpoint.stored_weights import SafetensorsWeights

NEIGHBOURS = 2
"""Frames on each side of a chunk that are read with it.

Its samples depend on one: half a frame by the first upsampling, and less than another half by all
that follows in the published codec. The second is to spare."""

CHUNK_FRAMES = BLOCK_FRAMES - NEIGHBOURS
"""Two seconds: as fast as any on a CPU, and short enough to stop at. A chunk is ready as soon as a
block is through the LSTM."""


class Codec:
    """The codec of a checkpoint.

    Codes are int64 `[codebooks, frames]`, in stereo those of left and right in turn. Audio is
    float32 `[channels, samples]` on the CPU.
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
        """Read it from a checkpoint, float32, to work on a device.

        Raises:
            CheckpointError: something is missing, damaged or of another shape.
        """
        layers = CodecLayers.load(checkpoint, weights, device)
        return cls(layers, checkpoint.geometry.channels)

    @property
    def samples_per_frame(self) -> int:
        """640 in the published models: 50 frames a second at 32 kHz."""
        return self._layers.hop

    @torch.inference_mode()
    def encode(self, audio: Tensor) -> Tensor:
        """Codes of audio `[channels, samples]` at the codec's rate, as transformers makes them.

        A last frame that is not full is filled up.
        """
        if audio.ndim != 2 or audio.shape[0] != self.channels or not audio.shape[1]:
            raise ValueError(f"Expected {self.channels} channels, got shape {tuple(audio.shape)}.")
        codes = torch.cat([self._layers.encode(channel[None, None]) for channel in audio])
        return codes.transpose(0, 1).reshape(-1, codes.shape[2])

    def stream(self, chunk_frames: int = CHUNK_FRAMES) -> CodecStream:
        """A decode that begins: codes in as they are made, audio out as soon as it is certain."""
        return CodecStream(self._layers, self.channels, chunk_frames)


class CodecStream:
    """A clip in the middle of its decode. Not for two threads at once."""

    def __init__(self, layers: CodecLayers, channels: int, chunk_frames: int) -> None:
        if chunk_frames < 1:
            raise ValueError(f"A chunk needs at least 1 frame, not {chunk_frames}.")
        self._layers = layers
        self._channels = channels
        self._chunk = chunk_frames
        self._recurrence = Recurrence(layers, channels)
        self._states = torch.empty(channels, layers.width, 0, device=layers.device)
        self._first = 0
        """The frame that `_states` begins with."""
        self._done = 0
        """Frames whose samples have been given out."""
        self._is_finished = False

    @torch.inference_mode()
    def push(self, codes: Tensor) -> Tensor:
        """Take the next codes, int64 `[codebooks, some]`; give the audio that is certain now.

        `[channels, samples]`: whole chunks, often none.
        """
        self._require_open()
        rows = _per_channel(codes, self._layers, self._channels)
        self._states = torch.cat([self._states, self._recurrence.push(rows)], dim=2)
        pieces = [torch.empty(self._channels, 0)]
        while self._done + self._chunk + NEIGHBOURS <= self._known:
            pieces.append(self._give(self._done + self._chunk))
        return torch.cat(pieces, dim=1)

    @torch.inference_mode()
    def finish(self) -> Tensor:
        """The rest of the audio, `[channels, samples]`; nothing may be pushed afterwards."""
        self._require_open()
        self._is_finished = True
        self._states = torch.cat([self._states, self._recurrence.finish()], dim=2)
        pieces = [torch.empty(self._channels, 0)]
        while self._done < self._known:
            pieces.append(self._give(min(self._known, self._done + self._chunk)))
        return torch.cat(pieces, dim=1)

    @property
    def _known(self) -> int:
        return self._first + self._states.shape[2]

    def _require_open(self) -> None:
        if self._is_finished:
            raise ValueError("The stream is finished.")

    def _give(self, end: int) -> Tensor:
        low, high = max(0, self._done - NEIGHBOURS), min(self._known, end + NEIGHBOURS)
        window = self._states[:, :, low - self._first : high - self._first]
        some = self._layers.rows_at_once
        rows = [window[row : row + some] for row in range(0, self._channels, some)]
        made = torch.cat([self._layers.upsample(each) for each in rows])
        hop = self._layers.hop
        audio = made[:, (self._done - low) * hop : (end - low) * hop]
        self._done = end
        keep = max(0, end - NEIGHBOURS)
        self._states = self._states[:, :, keep - self._first :]
        self._first = keep
        return audio


def _per_channel(codes: Tensor, layers: CodecLayers, channels: int) -> Tensor:
    """`[codebooks, frames]` to `[channels, codebooks of one, frames]`."""
    if codes.ndim != 2 or codes.shape[0] != channels * layers.codebooks or not codes.shape[1]:
        raise ValueError(
            f"Expected codes [{channels * layers.codebooks}, frames], got {tuple(codes.shape)}."
        )
    if not 0 <= int(codes.min()) <= int(codes.max()) < layers.codebook_size:
        raise ValueError(f"Codes are 0 to {layers.codebook_size - 1}.")
    return torch.stack([codes[channel::channels] for channel in range(channels)])
