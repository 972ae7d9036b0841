"""Writes sessions for Ardour 7 and later (session format 7002).

Ardour has no description of its format; what it needs was found by loading what this module
writes. Times are in superclocks ("a...") or in ticks of a quarter note ("b..."). Elements without
children must be empty: Ardour fails on white space inside them.
"""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from services.daw.ardour_mixer import VERSION, Strip, add_route, list_strips
from services.daw.clips import clip_to_midi
from services.daw.names import make_file_name, make_unique
from services.daw.output import new_output
from services.daw.session import (
    AudioClip,
    AudioTrack,
    MidiClip,
    MidiTrack,
    Session,
    Take,
    Track,
)
from services.daw.sources import check_sources, copy_source

_SUPERCLOCKS = 282_240_000
"""A second, as Ardour counts: a whole number for each sample at all usual rates."""
_TICKS = 1920
"""A quarter note."""
_FORMATS = {16: "FormatInt16", 24: "FormatInt24", 32: "FormatFloat"}
_FOLDERS = ("analysis", "dead", "export", "externals", "peaks", "plugins")
_FIRST_ID = 1000


def write_ardour(session: Session, folder: Path, *, force: bool = False) -> Path:
    """Write `folder`/NAME-ardour with the session file NAME.ardour and copies of all audio.

    A group of stems plays into the bus "Stems". MIDI tracks have no instrument; their comments name
    the General MIDI program. Regions and markers are in musical time.

    Returns:
        the session file, to open with Ardour.

    Raises:
        InvalidRequestError: the session exists, and `force` is not set.
        FileGoneError, FileDamagedError: a source is missing or changed; nothing is written.
        OutputError: the session cannot be written; nothing is left of it.
    """
    check_sources(session)
    name = session.file_name
    target = folder / f"{name}-ardour"
    with new_output(target, force=force) as draft:
        inside = draft / "interchange" / name
        for one in (inside / "audiofiles", inside / "midifiles", *map(draft.joinpath, _FOLDERS)):
            one.mkdir(parents=True)
        audio = session.name_audio_files()
        for source in session.sources:
            copy_source(source, inside / "audiofiles" / audio[source.path])
        document = _Document(session, audio)
        root = document.build()
        for file, data in document.midi_files.items():
            (inside / "midifiles" / file).write_bytes(data)
        ET.indent(root)
        ET.ElementTree(root).write(draft / f"{name}.ardour", encoding="UTF-8", xml_declaration=True)
    return target / f"{name}.ardour"


@dataclass
class _Document:
    session: Session
    audio: Mapping[Path, str]
    """Source -> the name of its copy."""
    midi_files: dict[str, bytes] = field(default_factory=dict)
    """Filled by `build`."""

    def __post_init__(self) -> None:
        self._ids = map(str, itertools.count(_FIRST_ID))
        self._superclocks = _map_superclocks(self.session.takes)

    def build(self) -> ET.Element:
        session = self.session
        root = ET.Element(
            "Session",
            {
                "version": VERSION,
                "name": session.file_name,
                "sample-rate": str(session.sample_rate),
                "session-range-is-free": "0",
                "name-counter": "1",
                "event-counter": "0",
                "vca-counter": "1",
            },
        )
        created = {"created-with": "Ardour 7.3.0", "modified-with": "Ardour 7.3.0"}
        ET.SubElement(root, "ProgramVersion", created)
        self._add_options(root)
        metadata = ET.SubElement(root, "Metadata")
        ET.SubElement(metadata, "comment").text = session.notes
        ET.SubElement(metadata, "title").text = session.name
        self._sources = ET.SubElement(root, "Sources")
        self._regions = ET.SubElement(root, "Regions")
        self._add_locations(ET.SubElement(root, "Locations"))
        routes = ET.SubElement(root, "Routes")
        self._playlists = ET.SubElement(root, "Playlists")
        self._add_routes(routes)
        ET.SubElement(root, "UnusedPlaylists")
        ET.SubElement(root, "RouteGroups")
        self._add_tempo_map(ET.SubElement(root, "TempoMap"))
        # Ids that Ardour gives must not be among these.
        root.set("id-counter", next(self._ids))
        return root

    def _add_options(self, root: ET.Element) -> None:
        config = ET.SubElement(root, "Config")
        options = {
            "native-file-data-format": _FORMATS[self.session.bit_depth],
            "native-file-header-format": "WAVE",
            "glue-new-markers-to-bars-and-beats": "1",
        }
        for name, value in options.items():
            ET.SubElement(config, "Option", name=name, value=value)

    def _add_locations(self, locations: ET.Element) -> None:
        end = round(self.session.seconds * self.session.sample_rate)
        self._add_location(
            locations, "session", "a0", f"a{self._to_superclocks(end)}", "IsSessionRange"
        )
        start, stop = (f"b{_to_ticks(beat)}" for beat in self.session.loop)
        self._add_location(locations, "Loop", start, stop, "IsAutoLoop")
        for name, beat in self.session.markers():
            at = f"b{_to_ticks(beat)}"
            self._add_location(locations, name, at, at, "IsMark")

    def _add_location(
        self, locations: ET.Element, name: str, start: str, end: str, flags: str
    ) -> None:
        ET.SubElement(
            locations,
            "Location",
            id=next(self._ids),
            name=name,
            start=start,
            end=end,
            flags=flags,
            locked="0",
            timestamp="0",
        )

    def _add_tempo_map(self, tempo_map: ET.Element) -> None:
        tempo_map.set("superclocks-per-second", str(_SUPERCLOCKS))
        tempos = ET.SubElement(tempo_map, "Tempos")
        metres = ET.SubElement(tempo_map, "Meters")
        ET.SubElement(tempo_map, "MusicTimes")
        earlier: Take | None = None
        for take in self.session.takes:
            ticks = _to_ticks(take.start_beat)
            at = {
                "sclock": str(self._superclocks[take.start_bar]),
                "quarters": f"{ticks // _TICKS}:{ticks % _TICKS}",
                "bbt": f"{take.start_bar + 1}|1|0",
            }
            tempo = {"npm": repr(float(take.tempo_bpm)), "enpm": repr(float(take.tempo_bpm))}
            kind = {"note-type": "4", "type": "Tempo::Constant", "active": "1"}
            flags = {"locked-to-meter": "0", "continuing": "0"}
            metre = {
                "note-value": str(take.metre.denominator),
                "divisions-per-bar": str(take.metre.numerator),
            }
            if earlier is None or earlier.tempo_bpm != take.tempo_bpm:
                ET.SubElement(tempos, "Tempo", tempo | kind | flags | at | {"omega": "0"})
            if earlier is None or earlier.metre != take.metre:
                ET.SubElement(metres, "Meter", metre | at)
            earlier = take

    def _add_routes(self, routes: ET.Element) -> None:
        master, tracks, buses = list_strips(self.session)
        add_route(routes, master, self._ids)
        for track, strip in tracks:
            self._add_track(routes, track, strip)
        for bus in buses:
            add_route(routes, bus, self._ids)

    def _add_track(self, routes: ET.Element, track: Track, strip: Strip) -> None:
        playlist = next(self._ids)
        route = add_route(routes, strip, self._ids, playlist)
        clips = ET.SubElement(
            self._playlists,
            "Playlist",
            {
                "id": playlist,
                "name": f"{strip.name}.1",
                "type": strip.kind,
                "orig-track-id": route.get("id", ""),
                "pgroup-id": "",
                "shared-with-ids": "",
                "frozen": "0",
                "combine-ops": "0",
            },
        )
        if isinstance(track, AudioTrack):
            for layer, audio in enumerate(track.clips):
                self._add_audio_region(clips, audio, layer)
        else:
            for layer, notes in enumerate(track.clips):
                self._add_midi_region(clips, track, notes, layer)

    def _add_audio_region(self, clips: ET.Element, clip: AudioClip, layer: int) -> None:
        source = clip.source
        file = self.audio[source.path]
        # A mono file plays on both channels. A mono track would have a panner, which lowers it by
        # 3 dB; a mono region on a stereo track plays on both only if the preferences say so.
        channels = (0, 1) if source.channels > 1 else (0, 0)
        sources = [next(self._ids) for _ in channels]
        for channel, number in zip(channels, sources, strict=True):
            described = {"gain": "1", "channel": str(channel)}
            self._add_source(file, "audio", number, described)
        self._add_regions(
            clips,
            Path(file).stem,
            sources,
            f"a{self._to_superclocks(source.frames)}",
            clip.start,
            layer,
        )

    def _add_midi_region(
        self, clips: ET.Element, track: MidiTrack, clip: MidiClip, layer: int
    ) -> None:
        several = len(self.session.takes) > 1
        text = f"{clip.take.name} {track.name}" if several else track.name
        taken = [Path(name).stem for name in self.midi_files]
        [stem] = make_unique([make_file_name(text, "midi")], taken)
        self.midi_files[f"{stem}.mid"] = clip_to_midi(track, clip)
        number = next(self._ids)
        self._add_source(f"{stem}.mid", "midi", number, {})
        length = f"b{_to_ticks(clip.duration)}"
        self._add_regions(clips, stem, [number], length, clip.start, layer)

    def _add_source(self, file: str, kind: str, number: str, more: Mapping[str, str]) -> None:
        ET.SubElement(
            self._sources,
            "Source",
            {
                "name": file,
                "take-id": "",
                "type": kind,
                "flags": "",
                "id": number,
                "captured-xruns": "",
                "origin": file,
                **more,
            },
        )

    def _add_regions(
        self,
        clips: ET.Element,
        name: str,
        sources: list[str],
        length: str,
        beat: float,
        layer: int,
    ) -> None:
        """Add the region of the whole file to the region list, and the one that plays."""
        kind = clips.get("type", "")
        zero = length[0] + "0"
        same = {
            **_REGION,
            "start": zero,
            "sync-position": zero,
            "ancestral-start": zero,
            # Anything else makes Ardour load no region at all.
            "ancestral-length": f"{zero}@{zero}",
            "type": kind,
            **{f"source-{number}": one for number, one in enumerate(sources)},
            **{f"master-source-{number}": one for number, one in enumerate(sources)},
        }
        if kind == "audio":
            same |= _AUDIO_REGION | {"channels": str(len(sources))}
        whole = {"id": next(self._ids), "name": name, "whole-file": "1", "layering-index": "0"}
        ET.SubElement(self._regions, "Region", same | whole | {"length": f"{length}@{zero}"})
        played = {"id": next(self._ids), "name": f"{name}.1", "whole-file": "0"}
        at = {"length": f"{length}@b{_to_ticks(beat)}", "layering-index": str(layer)}
        ET.SubElement(clips, "Region", same | played | at)

    def _to_superclocks(self, samples: int) -> int:
        return samples * _SUPERCLOCKS // self.session.sample_rate


_REGION = {
    **dict.fromkeys(
        (
            "muted", "locked", "video-locked", "automatic", "import", "external", "sync-marked",
            "left-of-split", "right-of-split", "hidden", "position-locked", "valid-transients",
        ),
        "0",
    ),
    "opaque": "1",
    "stretch": "1",
    "shift": "1",
    "first-edit": "nothing",
}  # fmt: skip
_AUDIO_REGION = {
    "envelope-active": "0",
    "default-fade-in": "0",
    "default-fade-out": "0",
    # A fade would change the first and last samples.
    "fade-in-active": "0",
    "fade-out-active": "0",
    "scale-amplitude": "1",
}


def _map_superclocks(takes: tuple[Take, ...]) -> dict[int, int]:
    """Return start bar -> superclock, with Ardour's rounding of a tempo to superclocks a note."""
    found: dict[int, int] = {}
    earlier: Take | None = None
    for take in takes:
        if earlier is None:
            found[take.start_bar] = 0
        else:
            ticks = _to_ticks(take.start_beat) - _to_ticks(earlier.start_beat)
            a_note = round(_SUPERCLOCKS * 60 / earlier.tempo_bpm)
            found[take.start_bar] = found[earlier.start_bar] + ticks * a_note // _TICKS
        earlier = take
    return found


def _to_ticks(beats: float) -> int:
    return round(beats * _TICKS)
