"""Open the tags of untrusted files: of which type a file is, how much is read, what can fail."""

from __future__ import annotations

import errno
import io
import struct
from importlib import import_module
from typing import Any, BinaryIO

from services.audio.riff import MOST_BYTES

VORBIS_COMMENT_FORMATS = {
    "flac": ("mutagen.flac", "FLAC"),
    "ogg": ("mutagen.oggvorbis", "OggVorbis"),
    "opus": ("mutagen.oggopus", "OggOpus"),
}
"""mutagen's module and class for each format with Vorbis comments."""


_HEAD_BYTES, _ID3_HEAD_BYTES = 64, 10
_SHIFTS = (21, 14, 7, 0)


def detect_format(file: BinaryIO) -> str:
    """Return wav, flac, ogg, opus, mp3 or aiff by the start of a file, or nothing."""
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    if head[:3] == b"ID3":
        # Some programs write it before FLAC as well.
        size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], _SHIFTS, strict=False))
        file.seek(_ID3_HEAD_BYTES + size)
        return "flac" if file.read(4) == b"fLaC" else "mp3"
    if head[:4] == b"fLaC":
        return "flac"
    if head[:4] == b"OggS":
        return "ogg" if b"\x01vorbis" in head else "opus" if b"OpusHead" in head else ""
    if head[:1] == b"\xff" and head[1:2] >= b"\xe0":
        return "mp3"
    if head[:4] == b"FORM" and head[8:12] in {b"AIFF", b"AIFC"}:
        return "aiff"
    return "wav" if head[:4] in {b"RIFF", b"RF64", b"BW64"} else ""


def open_comments(kind: str, file: BinaryIO) -> Any:
    """Open a FLAC, Vorbis or Opus file with mutagen."""
    module, name = VORBIS_COMMENT_FORMATS[kind]
    return getattr(import_module(module), name)(file)


def read_errors() -> tuple[type[Exception], ...]:
    """Return the errors of the disk, of mutagen, and those its parsers leak on damaged files."""
    import mutagen

    return (
        OSError,
        mutagen.MutagenError,
        ValueError,
        LookupError,
        ArithmeticError,
        RecursionError,
        struct.error,
    )


class BoundedFile(io.BufferedIOBase, BinaryIO):
    """A file of which only `MOST_BYTES` can be read, whatever its headers claim."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self._left = MOST_BYTES

    def read(self, size: int | None = -1) -> bytes:
        wanted = self._left + 1 if size is None or size < 0 else min(size, self._left + 1)
        data = self._file.read(wanted)
        self._left -= len(data)
        if self._left < 0:
            raise OSError(errno.EFBIG, "the tags are too large")
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()
