"""How much audio an MP3, Ogg or FLAC file has, found without its decoder.

libsndfile takes the length of these from their first bytes, and reads no further: an estimate in
MP3 without a Xing header, the first part of files that were joined, any number that a FLAC encoder
left there. Here the frames or pages themselves are counted (ISO/IEC 11172-3 and 13818-3, RFC 3533,
RFC 9639).
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import BinaryIO

_Bytes = bytes | mmap.mmap

_TOLERATED_FRAMES = 3
"""MPEG frames by which two decoders differ at the ends of a file and at damaged places."""
_ID3V2_HEAD, _ID3V1_BYTES, _APE_HEAD = 10, 128, 32
_FLAC_TAIL_BYTES = 1 << 20
"""Longer than any FLAC frame of two channels."""

_KBPS = {
    # By (is MPEG-1, layer), for the indices 1 to 14.
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES_HZ = (44_100, 48_000, 32_000)
_RATE_DIVISORS = {3: 1, 2: 2, 0: 4}
"""By the version bits of a header: MPEG-1, 2 and 2.5."""


@dataclass(frozen=True, slots=True)
class Length:
    """Length of a file, beside that which libsndfile takes from it."""

    frames: int
    """Samples per channel, or those that were claimed where they need no correction."""
    shortfall: str | None = None
    """What libsndfile leaves out, as the rest of a sentence about the file; None for nothing."""


def check_length(
    file: BinaryIO, container: str, encoding: str, claimed: int, sample_rate: int
) -> Length:
    """Compare the length of a file with that which libsndfile takes from it.

    Args:
        file: on a disk, open for reading.
        container: libsndfile's short name; all but Ogg and FLAC are believed,
        encoding: unless this is MPEG.
        claimed: samples per channel, by libsndfile.
        sample_rate: Hz, by libsndfile.
    """
    is_mpeg = encoding.startswith("MPEG_LAYER")
    if not (is_mpeg or container in {"OGG", "FLAC"}):
        return Length(claimed)
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if is_mpeg:
            return _check_mpeg(data, claimed, sample_rate)
        if container == "FLAC":
            return _check_flac(data, claimed, sample_rate)
        return _check_ogg(data, claimed)


@dataclass(frozen=True, slots=True)
class _MpegFrame:
    bytes: int
    samples: int
    kind: tuple[int, int, int]
    """Version, layer and sample rate, which all frames of a file share."""
    side_info_bytes: int


def _check_mpeg(data: _Bytes, claimed: int, sample_rate: int) -> Length:
    at, first = _find_mpeg_frame(data, _skip_tags(data, 0), None)
    if first is None:
        return Length(claimed, "has no MPEG frames that can be counted")
    header_frames, trimmed = _read_xing(data[at : at + first.bytes], first)
    if header_frames is not None:
        at += first.bytes
    count, widest_gap, end = _count_mpeg_frames(data, at, first)
    frames = max(0, count * first.samples - trimmed)
    tolerated = _TOLERATED_FRAMES * first.samples
    if claimed < frames - tolerated:
        return Length(claimed, _describe_shortfall(frames, claimed, sample_rate))
    if widest_gap:
        # libsndfile may end there: it seldom finds the next frame by itself.
        return Length(claimed, f"has {widest_gap} bytes that are no audio between its frames")
    if _has_other_frames(data, end):
        return Length(claimed, "changes its sample rate, and libsndfile reads up to there")
    # What a header promises is kept, so that a file that was cut is seen to be; an estimate is not.
    return Length(claimed if header_frames else frames)


def _count_mpeg_frames(data: _Bytes, at: int, first: _MpegFrame) -> tuple[int, int, int]:
    """Return the frames from a place on, the widest gap between two in bytes, and their end."""
    known: dict[bytes, _MpegFrame | None] = {}
    count, widest, end = 0, 0, len(data)
    while at + 4 <= end:
        head = data[at : at + 3]
        if head not in known:
            known[head] = _parse_mpeg_head(head)
        frame = known[head]
        if frame is not None and frame.kind == first.kind:
            at += frame.bytes
            count += at <= end
            continue
        after, found = _find_mpeg_frame(data, _skip_tags(data, at), first.kind)
        if found is None:
            break
        widest, at = max(widest, after - _skip_tags(data, at)), after
    return count, widest, at


def _has_other_frames(data: _Bytes, at: int) -> bool:
    """Return whether three frames of another kind follow somewhere: two may be chance."""
    place, frame = _find_mpeg_frame(data, at, None)
    while frame is not None:
        after = place + frame.bytes
        if after < len(data) and _find_mpeg_frame(data, after, frame.kind)[0] == after:
            return True
        place, frame = _find_mpeg_frame(data, place + 1, None)
    return False


def _find_mpeg_frame(
    data: _Bytes, at: int, kind: tuple[int, int, int] | None
) -> tuple[int, _MpegFrame | None]:
    """Return the place of the next frame that is followed by another or by the end of the file."""
    while 0 <= (at := data.find(b"\xff", at)) <= len(data) - 4:
        frame = _parse_mpeg_head(data[at : at + 3])
        if frame is not None and kind in {None, frame.kind}:
            after = _skip_tags(data, at + frame.bytes)
            following = _parse_mpeg_head(data[after : after + 3])
            if after >= len(data) or (following is not None and following.kind == frame.kind):
                return at, frame
        at += 1
    return len(data), None


def _parse_mpeg_head(head: bytes) -> _MpegFrame | None:
    if len(head) < 3 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    rate_index, bitrate_index = head[2] >> 2 & 3, head[2] >> 4
    if version == 1 or layer == 4 or rate_index == 3 or bitrate_index in {0, 15}:
        return None
    is_first, padding = version == 3, head[2] >> 1 & 1
    rate = _RATES_HZ[rate_index] // _RATE_DIVISORS[version]
    bits_per_second = 1000 * _KBPS[is_first, layer][bitrate_index - 1]
    if layer == 1:
        samples, length = 384, (12 * bits_per_second // rate + padding) * 4
    else:
        samples = 1152 if is_first or layer == 2 else 576
        length = samples // 8 * bits_per_second // rate + padding
    return _MpegFrame(length, samples, (version, layer, rate), 32 if is_first else 17)


def _read_xing(body: bytes, frame: _MpegFrame) -> tuple[int | None, int]:
    """Read a frame that describes the others.

    Returns:
        The frames that it promises, 0 if it does not say and None if the frame has sound; and the
        samples that its encoder added at both ends.
    """
    if body[36:40] == b"VBRI":
        return int.from_bytes(body[50:54], "big"), 0
    stereo, mono = 4 + frame.side_info_bytes, 4 + (17 if frame.side_info_bytes == 32 else 9)
    at = mono if len(body) > 3 and body[3] >> 6 == 3 else stereo
    if body[at : at + 4] not in {b"Xing", b"Info"}:
        return None, 0
    flags = int.from_bytes(body[at + 4 : at + 8], "big")
    promised = int.from_bytes(body[at + 8 : at + 12], "big") if flags & 1 else 0
    # Frames, bytes, table and quality, each there by its flag; then the encoder's own part.
    lame = at + 8 + 4 * (flags & 1) + 4 * (flags >> 1 & 1) + 100 * (flags >> 2 & 1)
    lame += 4 * (flags >> 3 & 1)
    added = int.from_bytes(body[lame + 21 : lame + 24], "big")
    return promised, (added >> 12) + (added & 0xFFF)


def _skip_tags(data: _Bytes, at: int) -> int:
    """Return the place behind the ID3 and APE tags that begin at a place."""
    while True:
        head = data[at : at + _APE_HEAD]
        if head[:3] == b"ID3" and len(head) >= _ID3V2_HEAD and max(head[6:10]) < 0x80:
            size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
            at += _ID3V2_HEAD + size + (_ID3V2_HEAD if head[5] & 0x10 else 0)
        elif head[:8] == b"APETAGEX" and len(head) == _APE_HEAD:
            # The size leaves out the header, and what ends here may be the footer alone.
            is_header = head[23] & 0x20
            at += _APE_HEAD + (int.from_bytes(head[12:16], "little") if is_header else 0)
        elif head[:3] == b"TAG":
            at += _ID3V1_BYTES
        else:
            return at


def _check_ogg(data: _Bytes, claimed: int) -> Length:
    at, has_audio = 0, False
    while 0 <= (at := data.find(b"OggS", at)) <= len(data) - 27:
        begins_stream = data[at + 5] & 2
        if begins_stream and has_audio:
            return Length(
                claimed, "has several Ogg streams one after another, and libsndfile reads the first"
            )
        has_audio |= not begins_stream
        segments = data[at + 26]
        at += 27 + segments + sum(data[at + 27 : at + 27 + segments])
    return Length(claimed)


def _check_flac(data: _Bytes, claimed: int, sample_rate: int) -> Length:
    begin = data.find(b"fLaC")
    if begin < 0:
        return Length(claimed)
    # A STREAMINFO block of 34 bytes follows, the last of the metadata or not.
    for mark in (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22"):
        if data.find(mark, begin + 4) >= 0:
            return Length(claimed, "has several FLAC streams, and libsndfile reads the first")
    frames = _find_flac_end(data, begin)
    if frames > claimed:
        return Length(claimed, _describe_shortfall(frames, claimed, sample_rate))
    return Length(claimed)


def _find_flac_end(data: _Bytes, begin: int) -> int:
    """Return the samples up to the end of the last frame, or 0 if no frame is found."""
    at, is_last = begin + 4, False
    block_samples = int.from_bytes(data[begin + 8 : begin + 10], "big")
    while not is_last and at + 4 <= len(data):
        is_last = bool(data[at] & 0x80)
        at += 4 + int.from_bytes(data[at + 1 : at + 4], "big")
    first = data[at : at + 4]
    if len(first) < 4 or first[0] != 0xFF or first[1] & 0xFE != 0xF8:
        return 0
    place = len(data)
    while (place := data.rfind(first[:2], max(at, len(data) - _FLAC_TAIL_BYTES), place)) >= 0:
        end = _parse_flac_head(data[place : place + 16], first, block_samples)
        if end:
            return end
        place += 1
    return 0


def _parse_flac_head(head: bytes, first: bytes, block_samples: int) -> int:
    """Return the samples up to the end of a frame; 0 if it is no frame of the file."""
    # Frames share sample rate and bits per sample, and the checksum leaves little to chance.
    if len(head) < 16 or head[2] & 0x0F != first[2] & 0x0F or head[3] & 0x0F != first[3] & 0x0F:
        return 0
    # The number of the frame, or of its first sample, is written like a letter of UTF-8.
    number_bytes = 8 - (head[4] ^ 0xFF).bit_length()
    if number_bytes in {1, 8}:
        return 0
    number, number_bytes = head[4] & (0x7F >> number_bytes), max(1, number_bytes)
    for byte in head[5 : 4 + number_bytes]:
        number = number << 6 | byte & 0x3F
    at = 4 + number_bytes
    code = head[2] >> 4
    if code in {6, 7}:
        size_bytes = code - 5
        samples = int.from_bytes(head[at : at + size_bytes], "big") + 1
        at += size_bytes
    elif code == 0:
        return 0
    else:
        samples = 192 if code == 1 else 576 << code - 2 if code < 6 else 256 << code - 8
    at += {12: 1, 13: 2, 14: 2}.get(head[2] & 0x0F, 0)
    if at >= len(head) or _crc8(head[:at]) != head[at]:
        return 0
    return (number if head[1] & 1 else number * block_samples) + samples


def _crc8(data: bytes) -> int:
    """Return the checksum of a FLAC frame's header, with the polynomial x^8 + x^2 + x + 1."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ (0x07 if crc & 0x80 else 0)) & 0xFF
    return crc


def _describe_shortfall(frames: int, claimed: int, sample_rate: int) -> str:
    return (
        f"has {frames / sample_rate:.2f} s of audio, of which libsndfile reads "
        f"{claimed / sample_rate:.2f} s"
    )
