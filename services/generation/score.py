"""The score: the music as notes, which the composer writes and the synthesiser and MIDI read.

Times are in quarter-note beats from the start of the piece, pitches are MIDI numbers (60 = C4),
velocities 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mode = Literal["major", "minor", "dorian", "phrygian", "mixolydian", "lydian"]
Role = Literal["drums", "bass", "chords", "lead", "arp", "pad", "texture"]

PITCH_CLASSES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")

MODE_INTERVALS: dict[Mode, tuple[int, ...]] = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "phrygian": (0, 1, 3, 5, 7, 8, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "lydian": (0, 2, 4, 6, 7, 9, 11),
}


@dataclass(frozen=True, slots=True)
class Key:
    tonic: int
    """Pitch class, 0 = C .. 11 = B."""
    mode: Mode

    @property
    def name(self) -> str:
        """E.g. "C minor"."""
        return f"{PITCH_CLASSES[self.tonic]} {self.mode}"

    @property
    def pitch_classes(self) -> frozenset[int]:
        """The seven of the scale, 0..11."""
        return frozenset((self.tonic + step) % 12 for step in MODE_INTERVALS[self.mode])


@dataclass(frozen=True, slots=True)
class Note:
    """A note or a drum hit, as played: swing and humanising are in `start`."""

    start: float
    """Beats."""
    duration: float
    """Beats, more than 0."""
    pitch: int
    """MIDI number; for drums the General MIDI percussion map (36 kick, 38 snare, 42 hat ...)."""
    velocity: float
    """0..1."""
    glide_to: int | None = None
    """The pitch that a sliding bass reaches at the end of the note."""


@dataclass(frozen=True, slots=True)
class Chord:
    start: float
    """Beats; so is `duration`."""
    duration: float
    root: int
    """Pitch class, 0..11."""
    pitch_classes: tuple[int, ...]
    """Root first."""
    symbol: str
    """E.g. "Cm7"."""


@dataclass(frozen=True, slots=True)
class Section:
    name: str
    """intro, verse, build, drop, break, outro, ...; numbered from the second: "drop 2"."""
    start_bar: int
    bars: int
    energy: float
    """0..1: how many parts play, and how loud."""


@dataclass(frozen=True, slots=True)
class Part:
    """The notes of one instrument, and its settings in the mix."""

    name: str
    """Unique in the score; also the name of the stem: drums, bass, chords, lead, pad, ..."""
    role: Role
    patch: str
    """A name in `synth.PATCHES`."""
    notes: tuple[Note, ...]
    gain_db: float = 0.0
    pan: float = 0.0
    """-1 left .. 1 right."""
    reverb: float = 0.0
    """Send level of the reverb, 0..1."""
    delay: float = 0.0
    """Send level of the tempo-synchronised echo, 0..1."""
    sidechain: float = 0.0
    """Depth of the ducking by the kick, 0..1."""
    brightness: tuple[tuple[float, float], ...] = ()
    """Breakpoints (beat, 0..1) of the filter, linear between; empty for the patch's own."""


@dataclass(frozen=True, slots=True)
class Score:
    """A whole piece in 4/4."""

    tempo_bpm: float
    bars: int
    key: Key
    genre: str
    sections: tuple[Section, ...]
    chords: tuple[Chord, ...]
    parts: tuple[Part, ...]
    loop: bool = False
    """The end leads back into the start, and what rings past the end is heard at the start."""

    beats_per_bar = 4

    @property
    def beats(self) -> float:
        return float(self.bars * self.beats_per_bar)

    @property
    def seconds(self) -> float:
        """Length without the tail."""
        return self.beats * 60.0 / self.tempo_bpm

    def seconds_at(self, beat: float) -> float:
        return beat * 60.0 / self.tempo_bpm

    def part(self, name: str) -> Part:
        """Return the part of that name.

        Raises:
            KeyError: no part has it.
        """
        for part in self.parts:
            if part.name == name:
                return part
        raise KeyError(name)
