"""WAV files that appear whole or not at all, RF64 where 4 GiB are not enough.

The bytes go to a temporary name in the folder of the file; they are counted, brought to the disk
and renamed, and the folder is brought to the disk too. The same samples and facts give the same
bytes: nothing is dated but by the facts, and the dither starts from a constant.
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
from services.audio.staging import Staged, WrittenFile, staged_file
from services.audio.wav_chunks import WavForm, riff_chunk, take_chunks

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
"""Bit depth -> bits a sample."""
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
    """Write a WAV file, replacing an existing one only by a whole one; make its folders.

    PCM is rounded to the nearest step and held at full scale, never wrapped. A file that would
    pass 4 GiB is an RF64 file (EBU Tech 3306).

    Args:
        path: the file; a link of that name is replaced, not followed.
        audio: what `as_audio` takes.
        sample_rate: 8000 to 192000 Hz.
        bit_depth: one of `SUPPORTED_BIT_DEPTHS`.
        dither: add triangular noise of one step either way before rounding to 16 or 24 bit, so
            that the rounding error is noise and not distortion. It begins with the first frame
            that is not silent, so all-zero audio stays zero.
        facts: what the file says about itself, in chunks after the samples (see `wav_chunks`).

    Raises:
        TypeError, ValueError: the audio, the rate or the bit depth is not one that can be written.
        RuntimeError: the disk says no; the reason is its cause. No temporary file is left.
    """
    with staged_wav(path, audio, sample_rate, bit_depth, dither=dither, facts=facts) as staged:
        staged.publish()
        return staged.written


def staged_wav(
    path: str | os.PathLike[str],
    audio: Any,
    sample_rate: int,
    bit_depth: str = "PCM_16",
    *,
    dither: bool = True,
    facts: TakeFacts | None = None,
) -> AbstractContextManager[Staged]:
    """Write everything but the name; what is not published by the end of the block is removed.

    Raises:
        TypeError, ValueError, RuntimeError: as `write_wav`.
    """
    check_bit_depth(bit_depth)
    signal = as_audio(audio)
    form = _form(signal.shape[0], signal.shape[1], sample_rate, bit_depth)
    return _staged(path, [signal], form, dither=dither, facts=facts)


def staged_wav_stream(
    path: str | os.PathLike[str],
    blocks: Iterable[Audio],
    channels: int,
    frames: int,
    sample_rate: int,
    bit_depth: str = "PCM_16",
    *,
    dither: bool = True,
    facts: TakeFacts | None = None,
) -> AbstractContextManager[Staged]:
    """As `staged_wav`, from blocks: the memory it takes does not grow with the file.

    The bytes are those that `staged_wav` gives for all blocks in one, however they are cut.

    Args:
        path: the file.
        blocks: `[channels, n]` each, n as it comes; taken one by one as the `with` block begins.
        channels: 1 or 2.
        frames: samples a channel that the blocks bring altogether.
        sample_rate: 8000 to 192000 Hz.
        bit_depth: one of `SUPPORTED_BIT_DEPTHS`.
        dither: as for `write_wav`.
        facts: as for `write_wav`.

    Raises:
        TypeError, ValueError, RuntimeError: as `write_wav`; ValueError also for blocks that bring
            more or fewer frames, or another number of channels.
    """
    check_bit_depth(bit_depth)
    form = _form(channels, frames, sample_rate, bit_depth)
    return _staged(path, _checked(blocks, form), form, dither=dither, facts=facts)


def check_bit_depth(bit_depth: str) -> None:
    """Refuse a bit depth that is not in `SUPPORTED_BIT_DEPTHS`.

    Raises:
        ValueError: it is not.
    """
    if bit_depth not in BITS:
        raise ValueError(
            f"Unsupported bit depth {bit_depth!r}; expected one of "
            f"{', '.join(SUPPORTED_BIT_DEPTHS)}."
        )


def _form(channels: int, frames: int, sample_rate: int, bit_depth: str) -> WavForm:
    if not 1 <= channels <= MAX_CHANNELS:
        raise ValueError(f"A WAV file here has 1 or 2 channels, not {channels}.")
    if frames < 1:
        raise ValueError(f"A WAV file needs samples; {frames} frames were announced.")
    rate = check_sample_rate(sample_rate)
    return WavForm(channels, frames, rate, BITS[bit_depth], bit_depth == "FLOAT")


def _checked(blocks: Iterable[Audio], form: WavForm) -> Iterator[Audio]:
    """The blocks, once they are what was announced."""
    arrived = 0
    for block in blocks:
        if not block.size:
            continue
        audio = as_audio(block)
        channels, count = audio.shape
        if channels != form.channels:
            raise ValueError(f"A block has {channels} channels; {form.channels} were announced.")
        arrived += count
        if arrived > form.frames:
            raise ValueError(f"The blocks hold more than the {form.frames} frames announced.")
        yield audio
    if arrived < form.frames:
        raise ValueError(f"The blocks hold {arrived} of the {form.frames} frames announced.")


@contextmanager
def _staged(
    path: str | os.PathLike[str],
    blocks: Iterable[Audio],
    form: WavForm,
    *,
    dither: bool,
    facts: TakeFacts | None,
) -> Iterator[Staged]:
    # float32 has 24 bits of precision, which 32-bit integers keep: there is nothing to dither.
    dither = dither and form.bits < 32
    chunks = b"" if facts is None else take_chunks(facts, form, dithered=dither)
    layout = _lay_out(form, chunks)
    with staged_file(path, "WAV") as staged:
        with staged.writing():
            digest = _write(staged.temporary, layout, _encoded(blocks, form, dither=dither))
        staged.finish(form.frames, digest)
        yield staged


def _write(path: Path, layout: _Layout, samples: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    with path.open("xb") as file:
        for data in chain([layout.head], samples, [layout.tail]):
            digest.update(data)
            file.write(data)
        file.flush()
        arrived = os.fstat(file.fileno()).st_size
    if arrived != layout.file_bytes:
        raise OSError(errno.EIO, f"{arrived} of {layout.file_bytes} bytes arrived")
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _Layout:
    head: bytes
    """Up to the first sample."""
    tail: bytes
    """From the last sample on: the byte that makes their number even, and the chunks."""
    file_bytes: int


def _lay_out(form: WavForm, chunks: bytes) -> _Layout:
    """Everything of a file but its samples.

    RIFF/WAVE after Microsoft/IBM, Multimedia Programming Interface 1.0; where its 32-bit sizes do
    not reach, RF64 after EBU Tech 3306, with the sizes in a `ds64` chunk.
    """
    frame_bytes = form.channels * form.bits // 8
    data_bytes = form.frames * frame_bytes
    tail = bytes(data_bytes % 2) + chunks
    described = _format_chunks(form, frame_bytes)
    riff_bytes = len(b"WAVE") + len(described) + 8 + data_bytes + len(tail)
    if riff_bytes < 1 << 32:
        head = struct.pack("<4sI4s", b"RIFF", riff_bytes, b"WAVE") + described
        head += struct.pack("<4sI", b"data", data_bytes)
    else:
        sizes = struct.pack("<QQQI", riff_bytes + 36, data_bytes, form.frames, 0)
        head = struct.pack("<4sI4s", b"RF64", _IN_DS64, b"WAVE") + riff_chunk(b"ds64", sizes)
        head += described + struct.pack("<4sI", b"data", _IN_DS64)
    return _Layout(head, tail, len(head) + data_bytes + len(tail))


def _format_chunks(form: WavForm, frame_bytes: int) -> bytes:
    body = struct.pack(
        "<HHIIHH",
        _IEEE_FLOAT if form.is_float else _PCM,
        form.channels,
        form.sample_rate,
        form.sample_rate * frame_bytes,
        frame_bytes,
        form.bits,
    )
    if not form.is_float:
        return riff_chunk(b"fmt ", body)
    fact = struct.pack("<I", min(form.frames, _IN_DS64))
    return riff_chunk(b"fmt ", body + b"\0\0") + riff_chunk(b"fact", fact)


def _encoded(blocks: Iterable[Audio], form: WavForm, *, dither: bool) -> Iterator[bytes]:
    """The samples as they stand in the file."""
    noise = Dither() if dither else None
    for block in blocks:
        for start in range(0, block.shape[1], _BLOCK_FRAMES):
            frames = block[:, start : start + _BLOCK_FRAMES].T
            yield (
                frames.astype("<f4").tobytes()
                if form.is_float
                else quantised(frames, form.bits, noise)
            )


class Dither:
    """Triangular noise of one step either way (two uniform ones), for one file.

    It is drawn frame after frame from the first that is not silent, so it depends neither on how
    the samples are cut into blocks nor on the silence before them.
    """

    def __init__(self) -> None:
        self._random = np.random.Generator(np.random.PCG64(_DITHER_SEED))
        self._begun = False

    def add_to(self, steps: NDArray[Any]) -> None:
        """Add the noise to `[frames, channels]`, whose unit is one step."""
        if not self._begun:
            sounding = np.flatnonzero(steps.any(axis=1))
            if not sounding.size:
                return
            self._begun = True
            steps = steps[sounding[0] :]
        noise = self._random.random((steps.shape[0], 2, steps.shape[1]), np.float32)
        steps += noise[:, 0]
        steps -= noise[:, 1]


def quantised(frames: NDArray[np.float32], bits: int, noise: Dither | None) -> bytes:
    """Samples as integers of 16, 24 or 32 bit, little-endian, as they stand in a WAV file.

    Args:
        frames: `[frames, channels]`, full scale at 1.0; what is beyond is held there.
        bits: of one sample.
        noise: what is added before rounding, if anything.
    """
    full_scale = 2 ** (bits - 1)
    # float32 carries 24 bits exactly: enough for 16 and a fraction, not for 24 and a fraction.
    steps = frames * (np.float64(full_scale) if bits > 16 else np.float32(full_scale))
    if noise is not None:
        noise.add_to(steps)
    np.clip(np.rint(steps, out=steps), -full_scale, full_scale - 1, out=steps)
    if bits == 24:
        return steps.astype("<i4", order="C").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    return steps.astype(f"<i{bits // 8}").tobytes()
