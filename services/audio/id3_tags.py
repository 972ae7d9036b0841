"""ID3 tags of MP3, WAV and AIFF files: their frames as Vorbis comments, and back.

Frames that have no comment pass between files with ID3 as they are.
"""

from __future__ import annotations

import copy
import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from services.audio.carried import Picture
from services.audio.comments import clean_text
from services.audio.riff import Marker

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_TEXT_FRAMES = {
    "TITLE": "TIT2",
    "ARTIST": "TPE1",
    "ALBUM": "TALB",
    "ALBUMARTIST": "TPE2",
    "CONDUCTOR": "TPE3",
    "REMIXER": "TPE4",
    "COMPOSER": "TCOM",
    "LYRICIST": "TEXT",
    "GROUPING": "TIT1",
    "SUBTITLE": "TIT3",
    "TRACKNUMBER": "TRCK",
    "DISCNUMBER": "TPOS",
    "DATE": "TDRC",
    "GENRE": "TCON",
    "ISRC": "TSRC",
    "LABEL": "TPUB",
    "COPYRIGHT": "TCOP",
    "ENCODED-BY": "TENC",
    "ENCODER": "TSSE",
    "BPM": "TBPM",
    "INITIALKEY": "TKEY",
    "LANGUAGE": "TLAN",
    "MEDIA": "TMED",
    "MOOD": "TMOO",
    "COMPILATION": "TCMP",
    "ALBUMSORT": "TSOA",
    "ARTISTSORT": "TSOP",
    "TITLESORT": "TSOT",
    "ALBUMARTISTSORT": "TSO2",
    "COMPOSERSORT": "TSOC",
    "ORIGINALDATE": "TDOR",
    "LICENSE": "WCOP",
    "WEBSITE": "WOAR",
}
_NAMES = {frame: name for name, frame in _TEXT_FRAMES.items()}
_NOT_IN_23 = {"TMOO", "TDOR"}
_TOTALS = {"TRACKNUMBER": "TRACKTOTAL", "DISCNUMBER": "DISCTOTAL"}
_NUMBER_OF = {total: number for number, total in _TOTALS.items()}
_WITH_DESCRIPTION = {"TXXX", "WXXX"}
_DATE_FRAMES = ("TDRC", "TYER", "TDAT", "TIME")
_MUSICBRAINZ = "http://musicbrainz.org"
_FRAME_NAME = re.compile(r"[TW][A-Z0-9]{3}")
# Bits of the frame flags: 0x80 in version 2.3, 0x08 in 2.4; each is unused in the other version.
_COMPRESSED = 0x88
_MOST_CHAPTERS = 255
_UNUSED = 0xFFFFFFFF
"""Of a position in bytes: that in time counts."""
_MOST_LEVELS = 5
_OTHER_PICTURE = 0


@dataclass(frozen=True, slots=True)
class Id3Frames:
    """A tag as it was read."""

    raw: Any
    """The frames in the version of the tag, a `mutagen.id3.ID3`."""
    plain: Any
    """The same frames in the names of version 2.4."""
    version: int
    """3 or 4: the version to write `raw` in."""


def read_id3(file: BinaryIO) -> Id3Frames | None:
    """Read the ID3v2 or else ID3v1 tag of an MP3 file, or the body of an ID3 chunk.

    Compressed frames are not decompressed: 1 MB could become gigabytes.

    Raises:
        mutagen.MutagenError, ValueError, LookupError: the tag is damaged.
    """
    from mutagen import id3

    frames: Any = id3
    known = _list_safe_frames(frames)
    try:
        raw = frames.ID3(file, known_frames=known, translate=False)
    except frames.ID3NoHeaderError:
        return None
    if _is_deeply_nested(raw):
        raise ValueError("chapters within chapters")
    # A copy: reading the tag twice would halve the limit of a bounded file.
    plain = copy.deepcopy(raw)
    plain.update_to_v24()
    version = raw.version[1]
    return Id3Frames(raw, plain, version) if version in {3, 4} else Id3Frames(plain, plain, 4)


def _is_deeply_nested(tag: Any) -> bool:
    """Return whether chapters hold chapters that cannot be copied and written by recursion."""
    level = [tag]
    for _ in range(_MOST_LEVELS):
        level = [frame.sub_frames for one in level for frame in _list_chapter_frames(one)]
    return any(_list_chapter_frames(one) for one in level)


def _list_chapter_frames(tag: Any) -> list[Any]:
    return [*tag.getall("CHAP"), *tag.getall("CTOC")]


def _list_safe_frames(frames: Any) -> dict[str, Any]:
    def uncompressed(base: Any) -> Any:
        def from_data(cls: Any, header: Any, flags: int, data: bytes) -> Any:
            if flags & _COMPRESSED:
                # mutagen keeps the bytes of such a frame.
                raise NotImplementedError
            return base._fromData.__func__(cls, header, flags, data)

        return type(base.__name__, (base,), {"_fromData": classmethod(from_data)})

    known = {**frames.Frames_2_2, **frames.Frames}
    return {name: uncompressed(base) for name, base in known.items()}


def without_gains(tag: Id3Frames) -> tuple[Id3Frames, list[str]]:
    """Return a tag without the frames that set the level of a player, and their names."""
    found = [name for name in ("RVA2", "RVAD") if tag.raw.getall(name) or tag.plain.getall(name)]
    if not found:
        return tag, []
    raw, plain = copy.deepcopy(tag.raw), copy.deepcopy(tag.plain)
    for name in found:
        raw.delall(name)
        plain.delall(name)
    return Id3Frames(raw, plain, tag.version), found


def list_texts(tag: Id3Frames) -> list[tuple[str, str]]:
    """Return the texts of a tag as Vorbis comments."""
    frames = tag.plain.values()
    # Another program's exact value wins over what a standard frame can hold.
    extended = {frame.desc.upper() for frame in frames if frame.FrameID == "TXXX"}
    exact = extended & {"DATE", "BPM", "ORIGINALDATE", "LICENSE", "MOOD"}
    return [
        (name, text)
        for frame in frames
        for name, text in _list_frame_texts(frame)
        if name not in exact or frame.FrameID == "TXXX"
    ]


def _list_frame_texts(frame: Any) -> list[tuple[str, str]]:
    kind = frame.FrameID
    if kind in {"TXXX", "COMM", "WXXX"}:
        texts = [frame.url] if kind == "WXXX" else frame.text
        return [(_name_described(kind, frame.desc), str(text)) for text in texts]
    if kind == "USLT":
        return [("LYRICS", frame.text)]
    if kind == "UFID" and frame.owner == _MUSICBRAINZ:
        return [("MUSICBRAINZ_TRACKID", frame.data.decode("ascii", "replace"))]
    if kind[0] == "W":
        return [(_NAMES.get(kind, kind), frame.url)]
    if kind[0] == "T" and hasattr(frame, "text"):
        name = _NAMES.get(kind, kind)
        texts = frame.genres if kind == "TCON" else [str(text) for text in frame.text]
        return [pair for text in texts for pair in _split_total(name, text)]
    return []


def _name_described(kind: str, description: str) -> str:
    """Return the comment name of a frame of the kinds of which a tag may have several."""
    if kind == "TXXX":
        name = description if ":" in description else description.upper()
        return name or kind
    name = {"COMM": "COMMENT", "WXXX": "URL"}[kind]
    return f"{name}:{description}" if description else name


def _split_total(name: str, text: str) -> list[tuple[str, str]]:
    number, slash, total = text.partition("/")
    if name in _TOTALS and slash and total.isdigit():
        return [(name, number), (_TOTALS[name], total)]
    return [(name, text)]


def list_pictures(tag: Id3Frames) -> list[Picture]:
    return [
        Picture(int(frame.type), frame.mime, frame.desc, frame.data)
        for frame in tag.plain.getall("APIC")
    ]


def list_markers(tag: Id3Frames, sample_rate: int) -> tuple[Marker, ...]:
    """Return the chapters of a tag."""
    return tuple(
        Marker(round(start * sample_rate / 1000), label) for start, label in _list_chapters(tag)
    )


def _list_chapters(tag: Id3Frames) -> list[tuple[int, str]]:
    """Return start in milliseconds and title of each chapter, in order of time."""
    found = []
    for number, frame in enumerate(tag.plain.getall("CHAP"), 1):
        titles = [str(text) for one in frame.sub_frames.getall("TIT2") for text in one.text]
        found.append((frame.start_time, titles[0] if titles else f"marker {number}"))
    return sorted(found, key=lambda one: one[0])


def to_milliseconds(frame: int, sample_rate: int) -> int:
    return round(frame * 1000 / sample_rate)


def _are_same_chapters(markers: Sequence[Marker], base: Id3Frames, sample_rate: int) -> bool:
    """Return whether markers say what the chapters of a tag say."""
    # In milliseconds, as in the tag: frames are rounded again at each sample rate.
    found = [(to_milliseconds(one.frame, sample_rate), one.label) for one in markers]
    return found == _list_chapters(base) and not any(one.length for one in markers)


def has_ends(tag: Id3Frames) -> bool:
    """Return whether a chapter ends elsewhere than where it or the next one starts."""
    chapters = sorted(tag.plain.getall("CHAP"), key=lambda one: one.start_time)
    return any(
        chapter.end_time not in {one.start_time for one in chapters[at : at + 2]}
        for at, chapter in enumerate(chapters)
    )


def list_untranslatable(tag: Id3Frames) -> list[str]:
    """Return the names of the frames that only a file with ID3 can hold."""
    names = [
        frame.FrameID
        for frame in tag.plain.values()
        if not _list_frame_texts(frame) and frame.FrameID not in {"APIC", "CHAP", "CTOC"}
    ]
    names += [
        f"{one.FrameID} of chapters"
        for frame in _list_chapter_frames(tag.plain)
        for one in frame.sub_frames.values()
        if one.FrameID != "TIT2" or frame.FrameID == "CTOC"
    ]
    names += [data[:4].decode("ascii", "replace") for data in tag.raw.unknown_frames]
    return list(dict.fromkeys(names))


def build_id3(
    texts: Sequence[tuple[str, str]],
    pictures: Iterable[Picture] = (),
    markers: Sequence[Marker] = (),
    *,
    sample_rate: int,
    base: Id3Frames | None = None,
) -> tuple[Any, int]:
    """Return a `mutagen.id3.ID3` with all of this, and the version to save it in.

    Args:
        texts: Vorbis comments. Those that `base` has too leave its frames as they are, other texts
            of the same name replace them, and frames whose texts are missing here are deleted.
        pictures: replace those of `base` if they differ.
        markers: replace the chapters of `base` if they differ.
        sample_rate: Hz, of the markers.
        base: the frames to start from, for a file that had ID3 before.
    """
    from mutagen import id3

    frames: Any = id3
    version = 3 if base is None else base.version
    tags = frames.ID3() if base is None else copy.deepcopy(base.raw)
    _forget_byte_positions(tags)
    wanted = _group(texts)
    existing = {} if base is None else _group(list_texts(base))
    replaced = [name for name in existing if existing[name] != wanted.get(name)]
    # Not one name at a time: each would go through all frames.
    _delete_texts(tags, {*replaced, *(wanted.keys() - existing.keys())})
    for name, values in wanted.items():
        if existing.get(name) != values:
            for frame in _build_text_frames(frames, name, values, wanted, version):
                tags.add(frame)
    pictures = list(pictures)
    if base is None or pictures != list_pictures(base):
        tags.delall("APIC")
        for number, one in enumerate(pictures):
            tags.add(_build_picture(frames, one, number))
    if base is None or not _are_same_chapters(markers, base, sample_rate):
        _replace_chapters(tags, frames, markers, sample_rate)
    return tags, version


def _forget_byte_positions(tags: Any) -> None:
    """Drop where things were in the file that the tag comes from: its audio is encoded anew."""
    for kind in ("MLLT", "ASPI", "SEEK"):
        tags.delall(kind)
    for chapter in tags.getall("CHAP"):
        chapter.start_offset = chapter.end_offset = _UNUSED


def _group(texts: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for name, text in texts:
        kind, colon, rest = name.partition(":")
        # As texts are written: else a frame would be replaced for its line ends alone.
        grouped.setdefault(f"{kind.upper()}{colon}{rest}", []).append(clean_text(text))
    return grouped


def _delete_texts(tags: Any, names: set[str]) -> None:
    """Delete the frames of texts, each by its name as of Vorbis comments."""
    kinds = {_TEXT_FRAMES.get(name, name if _is_own_frame(name) else "") for name in names}
    kinds |= {*_DATE_FRAMES} if "DATE" in names else set()
    kinds |= {"TORY"} if "ORIGINALDATE" in names else set()
    for key, frame in list(tags.items()):
        kind = frame.FrameID
        is_same = (
            kind in kinds
            or (kind in {"TXXX", "COMM", "WXXX"} and _name_described(kind, frame.desc) in names)
            or (kind == "USLT" and "LYRICS" in names)
            or (kind == "UFID" and "MUSICBRAINZ_TRACKID" in names and frame.owner == _MUSICBRAINZ)
        )
        if is_same:
            del tags[key]


def _is_own_frame(name: str) -> bool:
    """Return whether a text is named after the frame that it came from."""
    is_frame = _FRAME_NAME.fullmatch(name) is not None
    return is_frame and name not in _NAMES and name not in _WITH_DESCRIPTION


def _build_text_frames(
    frames: Any, name: str, values: list[str], all_texts: dict[str, list[str]], version: int
) -> list[Any]:
    encoding = _choose_encoding("".join([name, *values]), version)
    extended = frames.TXXX(encoding=encoding, desc=name, text=values)
    kind, _, description = name.partition(":")
    if kind == "COMMENT":
        known = {"encoding": encoding, "lang": "eng", "desc": description}
        return [frames.COMM(text=values, **known)]
    is_single = len(values) == 1
    if kind == "URL" and is_single and values[0].isascii():
        return [frames.WXXX(encoding=encoding, desc=description, url=values[0])]
    if kind == "LYRICS" and is_single:
        return [frames.USLT(encoding=encoding, lang="eng", desc="", text=values[0])]
    if kind in _NUMBER_OF and _NUMBER_OF[kind] in all_texts:
        return []  # written with the number
    standard = _build_standard_frames(frames, name, values, all_texts, version)
    # The standard frames of a date and a tempo hold less than the text may say.
    is_whole = kind != "BPM" and (kind != "DATE" or _is_exact_date(values, version))
    return standard if standard and is_whole else [*standard, extended]


def _build_standard_frames(
    frames: Any, name: str, values: list[str], all_texts: dict[str, list[str]], version: int
) -> list[Any]:
    """Return the frames that ID3 has for a text."""
    if name == "DATE":
        return _build_date(frames, values[0], version)
    if name == "BPM":
        bpm = _parse_bpm(values[0])
        return [] if bpm is None else [frames.TBPM(encoding=0, text=[str(round(bpm))])]
    kind = _TEXT_FRAMES.get(name, name if _is_own_frame(name) else "")
    if kind not in frames.Frames or (version == 3 and kind in _NOT_IN_23):
        return []
    if kind[0] == "W":
        is_url = len(values) == 1 and re.fullmatch(r"[a-z]{2,10}://[!-~]+", values[0]) is not None
        return [getattr(frames, kind)(url=values[0])] if is_url else []
    if name in _TOTALS and _TOTALS[name] in all_texts:
        values = [f"{values[0]}/{all_texts[_TOTALS[name]][0]}"]
    encoding = _choose_encoding("".join(values), version)
    frame = getattr(frames, kind)(encoding=encoding, text=values)
    # The genre "17" would become "Rock", and a name may be that of a frame with another use.
    is_kept = name in _TOTALS or _list_frame_texts(frame) == [(name, text) for text in values]
    return [frame] if is_kept else []


def _choose_encoding(text: str, version: int) -> int:
    """Return ISO 8859-1 for ASCII text, else UTF-16 in version 2.3 and UTF-8 in 2.4."""
    return 0 if text.isascii() else 1 if version == 3 else 3


def _parse_bpm(text: str) -> float | None:
    try:
        bpm = float(text)
    except ValueError:
        return None
    return bpm if 1 <= bpm <= 1000 else None


def _build_date(frames: Any, text: str, version: int) -> list[Any]:
    stamp = frames.ID3TimeStamp(text)
    if not stamp.year:
        return []
    if version == 4:
        return [frames.TDRC(encoding=0, text=[stamp])]
    found = [frames.TYER(encoding=0, text=[f"{stamp.year:04}"])]
    if stamp.month and stamp.day:
        found.append(frames.TDAT(encoding=0, text=[f"{stamp.day:02}{stamp.month:02}"]))
    return found


def _is_exact_date(values: list[str], version: int) -> bool:
    """Return whether the frames of a date say all that its text says."""
    pattern = r"\d{4}(-\d\d-\d\d)?" if version == 3 else r"\d{4}(-\d\d(-\d\d)?)?"
    return len(values) == 1 and re.fullmatch(pattern, values[0]) is not None


def _build_picture(frames: Any, picture: Picture, number: int) -> Any:
    # Two pictures of one type with the same description would replace each other.
    description = picture.description.replace("\0", "") or (f"{number + 1}" if number else "")
    return frames.APIC(
        encoding=_choose_encoding(description, 3),
        # FLAC has 32 bits for the kind, where ID3 has 8, and UTF-8, where ID3 has ISO 8859-1 and
        # a zero as the end.
        mime=picture.mime.encode("latin-1", "replace").decode("latin-1").replace("\0", ""),
        type=picture.kind if picture.kind < 256 else _OTHER_PICTURE,
        desc=description,
        data=picture.data,
    )


def _replace_chapters(tags: Any, frames: Any, markers: Sequence[Marker], sample_rate: int) -> None:
    tags.delall("CHAP")
    tags.delall("CTOC")
    names = [f"chp{number}" for number in range(len(markers))]
    for number, (name, marker) in enumerate(zip(names, markers, strict=True)):
        start = to_milliseconds(marker.frame, sample_rate)
        following = markers[number + 1].frame if number + 1 < len(markers) else None
        end = marker.frame + marker.length if marker.length else following
        title = frames.TIT2(encoding=_choose_encoding(marker.label, 3), text=[marker.label])
        tags.add(
            frames.CHAP(
                element_id=name,
                start_time=start,
                end_time=start if end is None else min(to_milliseconds(end, sample_rate), _UNUSED),
                start_offset=_UNUSED,
                end_offset=_UNUSED,
                sub_frames=[title],
            )
        )
    if names:
        top_level, ordered = 2, 1
        tags.add(
            frames.CTOC(
                element_id="toc",
                flags=top_level | ordered,
                child_element_ids=names[:_MOST_CHAPTERS],
                sub_frames=[],
            )
        )


def encode_id3(tags: Any, version: int) -> bytes:
    """Return a tag as the body of a chunk."""
    file = io.BytesIO()
    tags.save(file, v1=0, v2_version=version, padding=lambda _info: 0)
    return file.getvalue()
