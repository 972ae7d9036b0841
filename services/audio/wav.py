"""Write WAV files, or RF64 beyond 4 GiB, that appear whole or not at all (see `atomic`).

The same samples and facts give the same bytes: the only dates are those of the facts, and the
dither has a constant seed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from services.audio.arrays import MAX_CHANNELS, as_audio, check_sample_rate
from services.audio.atomic import AtomicFile, WrittenFile, atomic_file
from services.audio.wav_chunks import WavFormat, build_chunks, riff_chunk

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from services.audio.arrays import Audio
    from services.audio.facts import TakeFacts

_BLOCK_FRAMES = 1 << 16
_DITHER_SEED = 1770
_PCM, _IEEE_FLOAT = 1, 3
_IN_DS64 = 0xFFFFFFFF
BITS = {"PCM_16": 16, "PCM_24": 24, "PCM_32": 32, "FLOAT": 32}
"""Bit depth -> bits per sample."""
SUPPORTED_BIT_DEPTHS = tuple(BITS)


def write_wav(
    path: str | os.PathLike[str],
    audio: Any,
    sample_rate: int,
    bit_depth: str = "PCM_16",
    *,
    dither: bool = True,
    facts: TakeFacts | None = None,
) -> WrittenFile:
    """Write a WAV file atomically; its folders are created.

    PCM is rounded to the nearest step and clipped at full scale. A file over 4 GiB is RF64 (EBU
    Tech 3306).

    Args:
        path: the file; a link of that name is replaced, not followed.
        audio: see `as_audio`.
        sample_rate: 8000 to 192000 Hz.
        bit_depth: one of `SUPPORTED_BIT_DEPTHS`.
        dither: add triangular noise of one step before rounding to 16 or 24 bit, so that the
            rounding error is noise instead of distortion. The noise begins with the first frame
            that is not silent.
        facts: metadata, written as chunks after the samples (see `wav_chunks`).

    Raises:
        TypeError, ValueError: the audio, sample rate or bit depth is invalid.
        RuntimeError: the file cannot be written; the cause is an OSError.
    """
    with atomic_wav(path, audio, sample_rate, bit_depth, dither=dither, facts=facts) as file:
        file.publish()
        return file.written_file


def atomic_wav(
    path: str | os.PathLike[str],
    audio: Any,
    sample_rate: int,
    bit_depth: str = "PCM_16",
    *,
    dither: bool = True,
    facts: TakeFacts | None = None,
) -> AbstractContextManager[AtomicFile]:
    """Write a WAV file without publishing it; the file is deleted at the end unless published.

    Raises:
        TypeError, ValueError, RuntimeError: see `write_wav`.
    """
    check_bit_depth(bit_depth)
    signal = as_audio(audio)
    wav_format = _make_format(signal.shape[0], signal.shape[1], sample_rate, bit_depth)
    return _atomic_wav(path, [signal], wav_format, dither=dither, facts=facts)


def atomic_wav_stream(
    path: str | os.PathLike[str],
    blocks: Iterable[Audio],
    channels: int,
    frames: int,
    sample_rate: int,
    bit_depth: str = "PCM_16",
    *,
    dither: bool = True,
    facts: TakeFacts | None = None,
    chunks: bytes | None = None,
    dither_seed: int = _DITHER_SEED,
) -> AbstractContextManager[AtomicFile]:
    """Write a WAV file from blocks, like `atomic_wav`; memory does not grow with the file.

    The bytes do not depend on how the samples are divided into blocks.

    Args:
        path: the file.
        blocks: `[channels, n]` each, of any n; read when the `with` block begins.
        channels: 1 or 2.
        frames: samples per channel of all blocks together.
        sample_rate: 8000 to 192000 Hz.
        bit_depth: one of `SUPPORTED_BIT_DEPTHS`.
        dither: see `write_wav`.
        facts: see `write_wav`.
        chunks: written after the samples in the place of those for the facts.
        dither_seed: files that will be summed need different ones.

    Raises:
        TypeError, ValueError, RuntimeError: see `write_wav`; ValueError also if the blocks have
            more or fewer frames, or another number of channels.
    """
    check_bit_depth(bit_depth)
    wav_format = _make_format(channels, frames, sample_rate, bit_depth)
    checked = _check_blocks(blocks, wav_format)
    return _atomic_wav(
        path,
        checked,
        wav_format,
        dither=dither,
        facts=facts,
        chunks=chunks,
        dither_seed=dither_seed,
    )


def check_bit_depth(bit_depth: str) -> None:
    """Raise ValueError for a bit depth that is not in `SUPPORTED_BIT_DEPTHS`."""
    if bit_depth not in BITS:
        raise ValueError(
            f"Unsupported bit depth {bit_depth!r}; expected one of "
            f"{', '.join(SUPPORTED_BIT_DEPTHS)}."
        )


def _make_format(channels: int, frames: int, sample_rate: int, bit_depth: str) -> WavFormat:
    if not 1 <= channels <= MAX_CHANNELS:
        raise ValueError(f"A WAV file needs 1 or 2 channels, not {channels}.")
    if frames < 1:
        raise ValueError(f"A WAV file needs at least 1 frame, not {frames}.")
    rate = check_sample_rate(sample_rate)
    return WavFormat(channels, frames, rate, BITS[bit_depth], bit_depth == "FLOAT")


def _check_blocks(blocks: Iterable[Audio], wav_format: WavFormat) -> Iterator[Audio]:
    arrived = 0
    for block in blocks:
        if not block.size:
            continue
        audio = as_audio(block)
        channels, count = audio.shape
        if channels != wav_format.channels:
            raise ValueError(f"A block has {channels} channels instead of {wav_format.channels}.")
        arrived += count
        if arrived > wav_format.frames:
            raise ValueError(f"The blocks have more than the expected {wav_format.frames} frames.")
        yield audio
    if arrived < wav_format.frames:
        raise ValueError(f"The blocks have {arrived} of the expected {wav_format.frames} frames.")


@contextmanager
def _atomic_wav(
    path: str | os.PathLike[str],
    blocks: Iterable[Audio],
    wav_format: WavFormat,
    *,
    dither: bool,
    facts: TakeFacts | None,
    chunks: bytes | None = None,
    dither_seed: int = _DITHER_SEED,
) -> Iterator[AtomicFile]:
    # 32-bit integers keep the 24 bits of precision of float32: there is nothing to dither.
    dither = dither and wav_format.bits < 32
    if chunks is None:
        chunks = b"" if facts is None else build_chunks(facts, wav_format, dithered=dither)
    layout = _plan_layout(wav_format, chunks)
    with atomic_file(path, "WAV") as file:
        with file.explain_errors():
            noise = Dither(dither_seed) if dither else None
            digest = _write(file.temporary, layout, _encode_samples(blocks, wav_format, noise))
        file.finish(wav_format.frames, digest)
        yield file


def _write(path: Path, layout: _Layout, samples: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    with path.open("xb") as file:
        for data in chain([layout.head], samples, [layout.tail]):
            digest.update(data)
            file.write(data)
        file.flush()
        arrived = os.fstat(file.fileno()).st_size
    if arrived != layout.file_bytes:
        raise OSError(errno.EIO, f"only {arrived} of {layout.file_bytes} bytes were written")
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _Layout:
    head: bytes
    """The bytes before the first sample."""
    tail: bytes
    """The bytes after the last sample: the padding to an even number, and the chunks."""
    file_bytes: int


def _plan_layout(wav_format: WavFormat, chunks: bytes) -> _Layout:
    """Build all bytes of a file except its samples.

    The format is RIFF/WAVE by Microsoft/IBM, Multimedia Programming Interface 1.0. If its 32-bit
    sizes do not suffice, it is RF64 by EBU Tech 3306, with the sizes in a `ds64` chunk.
    """
    frame_bytes = wav_format.channels * wav_format.bits // 8
    data_bytes = wav_format.frames * frame_bytes
    tail = bytes(data_bytes % 2) + chunks
    described = _build_format_chunks(wav_format, frame_bytes)
    riff_bytes = len(b"WAVE") + len(described) + 8 + data_bytes + len(tail)
    if riff_bytes < 1 << 32:
        head = struct.pack("<4sI4s", b"RIFF", riff_bytes, b"WAVE") + described
        head += struct.pack("<4sI", b"data", data_bytes)
    else:
        sizes = struct.pack("<QQQI", riff_bytes + 36, data_bytes, wav_format.frames, 0)
        head = struct.pack("<4sI4s", b"RF64", _IN_DS64, b"WAVE") + riff_chunk(b"ds64", sizes)
        head += described + struct.pack("<4sI", b"data", _IN_DS64)
    return _Layout(head, tail, len(head) + data_bytes + len(tail))


def _build_format_chunks(wav_format: WavFormat, frame_bytes: int) -> bytes:
    body = struct.pack(
        "<HHIIHH",
        _IEEE_FLOAT if wav_format.is_float else _PCM,
        wav_format.channels,
        wav_format.sample_rate,
        wav_format.sample_rate * frame_bytes,
        frame_bytes,
        wav_format.bits,
    )
    if not wav_format.is_float:
        return riff_chunk(b"fmt ", body)
    fact = struct.pack("<I", min(wav_format.frames, _IN_DS64))
    return riff_chunk(b"fmt ", body + b"\0\0") + riff_chunk(b"fact", fact)


def _encode_samples(
    blocks: Iterable[Audio], wav_format: WavFormat, noise: Dither | None
) -> Iterator[bytes]:
    for block in blocks:
        for start in range(0, block.shape[1], _BLOCK_FRAMES):
            frames = block[:, start : start + _BLOCK_FRAMES].T
            yield (
                frames.astype("<f4").tobytes()
                if wav_format.is_float
                else quantise(frames, wav_format.bits, noise)
            )


class Dither:
    """Triangular noise of one step (the difference of two uniform ones), for one file.

    It begins with the first frame that is not silent, and is drawn frame by frame. So it depends
    neither on the division into blocks nor on the silence before.
    """

    def __init__(self, seed: int = _DITHER_SEED) -> None:
        self._random = np.random.Generator(np.random.PCG64(seed))
        self._has_begun = False

    def add_to(self, steps: NDArray[Any]) -> None:
        """Add the noise in place to `[frames, channels]`, whose unit is one step."""
        if not self._has_begun:
            sounding = np.flatnonzero(steps.any(axis=1))
            if not sounding.size:
                return
            self._has_begun = True
            steps = steps[sounding[0] :]
        noise = self._random.random((steps.shape[0], 2, steps.shape[1]), np.float32)
        # Channel by channel: along an axis of length two, NumPy takes more than twice as long.
        for channel in range(steps.shape[1]):
            steps[:, channel] += noise[:, 0, channel]
            steps[:, channel] -= noise[:, 1, channel]


def quantise(frames: NDArray[np.float32], bits: int, noise: Dither | None) -> bytes:
    """Convert samples to little-endian integers of 16, 24 or 32 bit, as in a WAV file.

    Args:
        frames: `[frames, channels]`; clipped at full scale, 1.0.
        bits: per sample.
        noise: added before rounding.
    """
    full_scale = 2 ** (bits - 1)
    # float32 has 24 bits: enough for 16 bits and a fraction, but not for 24 bits and a fraction.
    steps = frames * (np.float64(full_scale) if bits > 16 else np.float32(full_scale))
    if noise is not None:
        noise.add_to(steps)
    np.clip(np.rint(steps, out=steps), -full_scale, full_scale - 1, out=steps)
    if bits == 24:
        return steps.astype("<i4", order="C").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    return steps.astype(f"<i{bits // 8}").tobytes()
