"""A session: takes after each other on one timeline, and the tracks that a DAW shows.

All writers of this room read it. Positions are in quarter-note beats and in bars, both counted
from 0 at the start of the session; tempos are in quarter notes a minute.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from services.audio.facts import TakeFacts
from services.daw.names import clean_text, make_file_name, make_unique
from services.errors import InvalidRequestError
from services.generation.score import Part, Role, Score

STEMS_BUS = "Stems"

TrackRole = Role | str
"""The role of a part in the score, "mix", or "" if it is not known. It chooses the colour."""


@dataclass(frozen=True, slots=True)
class Metre:
    numerator: int = 4
    denominator: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.numerator <= 64 or self.denominator not in {1, 2, 4, 8, 16, 32}:
            raise InvalidRequestError(
                f"{self} is no metre for a session: use 1 to 64 over 1, 2, 4, 8, 16 or 32, such as "
                "7/8."
            )

    def __str__(self) -> str:
        return f"{self.numerator}/{self.denominator}"

    @property
    def bar_beats(self) -> float:
        """Length of a bar in quarter notes: 3.5 for 7/8."""
        return self.numerator * 4 / self.denominator


@dataclass(frozen=True, slots=True)
class Marker:
    name: str
    bar: int
    """From the start of its take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """One take on the timeline, with the grid that it was played to."""

    name: str
    start_bar: int
    start_beat: float
    bars: int
    """Whole bars of music. The next take starts later if the sound rings on after them."""
    tempo_bpm: float
    """Quarter notes a minute, 10 to 999."""
    metre: Metre = Metre()
    key: str = ""
    """As "F# minor"; empty if it is not known."""
    markers: tuple[Marker, ...] = ()
    facts: TakeFacts = field(default_factory=TakeFacts)
    notes: str = ""
    """The facts for people: one on each line."""
    score: Score | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.tempo_bpm) or not 10 <= self.tempo_bpm <= 999:
            raise InvalidRequestError(f"A session needs 10 to 999 BPM, not {self.tempo_bpm}.")

    @property
    def is_loop(self) -> bool:
        return bool(self.facts.is_loop)

    @property
    def licence(self) -> str:
        """Empty if it is not known."""
        return clean_text(self.facts.licence or "")

    def beat_of_bar(self, bar: float) -> float:
        """Return the session's beat of a bar of this take."""
        return self.start_beat + bar * self.metre.bar_beats

    def to_beats(self, seconds: float) -> float:
        return seconds * self.tempo_bpm / 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A WAV file that the session plays, as it was when the session was built."""

    path: Path
    sample_rate: int
    channels: int
    """1 or 2."""
    frames: int
    """Samples per channel."""
    bit_depth: int
    """16, 24 or 32."""
    bytes: int
    sha256: str | None = None
    """Hexadecimal digest of the whole file, if the caller knows it."""

    @property
    def seconds(self) -> float:
        return self.frames / self.sample_rate


@dataclass(frozen=True, slots=True)
class AudioClip:
    take: Take
    source: Source
    name: str

    @property
    def start(self) -> float:
        """Beats."""
        return self.take.start_beat

    @property
    def duration(self) -> float:
        """Beats."""
        return self.take.to_beats(self.source.seconds)


@dataclass(frozen=True, slots=True)
class AudioTrack:
    name: str
    role: TrackRole
    clips: tuple[AudioClip, ...]
    gain_db: float = 0.0
    muted: bool = False
    bus: str | None = None
    """The name of the bus that it plays into; None for the master."""


@dataclass(frozen=True, slots=True)
class MidiClip:
    take: Take
    part: Part
    """Its notes are in beats from the start of the take."""

    @property
    def start(self) -> float:
        """Beats."""
        return self.take.start_beat

    @property
    def duration(self) -> float:
        """Beats: the bars of the take, and longer where a note is."""
        bars = self.take.bars * self.take.metre.bar_beats
        return max([bars, *(note.start + note.duration for note in self.part.notes)])


@dataclass(frozen=True, slots=True)
class MidiTrack:
    """Notes without an instrument: silent until the producer adds one."""

    name: str
    role: TrackRole
    program: int | None
    """General MIDI, 0..127; None for drums, which are on channel 10."""
    clips: tuple[MidiClip, ...]

    @property
    def channel(self) -> int:
        """From 0."""
        return 9 if self.program is None else 0

    @property
    def instrument(self) -> str:
        """What to play it with, in words."""
        if self.program is None:
            return "General MIDI drums, channel 10."
        return f"General MIDI program {self.program + 1} (counted from 1), channel 1."


Track = AudioTrack | MidiTrack


@dataclass(frozen=True, slots=True)
class Bus:
    name: str
    muted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    name: str
    sample_rate: int
    bit_depth: int
    """Of the mixes, and so of what is recorded next: 16, 24 or 32 (float)."""
    takes: tuple[Take, ...]
    """In the order of time; at least one."""
    tracks: tuple[Track, ...]
    """In the order of the mixer. Names are unique, whatever their case."""
    buses: tuple[Bus, ...] = ()

    def __post_init__(self) -> None:
        names = [one.name for one in (*self.tracks, *self.buses)]
        if make_unique(names) != names:
            raise ValueError(
                f"Tracks and buses need names that differ, whatever their case: {names}."
            )

    @property
    def file_name(self) -> str:
        """The name for its files and folders, without a suffix."""
        return make_file_name(self.name, "session")

    @property
    def loop(self) -> tuple[float, float]:
        """Beats of the loop range: the bars of the first take that is a loop, or of the first."""
        take = next((one for one in self.takes if one.is_loop), self.takes[0])
        return take.beat_of_bar(0), take.beat_of_bar(take.bars)

    @property
    def notes(self) -> str:
        """What is known about the takes, for people."""
        return "\n\n".join(f"{take.name}\n{take.notes}".strip() for take in self.takes)

    @property
    def audio_tracks(self) -> tuple[AudioTrack, ...]:
        return tuple(track for track in self.tracks if isinstance(track, AudioTrack))

    @property
    def midi_tracks(self) -> tuple[MidiTrack, ...]:
        return tuple(track for track in self.tracks if isinstance(track, MidiTrack))

    @property
    def sources(self) -> tuple[Source, ...]:
        """Each file once, in the order of the tracks."""
        found = {clip.source.path: clip.source for _, clip in self.audio_clips()}
        return tuple(found.values())

    def audio_clips(self) -> Iterator[tuple[AudioTrack, AudioClip]]:
        for track in self.audio_tracks:
            for clip in track.clips:
                yield track, clip

    def markers(self) -> Iterator[tuple[str, float]]:
        """Yield (name, beat); of several takes each has a marker at its start, with its name."""
        for take in self.takes:
            if len(self.takes) > 1:
                yield take.name, take.start_beat
            for marker in take.markers:
                yield marker.name, take.beat_of_bar(marker.bar)

    def seconds_at(self, beat: float) -> float:
        """Return the time of a beat, through all changes of tempo before it."""
        seconds = 0.0
        for take, following in zip(self.takes, [*self.takes[1:], None], strict=True):
            end = beat if following is None else min(beat, following.start_beat)
            seconds += (end - take.start_beat) * 60 / take.tempo_bpm
            if following is None or beat <= following.start_beat:
                break
        return seconds

    @property
    def seconds(self) -> float:
        """From the start to the end of the last sound and the last bar."""
        ends = [self.seconds_at(take.beat_of_bar(take.bars)) for take in self.takes]
        sounds = [
            self.seconds_at(clip.start) + clip.source.seconds for _, clip in self.audio_clips()
        ]
        return max(ends + sounds)

    def name_audio_files(self) -> dict[Path, str]:
        """Return source -> a safe and unique name for its copy in the session."""
        names: dict[Path, str] = {}
        for track, clip in self.audio_clips():
            text = f"{clip.take.name} {track.name}" if len(self.takes) > 1 else track.name
            names.setdefault(clip.source.path, make_file_name(text, "audio"))
        unique = make_unique(names.values())
        return {path: f"{name}.wav" for path, name in zip(names, unique, strict=True)}
