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
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from services.audio.arrays import as_audio, check_sample_rate
from services.audio.files import temporary_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from services.audio.arrays import Audio

_CHUNK_FRAMES = 1 << 16
_DITHER_SEED = 1770
_PCM, _IEEE_FLOAT = 1, 3
_BITS = {"PCM_16": 16, "PCM_24": 24, "PCM_32": 32, "FLOAT": 32}
SUPPORTED_BIT_DEPTHS = tuple(_BITS)

_ADVICE = {
    errno.ENOSPC: "Free some space on the disk and try again.",
    errno.EDQUOT: "Free some of your disk quota and try again.",
    errno.EFBIG: "Raise the file-size limit (ulimit -f) and try again.",
    errno.EACCES: "Choose a folder you may write to.",
    errno.EPERM: "Choose a folder you may write to.",
    errno.EROFS: "Choose a folder you may write to.",
    errno.ENOTDIR: "Choose a folder: part of the path is a file.",
    errno.EEXIST: "Choose a folder: part of the path is a file.",
    errno.EISDIR: "Choose a file name: the path is a folder.",
    errno.ENAMETOOLONG: "Choose a shorter file name.",
    errno.EIO: "The disk reports a fault: check it before you try again.",
}


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A file that is on the disk."""

    path: Path
    bytes: int
    sha256: str
    """Hexadecimal digest of the whole file."""
    frames: int


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


class StagedWav:
    """A whole file under a temporary name."""

    def __init__(self, written: WrittenFile, temporary: Path, made: list[Path]) -> None:
        self.written = written
        self._temporary = temporary
        self._made = made
        self._named = False

    def publish(self) -> None:
        """Give the file its name.

        Raises:
            RuntimeError: the disk says no.
        """
        path = self.written.path
        with _disk_errors(path):
            self._temporary.replace(path)
            self._named = True
            # A new folder is an entry in the one above, which has to reach the disk as well.
            for folder in [path.parent, *(made.parent for made in self._made)]:
                _sync_folder(folder)

    def withdraw(self) -> None:
        """Remove the file again if `publish` got as far as giving it its name."""
        if self._named:
            with suppress(OSError):
                self.written.path.unlink()


@contextmanager
def staged_wav(
    path: str | os.PathLike[str],
    audio: Any,
    sample_rate: int,
    bit_depth: str = "PCM_16",
    *,
    dither: bool = True,
) -> Iterator[StagedWav]:
    """Write everything but the name; what is not published by the end of the block is removed.

    Raises:
        TypeError, ValueError, RuntimeError: as `write_wav`.
    """
    check_bit_depth(bit_depth)
    signal, rate = as_audio(audio), check_sample_rate(sample_rate)
    layout = _lay_out(signal.shape[0], signal.shape[1], rate, bit_depth)
    target = Path(path)
    temporary = target.parent / temporary_name()
    try:
        with _disk_errors(target):
            made = _make_folder(target.parent)
            chunks = _encoded(signal, bit_depth, dither=dither)
            written = _write(temporary, target, layout, chunks)
        yield StagedWav(written, temporary, made)
    finally:
        with suppress(OSError):
            temporary.unlink()


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


def _write(temporary: Path, target: Path, layout: _Layout, chunks: Iterator[bytes]) -> WrittenFile:
    digest = hashlib.sha256(layout.header)
    with temporary.open("xb") as file:
        file.write(layout.header)
        for data in chunks:
            digest.update(data)
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
        arrived = os.fstat(file.fileno()).st_size
    if arrived != layout.file_bytes:
        raise OSError(errno.EIO, f"{arrived} of {layout.file_bytes} bytes arrived")
    return WrittenFile(target, arrived, digest.hexdigest(), layout.frames)


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


def _make_folder(folder: Path) -> list[Path]:
    """Make a folder with those above it; return the new ones."""
    missing = [part for part in (folder, *folder.parents) if not part.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        # A folder one may write to but not read; the file in it is whole all the same.
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # what file systems say that do not sync folders
            raise
    finally:
        os.close(descriptor)


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        advice = _ADVICE.get(error.errno or 0, "Choose another place and try again.")
        raise RuntimeError(f"Could not write WAV file {path}: {reason}. {advice}") from error
