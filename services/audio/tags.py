"""Write and read the metadata of FLAC, Vorbis, Opus and MP3 files, with mutagen.

Title, tempo, key, genre, licence and gain go into the standard fields for players and DAWs. All
facts also go into one JSON field, from which they are read back.
"""

from __future__ import annotations

import base64
import errno
import os
import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from services.audio.carried import Carried
from services.audio.carried_reading import APPLICATION, RIFF_ID
from services.audio.carried_writing import (
    add_positions,
    merge_texts,
    update_chunks,
    without_chapters,
)
from services.audio.comments import (
    build_comments,
    build_r128_gain,
    build_replay_gain,
    clean_text,
    parse_facts,
)
from services.audio.id3_tags import build_id3, list_texts, read_id3
from services.audio.reading import UnreadableAudioError
from services.audio.tag_files import (
    VORBIS_COMMENT_FORMATS,
    BoundedFile,
    detect_format,
    open_comments,
    read_errors,
)
from services.audio.wav_chunks import WavFormat, riff_chunk

if TYPE_CHECKING:
    from collections.abc import Iterable

    from services.audio.carried import Picture
    from services.audio.encoding import AudioFormat
    from services.audio.facts import TakeFacts


_NOT_IN_NAMES = re.compile(r"[^ -<>-}]")


def write_tags(
    path: Path,
    audio_format: AudioFormat,
    facts: TakeFacts,
    carried: Carried | None = None,
    *,
    new_levels: bool = False,
) -> None:
    """Write metadata into a file without tags; the audio data are not changed.

    FLAC, Vorbis and Opus get Vorbis comments. MP3 gets ID3v2.3, which every player and DAW reads,
    or the version of an ID3 tag that is carried. Loudness becomes ReplayGain 2.0 (-18 LUFS), in
    Opus R128_TRACK_GAIN (-23 LUFS, RFC 7845, section 5.2.1).

    Args:
        path: the file.
        audio_format: of the file, any but WAV.
        facts: of the file; their loudness is that of its samples.
        carried: what others wrote into the source; then the facts are written as those of a take
            only if they are of a take.
        new_levels: the levels are not those of the source.

    Raises:
        OSError: the file cannot be written.
        ValueError: the format is WAV, which has chunks instead of tags.
    """
    if audio_format.name != "mp3" and audio_format.name not in VORBIS_COMMENT_FORMATS:
        raise ValueError(f"{audio_format.label} files have chunks instead of tags.")
    import mutagen

    try:
        with path.open("r+b") as file:
            if audio_format.name == "mp3":
                _write_id3(file, facts, carried)
            else:
                _write_comments(audio_format.name, file, facts, carried, new_levels=new_levels)
    except mutagen.MutagenError as error:
        reason = error.__cause__ or (error.args[0] if error.args else None)
        if isinstance(reason, OSError):
            raise reason from error
        raise OSError(errno.EIO, f"the tags could not be written ({error})") from error


def read_facts(path: str | os.PathLike[str]) -> TakeFacts:
    """Read the metadata of a WAV, FLAC, Ogg or MP3 file.

    A file of DGX Music returns the facts it was written with. From other files come title, tempo,
    key, genre, licence and date. At most 16 MiB of tags are read, and no samples.

    Raises:
        FileNotFoundError: the file does not exist.
        UnreadableAudioError: another file type, damaged tags, or the file cannot be read.
    """
    target = Path(path)
    try:
        with target.open("rb") as file:
            kind = detect_format(file)
            file.seek(0)
            bounded = BoundedFile(file)
            if kind == "mp3":
                tag = read_id3(bounded)
                return parse_facts([] if tag is None else list_texts(tag))
            if kind in VORBIS_COMMENT_FORMATS:
                return parse_facts(open_comments(kind, bounded).tags or [])
    except FileNotFoundError:
        raise FileNotFoundError(f"No such file: {target}") from None
    except read_errors() as error:
        raise UnreadableAudioError(f"{target} has tags that cannot be read: {error}") from error
    if kind != "wav":
        raise UnreadableAudioError(f"{target} is not a WAV, FLAC, Ogg Vorbis, Opus or MP3 file.")
    from services.audio.wav_facts import read_wav_facts

    return read_wav_facts(target)


# Writing.


def _write_comments(
    kind: str, file: BinaryIO, facts: TakeFacts, carried: Carried | None, *, new_levels: bool
) -> None:
    gain = build_r128_gain if kind == "opus" else build_replay_gain
    tagged = open_comments(kind, file)
    texts = list(build_comments(facts).items())
    if carried is not None:
        texts = add_positions(merge_texts(facts, carried), carried)
    if tagged.tags is None:
        tagged.add_tags()
    for name, text in [*texts, *gain(facts.loudness).items()]:
        tagged.tags.append((_NOT_IN_NAMES.sub("_", name) or "_", clean_text(text)))
    if carried is not None:
        _add_pictures(kind, tagged, carried.pictures)
        if kind == "flac":
            _add_blocks(tagged, facts, carried, new_levels=new_levels)
    file.seek(0)
    tagged.save(file)


def _add_pictures(kind: str, tagged: Any, pictures: Iterable[Picture]) -> None:
    from mutagen import flac

    make_block: Any = flac.Picture  # mutagen has no annotations
    for one in pictures:
        block = make_block()
        block.type, block.mime, block.desc, block.data = (
            one.kind,
            one.mime,
            one.description,
            one.data,
        )
        block.width, block.height, block.depth, block.colors = (
            one.width,
            one.height,
            one.depth,
            one.colors,
        )
        if kind == "flac":
            tagged.add_picture(block)
        else:
            text = base64.b64encode(block.write()).decode("ascii")
            tagged.tags.append(("METADATA_BLOCK_PICTURE", text))


def _add_blocks(tagged: Any, facts: TakeFacts, carried: Carried, *, new_levels: bool) -> None:
    """Add the blocks of another FLAC file, and the chunks of a WAV file.

    The chunks are kept as the reference encoder keeps them (`flac --keep-foreign-metadata`): each
    in an application block, in the order of a whole WAV file.
    """
    from mutagen import flac

    blocks = list(carried.blocks)
    if carried.chunks:
        blocks += [
            (APPLICATION, RIFF_ID + part)
            for part in _build_riff_parts(tagged.info, facts, carried, new_levels=new_levels)
        ]
    make_block: Any = flac.MetadataBlock
    for code, body in blocks:
        block = make_block(body)
        block.code = code
        tagged.metadata_blocks.append(block)


def _build_riff_parts(
    info: Any, facts: TakeFacts, carried: Carried, *, new_levels: bool
) -> list[bytes]:
    """Return a WAV file without its samples in the parts that FLAC keeps: headers and chunks."""
    assert facts.loudness is not None
    form = WavFormat(
        info.channels, info.total_samples, info.sample_rate, info.bits_per_sample, is_float=False
    )
    chunks = [
        riff_chunk(name, body)
        for name, body in update_chunks(carried, facts, form, facts.loudness, new_levels=new_levels)
    ]
    width = form.channels * form.bits // 8
    data_bytes = form.frames * width
    described = riff_chunk(
        b"fmt ",
        struct.pack(
            "<HHIIHH",
            1,
            form.channels,
            form.sample_rate,
            form.sample_rate * width,
            width,
            form.bits,
        ),
    )
    size = 4 + len(described) + 8 + data_bytes + data_bytes % 2 + sum(map(len, chunks))
    if size < 1 << 32:
        head = [struct.pack("<4sI4s", b"RIFF", size, b"WAVE")]
        data = struct.pack("<4sI", b"data", data_bytes)
    else:
        ds64 = riff_chunk(b"ds64", struct.pack("<QQQI", size + 36, data_bytes, form.frames, 0))
        head = [struct.pack("<4sI4s", b"RF64", 0xFFFFFFFF, b"WAVE"), ds64]
        data = struct.pack("<4sI", b"data", 0xFFFFFFFF)
    return [*head, described, data, *chunks]


def _write_id3(file: BinaryIO, facts: TakeFacts, carried: Carried | None) -> None:
    is_of_others = carried is not None and not facts.is_take
    own = list(build_comments(facts).items())
    texts = own if carried is None else without_chapters(merge_texts(facts, carried))
    carried = carried or Carried(sample_rate=1)
    if "LOOPSTART" not in {name.upper() for name, _ in texts}:
        texts = without_chapters(add_positions(texts, carried))
    texts += build_replay_gain(facts.loudness).items()
    tags, version = build_id3(
        [(name, clean_text(text)) for name, text in texts],
        carried.pictures,
        carried.markers,
        sample_rate=carried.sample_rate,
        base=carried.frames,
    )
    if not is_of_others and facts.licence is not None:
        _add_licence(tags, facts, version)
    file.seek(0)
    tags.save(file, v2_version=version)


def _add_licence(tags: Any, facts: TakeFacts, version: int) -> None:
    """Add the licence as a URL, or as a copyright message, which has to begin with a year."""
    from mutagen import id3

    frames: Any = id3
    licence = clean_text(str(facts.licence))
    if re.match(r"https?://\S+$", licence) and licence.isascii():
        tags.add(frames.WCOP(url=licence))
    elif facts.created_at is not None and "TCOP" not in tags:
        unicode = 1 if version == 3 else 3
        tags.add(
            frames.TCOP(
                encoding=0 if licence.isascii() else unicode,
                text=[f"{facts.created_at.year:04} {licence}"],
            )
        )
