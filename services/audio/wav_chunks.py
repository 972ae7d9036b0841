"""The metadata chunks of a WAV file, for DAWs, samplers and sound libraries.

| chunk | content | source |
| --- | --- | --- |
| `bext` | prompt, id, time, loudness | EBU Tech 3285 v2, EBU R 98 |
| `iXML` | the same, and all facts as JSON | iXML specification 2.10 |
| `acid` | tempo, beats, meter, root note, loop or not | no standard; libsndfile's layout |
| `smpl` | root note, the loop | Microsoft/IBM, Multimedia Programming Interface 1.0 |
| `cue `, `LIST` `adtl` | a marker for every bar and section | the same |
| `LIST` `INFO` | title, comment, genre, licence, date | the same |
| `id3 ` | title, genre, date, tempo, key | ID3v2.3 |
| `CSET` | UTF-8 as the encoding of `adtl` and `INFO` | the same |
"""

from __future__ import annotations

import re
import struct
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services import __version__
from services.audio.facts import TakeFacts
from services.audio.id3_tags import build_id3, encode_id3
from services.audio.key_names import abbreviate_key
from services.audio.riff import Loop, Marker
from services.audio.wav_ixml import build_ixml, to_one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from services.audio.loudness import Loudness
    from services.audio.riff import Chunk

SOFTWARE = f"DGX Music {__version__}"

_U32 = 1 << 32
_MIDDLE_C = 60
# A longer take has only markers for its sections.
_MOST_BARS_MARKED = 400
_UNKNOWN = 0x7FFF
UTF_8_CHUNK = (b"CSET", struct.pack("<4H", 65001, 0, 0, 0))
# libsndfile ignores longer texts.
MOST_INFO_BYTES = 2000
_MOST_LABEL_BYTES = 250
# A section within 1/1000 s of a bar starts with it: its start in seconds has been rounded.
_SAME_PLACE_HZ = 1000
_SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_ACCIDENTALS = {"": 0, "#": 1, "♯": 1, "b": -1, "♭": -1}
_KEY = re.compile(r"([A-G])([#b♯♭]?)(?:\s|$)")
# Characters that NFKD does not decompose: quotation marks, dashes, accidentals, some letters.
_ASCII = str.maketrans(
    "\u2018\u2019\u201a\u2032\u201c\u201d\u201e\u2033\u2010\u2011\u2012\u2013\u2014\u2212\u266f\u266d\xd7",
    "''''" + '"' * 4 + "------" + "#bx",
) | str.maketrans({"ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O"})


@dataclass(frozen=True, slots=True)
class WavFormat:
    channels: int
    frames: int
    sample_rate: int
    bits: int
    is_float: bool


def riff_chunk(name: bytes, body: bytes) -> bytes:
    """Return a chunk, padded to an even length."""
    return struct.pack("<4sI", name, len(body)) + body + bytes(len(body) % 2)


def build_chunks(facts: TakeFacts, wav_format: WavFormat, *, dithered: bool) -> bytes:
    """Return the chunks that follow the samples of a take; the same facts give the same bytes.

    Unknown and invalid facts are left out (see `TakeFacts.from_dict`).
    """
    return join_chunks(list_chunks(facts, wav_format, dithered=dithered))


def list_chunks(facts: TakeFacts, wav_format: WavFormat, *, dithered: bool) -> list[Chunk]:
    """Return the chunks of `build_chunks`, not joined."""
    facts = TakeFacts.from_dict(facts.to_dict())
    chunks = [
        UTF_8_CHUNK,
        (b"bext", _build_bext(facts, wav_format, dithered=dithered)),
        (b"iXML", _pad_to_even(build_ixml(facts, wav_format.channels), b"\n")),
    ]
    if facts.bpm is not None:
        chunks.append((b"acid", build_acid(facts, wav_format, facts.bpm)))
    root = find_root_note(facts.key)
    # The end of a loop is its last frame. A position has 32 bits.
    has_loop = facts.is_loop and wav_format.frames <= _U32
    loops = [Loop(0, wav_format.frames - 1)] if has_loop else []
    if facts.is_loop or root is not None:
        chunks.append((b"smpl", build_smpl(root, loops, wav_format.sample_rate)))
    marks = place_markers(facts, wav_format.sample_rate, wav_format.frames)
    if marks:
        chunks += build_markers([Marker(frame, label) for frame, label in marks])
    chunks.append((b"LIST", _build_info(facts)))
    tag = _build_id3(facts)
    return [*chunks, *([(b"id3 ", tag)] if tag else [])]


def join_chunks(chunks: Iterable[Chunk]) -> bytes:
    """Return chunks as they stand in a file."""
    # libsndfile 1.2 ignores the padding of chunks in RF64 files, so that the bodies of a take are
    # even by themselves.
    return b"".join(riff_chunk(name, body) for name, body in chunks)


def build_markers(markers: Sequence[Marker]) -> list[Chunk]:
    """Return the chunks of markers: their positions and their labels."""
    return [(b"cue ", _build_cue(markers)), (b"LIST", _build_labels(markers))]


def _pad_to_even(body: bytes, filler: bytes) -> bytes:
    return body + filler * (len(body) % 2)


def find_root_note(key: str | None) -> int | None:
    """Return the MIDI note of a key's tonic, 60 (middle C) to 71; None for an unknown key."""
    found = _KEY.match(key or "")
    if found is None:
        return None
    return _MIDDLE_C + (_SEMITONES[found[1]] + _ACCIDENTALS[found[2]]) % 12


def place_markers(facts: TakeFacts, sample_rate: int, frames: int) -> list[tuple[int, str]]:
    """Return the starts of bars and sections as `(frame, label)`, in order of time.

    Bars are labelled from `bar 1`. A section that starts with a bar replaces its label. There are
    no markers after 2**32 frames, since cue points have 32 bits.
    """
    marks: dict[int, str] = {}
    if facts.bpm is not None and facts.bars is not None and facts.bars <= _MOST_BARS_MARKED:
        # Integers up to the one division, so that no rounding error accumulates.
        scale = facts.meter[0] * 60 * sample_rate
        marks = {round(bar * scale / facts.bpm): f"bar {bar + 1}" for bar in range(facts.bars)}
    bars = list(marks)
    for section in facts.sections:
        frame = round(section.start_seconds * sample_rate)
        nearest = min(bars, key=lambda mark: abs(mark - frame), default=frame)
        if abs(nearest - frame) * _SAME_PLACE_HZ <= sample_rate:
            frame = nearest
        marks[frame] = to_one_line(section.name) or "section"
    return sorted((frame, label) for frame, label in marks.items() if frame < min(frames, _U32))


def to_ascii(text: str) -> str:
    """Convert text to ASCII: drop accents, replace typographic signs and the rest by `?`."""
    plain = unicodedata.normalize("NFKD", to_one_line(text).translate(_ASCII))
    kept = (char for char in plain if unicodedata.category(char) not in {"Mn", "Me", "Cf"})
    return "".join(kept).encode("ascii", "replace").decode("ascii")


def _build_bext(facts: TakeFacts, wav_format: WavFormat, *, dithered: bool) -> bytes:
    created = facts.created_at
    reference = facts.generation_id or ""
    if len(reference) > 32:
        # The field has 32 characters, which is a UUID without its dashes.
        reference = reference.replace("-", "")
    body = (
        struct.pack(
            "<256s32s32s10s8sQH64x",
            to_ascii(facts.prompt or "").encode(),
            SOFTWARE.encode(),
            to_ascii(reference).encode(),
            b"" if created is None else created.date().isoformat().encode(),
            b"" if created is None else created.time().isoformat("seconds").encode(),
            0,
            2,
        )
        + struct.pack("<5h180x", *to_hundredths(facts.loudness))
        + build_coding_history(facts, wav_format, dithered=dithered).encode()
    )
    return _pad_to_even(body, b"\0")


def to_hundredths(loudness: Loudness | None) -> list[int]:
    """Return the five levels of bext version 2 in hundredths; 0x7FFF stands for unknown."""
    if loudness is None:
        return [_UNKNOWN] * 5
    levels = (
        loudness.integrated_lufs,
        loudness.loudness_range_lu,
        loudness.true_peak_dbtp,
        loudness.momentary_max_lufs,
        loudness.short_term_max_lufs,
    )
    return [round(level * 100) if -99.99 <= level <= 99.99 else _UNKNOWN for level in levels]


def build_coding_history(facts: TakeFacts, wav_format: WavFormat, *, dithered: bool) -> str:
    """Return the line of a `bext` about the samples (EBU R 98)."""
    # EBU R 98: commas separate the fields, so that the text must not have any.
    details = [SOFTWARE, _format_engine(facts), "IEEE float" if wav_format.is_float else ""]
    details.append("TPDF dither" if dithered else "")
    text = "; ".join(to_ascii(one).replace(",", " ") for one in details if one)
    mode = "mono" if wav_format.channels == 1 else "stereo"
    return f"A=PCM,F={wav_format.sample_rate},W={wav_format.bits},M={mode},T={text}\r\n"


def _format_engine(facts: TakeFacts) -> str:
    return " ".join(part for part in (facts.engine, facts.engine_version) if part)


def build_acid(facts: TakeFacts, wav_format: WavFormat, bpm: float) -> bytes:
    # A loop follows the tempo of the session; a one-shot plays unchanged.
    one_shot, root_is_set, stretch = 1, 2, 4
    root = find_root_note(facts.key)
    flags = (stretch if facts.is_loop else one_shot) | (0 if root is None else root_is_set)
    beats = facts.beats
    if beats is None:
        beats = min(round(wav_format.frames * bpm / (60 * wav_format.sample_rate)), _U32 - 1)
    return struct.pack(
        "<IHHfIHHf",
        flags,
        _MIDDLE_C if root is None else root,
        0x8000,
        0.0,
        beats,
        facts.meter[1],
        facts.meter[0],
        bpm,
    )


def build_smpl(root: int | None, loops: Sequence[Loop], sample_rate: int) -> bytes:
    """Return the body of a `smpl`: the MIDI note of the recording, if known, and its loops."""
    period = round(1e9 / sample_rate)
    note = _MIDDLE_C if root is None else root
    head = struct.pack("<9I", 0, 0, period, note, 0, 0, 0, len(loops), 0)
    return head + b"".join(
        struct.pack("<6I", number, 0, loop.start, loop.end, 0, 0)
        for number, loop in enumerate(loops)
    )


def _build_cue(markers: Sequence[Marker]) -> bytes:
    points = (
        struct.pack("<II4sIII", number, marker.frame, b"data", 0, 0, marker.frame)
        for number, marker in enumerate(markers, 1)
    )
    return struct.pack("<I", len(markers)) + b"".join(points)


def _build_labels(markers: Sequence[Marker]) -> bytes:
    labels = (
        riff_chunk(
            b"labl", struct.pack("<I", number) + _encode_utf8z(marker.label, _MOST_LABEL_BYTES)
        )
        for number, marker in enumerate(markers, 1)
    )
    lengths = (
        riff_chunk(b"ltxt", struct.pack("<II4s4H", number, marker.length, b"rgn ", 0, 0, 0, 0))
        for number, marker in enumerate(markers, 1)
        if marker.length
    )
    return b"adtl" + b"".join(labels) + b"".join(lengths)


def _build_info(facts: TakeFacts) -> bytes:
    tempo = None if facts.bpm is None else f"{facts.bpm:g} BPM"
    comment = [
        _format_engine(facts) and f"engine {_format_engine(facts)}",
        None if facts.seed is None else f"seed {facts.seed}",
        facts.generation_id and f"id {facts.generation_id}",
    ]
    texts = {
        b"INAM": facts.title or facts.prompt,
        b"ISFT": SOFTWARE,
        b"ICRD": None if facts.created_at is None else facts.created_at.date().isoformat(),
        b"ICMT": "; ".join(part for part in comment if part),
        b"ICOP": facts.licence,
        b"IGNR": facts.genre,
        # The standard separates keywords by a semicolon and a space.
        b"IKEY": "; ".join(part for part in (tempo, facts.key) if part),
    }
    return encode_info({name: text for name, text in texts.items() if text})


def encode_info(texts: Mapping[bytes, str]) -> bytes:
    """Return the body of a `LIST` `INFO`; texts are one line of at most 2000 bytes."""
    return b"INFO" + b"".join(
        riff_chunk(name, _encode_utf8z(to_one_line(text), MOST_INFO_BYTES))
        for name, text in texts.items()
        if to_one_line(text)
    )


def _build_id3(facts: TakeFacts) -> bytes:
    """Return an ID3 tag with what DJ software shows, which reads nothing else of a WAV file."""
    known = {
        "TITLE": to_one_line(facts.title or facts.prompt or ""),
        "GENRE": to_one_line(facts.genre or ""),
        "DATE": "" if facts.created_at is None else facts.created_at.date().isoformat(),
        "BPM": "" if facts.bpm is None else f"{facts.bpm:.12g}",
        "INITIALKEY": abbreviate_key(facts.key) or "",
    }
    texts = [(name, text) for name, text in known.items() if text]
    if not texts:
        return b""
    tags, version = build_id3(texts, sample_rate=1)
    return _pad_to_even(encode_id3(tags, version), b"\0")


def _encode_utf8z(text: str, most: int) -> bytes:
    """Encode as UTF-8 of at most `most` bytes and a zero, without splitting a character."""
    return text.encode()[:most].decode("utf-8", "ignore").encode() + b"\0"
