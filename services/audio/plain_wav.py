"""Presents a WAV file to libsndfile without the chunks that make it refuse the file.

Some programs leave out the padding of an odd chunk, or cut a `PEAK` or `fact` chunk short. The
format and the samples can be found all the same.
"""

from __future__ import annotations

import io
import os
import struct
from typing import BinaryIO

from services.audio.riff import iter_chunk_heads

_CHUNK = struct.Struct("<4sI")
_LONGEST_FORMAT_BYTES = 1024


class PlainWav(io.RawIOBase):
    """A WAV file made of a head in memory and of the samples of another file."""

    def __init__(self, head: bytes, file: BinaryIO, start: int, size: int) -> None:
        self._head = head
        self._file = file
        self._start = start
        self._end = len(head) + size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._end}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        count = min(len(buffer), max(0, self._end - self._at))
        data = self._head[self._at : self._at + count]
        if len(data) < count:
            self._file.seek(self._start + max(0, self._at - len(self._head)))
            data += self._file.read(count - len(data))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def find_plain_wav(file: BinaryIO) -> PlainWav | None:
    """Return the format and the samples of a WAV file; None if it has not both."""
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return None
    wav_format = b""
    for name, stated in iter_chunk_heads(file):
        if name == b"data":
            at = file.tell()
            size = min(stated, end - at)
            if not wav_format or not size:
                return None
            total = 4 + len(wav_format) + _CHUNK.size + size
            riff = _CHUNK.pack(b"RIFF", min(total, 0xFFFFFFFF)) + b"WAVE"
            return PlainWav(riff + wav_format + _CHUNK.pack(name, size), file, at, size)
        if name == b"fmt " and stated <= _LONGEST_FORMAT_BYTES:
            wav_format = _CHUNK.pack(name, stated) + file.read(stated) + b"\0" * (stated % 2)
    return None
