"""Writes a score as a Standard MIDI File of type 1 (MIDI 1.0 specification, RP-001)."""

from __future__ import annotations

import math
import struct

from services.generation.score import MODE_INTERVALS, Key, Part, Score

TICKS = 480
"""Ticks a quarter note."""

_DRUM_CHANNEL = 9
_BEND_RANGE = 24
"""Semitones up and down, set by registered parameter 0; an octave slide needs 12."""

PROGRAMS: dict[str, int] = {
    "bass-808": 38, "bass-sub": 39, "bass-reese": 38, "bass-saw": 38, "bass-acid": 87,
    "bass-upright": 32, "keys-rhodes": 4, "keys-piano": 0, "keys-organ": 16, "stab-house": 62,
    "pad-warm": 89, "pad-air": 91, "pad-supersaw": 90, "strings": 48, "lead-pluck": 45,
    "lead-bell": 14, "lead-saw": 81, "lead-square": 80, "lead-flute": 73, "guitar-pluck": 25,
    "arp-pluck": 84, "brass-synth": 62, "vinyl": 122, "noise-riser": 119, "impact": 127,
    "wind": 122,
}  # fmt: skip
"""Patch -> General MIDI program, 0..127."""

_FIFTHS = {0: 0, 1: -5, 2: 2, 3: -3, 4: 4, 5: -1, 6: 6, 7: 1, 8: -4, 9: 3, 10: -2, 11: 5}
"""Tonic of a major key -> number of sharps, negative for flats."""


def score_to_midi(score: Score) -> bytes:
    """Return a file with a conductor track (tempo, 4/4, key, markers) and a track for each part.

    Drums are on channel 10. A slide becomes a pitch bend over its note. More than 15 pitched parts
    share channels.
    """
    tracks = [_encode_conductor(score)]
    channels = [channel for channel in range(16) if channel != _DRUM_CHANNEL]
    pitched = 0
    for part in score.parts:
        if part.role == "drums":
            channel = _DRUM_CHANNEL
        else:
            channel = channels[pitched % len(channels)]
            pitched += 1
        tracks.append(encode_track(list_events(part, channel), to_ticks(score.beats)))
    header = struct.pack(">4sIHHH", b"MThd", 6, 1, len(tracks), TICKS)
    return header + b"".join(tracks)


def key_signature(key: Key) -> tuple[int, int]:
    """Return (sharps or minus flats, 0 major or 1 minor).

    Modes get the signature of the major key with their notes, as minor where their third is minor.
    """
    minor = 3 in MODE_INTERVALS[key.mode]
    parent = next(
        tonic
        for tonic in range(12)
        if {(tonic + step) % 12 for step in MODE_INTERVALS["major"]} == key.pitch_classes
    )
    return _FIFTHS[parent], int(minor)


Event = tuple[int, int, bytes]
"""(tick, rank within the tick, message)."""


def _encode_conductor(score: Score) -> bytes:
    tempo = round(60_000_000 / score.tempo_bpm)
    sharps, minor = key_signature(score.key)
    events: list[Event] = [
        (0, 0, _encode_meta(0x03, score.genre.encode())),
        (0, 0, _encode_meta(0x51, tempo.to_bytes(3, "big"))),
        (0, 0, _encode_meta(0x58, bytes((score.beats_per_bar, 2, 24, 8)))),
        (0, 0, _encode_meta(0x59, struct.pack(">bb", sharps, minor))),
    ]
    events += [
        (
            to_ticks(section.start_bar * score.beats_per_bar),
            1,
            _encode_meta(0x06, section.name.encode()),
        )
        for section in score.sections
    ]
    return encode_track(events, to_ticks(score.beats))


def list_events(part: Part, channel: int) -> list[Event]:
    events: list[Event] = [(0, 0, _encode_meta(0x03, part.name.encode()))]
    if channel != _DRUM_CHANNEL:
        events.append((0, 0, bytes((0xC0 | channel, PROGRAMS.get(part.patch, 0)))))
    slides = any(note.glide_to is not None for note in part.notes)
    if slides:
        events += [
            (0, 1, bytes((0xB0 | channel, controller, value)))
            for controller, value in ((101, 0), (100, 0), (6, _BEND_RANGE), (38, 0))
        ]
    pan = round(64 + 63 * part.pan)
    events.append((0, 1, bytes((0xB0 | channel, 10, min(127, max(0, pan))))))
    for note in part.notes:
        start, end = to_ticks(note.start), to_ticks(note.start + note.duration)
        end = max(end, start + 1)
        velocity = min(127, max(1, round(note.velocity * 127)))
        events.append((end, 2, bytes((0x80 | channel, note.pitch, 0))))
        events.append((start, 4, bytes((0x90 | channel, note.pitch, velocity))))
        if note.glide_to is not None:
            events += _bend_note(channel, start, end, note.glide_to - note.pitch)
    return events


def _bend_note(channel: int, start: int, end: int, semitones: int) -> list[Event]:
    """Bend in steps of a 32nd at most, and reset the bend at the end of the note."""
    count = max(1, math.ceil((end - start) / (TICKS // 8)))
    reach = max(-_BEND_RANGE, min(_BEND_RANGE, semitones)) / _BEND_RANGE
    events = []
    for index in range(1, count + 1):
        tick = start + (end - start) * index // (count + 1)
        events.append((tick, 5, _encode_bend(channel, reach * index / count)))
    return [*events, (end, 3, _encode_bend(channel, 0.0))]


def _encode_bend(channel: int, position: float) -> bytes:
    value = min(16383, max(0, round(8192 + 8192 * position)))
    return bytes((0xE0 | channel, value & 0x7F, value >> 7))


def encode_track(events: list[Event], end: int) -> bytes:
    body = bytearray()
    now = 0
    for tick, _, message in sorted(events, key=lambda event: event[:2]):
        body += _encode_quantity(tick - now) + message
        now = tick
    body += _encode_quantity(max(0, end - now)) + _encode_meta(0x2F, b"")
    return struct.pack(">4sI", b"MTrk", len(body)) + bytes(body)


def _encode_meta(kind: int, data: bytes) -> bytes:
    return bytes((0xFF, kind)) + _encode_quantity(len(data)) + data


def _encode_quantity(value: int) -> bytes:
    """Encode a variable-length quantity: seven bits a byte, most significant first."""
    out = [value & 0x7F]
    while value := value >> 7:
        out.append(0x80 | value & 0x7F)
    return bytes(reversed(out))


def to_ticks(beats: float) -> int:
    return round(beats * TICKS)
