"""The chunks that others wrote into RIFF files: find and parse them. See `riff_changes`.

The layouts are those of Microsoft/IBM, Multimedia Programming Interface 1.0 (`cue `, `smpl`,
`LIST`, `plst`) and EBU Tech 3285 (`bext`). All bytes are untrusted.
"""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

Chunk = tuple[bytes, bytes]
"""Name and body; a list is named `LIST`, and its body begins with its type."""

MOST_BYTES = (16 << 20) - 64
"""Of all metadata of one file together; a chunk of this size fits into a block of FLAC."""

BEXT_TEXTS = {
    "DESCRIPTION": (0, 256),
    "ORIGINATOR": (256, 32),
    "ORIGINATOR_REFERENCE": (288, 32),
    "ORIGINATION_DATE": (320, 10),
    "ORIGINATION_TIME": (330, 8),
}
"""Offset and length of the text fields, under the names that FFmpeg uses for them."""

INFO_NAMES = {
    "INAM": "TITLE",
    "IART": "ARTIST",
    "IPRD": "ALBUM",
    "ITRK": "TRACKNUMBER",
    "IPRT": "TRACKNUMBER",
    "IMUS": "COMPOSER",
    "IWRI": "LYRICIST",
    "ICRD": "DATE",
    "IGNR": "GENRE",
    "ICMT": "COMMENT",
    "ICOP": "COPYRIGHT",
    "ISFT": "ENCODER",
    "ITCH": "ENCODED-BY",
    "IENG": "ENGINEER",
    "IKEY": "KEYWORDS",
    "ISBJ": "SUBJECT",
    "ILNG": "LANGUAGE",
    "IMED": "MEDIA",
    # The person who supplied the subject, not the recording code of the same letters.
    "ISRC": "SOURCE",
}
"""Vorbis comment of a text in `LIST` `INFO`."""

_MOST_CHUNKS = 1000
_MOST_ENTRIES = 10_000
_IN_DS64 = 0xFFFFFFFF
U32 = 1 << 32
BEXT_BYTES = 602
_SAMPLES = {b"fmt ", b"data", b"ds64", b"fact"}
_PADDING = {b"JUNK", b"junk", b"PAD ", b"FLLR", b"bpad"}


def scale(position: int, ratio: Fraction, most: int = U32) -> int:
    """Return a position in samples at another rate, at most `most` - 1."""
    return min(round(position * ratio), most - 1)


@dataclass(frozen=True, slots=True)
class Marker:
    frame: int
    label: str
    length: int = 0
    """Samples per channel; 0 for a point."""


@dataclass(frozen=True, slots=True)
class Loop:
    start: int
    end: int
    """The last frame that is played."""

    def at_ratio(self, ratio: Fraction) -> Loop:
        """Return the loop at another rate; its length keeps its time as its start does."""
        start = scale(self.start, ratio)
        return Loop(start, max(scale(self.end + 1, ratio) - 1, start))


def read_chunks(file: BinaryIO) -> tuple[list[Chunk], list[str]]:
    """Return the chunks of a WAV or RF64 file except the samples and their format.

    Padding is left out. The second list names what is too large or damaged, or no chunk.
    """
    chunks: list[Chunk] = []
    unread: list[str] = []
    left = MOST_BYTES
    for name, size in iter_chunk_heads(file, unread):
        if name in _SAMPLES or name in _PADDING:
            continue
        body = file.read(size) if size <= left else b""
        if len(body) == size:
            chunks.append((name, body))
            left -= size
        else:
            unread.append(f"{describe_chunk(name)}, which is damaged or too large")
    return chunks, unread


def iter_chunk_heads(
    file: BinaryIO, unread: list[str] | None = None, *, big_endian: bool = False
) -> Iterator[tuple[bytes, int]]:
    """Yield the name and size of each chunk, with the file positioned at its body.

    It ends with the RIFF, or at bytes that are no chunk. Samples whose size was never written run
    to the end of the file, and the byte of padding after an odd chunk may be missing.

    Args:
        file: a RIFF or RF64 file.
        unread: gets a note about what follows the last chunk.
        big_endian: the file is an AIFF file instead.
    """
    order = ">" if big_endian else "<"
    last = file.seek(0, os.SEEK_END)
    file.seek(4)
    (stated,) = struct.unpack(f"{order}I", file.read(4).ljust(4, b"\0"))
    at, limit, data_bytes, count = 12, 8 + stated, None, 0
    notes: list[str] = []
    while not notes and at + 8 <= last:
        file.seek(at)
        name, size = struct.unpack(f"{order}4sI", file.read(8))
        if at in {limit, limit + 1}:
            notes.append(f"the last {last - at} bytes, which lie behind the end of its chunks")
        elif not _is_name(name):
            notes.append(f"the last {last - at} bytes, which are no chunk")
        elif count == _MOST_CHUNKS:
            notes.append(f"all chunks after the first {_MOST_CHUNKS}")
        else:
            count += 1
            start = at + 8
            if name == b"ds64":
                sizes = file.read(16)
                if len(sizes) == 16:
                    riff_bytes, data_bytes = struct.unpack("<QQ", sizes)
                    limit = 8 + riff_bytes if stated == _IN_DS64 else limit
                file.seek(start)
            if name == b"data" and size == _IN_DS64 and data_bytes is not None:
                size = data_bytes
            if name in {b"data", b"SSND"} and size == 0:
                # A recorder that ended early has left no size: libsndfile reads all of it, too.
                size = last - start
            yield name, size
            at = start + size
            if size % 2 and at < last:
                file.seek(at)
                # As some programs leave out the padding.
                at += not _is_name(file.read(4))
    if unread is not None:
        unread += notes


def _is_name(name: bytes) -> bool:
    return len(name) == 4 and all(0x20 <= byte < 0x7F for byte in name)


def describe_chunk(name: bytes, body: bytes = b"") -> str:
    """Return the name of a chunk for messages, as `the chunk "inst"`."""
    shown = name.decode("ascii", "replace").strip()
    kind = body[:4].decode("ascii", "replace").strip() if name == b"LIST" else ""
    return f'the chunk "{f"{shown} {kind}".strip()}"'


def find_chunk(chunks: Iterable[Chunk], name: bytes) -> bytes:
    """Return the body of the first chunk of this name, or nothing.

    Of the lists `adtl` and `INFO`, of which some files have several, the bodies are joined.
    """
    lists = []
    for found, body in chunks:
        if found == name:
            return body
        if found == b"LIST" and body[:4] == name:
            lists.append(body[4:] + bytes(len(body) % 2))
    return b"".join(lists)


def iter_parts(body: bytes) -> Iterator[Chunk]:
    """Yield the chunks within the body of a list, without its type."""
    at = 0
    while at + 8 <= len(body):
        name, size = struct.unpack_from("<4sI", body, at)
        yield name, body[at + 8 : at + 8 + size]
        at += 8 + size + size % 2


def parse_info(body: bytes) -> list[tuple[str, str]]:
    """Return the texts of a `LIST` `INFO` as Vorbis comments; unknown ones keep their name."""
    texts = []
    for name, raw in islice(iter_parts(body), _MOST_ENTRIES):
        shown = name.decode("latin-1")
        texts.append((INFO_NAMES.get(shown, shown), decode_text(raw)))
    return [(name, text) for name, text in texts if text]


def parse_bext(body: bytes) -> list[tuple[str, str]]:
    """Return the fields of a `bext` as Vorbis comments, under the names that FFmpeg uses."""
    if len(body) < 348:
        return []
    texts = [
        (name, decode_text(body[at : at + length])) for name, (at, length) in BEXT_TEXTS.items()
    ]
    (reference,) = struct.unpack_from("<Q", body, 338)
    texts.append(("TIME_REFERENCE", str(reference) if reference else ""))
    umid = body[348:412].rstrip(b"\0")
    texts.append(("UMID", umid.hex()))
    texts.append(("CODING_HISTORY", decode_text(body[BEXT_BYTES:])))
    return [(name, text) for name, text in texts if text]


def parse_markers(cue: bytes, adtl: bytes) -> tuple[Marker, ...]:
    """Return cue points with their labels (or else notes) and lengths, in order of time."""
    labels: dict[int, str] = {}
    notes: dict[int, str] = {}
    lengths: dict[int, int] = {}
    for name, body in iter_parts(adtl):
        if len(body) < 4:
            continue
        (number,) = struct.unpack_from("<I", body)
        if name == b"labl":
            labels[number] = decode_text(body[4:])
        elif name == b"note":
            notes[number] = decode_text(body[4:])
        elif name == b"ltxt" and len(body) >= 8:
            lengths[number] = struct.unpack_from("<I", body, 4)[0]
            labels.setdefault(number, decode_text(body[20:]))
    found = []
    for at in range(4, min(len(cue), 4 + 24 * _MOST_ENTRIES) - 23, 24):
        number, position, _, _, _, frame = struct.unpack_from("<II4sIII", cue, at)
        label = labels.get(number) or notes.get(number) or f"marker {number}"
        found.append(Marker(frame or position, label, lengths.get(number, 0)))
    return tuple(sorted(found, key=lambda marker: marker.frame))


def parse_loops(smpl: bytes) -> tuple[Loop, ...]:
    """Return the loops of a `smpl`."""
    entries = range(36, min(len(smpl), 36 + 24 * _MOST_ENTRIES) - 23, 24)
    found = (struct.unpack_from("<8x2I", smpl, at) for at in entries)
    return tuple(Loop(start, end) for start, end in found if end >= start)


def list_unparsed(chunks: Sequence[Chunk]) -> list[str]:
    """Return notes about the entries of chunks that are too many to be parsed.

    A WAV file gets them all the same, within their chunk.
    """
    info = islice(iter_parts(find_chunk(chunks, b"INFO")), _MOST_ENTRIES, None)
    exceeding = {
        "cue points": len(find_chunk(chunks, b"cue ")) >= 4 + 24 * (_MOST_ENTRIES + 1),
        "loops": len(find_chunk(chunks, b"smpl")) >= 36 + 24 * (_MOST_ENTRIES + 1),
        "texts of INFO": next(info, None) is not None,
    }
    return [
        f"all {what} after the first {_MOST_ENTRIES}, except within their chunk"
        for what, too_many in exceeding.items()
        if too_many
    ]


def decode_text(field: bytes) -> str:
    """Decode the text before the first zero, as UTF-8 or else Latin-1."""
    raw = field.split(b"\0", 1)[0]
    try:
        return raw.decode("utf-8").strip()
    except UnicodeDecodeError:
        return raw.decode("latin-1").strip()


def parse_position(text: str | None) -> int | None:
    """Return a position in samples from a tag, or None."""
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,18}", text) else None
