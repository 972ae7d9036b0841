"""Chunks of RIFF files at another sample rate, with other levels, or built from texts.

The layouts are those of `riff`. What is not to change keeps its bytes.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

from services.audio.riff import (
    BEXT_BYTES,
    BEXT_TEXTS,
    U32,
    Loop,
    iter_parts,
    parse_position,
    scale,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from fractions import Fraction

    from services.audio.loudness import Loudness

_U64 = 1 << 64
_LOUDNESS_AT = 412
_UNKNOWN_LEVEL = 0x7FFF
_TIME_PAIRS = (
    ("TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_HI", "TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_LO"),
    ("BWF_TIME_REFERENCE_HIGH", "BWF_TIME_REFERENCE_LOW"),
    ("SYNC_POINT_HIGH", "SYNC_POINT_LOW"),
)


# Moving to another rate.


def scale_chunk(name: bytes, body: bytes, ratio: Fraction) -> bytes:
    """Return a chunk with its positions at another rate; `ratio` is the new over the old rate.

    Chunks without known positions are returned as they are.
    """
    scaled = body
    if name == b"cue ":
        scaled = _scale_entries(body, 4, 24, (4, 20), ratio)
    elif name == b"plst":
        scaled = _scale_entries(body, 4, 12, (4,), ratio)
    elif name == b"smpl" and len(body) >= 36:
        (period,) = struct.unpack_from("<I", body, 8)
        head = body[:8] + struct.pack("<I", min(round(period / ratio), U32 - 1)) + body[12:36]
        scaled = head + _scale_loops(body[36:], ratio)
    elif name == b"bext" and len(body) >= 346:
        (reference,) = struct.unpack_from("<Q", body, 338)
        scaled = set_time_reference(body, scale(reference, ratio, _U64))
    elif name == b"LIST" and body[:4] == b"adtl":
        scaled = _scale_labels(body, ratio)
    elif name == b"iXML":
        scaled = _scale_ixml(body, ratio)
    return scaled


def has_unknown_positions(name: bytes, body: bytes) -> bool:
    """Return whether a chunk may have positions that `scale_chunk` does not know."""
    known = {b"cue ", b"plst", b"smpl", b"bext", b"iXML", b"acid", b"inst", b"CSET", b"id3 "}
    known |= {b"ID3 ", b"_PMX", b"axml", b"chna", b"DISP"}
    if name == b"iXML" and body[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        # In UTF-16 its elements are not found.
        return True
    return name not in known and not (name == b"LIST" and body[:4] in {b"INFO", b"adtl"})


def _scale_entries(
    body: bytes, first: int, width: int, fields: Sequence[int], ratio: Fraction
) -> bytes:
    scaled = bytearray(body)
    for at in range(first, len(body) - width + 1, width):
        for offset in fields:
            (value,) = struct.unpack_from("<I", body, at + offset)
            struct.pack_into("<I", scaled, at + offset, scale(value, ratio))
    return bytes(scaled)


def _scale_loops(body: bytes, ratio: Fraction) -> bytes:
    scaled = bytearray(body)
    for at in range(0, len(body) - 23, 24):
        loop = Loop(*struct.unpack_from("<2I", body, at + 8)).at_ratio(ratio)
        struct.pack_into("<2I", scaled, at + 8, loop.start, loop.end)
    return bytes(scaled)


def _scale_labels(body: bytes, ratio: Fraction) -> bytes:
    scaled, at = bytearray(body), 4
    for name, part in iter_parts(body[4:]):
        if name == b"ltxt" and len(part) >= 8:
            (length,) = struct.unpack_from("<I", part, 4)
            struct.pack_into("<I", scaled, at + 12, scale(length, ratio))
        at += 8 + len(part) + len(part) % 2
    return bytes(scaled)


def _scale_ixml(body: bytes, ratio: Fraction) -> bytes:
    # Edited as text: what others wrote keeps its form, comments and order.
    text = body.decode("utf-8", "surrogateescape")
    for high, low in _TIME_PAIRS:
        found = [
            re.search(rf"(<{name}>\s*)(\d{{1,20}})(\s*</{name}>)", text) for name in (high, low)
        ]
        if found[1] is None:
            continue
        position = (int(found[0][2]) * U32 if found[0] else 0) + int(found[1][2])
        moved = scale(position, ratio, _U64)
        for name, value in ((high, moved // U32), (low, moved % U32)):
            text = set_element(text, name, str(value))
    rates = re.findall(r"<FILE_SAMPLE_RATE>\s*(\d{1,9})\s*<", text)
    for name in ("FILE_SAMPLE_RATE", "TIMESTAMP_SAMPLE_RATE"):
        if rates:
            text = set_element(text, name, str(round(int(rates[0]) * ratio)))
    return text.encode("utf-8", "surrogateescape")


def set_element(text: str, name: str, value: str) -> str:
    """Replace the text of the first element of this name in XML; nothing happens without one."""
    pattern = rf"(<{name}>)[^<]*(</{name}>)"
    return re.sub(pattern, lambda found: f"{found[1]}{value}{found[2]}", text, count=1)


# Levels.


def update_bext_loudness(body: bytes, levels: Sequence[int]) -> bytes:
    """Return a `bext` with new levels, in hundredths; without levels it stays as it is.

    Args:
        body: of the chunk.
        levels: integrated, range, true peak, momentary and short-term maximum.
    """
    if len(body) < _LOUDNESS_AT + 10 or struct.unpack_from("<H", body, 346)[0] < 2:
        return body
    stated = struct.unpack_from("<5h", body, _LOUDNESS_AT)
    if not any(level not in {0, _UNKNOWN_LEVEL} for level in stated):
        return body
    return body[:_LOUDNESS_AT] + struct.pack("<5h", *levels) + body[_LOUDNESS_AT + 10 :]


def add_coding_history(body: bytes, line: str) -> bytes:
    """Return a `bext` with one more line about how its samples were made, unless it has it."""
    history = body[BEXT_BYTES:].rstrip(b"\0")
    if len(body) < BEXT_BYTES or line.encode() in history:
        return body
    added = body[:BEXT_BYTES] + history + line.encode()
    return added + bytes(len(added) % 2)


def update_ixml_loudness(body: bytes, loudness: Loudness) -> bytes:
    """Return an iXML document with new levels in the elements that state levels."""
    figures = {
        "LOUDNESS_VALUE": loudness.integrated_lufs,
        "LOUDNESS_RANGE": loudness.loudness_range_lu,
        "MAX_TRUE_PEAK_LEVEL": loudness.true_peak_dbtp,
        "MAX_MOMENTARY_LOUDNESS": loudness.momentary_max_lufs,
        "MAX_SHORT_TERM_LOUDNESS": loudness.short_term_max_lufs,
    }
    text = body.decode("utf-8", "surrogateescape")
    for name, figure in figures.items():
        text = set_element(text, name, f"{figure:.2f}" if -99.99 <= figure <= 99.99 else "")
    return text.encode("utf-8", "surrogateescape")


def update_ixml_depth(body: bytes, bits: int) -> bytes:
    """Return an iXML document that states another bit depth, if it states one."""
    text = body.decode("utf-8", "surrogateescape")
    return set_element(text, "AUDIO_BIT_DEPTH", str(bits)).encode("utf-8", "surrogateescape")


# Building.


def build_bext(texts: Iterable[tuple[str, str]]) -> bytes | None:
    """Return the body of a `bext` of version 1 from Vorbis comments, or None without any field."""
    fields = {name.upper(): text for name, text in texts}
    names = {*BEXT_TEXTS, "TIME_REFERENCE", "UMID"} - {"DESCRIPTION"}
    if names.isdisjoint(fields):
        return None
    head = b"".join(
        fields.get(name, "").encode("latin-1", "replace")[:length].ljust(length, b"\0")
        for name, (_, length) in BEXT_TEXTS.items()
    )
    reference = parse_position(fields.get("TIME_REFERENCE")) or 0
    umid = fields.get("UMID", "")
    is_hex = re.fullmatch(r"([0-9a-fA-F]{2}){1,64}", umid) is not None
    return (
        head
        + struct.pack("<QH", min(reference, _U64 - 1), 1)
        + (bytes.fromhex(umid) if is_hex else b"").ljust(64, b"\0")
        + bytes(190)
        + fields.get("CODING_HISTORY", "").encode("latin-1", "replace")
    )


def set_time_reference(body: bytes, position: int) -> bytes:
    """Return a `bext` with another place in time, in samples since midnight."""
    return body[:338] + struct.pack("<Q", min(position, _U64 - 1)) + body[346:]
