"""Builds a session from takes, given as plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from services.audio.facts import TakeFacts
from services.daw.clips import find_program
from services.daw.names import clean_label, clean_text, make_unique
from services.daw.session import (
    STEMS_BUS,
    AudioClip,
    AudioTrack,
    Bus,
    Marker,
    Metre,
    MidiClip,
    MidiTrack,
    Session,
    Source,
    Take,
    TrackRole,
)
from services.daw.sources import SourceFile, read_sources
from services.errors import InvalidRequestError

if TYPE_CHECKING:
    from services.generation.score import Score

_TEMPO_WITHOUT_FACTS = 120.0
_ROLES = ("drums", "bass", "chords", "lead", "arp", "pad", "texture")
_OWN_NAMES = ("Master", "Monitor", "Auditioner", "Click", STEMS_BUS)
"""Names of buses that a track cannot have in Ardour."""
_SPARE_BEATS = 1e-4
"""Some samples: a file may be rounded up to a whole one without needing another bar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeInput:
    """A take, its files and what is known about it."""

    name: str
    """As the producer sees it, such as the prompt or a title; any characters."""
    mix: SourceFile
    stems: Mapping[str, SourceFile] = field(default_factory=dict)
    """Name of the stem -> file, in the order of the mixer."""
    do_stems_sum_to_mix: bool = False
    """Whether the stems were mastered as one, so that they sum to the mix. They play then, and the
    mix is muted; otherwise the mix plays. Stems of 16 bit sum to it within their rounding only."""
    score: Score | None = None
    facts: TakeFacts = field(default_factory=TakeFacts)


def build_session(name: str, takes: Sequence[TakeInput]) -> Session:
    """Put takes after each other, each from a whole bar on; stems of one name share a track.

    Playing the session sounds like the mixes, once: the stems play if that is true of the stems of
    all takes (`do_stems_sum_to_mix`), otherwise the mixes. Without a known tempo the grid is at 120
    BPM and the notes say so.

    Raises:
        FileGoneError, FileDamagedError: a file is missing or cannot be read.
        InvalidRequestError: no takes, a file that is no WAV file, or different sample rates.
    """
    if not takes:
        raise InvalidRequestError("A session needs at least one take.")
    sources = read_sources(file for take in takes for file in (take.mix, *take.stems.values()))
    placed = _place(takes, sources)
    plays_stems = all(take.stems and take.do_stems_sum_to_mix for take in takes)
    mix = AudioTrack(
        "Mix",
        "mix",
        tuple(
            AudioClip(take, sources[given.mix.path], take.name)
            for given, take in zip(takes, placed, strict=True)
        ),
        muted=plays_stems,
    )
    stems = _build_stems(takes, placed, sources)
    names = make_unique((track.name for track in stems), taken=("Mix", *_OWN_NAMES))
    stems = [
        AudioTrack(name, track.role, track.clips, bus=STEMS_BUS)
        for name, track in zip(names, stems, strict=True)
    ]
    return Session(
        name=clean_label(name, "session"),
        sample_rate=sources[takes[0].mix.path].sample_rate,
        bit_depth=max(sources[take.mix.path].bit_depth for take in takes),
        takes=tuple(placed),
        tracks=(mix, *stems, *_build_midi(takes, placed, ["Mix", *names])),
        buses=(Bus(STEMS_BUS, muted=not plays_stems),) if stems else (),
    )


def _place(takes: Sequence[TakeInput], sources: Mapping[Path, Source]) -> list[Take]:
    names = make_unique(clean_label(take.name, "take") for take in takes)
    placed: list[Take] = []
    bar, beat = 0, 0.0
    for given, name in zip(takes, names, strict=True):
        files = (given.mix, *given.stems.values())
        seconds = max(sources[file.path].seconds for file in files)
        take = _make_take(given, name, bar, beat, seconds)
        length = max(take.bars, _count_bars(take.to_beats(seconds), take.metre))
        bar, beat = bar + length, take.beat_of_bar(length)
        placed.append(take)
    return placed


def _make_take(given: TakeInput, name: str, bar: int, beat: float, seconds: float) -> Take:
    facts, score = given.facts, given.score
    metre = Metre(*facts.meter)
    if facts.beats_per_bar is None and score is not None:
        metre = Metre(score.beats_per_bar)
    known_tempo = _find_tempo(facts, score)
    tempo = known_tempo or _TEMPO_WITHOUT_FACTS
    key = clean_label(facts.key or (score.key.name if score else ""), "")
    bars = facts.bars or (score.bars if score else None)
    bars = bars or _count_bars(seconds * tempo / 60, metre)
    return Take(
        name=name,
        start_bar=bar,
        start_beat=beat,
        bars=bars,
        tempo_bpm=tempo,
        metre=metre,
        key=key,
        markers=_list_markers(facts, score, tempo, metre),
        facts=facts,
        notes=_describe(replace(facts, key=key, bars=bars), known_tempo, metre),
        score=score,
    )


def _find_tempo(facts: TakeFacts, score: Score | None) -> float | None:
    if score is not None:
        return score.tempo_bpm
    if facts.bpm is None:
        return None
    return facts.bpm * 4 / facts.meter[1]


def _count_bars(beats: float, metre: Metre) -> int:
    return max(1, math.ceil((beats - _SPARE_BEATS) / metre.bar_beats))


def _list_markers(
    facts: TakeFacts, score: Score | None, tempo: float, metre: Metre
) -> tuple[Marker, ...]:
    if score is not None:
        return tuple(
            Marker(clean_label(section.name, "section"), section.start_bar)
            for section in score.sections
        )
    return tuple(
        Marker(
            clean_label(section.name, "section"),
            round(section.start_seconds * tempo / 60 / metre.bar_beats),
        )
        for section in facts.sections
    )


def _describe(facts: TakeFacts, tempo: float | None, metre: Metre) -> str:
    lines = {
        "Title": facts.title,
        "Prompt": facts.prompt,
        "Tempo": f"{tempo:g} BPM" if tempo else "not known, the grid is at 120 BPM",
        "Metre": str(metre),
        "Key": facts.key,
        "Bars": facts.bars,
        "Genre": facts.genre,
        "Engine": " ".join(filter(None, (facts.engine, facts.engine_version))),
        "Seed": facts.seed,
        "Job": facts.generation_id,
        "Made": facts.created_at and facts.created_at.isoformat(timespec="seconds"),
        "Licence": facts.licence,
    }
    if facts.loudness is not None:
        lines["Loudness"] = (
            f"{facts.loudness.integrated_lufs:.1f} LUFS, {facts.loudness.true_peak_dbtp:.1f} dBTP"
        )
    known = {name: value for name, value in lines.items() if value not in {None, ""}}
    return clean_text("\n".join(f"{name}: {value}" for name, value in known.items()))


def _build_stems(
    takes: Sequence[TakeInput], placed: Sequence[Take], sources: Mapping[Path, Source]
) -> list[AudioTrack]:
    clips: dict[str, list[AudioClip]] = {}
    roles: dict[str, TrackRole] = {}
    for given, take in zip(takes, placed, strict=True):
        for name, file in given.stems.items():
            clips.setdefault(name, []).append(AudioClip(take, sources[file.path], take.name))
            roles.setdefault(name, _find_role(name, given.score))
    return [
        AudioTrack(clean_label(name, "stem"), roles[name], tuple(found))
        for name, found in clips.items()
    ]


def _find_role(name: str, score: Score | None) -> TrackRole:
    for part in score.parts if score else ():
        if part.name == name:
            return part.role
    return next((role for role in _ROLES if name.lower().startswith(role)), "")


def _build_midi(
    takes: Sequence[TakeInput], placed: Sequence[Take], taken: Sequence[str]
) -> list[MidiTrack]:
    clips: dict[tuple[str, int | None], list[MidiClip]] = {}
    for given, take in zip(takes, placed, strict=True):
        for part in given.score.parts if given.score else ():
            if part.notes:
                # Takes that play a part with different instruments need different tracks.
                clips.setdefault((part.name, find_program(part)), []).append(MidiClip(take, part))
    labels = (clean_label(f"{name} MIDI", "MIDI") for name, _ in clips)
    names = make_unique(labels, taken=(*taken, *_OWN_NAMES))
    return [
        MidiTrack(name, found[0].part.role, program, tuple(found))
        for name, ((_, program), found) in zip(names, clips.items(), strict=True)
    ]
