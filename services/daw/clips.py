"""The notes of one part as MIDI without tempo, which the session's tempo plays."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from services.daw.midi import PROGRAMS, TICKS, encode_track, list_events, to_ticks

if TYPE_CHECKING:
    from services.daw.session import MidiClip, MidiTrack
    from services.generation.score import Part

_META = 0xFF


def find_program(part: Part) -> int | None:
    """Return the General MIDI program of a part, 0..127; None for drums."""
    return None if part.role == "drums" else PROGRAMS.get(part.patch, 0)


def clip_to_midi(track: MidiTrack, clip: MidiClip) -> bytes:
    """Return a Standard MIDI File of type 0 from the start of the clip to its end."""
    events = list_events(clip.part, track.channel)
    chunk = encode_track(events, to_clip_ticks(clip.duration))
    return struct.pack(">4sIHHH", b"MThd", 6, 0, 1, TICKS) + chunk


def list_clip_events(track: MidiTrack, clip: MidiClip) -> list[tuple[int, bytes]]:
    """Return (tick from the start of the clip, message) in order, without names and other texts."""
    events = sorted(list_events(clip.part, track.channel), key=lambda event: event[:2])
    return [(tick, message) for tick, _, message in events if message[0] != _META]


def to_clip_ticks(beats: float) -> int:
    return to_ticks(beats)
