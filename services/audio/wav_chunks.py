"""What a DAW, a sampler and a sound library read in a WAV file beside the samples.

| chunk | says | after |
| --- | --- | --- |
| `bext` | prompt, id, time, loudness | EBU Tech 3285 v2, EBU R 98 |
| `iXML` | the same, and every fact word for word | iXML specification 2.10 |
| `acid` | tempo, beats, meter, root, loop or not | no standard; the layout libsndfile reads |
| `smpl` | root, the loop | Microsoft/IBM, Multimedia Programming Interface 1.0 |
| `cue `, `LIST` `adtl` | a marker for every bar and section | the same |
| `LIST` `INFO` | title, comment, genre, licence, date | the same |
| `CSET` | that the texts of `adtl` and `INFO` are UTF-8 | the same |
"""

from __future__ import annotations

import re
import struct
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services import __version__
from services.audio.facts import TakeFacts
from services.audio.wav_ixml import ixml_document, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.audio.loudness import Loudness

SOFTWARE = f"DGX Music {__version__}"

_U32 = 1 << 32
_MIDDLE_C = 60
# Of a longer take the sections alone are marked.
_MOST_BARS_MARKED = 400
_UNKNOWN = 0x7FFF
_UTF_8 = 65001
# libsndfile passes over longer texts.
_MOST_INFO_BYTES = 2000
_MOST_LABEL_BYTES = 250
# A section this near to a bar begins with it: its start in seconds has been rounded.
_SAME_PLACE_HZ = 1000
_SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_ACCIDENTALS = {"": 0, "#": 1, "♯": 1, "b": -1, "♭": -1}
_KEY = re.compile(r"([A-G])([#b♯♭]?)(?:\s|$)")
# What decomposition leaves alone: quotation marks, dashes, accidentals, letters of their own.
_ASCII = str.maketrans(
    "\u2018\u2019\u201a\u2032\u201c\u201d\u201e\u2033\u2010\u2011\u2012\u2013\u2014\u2212\u266f\u266d\xd7",
    "''''" + '"' * 4 + "------" + "#bx",
) | str.maketrans({"ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O"})


@dataclass(frozen=True, slots=True)
class WavForm:
    """What the samples of a WAV file are."""

    channels: int
    frames: int
    sample_rate: int
    bits: int
    is_float: bool


def riff_chunk(name: bytes, body: bytes) -> bytes:
    """A chunk with the byte that makes its length even."""
    return struct.pack("<4sI", name, len(body)) + body + bytes(len(body) % 2)


def take_chunks(facts: TakeFacts, form: WavForm, *, dithered: bool) -> bytes:
    """Everything that follows the samples; the same facts give the same bytes.

    What is not known is left out, and so is what cannot be (see `TakeFacts.from_dict`).
    """
    facts = TakeFacts.from_dict(facts.to_dict())
    chunks = [
        riff_chunk(b"CSET", struct.pack("<4H", _UTF_8, 0, 0, 0)),
        riff_chunk(b"bext", _even(_bext(facts, form, dithered=dithered), b"\0")),
        riff_chunk(b"iXML", _even(ixml_document(facts, form.channels), b"\n")),
    ]
    if facts.bpm is not None:
        chunks.append(riff_chunk(b"acid", _acid(facts, form, facts.bpm)))
    if facts.is_loop or root_note(facts.key) is not None:
        chunks.append(riff_chunk(b"smpl", _smpl(facts, form)))
    marks = markers(facts, form.sample_rate, form.frames)
    if marks:
        chunks += [riff_chunk(b"cue ", _cue(marks)), riff_chunk(b"LIST", _labels(marks))]
    chunks.append(riff_chunk(b"LIST", _info(facts)))
    return b"".join(chunks)


def _even(body: bytes, filler: bytes) -> bytes:
    """A body that needs no byte after it: libsndfile 1.2 forgets that byte in RF64 files."""
    return body + filler * (len(body) % 2)


def root_note(key: str | None) -> int | None:
    """The MIDI note of a key's tonic in the octave above middle C (60); None without a key."""
    found = _KEY.match(key or "")
    if found is None:
        return None
    return _MIDDLE_C + (_SEMITONES[found[1]] + _ACCIDENTALS[found[2]]) % 12


def markers(facts: TakeFacts, sample_rate: int, frames: int) -> list[tuple[int, str]]:
    """Where the bars and the sections begin, as `(frame, label)` in the order of time.

    A bar is called `bar 5`, counted from 1; where a section begins, its name stands instead. A
    cue point has 32 bits, so there is none after 2**32 frames.
    """
    marks: dict[int, str] = {}
    if facts.bpm is not None and facts.bars is not None and facts.bars <= _MOST_BARS_MARKED:
        # Whole numbers up to the one division: no error can add up.
        scale = facts.beats_per_bar * 60 * sample_rate
        marks = {round(bar * scale / facts.bpm): f"bar {bar + 1}" for bar in range(facts.bars)}
    bars = list(marks)
    for section in facts.sections:
        frame = round(section.start_seconds * sample_rate)
        nearest = min(bars, key=lambda mark: abs(mark - frame), default=frame)
        if abs(nearest - frame) * _SAME_PLACE_HZ <= sample_rate:
            frame = nearest
        marks[frame] = one_line(section.name) or "section"
    return sorted((frame, label) for frame, label in marks.items() if frame < min(frames, _U32))


def ascii_text(text: str) -> str:
    """The text as ASCII: accents and typographic signs give way, other characters become `?`."""
    plain = unicodedata.normalize("NFKD", one_line(text).translate(_ASCII))
    kept = (char for char in plain if unicodedata.category(char) not in {"Mn", "Me", "Cf"})
    return "".join(kept).encode("ascii", "replace").decode("ascii")


def _bext(facts: TakeFacts, form: WavForm, *, dithered: bool) -> bytes:
    created = facts.created_at
    reference = facts.generation_id or ""
    if len(reference) > 32:
        # A UUID has 32 digits; its dashes are what the field has no room for.
        reference = reference.replace("-", "")
    return (
        struct.pack(
            "<256s32s32s10s8sQH64x",
            ascii_text(facts.prompt or "").encode(),
            SOFTWARE.encode(),
            ascii_text(reference).encode(),
            b"" if created is None else created.date().isoformat().encode(),
            b"" if created is None else created.time().isoformat("seconds").encode(),
            0,
            2,
        )
        + struct.pack("<5h180x", *_hundredths(facts.loudness))
        + _coding_history(facts, form, dithered=dithered).encode()
    )


def _hundredths(loudness: Loudness | None) -> list[int]:
    """The five levels of bext version 2, in hundredths; 0x7FFF is one that is not known."""
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


def _coding_history(facts: TakeFacts, form: WavForm, *, dithered: bool) -> str:
    """One line after EBU R 98; its fields are parted by commas, so its text has none."""
    details = [SOFTWARE, _engine(facts), "IEEE float" if form.is_float else ""]
    details.append("TPDF dither" if dithered else "")
    text = "; ".join(ascii_text(one).replace(",", " ") for one in details if one)
    mode = "mono" if form.channels == 1 else "stereo"
    return f"A=PCM,F={form.sample_rate},W={form.bits},M={mode},T={text}\r\n"


def _engine(facts: TakeFacts) -> str:
    return " ".join(part for part in (facts.engine, facts.engine_version) if part)


def _acid(facts: TakeFacts, form: WavForm, bpm: float) -> bytes:
    """A loop follows the tempo of a session, what is no loop plays as it is."""
    one_shot, root_is_set, stretch = 1, 2, 4
    root = root_note(facts.key)
    flags = (stretch if facts.is_loop else one_shot) | (0 if root is None else root_is_set)
    beats = facts.beats
    if beats is None:
        beats = min(round(form.frames * bpm / (60 * form.sample_rate)), _U32 - 1)
    return struct.pack(
        "<IHHfIHHf",
        flags,
        _MIDDLE_C if root is None else root,
        0x8000,
        0.0,
        beats,
        facts.beat_unit,
        facts.beats_per_bar,
        bpm,
    )


def _smpl(facts: TakeFacts, form: WavForm) -> bytes:
    root = root_note(facts.key)
    # The last frame of a loop is played; a position has 32 bits.
    loops = [(0, 0, 0, form.frames - 1, 0, 0)] if facts.is_loop and form.frames <= _U32 else []
    period = round(1e9 / form.sample_rate)
    note = _MIDDLE_C if root is None else root
    head = struct.pack("<9I", 0, 0, period, note, 0, 0, 0, len(loops), 0)
    return head + b"".join(struct.pack("<6I", *loop) for loop in loops)


def _cue(marks: Sequence[tuple[int, str]]) -> bytes:
    points = (
        struct.pack("<II4sIII", number, frame, b"data", 0, 0, frame)
        for number, (frame, _) in enumerate(marks, 1)
    )
    return struct.pack("<I", len(marks)) + b"".join(points)


def _labels(marks: Sequence[tuple[int, str]]) -> bytes:
    labels = (
        riff_chunk(b"labl", struct.pack("<I", number) + _utf8z(label, _MOST_LABEL_BYTES))
        for number, (_, label) in enumerate(marks, 1)
    )
    return b"adtl" + b"".join(labels)


def _info(facts: TakeFacts) -> bytes:
    """The texts that every player shows."""
    tempo = None if facts.bpm is None else f"{facts.bpm:g} BPM"
    comment = [
        _engine(facts) and f"engine {_engine(facts)}",
        None if facts.seed is None else f"seed {facts.seed}",
        facts.generation_id and f"id {facts.generation_id}",
    ]
    texts = {
        b"INAM": facts.prompt,
        b"ISFT": SOFTWARE,
        b"ICRD": None if facts.created_at is None else facts.created_at.date().isoformat(),
        b"ICMT": "; ".join(part for part in comment if part),
        b"ICOP": facts.licence,
        b"IGNR": facts.genre,
        # Keywords, by the standard, each after a semicolon and a blank.
        b"IKEY": "; ".join(part for part in (tempo, facts.key) if part),
    }
    return b"INFO" + b"".join(
        riff_chunk(name, _utf8z(one_line(text), _MOST_INFO_BYTES))
        for name, text in texts.items()
        if text and one_line(text)
    )


def _utf8z(text: str, most: int) -> bytes:
    """UTF-8 with a zero at the end, cut where a character ends."""
    return text.encode()[:most].decode("utf-8", "ignore").encode() + b"\0"
