"""WAV files that appear whole or not at all.

The bytes go to a temporary name in the folder of the file; they are counted, brought to the disk
and renamed, and the folder is brought to the disk too. The same samples give the same bytes: there
is no time stamp in the file, and the dither starts from a constant.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from services.audio.arrays import as_audio, check_sample_rate
from services.audio.staging import Staged, WrittenFile, staged_file

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from services.audio.arrays import Audio

_CHUNK_FRAMES = 1 << 16
_DITHER_SEED = 1770
_PCM, _IEEE_FLOAT = 1, 3
_BITS = {"PCM_16": 16, "PCM_24": 24, "PCM_32": 32, "FLOAT": 32}
SUPPORTED_BIT_DEPTHS = tuple(_BITS)


def write_wav(
    path: str | os.PathLike[str],
    audio: Any,
    sample_rate: int,
    bit_depth: str = "PCM_16",
    *,
    dither: bool = True,
) -> WrittenFile:
    """Write a WAV file, replacing an existing one only by a whole one; make its folders.

    PCM is rounded to the nearest step and held at full scale, never wrapped.

    Args:
        path: the file; a link of that name is replaced, not followed.
        audio: what `as_audio` takes.
        sample_rate: 8000 to 192000 Hz.
        bit_depth: one of `SUPPORTED_BIT_DEPTHS`.
        dither: add triangular noise of one step either way before rounding to 16 bit, so that
            the rounding error is noise and not distortion. All-zero audio stays zero.

    Raises:
        TypeError, ValueError: the audio, the rate or the bit depth is not one that can be written.
        RuntimeError: the disk says no; the reason is its cause. No temporary file is left.
    """
    with staged_wav(path, audio, sample_rate, bit_depth, dither=dither) as staged:
        staged.publish()
        return staged.written


@contextmanager
def staged_wav(
    path: str | os.PathLike[str],
    audio: Any,
    sample_rate: int,
    bit_depth: str = "PCM_16",
    *,
    dither: bool = True,
) -> Iterator[Staged]:
    """Write everything but the name; what is not published by the end of the block is removed.

    Raises:
        TypeError, ValueError, RuntimeError: as `write_wav`.
    """
    check_bit_depth(bit_depth)
    signal, rate = as_audio(audio), check_sample_rate(sample_rate)
    layout = _lay_out(signal.shape[0], signal.shape[1], rate, bit_depth)
    with staged_file(path, "WAV") as staged:
        with staged.writing():
            digest = _write(staged.temporary, layout, _encoded(signal, bit_depth, dither=dither))
        staged.finish(layout.frames, digest)
        yield staged


def check_bit_depth(bit_depth: str) -> None:
    """Refuse a bit depth that is not in `SUPPORTED_BIT_DEPTHS`.

    Raises:
        ValueError: it is not.
    """
    if bit_depth not in _BITS:
        raise ValueError(
            f"Unsupported bit depth {bit_depth!r}; expected one of "
            f"{', '.join(SUPPORTED_BIT_DEPTHS)}."
        )


def _write(path: Path, layout: _Layout, chunks: Iterator[bytes]) -> str:
    digest = hashlib.sha256(layout.header)
    with path.open("xb") as file:
        file.write(layout.header)
        for data in chunks:
            digest.update(data)
            file.write(data)
        file.flush()
        arrived = os.fstat(file.fileno()).st_size
    if arrived != layout.file_bytes:
        raise OSError(errno.EIO, f"{arrived} of {layout.file_bytes} bytes arrived")
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _Layout:
    header: bytes
    frames: int
    file_bytes: int


def _lay_out(channels: int, frames: int, sample_rate: int, bit_depth: str) -> _Layout:
    """The header of a RIFF/WAVE file (Microsoft/IBM, Multimedia Programming Interface 1.0)."""
    bits = _BITS[bit_depth]
    frame_bytes = channels * bits // 8
    kind = _IEEE_FLOAT if bit_depth == "FLOAT" else _PCM
    form = struct.pack(
        "<HHIIHH", kind, channels, sample_rate, sample_rate * frame_bytes, frame_bytes, bits
    )
    chunks = _chunk(b"fmt ", form)
    if kind == _IEEE_FLOAT:
        chunks = _chunk(b"fmt ", form + b"\0\0") + _chunk(b"fact", struct.pack("<I", frames))
    data_bytes = frames * frame_bytes
    riff_bytes = 4 + len(chunks) + 8 + data_bytes + data_bytes % 2
    if riff_bytes >= 1 << 32:
        raise ValueError(f"Audio too long: {data_bytes} bytes of samples do not fit a WAV file.")
    header = struct.pack("<4sI4s", b"RIFF", riff_bytes, b"WAVE") + chunks
    header += struct.pack("<4sI", b"data", data_bytes)
    return _Layout(header, frames, riff_bytes + 8)


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack("<4sI", name, len(body)) + body


def _encoded(audio: Audio, bit_depth: str, *, dither: bool) -> Iterator[bytes]:
    """The samples as they stand in the file, and the byte that makes their number even."""
    noise = np.random.Generator(np.random.PCG64(_DITHER_SEED))
    wanted = dither and bit_depth == "PCM_16" and bool(audio.any())
    size = 0
    for start in range(0, audio.shape[1], _CHUNK_FRAMES):
        frames = audio[:, start : start + _CHUNK_FRAMES].T
        if bit_depth == "FLOAT":
            data = frames.astype("<f4").tobytes()
        else:
            data = _quantised(frames, _BITS[bit_depth], noise if wanted else None)
        size += len(data)
        yield data
    if size % 2:
        yield b"\0"


def _quantised(frames: NDArray[np.float32], bits: int, noise: np.random.Generator | None) -> bytes:
    full_scale = 2 ** (bits - 1)
    # float32 carries 24 bits exactly; beyond, the largest step would round up past full scale.
    steps = frames * (np.float64(full_scale) if bits > 24 else np.float32(full_scale))
    if noise is not None:
        steps += noise.random(frames.shape, np.float32)
        steps -= noise.random(frames.shape, np.float32)
    np.clip(np.rint(steps, out=steps), -full_scale, full_scale - 1, out=steps)
    if bits == 24:
        return steps.astype("<i4", order="C").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    return steps.astype(f"<i{bits // 8}").tobytes()
