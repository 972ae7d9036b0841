"""Read what others wrote into a file; see `carried`."""

from __future__ import annotations

import base64
import io
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO

from services.audio.carried import Carried, Picture, parse_chapters, parse_loop_texts
from services.audio.id3_tags import list_markers, list_pictures, list_texts, read_id3
from services.audio.riff import (
    MOST_BYTES,
    Loop,
    Marker,
    decode_text,
    describe_chunk,
    find_chunk,
    iter_chunk_heads,
    list_unparsed,
    parse_bext,
    parse_info,
    parse_loops,
    parse_markers,
    read_chunks,
)
from services.audio.tag_files import BoundedFile, detect_format, open_comments, read_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.audio.id3_tags import Id3Frames
    from services.audio.reading import AudioFile
    from services.audio.riff import Chunk

APPLICATION, _CUESHEET = 2, 5
RIFF_ID = b"riff"
"""Of the application blocks in which FLAC files keep the chunks of a WAV file."""

_RIFF_HEADERS = {b"RIFF", b"RF64", b"ds64", b"fmt ", b"data", b"fact"}
_ID3_CHUNKS = (b"id3 ", b"ID3 ")
_AIFF_TEXTS = {b"NAME": "TITLE", b"AUTH": "ARTIST", b"(c) ": "COPYRIGHT", b"ANNO": "COMMENT"}
_CHANNEL_CHUNKS = {b"chna", b"axml", b"bxml", b"sxml", b"dbmd"}
"""Of ITU-R BS.2076 and BS.2088, and Dolby's: which object or loudspeaker a channel is."""

_CHANNEL_TEXTS = {"WAVEFORMATEXTENSIBLE_CHANNEL_MASK"}
_AIFF_SOUND = {b"COMM", b"SSND", b"FVER", b"FLLR"}


def read_carried(file: AudioFile) -> Carried:
    """Read the metadata of an audio file, at most 16 MiB of it.

    Tags that cannot be read are named in `left_out`. Of types other than WAV, FLAC, Ogg, MP3 and
    AIFF nothing is read, and `left_out` says so.
    """
    carried = _read_any(file)
    return _drop_channels(carried) if file.is_mixed_down else carried


def _read_any(file: AudioFile) -> Carried:
    try:
        with file.path.open("rb") as data:
            kind = detect_format(data)
            data.seek(0)
            if kind == "wav":
                return _read_wav(data, file.sample_rate)
            if kind == "mp3":
                return _read_mp3(data, file.sample_rate)
            if kind == "aiff":
                return _read_aiff(data, file.sample_rate)
            if kind:
                return _read_comments(kind, data, file.sample_rate)
    except read_errors() as error:
        return Carried(sample_rate=file.sample_rate, left_out=(f"the tags ({error})",))
    note = f"the metadata of {file.container} files, which is not read"
    return Carried(sample_rate=file.sample_rate, left_out=(note,))


def _drop_channels(carried: Carried) -> Carried:
    """Return the same without what describes channels that are mixed to stereo."""
    chunks: list[Chunk] = []
    lost: list[str] = []
    for name, body in carried.chunks:
        if name in _CHANNEL_CHUNKS:
            lost.append(describe_chunk(name))
        elif name == b"iXML" and (start := body.find(b"<TRACK_LIST>")) >= 0:
            end = body.find(b"</TRACK_LIST>", start)
            rest = body[end + len(b"</TRACK_LIST>") :] if end >= 0 else b""
            chunks.append((name, body[:start] + rest))
            lost.append("the TRACK_LIST of iXML")
        else:
            chunks.append((name, body))
    lost += [name for name, _ in carried.texts if name.upper() in _CHANNEL_TEXTS]
    return replace(
        carried,
        chunks=tuple(chunks),
        texts=tuple(one for one in carried.texts if one[0].upper() not in _CHANNEL_TEXTS),
        left_out=(
            *carried.left_out,
            *(f"{what}, for the channels before the mix to stereo" for what in lost),
        ),
    )


def read_id3_texts(chunk: bytes) -> list[tuple[str, str]]:
    """Return the texts of the body of an ID3 chunk; none if it is damaged."""
    try:
        tag = read_id3(io.BytesIO(chunk))
    except read_errors():
        return []
    return [] if tag is None else list_texts(tag)


def _read_wav(file: BinaryIO, sample_rate: int) -> Carried:
    chunks, unread = read_chunks(file)
    carried = Carried(
        kind="wav", sample_rate=sample_rate, chunks=tuple(chunks), left_out=tuple(unread)
    )
    return _parse_chunks(carried)


def _parse_chunks(carried: Carried) -> Carried:
    """Add texts, pictures, markers and loops of the chunks."""
    tag, chunks, unread = _read_id3_chunk(carried.chunks)
    texts = [] if tag is None else list_texts(tag)
    # ID3 has whole texts and more of them; INFO cuts them in many programs.
    known = {name.upper() for name, _ in texts}
    texts += [one for one in parse_info(find_chunk(chunks, b"INFO")) if one[0] not in known]
    texts += parse_bext(find_chunk(chunks, b"bext"))
    return replace(
        carried,
        chunks=chunks,
        texts=tuple(texts),
        pictures=tuple([] if tag is None else list_pictures(tag)),
        markers=parse_markers(find_chunk(chunks, b"cue "), find_chunk(chunks, b"adtl")),
        loops=parse_loops(find_chunk(chunks, b"smpl")),
        left_out=(*carried.left_out, *unread, *list_unparsed(chunks)),
        frames=tag,
    )


def _read_id3_chunk(
    chunks: Sequence[Chunk],
) -> tuple[Id3Frames | None, tuple[Chunk, ...], list[str]]:
    """Return the first whole ID3 tag, the chunks without other ones, and notes about those.

    Two tags would contradict each other as soon as one of them is brought up to date.
    """
    tag: Id3Frames | None = None
    dropped: set[int] = set()
    unread = []
    of_id3 = [at for at, (name, body) in enumerate(chunks) if name in _ID3_CHUNKS and body]
    for at in sorted(of_id3, key=lambda at: _ID3_CHUNKS.index(chunks[at][0])):
        name, body = chunks[at]
        if tag is not None:
            dropped.add(at)
            unread.append(f"another ID3 tag, in {describe_chunk(name)}")
            continue
        try:
            tag = read_id3(io.BytesIO(body))
        except read_errors():
            dropped.add(at)
            unread.append(f"{describe_chunk(name)}, which is damaged")
    return tag, tuple(one for at, one in enumerate(chunks) if at not in dropped), unread


def _read_mp3(file: BinaryIO, sample_rate: int) -> Carried:
    from mutagen import apev2

    # One tag that is damaged does not cost the other.
    tag: Id3Frames | None = None
    texts: list[tuple[str, str]] = []
    left_out = []
    try:
        tag = read_id3(BoundedFile(file))
        texts = [] if tag is None else list_texts(tag)
    except read_errors() as error:
        left_out.append(f"the ID3 tag ({error})")
    known = {name.upper() for name, _ in texts}
    ape: Any = apev2  # mutagen has no annotations
    try:
        file.seek(0)
        for name, value in ape.APEv2(BoundedFile(file)).items():
            if isinstance(value, ape.APETextValue) and name.upper() not in known:
                texts += [(name.upper(), text) for text in value]
            elif not isinstance(value, ape.APETextValue):
                left_out.append(f"{name} of the APE tag")
    except ape.APENoHeaderError:
        pass
    except read_errors() as error:
        left_out.append(f"the APE tag ({error})")
    carried = Carried(
        kind="mp3", sample_rate=sample_rate, texts=tuple(texts), left_out=tuple(left_out)
    )
    return _add_frames(carried, tag)


def _add_frames(carried: Carried, tag: Id3Frames | None) -> Carried:
    if tag is None:
        return carried
    return replace(
        carried,
        frames=tag,
        pictures=tuple(list_pictures(tag)),
        markers=carried.markers or list_markers(tag, carried.sample_rate),
        loops=carried.loops or parse_loop_texts(carried.texts),
    )


def _read_comments(kind: str, file: BinaryIO, sample_rate: int) -> Carried:
    opened = open_comments(kind, BoundedFile(file))
    texts, pictures = [], []
    for name, text in opened.tags or []:
        picture = _parse_picture(text) if name.upper() == "METADATA_BLOCK_PICTURE" else None
        if picture is None:
            texts.append((name, text))
        else:
            pictures.append(picture)
    carried = Carried(
        kind=kind,
        sample_rate=sample_rate,
        texts=tuple(texts),
        markers=parse_chapters(tuple(texts), sample_rate),
        loops=parse_loop_texts(tuple(texts)),
    )
    if kind == "flac":
        carried, found = _read_blocks(carried, opened)
        pictures += found
    return replace(carried, pictures=tuple(pictures))


def _read_blocks(carried: Carried, opened: Any) -> tuple[Carried, list[Picture]]:
    """Add the blocks of a FLAC file, and the chunks that they keep of a WAV file."""
    chunks: list[Chunk] = []
    blocks: list[tuple[int, bytes]] = []
    for block in opened.metadata_blocks:
        if block.code == APPLICATION and bytes(block.data[:4]) == RIFF_ID:
            name, body = _parse_riff_block(bytes(block.data[4:]))
            if name and name not in _RIFF_HEADERS:
                chunks.append((name, body))
        elif block.code in {APPLICATION, _CUESHEET}:
            blocks.append((block.code, bytes(block.write())))
    pictures = [_from_block(one) for one in opened.pictures]
    of_chunks = _parse_chunks(replace(carried, chunks=tuple(chunks)))
    carried = replace(
        carried,
        chunks=of_chunks.chunks,
        blocks=tuple(blocks),
        frames=of_chunks.frames,
        markers=of_chunks.markers or carried.markers,
        loops=of_chunks.loops or carried.loops,
        left_out=of_chunks.left_out,
    )
    return carried, pictures


def _parse_riff_block(data: bytes) -> Chunk:
    if len(data) < 8:
        return b"", b""
    name, size = struct.unpack_from("<4sI", data)
    return name, data[8 : 8 + size]


def _parse_picture(text: str) -> Picture | None:
    from mutagen import flac

    read_picture: Any = flac.Picture
    try:
        return _from_block(read_picture(base64.b64decode(text, validate=True)))
    except read_errors():
        # Text that is not base64 is a ValueError.
        return None


def _from_block(block: Any) -> Picture:
    return Picture(
        block.type,
        block.mime,
        block.desc,
        block.data,
        block.width,
        block.height,
        block.depth,
        block.colors,
    )


def _read_aiff(file: BinaryIO, sample_rate: int) -> Carried:
    """Read the chunks of an AIFF file (Apple, Audio Interchange File Format 1.3)."""
    chunks, unread = _read_aiff_chunks(file)
    texts = [
        (_AIFF_TEXTS[name], decode_text(body))
        for name, body in chunks
        if name in _AIFF_TEXTS and decode_text(body)
    ]
    marks = _parse_aiff_marks(find_chunk(chunks, b"MARK"))
    loops, in_loops = _parse_aiff_loops(find_chunk(chunks, b"INST"), marks)
    known = {b"MARK", b"INST", *_AIFF_TEXTS, *_ID3_CHUNKS}
    tag, _, of_id3 = _read_id3_chunk(chunks)
    of_tag = [] if tag is None else list_texts(tag)
    names = {name.upper() for name, _ in of_tag}
    carried = Carried(
        kind="aiff",
        sample_rate=sample_rate,
        texts=(*of_tag, *(one for one in texts if one[0] not in names)),
        markers=tuple(
            sorted(
                (
                    Marker(at, label)
                    for number, (at, label) in marks.items()
                    if number not in in_loops
                ),
                key=lambda marker: marker.frame,
            )
        ),
        loops=loops,
        left_out=(
            *unread,
            *of_id3,
            *(
                f'the chunk "{name.decode("latin-1").strip()}"'
                for name, _ in chunks
                if name not in known
            ),
        ),
    )
    return _add_frames(carried, tag)


def _read_aiff_chunks(file: BinaryIO) -> tuple[list[Chunk], list[str]]:
    chunks: list[Chunk] = []
    unread: list[str] = []
    left = MOST_BYTES
    for name, size in iter_chunk_heads(file, unread, big_endian=True):
        if name not in _AIFF_SOUND:
            body = file.read(size) if size <= left else b""
            left -= len(body)
            if len(body) == size:
                chunks.append((name, body))
            else:
                unread.append(f"{describe_chunk(name)}, which is damaged or too large")
    return chunks, unread


def _parse_aiff_marks(body: bytes) -> dict[int, tuple[int, str]]:
    """Return position and name of each marker by its number."""
    marks: dict[int, tuple[int, str]] = {}
    at = 2
    while at + 7 <= len(body):
        number, position, length = struct.unpack_from(">hIB", body, at)
        label = decode_text(body[at + 7 : at + 7 + length])
        marks[number] = (position, label or f"marker {number}")
        at += 7 + length + (length + 1) % 2
    return marks


def _parse_aiff_loops(
    body: bytes, marks: dict[int, tuple[int, str]]
) -> tuple[tuple[Loop, ...], set[int]]:
    """Return the loops between markers, and the numbers of those markers."""
    loops: list[Loop] = []
    used: set[int] = set()
    for at in (8, 14):
        if len(body) < at + 6:
            break
        mode, begin, end = struct.unpack_from(">3h", body, at)
        if mode and begin in marks and end in marks and marks[end][0] > marks[begin][0]:
            # A marker lies before its sample, so that the loop ends one sample earlier.
            loops.append(Loop(marks[begin][0], marks[end][0] - 1))
            used |= {begin, end}
    return tuple(loops), used
