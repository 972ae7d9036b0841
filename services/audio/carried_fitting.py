"""Leave out what others wrote into a file and the next one cannot hold, and list it."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

from services.audio.carried import CHAPTER, build_chapters, parse_chapters
from services.audio.carried_writing import add_positions, merge_texts
from services.audio.id3_tags import to_milliseconds
from services.audio.riff import find_chunk
from services.audio.tag_files import VORBIS_COMMENT_FORMATS

if TYPE_CHECKING:
    from services.audio.carried import Carried, Picture
    from services.audio.facts import TakeFacts

_U32 = 1 << 32
# A file of 16 MiB can hold over a million, each of which costs time in every step.
_MOST_TEXTS = 10_000
_MOST_BLOCK_BYTES = (1 << 24) - 1
# The rest is for the name of the encoder and the gain.
_MOST_COMMENT_BYTES = _MOST_BLOCK_BYTES - (1 << 16)


def fit_carried(carried: Carried, facts: TakeFacts, audio_format: str, rate: int) -> Carried:
    """Return what a file can hold, at its sample rate.

    Args:
        carried: of the source, at its rate.
        facts: of the source.
        audio_format: of the new file: wav, flac, mp3, ogg or opus.
        rate: of the new file.
    """
    # Before positions are moved, which keeps them within 32 bits at another place.
    carried = _drop_far_positions(carried, audio_format, rate).at_rate(rate)
    if not carried.kind == audio_format == "wav":
        # A WAV file takes over the chunks of another, whatever their texts are.
        carried = _list_odd_chapters(_drop_many_texts(carried), audio_format)
    return _fit_blocks(carried, facts) if audio_format == "flac" else carried


def _drop_far_positions(carried: Carried, audio_format: str, rate: int) -> Carried:
    """Drop what ends past the 32 bits of WAV (samples) and ID3 (milliseconds)."""
    if audio_format not in {"wav", "mp3"}:
        return carried
    ratio = Fraction(rate, carried.sample_rate)
    markers, loops = carried.markers, carried.loops
    if audio_format == "mp3":
        markers = tuple(
            one for one in markers if to_milliseconds(one.frame, carried.sample_rate) < _U32
        )
    # Chunks that are there pass as they are.
    elif not find_chunk(carried.chunks, b"cue "):
        markers = tuple(one for one in markers if round(one.frame * ratio) < _U32)
    if audio_format == "wav" and not find_chunk(carried.chunks, b"smpl"):
        loops = tuple(one for one in loops if round((one.end + 1) * ratio) <= _U32)
    far = "past the 32 bits of a position"
    lost = [f"the markers {far}"] if len(markers) < len(carried.markers) else []
    lost += [f"the loop {far}"] if len(loops) < len(carried.loops) else []
    return replace(carried, markers=markers, loops=loops, left_out=(*carried.left_out, *lost))


def _drop_many_texts(carried: Carried) -> Carried:
    if len(carried.texts) <= _MOST_TEXTS:
        return carried
    return replace(
        carried,
        texts=carried.texts[:_MOST_TEXTS],
        left_out=(*carried.left_out, f"all texts after the first {_MOST_TEXTS}"),
    )


def _list_odd_chapters(carried: Carried, audio_format: str) -> Carried:
    """List comments of chapters that are none, for formats with markers of their own."""
    if audio_format not in {"wav", "mp3"}:
        return carried
    found = [one for one in carried.texts if CHAPTER.fullmatch(one[0].upper())]
    read = parse_chapters(tuple(found), 1) if carried.kind in VORBIS_COMMENT_FORMATS else ()
    if len({name[:10].upper() for name, _ in found}) <= len(read):
        return carried
    note = "CHAPTER texts that are no chapters"
    return replace(carried, left_out=(*carried.left_out, note))


def _fit_blocks(carried: Carried, facts: TakeFacts) -> Carried:
    """Drop what is too large for a block of FLAC: the longest texts, and pictures."""
    lost = []
    pictures = tuple(one for one in carried.pictures if _measure_picture(one) <= _MOST_BLOCK_BYTES)
    if len(pictures) < len(carried.pictures):
        lost.append("the pictures of 16 MiB and more")
    chapters = build_chapters(carried.markers, carried.sample_rate)
    if sum(map(_measure_text, chapters)) > _MOST_COMMENT_BYTES // 2:
        carried = replace(carried, markers=())
        lost.append("the markers, whose names are too long")
    texts = add_positions(merge_texts(facts, carried), carried)
    excess = sum(map(_measure_text, texts)) - _MOST_COMMENT_BYTES
    sizes = sorted(((_measure_text(one), at) for at, one in enumerate(carried.texts)), reverse=True)
    dropped = set()
    for size, at in sizes:
        if excess <= 0:
            break
        excess -= size
        dropped.add(at)
    lost += [f"{carried.texts[at][0]}, which is too long" for at in sorted(dropped)]
    return replace(
        carried,
        pictures=pictures,
        texts=tuple(one for at, one in enumerate(carried.texts) if at not in dropped),
        left_out=(*carried.left_out, *dict.fromkeys(lost)),
    )


def _measure_text(text: tuple[str, str]) -> int:
    """Return the bytes of a comment with its length and its sign of equality."""
    return sum(len(part.encode("utf-8", "replace")) for part in text) + 5


def _measure_picture(picture: Picture) -> int:
    texts = f"{picture.mime}{picture.description}".encode("utf-8", "replace")
    return 32 + len(picture.data) + len(texts)
