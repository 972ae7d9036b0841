"""Write what others wrote into a file into the next one: the chunks of WAV files, and texts.

Between files of one kind everything passes as it is, except for positions at another sample rate
and levels that no longer hold. Other kinds get all that they can hold.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from services.audio.carried import (
    CHAPTER,
    Carried,
    build_chapters,
    build_loop_texts,
)
from services.audio.comments import build_comments, clean_text
from services.audio.id3_tags import (
    build_id3,
    encode_id3,
    has_ends,
    list_markers,
    list_pictures,
    list_texts,
    list_untranslatable,
    without_gains,
)
from services.audio.key_names import abbreviate_key
from services.audio.riff import (
    BEXT_TEXTS,
    INFO_NAMES,
    Loop,
    describe_chunk,
    find_chunk,
    iter_parts,
    parse_bext,
    parse_info,
    parse_position,
)
from services.audio.riff_changes import (
    add_coding_history,
    build_bext,
    set_element,
    set_time_reference,
    update_bext_loudness,
    update_ixml_depth,
    update_ixml_loudness,
)
from services.audio.wav_chunks import (
    MOST_INFO_BYTES,
    UTF_8_CHUNK,
    WavFormat,
    build_coding_history,
    build_markers,
    build_smpl,
    encode_info,
    find_root_note,
    join_chunks,
    list_chunks,
    place_markers,
    to_hundredths,
)
from services.audio.wav_ixml import build_user, parse_ixml

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from services.audio.facts import TakeFacts
    from services.audio.id3_tags import Id3Frames
    from services.audio.loudness import Loudness
    from services.audio.riff import Chunk

Texts = list[tuple[str, str]]

_OF_TAKES = {b"CSET", b"bext", b"iXML", b"acid", b"smpl", b"cue ", b"id3 "}
_INFO_IDS = {name: key for key, name in reversed(INFO_NAMES.items())}
_BEXT_NAMES = {*BEXT_TEXTS, "TIME_REFERENCE", "UMID", "CODING_HISTORY"}
_HELD_OTHERWISE = {b"CSET", b"bext", b"cue ", b"id3 ", b"ID3 "}
"""Chunks that every format holds in its own way, as texts and chapters."""

_HELD_IN_PART = {b"acid": "its tempo", b"smpl": "its first loop"}


def drop_own(carried: Carried, facts: TakeFacts, frames: int, audio_format: str) -> Carried:
    """Return what others have added to a take: all but what DGX Music writes from its facts.

    Args:
        carried: of a take, before it is moved to another rate.
        facts: of the same take.
        frames: samples per channel of the take.
        audio_format: of the new file; a WAV file takes over the chunks of another as they are.
    """
    rate = carried.sample_rate
    own = list_chunks(facts, WavFormat(2, frames, rate, 16, is_float=False), dithered=False)
    known = {*build_comments(facts).items(), *parse_info(find_chunk(own, b"INFO"))}
    known |= set(parse_bext(find_chunk(own, b"bext")))
    if facts.key is not None:
        known.add(("KEY", facts.key))
    if facts.licence is not None and facts.created_at is not None:
        known.add(("COPYRIGHT", f"{facts.created_at.year:04} {facts.licence}"))
    bars = set(place_markers(facts, rate, frames))
    is_whole = facts.is_loop and carried.loops == (Loop(0, frames - 1),)
    carried = carried.without_texts(known)
    if carried.kind == "wav":
        # The originator of a take is DGX Music; a session may have given it a place in time.
        others = _BEXT_NAMES - {"TIME_REFERENCE", "UMID"}
        carried = replace(carried, texts=tuple(t for t in carried.texts if t[0] not in others))
    return replace(
        carried,
        markers=tuple(one for one in carried.markers if (one.frame, one.label) not in bars),
        loops=() if is_whole else carried.loops,
        chunks=carried.chunks
        if carried.kind == audio_format == "wav"
        else tuple(one for one in carried.chunks if not _is_of_takes(one)),
        frames=None if _is_own_tag(carried.frames, known) else carried.frames,
    )


def _is_own_tag(tag: Id3Frames | None, known: Collection[tuple[str, str]]) -> bool:
    """Return whether an ID3 tag has nothing but what DGX Music wrote."""
    if tag is None or list_pictures(tag) or list_untranslatable(tag) or list_markers(tag, 1):
        return False
    return Carried(sample_rate=1, texts=tuple(list_texts(tag))).without_texts(known).texts == ()


def drop_old_levels(carried: Carried, *, new_levels: bool) -> Carried:
    """Return the same without gains and peaks that no longer hold, in ID3 frames too."""
    carried = carried.without_old_levels(new_levels=new_levels)
    if carried.frames is None or not new_levels:
        return carried
    frames, names = without_gains(carried.frames)
    notes = (f"the ID3 frame {name}, which is for the old file" for name in names)
    return replace(carried, frames=frames, left_out=(*carried.left_out, *notes))


def _is_of_takes(chunk: Chunk) -> bool:
    name, body = chunk
    return name in _OF_TAKES or (name == b"LIST" and body[:4] in {b"adtl", b"INFO"})


def merge_texts(facts: TakeFacts, carried: Carried) -> Texts:
    """Return the comments of a converted file; what others wrote wins over the facts.

    The facts of a file that is not a take only add tempo and key, where only chunks state them.
    """
    own = list(build_comments(facts).items()) if facts.is_take else _list_musical_texts(facts)
    names = {name.upper() for name, _ in carried.texts}
    return [*((name, text) for name, text in own if name not in names), *carried.texts]


def _list_musical_texts(facts: TakeFacts) -> Texts:
    key = abbreviate_key(facts.key)
    tempo = [] if facts.bpm is None else [("BPM", f"{facts.bpm:.12g}")]
    return [*tempo, *([] if key is None else [("INITIALKEY", key)])]


def add_positions(texts: Texts, carried: Carried) -> Texts:
    """Add markers and loops that the texts do not have yet, as comments."""
    added = list(texts)
    names = {name.upper() for name, _ in texts}
    if not any(CHAPTER.fullmatch(name) for name in names):
        added += build_chapters(carried.markers, carried.sample_rate)
    if "LOOPSTART" not in names:
        added += build_loop_texts(carried.loops)
    return added


def without_chapters(texts: Iterable[tuple[str, str]]) -> Texts:
    """Return the texts without the chapters, for formats that have markers of their own."""
    return [(name, text) for name, text in texts if not CHAPTER.fullmatch(name.upper())]


def list_lost(carried: Carried, audio_format: str) -> tuple[str, ...]:
    """Return what a format cannot hold, for messages.

    Args:
        carried: what others wrote.
        audio_format: wav, flac, mp3, ogg or opus.
    """
    lost = list(carried.left_out)
    if audio_format not in {"wav", "flac"}:
        lost += [
            describe_chunk(name, body) + (f" but for {part}" if part else "")
            for name, body in carried.chunks
            for part in [_HELD_IN_PART.get(name)]
            if name not in _HELD_OTHERWISE
            and not (name == b"LIST" and body[:4] in {b"INFO", b"adtl"})
        ]
        adtl = find_chunk(carried.chunks, b"adtl")
        lost += ["the notes of markers"] if any(n == b"note" for n, _ in iter_parts(adtl)) else []
        has_lengths = any(marker.length for marker in carried.markers)
        lost += ["the lengths of markers"] if has_lengths and audio_format != "mp3" else []
    if audio_format not in {"wav", "mp3"} and carried.frames is not None:
        keeps_chunk = audio_format == "flac" and carried.chunks
        lost += (
            []
            if keeps_chunk
            else [f"the ID3 frame {name}" for name in list_untranslatable(carried.frames)]
        )
        lost += ["the ends of chapters"] if has_ends(carried.frames) and not keeps_chunk else []
    if audio_format != "flac" and carried.blocks:
        lost.append("the cue sheet and application blocks of FLAC")
    if audio_format not in {"mp3", "wav"} and len(carried.markers) > 999:
        lost.append("all markers after the first 999")
    return tuple(dict.fromkeys(lost))


# Chunks of WAV files.


def update_chunks(
    carried: Carried,
    facts: TakeFacts,
    wav_format: WavFormat,
    loudness: Loudness,
    *,
    new_levels: bool,
    dithered: bool = False,
) -> list[Chunk]:
    """Return the chunks that a file had, with what the new samples change.

    Args:
        carried: at the rate of the new file.
        facts: of the file.
        wav_format: of the new file.
        loudness: of the new file.
        new_levels: the levels have changed.
        dithered: whether the new file is dithered.
    """
    chunks = []
    for name, old in carried.chunks:
        body = old
        if name == b"bext" and (new_levels or facts.is_take):
            body = update_bext_loudness(body, to_hundredths(loudness))
            if facts.is_take:
                line = build_coding_history(facts, wav_format, dithered=dithered)
                body = add_coding_history(body, line)
        elif name == b"iXML":
            body = update_ixml_depth(body, wav_format.bits)
            if new_levels or facts.is_take:
                body = update_ixml_loudness(body, loudness)
            if parse_ixml(body) is not None:
                user = build_user(replace(facts, loudness=loudness))
                body = set_element(body.decode(), "USER", escape(user)).encode()
        elif name in {b"id3 ", b"ID3 "}:
            body = _drop_id3_levels(body, carried, new_levels=new_levels)
        chunks.append((name, body))
    return chunks


def _drop_id3_levels(body: bytes, carried: Carried, *, new_levels: bool) -> bytes:
    tag = carried.frames
    if tag is None:
        return body
    texts = Carried(sample_rate=carried.sample_rate, texts=tuple(list_texts(tag)))
    valid = texts.without_old_levels(new_levels=new_levels).texts
    gained = new_levels and any(name in body for name in (b"RVA2", b"RVAD"))
    if valid == texts.texts and not gained:
        return body
    rate = carried.sample_rate
    built = build_id3(
        valid, list_pictures(tag), list_markers(tag, rate), sample_rate=rate, base=tag
    )
    return encode_id3(*built)


def build_carried_chunks(
    carried: Carried,
    facts: TakeFacts,
    wav_format: WavFormat,
    *,
    dithered: bool,
    loudness: Loudness,
    new_levels: bool,
) -> bytes:
    """Return the chunks of a WAV file that is made from another file.

    Args:
        carried: at the rate of the new file.
        facts: of the source; their loudness is ignored.
        wav_format: of the new file.
        dithered: whether it is dithered.
        loudness: of the new file.
        new_levels: the levels have changed.
    """
    chunks = update_chunks(
        carried, facts, wav_format, loudness, new_levels=new_levels, dithered=dithered
    )
    if carried.kind == "wav":
        return join_chunks(chunks)
    # Of a FLAC file: its comments are newer than the texts of its chunks.
    old = [
        (name, body)
        for name, body in chunks
        if name not in {b"id3 ", b"ID3 ", b"CSET"} and not (name == b"LIST" and body[:4] == b"INFO")
    ]
    if facts.is_take:
        own = list_chunks(replace(facts, loudness=loudness), wav_format, dithered=dithered)
        places = [text for name, text in carried.texts if name.upper() == "TIME_REFERENCE"]
        place = parse_position(places[0]) if places else None
        if place is not None:
            own = [
                (name, set_time_reference(body, place) if name == b"bext" else body)
                for name, body in own
            ]
    else:
        # Without `acid`, which cannot hold a tempo alone: it also states a metre and a use.
        own = [UTF_8_CHUNK]
    return join_chunks(_combine(own, [*old, *_build_missing(carried, facts, old)]))


def _combine(own: Sequence[Chunk], others: Sequence[Chunk]) -> list[Chunk]:
    """Return the chunks of a take with those of others in the place of its own of that name."""

    def get_key(chunk: Chunk) -> bytes:
        name, body = chunk
        return body[:4] if name == b"LIST" else name

    replaced = {get_key(one) for one in others}
    return [*(one for one in own if get_key(one) not in replaced), *others]


def _build_missing(carried: Carried, facts: TakeFacts, old: Sequence[Chunk]) -> list[Chunk]:
    """Build the chunks for texts, pictures, markers and loops that no chunk has yet."""
    chunks: list[Chunk] = []
    merged = without_chapters(merge_texts(facts, carried))
    texts = [(name, clean_text(text)) for name, text in merged]
    has = {name for name, _ in old}
    bext = None if b"bext" in has or facts.is_take else build_bext(carried.texts)
    if bext is not None:
        chunks.append((b"bext", bext))
    # The fields of `bext` are short and have no Unicode: what they cut stays in the tag.
    in_bext = set(parse_bext(bext or find_chunk(old, b"bext")))
    texts = [(name, text) for name, text in texts if (name.upper(), text) not in in_bext]
    if carried.markers and b"cue " not in has:
        chunks += build_markers(carried.markers)
    if carried.loops and b"smpl" not in has:
        root = find_root_note(facts.key)
        chunks.append((b"smpl", build_smpl(root, carried.loops, carried.sample_rate)))
    if facts.is_take:
        texts = [one for one in texts if not one[0].startswith("DGX_")]
    info = _build_info(texts)
    if info:
        chunks.append((b"LIST", encode_info(info)))
    if texts or carried.pictures or carried.frames:
        tags, version = build_id3(
            texts,
            carried.pictures,
            [] if carried.frames is None else list_markers(carried.frames, carried.sample_rate),
            sample_rate=carried.sample_rate,
            base=carried.frames,
        )
        chunks.append((b"id3 ", encode_id3(tags, version)))
    return chunks


def _build_info(texts: Texts) -> dict[bytes, str]:
    found: dict[bytes, list[str]] = {}
    lengths: dict[bytes, int] = {}
    for name, text in texts:
        known = _INFO_IDS.get(name.upper())
        is_id = len(name) == 4 and name[0] == "I" and name.isascii() and name.isupper()
        key = known or (name if is_id and name not in INFO_NAMES else None)
        if key is not None:
            code = key.encode()
            # More would be cut off, and there may be a million of them.
            if lengths.get(code, 0) < MOST_INFO_BYTES:
                found.setdefault(code, []).append(text)
                lengths[code] = lengths.get(code, 0) + len(text) + 2
    return {code: "; ".join(parts) for code, parts in found.items()}
