"""Writes DAWproject 1.0 files, as the schemas Project.xsd and MetaData.xsd of the format say.

All times are in beats: hosts disagree about clips timed in seconds. Notes stand in one clip of
their own and not in a clip in a clip, which some hosts shift.
"""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import services
from services.daw.colours import find_colour
from services.daw.output import new_output
from services.daw.session import AudioClip, AudioTrack, MidiClip, MidiTrack, Session, Track
from services.daw.sources import check_sources, copy_source

if TYPE_CHECKING:
    from services.generation.score import Note

_MASTER = "master"
_OLDEST_DATE = (1980, 1, 1, 0, 0, 0)
"""Every file in the ZIP has it, so that the same session gives the same bytes."""


def write_dawproject(session: Session, folder: Path, *, force: bool = False) -> Path:
    """Write `folder`/NAME.dawproject: a ZIP with the project, its facts and all audio.

    Returns:
        the file.

    Raises:
        InvalidRequestError: the file exists, and `force` is not set.
        FileGoneError, FileDamagedError: a source is missing or changed; nothing is written.
        OutputError: the file cannot be written; nothing is left of it.
    """
    check_sources(session)
    target = folder / f"{session.file_name}.dawproject"
    with new_output(target, force=force) as draft, zipfile.ZipFile(draft, "x") as archive:
        audio = {path: f"audio/{name}" for path, name in session.name_audio_files().items()}
        for name, root in (
            ("project.xml", _Project(session, audio).build()),
            ("metadata.xml", _build_metadata(session)),
        ):
            ET.indent(root)
            data = ET.tostring(root, encoding="UTF-8", xml_declaration=True)
            entry = zipfile.ZipInfo(name, _OLDEST_DATE)
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
        for source in session.sources:
            entry = zipfile.ZipInfo(audio[source.path], _OLDEST_DATE)
            entry.file_size = source.bytes
            with archive.open(entry, "w") as copy:
                copy_source(source, copy)
    return target


class _Project:
    def __init__(self, session: Session, audio: Mapping[Path, str]) -> None:
        self._session = session
        self._audio = audio
        self._numbers = itertools.count(1)
        self._ids = {
            track.name: f"track{number}" for number, track in enumerate(session.tracks, 1)
        } | {bus.name: f"bus{number}" for number, bus in enumerate(session.buses, 1)}

    def build(self) -> ET.Element:
        root = ET.Element("Project", version="1.0")
        ET.SubElement(root, "Application", name="DGX Music", version=services.__version__)
        self._add_transport(ET.SubElement(root, "Transport"))
        self._add_structure(ET.SubElement(root, "Structure"))
        self._add_arrangement(ET.SubElement(root, "Arrangement", id="arrangement"))
        ET.SubElement(root, "Scenes")
        return root

    def _add_transport(self, transport: ET.Element) -> None:
        first = self._session.takes[0]
        tempo = {"id": "tempo", "name": "Tempo", "unit": "bpm", "min": "10", "max": "999"}
        ET.SubElement(transport, "Tempo", tempo | {"value": repr(float(first.tempo_bpm))})
        metre = {
            "numerator": str(first.metre.numerator),
            "denominator": str(first.metre.denominator),
        }
        ET.SubElement(transport, "TimeSignature", {"id": "metre"} | metre)

    def _add_structure(self, structure: ET.Element) -> None:
        groups: dict[str, ET.Element] = {}
        buses = {bus.name: bus for bus in self._session.buses}
        for track in self._session.tracks:
            bus_name = track.bus if isinstance(track, AudioTrack) else None
            if bus_name and bus_name not in groups:
                group = self._add_track(structure, bus_name, "tracks", find_colour("mix"))
                muted = buses[bus_name].muted
                self._add_channel(group, bus_name, "submix", _channel(_MASTER), muted, 1.0)
                groups[bus_name] = group
            parent = groups[bus_name] if bus_name else structure
            output = _channel(self._ids[bus_name] if bus_name else _MASTER)
            colour = find_colour(track.role)
            if isinstance(track, AudioTrack):
                one = self._add_track(parent, track.name, "audio", colour)
                gain = 10 ** (track.gain_db / 20)
                self._add_channel(one, track.name, "regular", output, track.muted, gain)
            else:
                one = self._add_track(parent, track.name, "notes", colour)
                one.set("comment", track.instrument)
                self._add_channel(one, track.name, "regular", output, False, 1.0)
        self._ids["Master"] = _MASTER
        master = self._add_track(structure, "Master", "audio notes", "")
        self._add_channel(master, "Master", "master", None, False, 1.0)

    def _add_track(self, parent: ET.Element, name: str, content: str, colour: str) -> ET.Element:
        described = {"id": self._ids[name], "name": name, "contentType": content, "loaded": "true"}
        return ET.SubElement(parent, "Track", described | ({"color": colour} if colour else {}))

    def _add_channel(
        self,
        track: ET.Element,
        name: str,
        role: str,
        output: str | None,
        muted: bool,
        gain: float,
    ) -> None:
        described = {"id": _channel(self._ids[name]), "role": role, "audioChannels": "2"}
        goal = {"destination": output} if output else {}
        channel = ET.SubElement(track, "Channel", described | {"solo": "false"} | goal)
        ET.SubElement(channel, "Mute", id=self._new_id(), name="Mute", value=str(muted).lower())
        pan = {"name": "Pan", "unit": "normalized", "min": "0", "max": "1", "value": "0.5"}
        ET.SubElement(channel, "Pan", {"id": self._new_id()} | pan)
        volume = {"name": "Volume", "unit": "linear", "min": "0", "max": "2", "value": repr(gain)}
        ET.SubElement(channel, "Volume", {"id": self._new_id()} | volume)

    def _add_arrangement(self, arrangement: ET.Element) -> None:
        lanes = ET.SubElement(arrangement, "Lanes", id=self._new_id(), timeUnit="beats")
        for track in self._session.tracks:
            lane = ET.SubElement(lanes, "Lanes", id=self._new_id(), track=self._ids[track.name])
            self._add_clips(ET.SubElement(lane, "Clips", id=self._new_id()), track)
        if markers := list(self._session.markers()):
            element = ET.SubElement(arrangement, "Markers", id=self._new_id(), timeUnit="beats")
            for name, beat in markers:
                ET.SubElement(element, "Marker", time=_number(beat), name=name)
        self._add_changes(arrangement)

    def _add_changes(self, arrangement: ET.Element) -> None:
        """Add the tempo and metre of each take where a later one has others."""
        takes = self._session.takes
        if len({take.tempo_bpm for take in takes}) > 1:
            tempos = self._add_points(arrangement, "TempoAutomation", "tempo", {"unit": "bpm"})
            for take in takes:
                at = {"time": _number(take.start_beat), "value": _number(take.tempo_bpm)}
                ET.SubElement(tempos, "RealPoint", at | {"interpolation": "hold"})
        if len({take.metre for take in takes}) > 1:
            metres = self._add_points(arrangement, "TimeSignatureAutomation", "metre", {})
            for take in takes:
                metre = {
                    "numerator": str(take.metre.numerator),
                    "denominator": str(take.metre.denominator),
                }
                at = {"time": _number(take.start_beat)}
                ET.SubElement(metres, "TimeSignaturePoint", at | metre)

    def _add_points(
        self, arrangement: ET.Element, name: str, parameter: str, unit: dict[str, str]
    ) -> ET.Element:
        described = {"id": self._new_id(), "timeUnit": "beats"} | unit
        points = ET.SubElement(arrangement, name, described)
        ET.SubElement(points, "Target", parameter=parameter)
        return points

    def _add_clips(self, clips: ET.Element, track: Track) -> None:
        if isinstance(track, MidiTrack):
            for notes in track.clips:
                self._add_notes(_add_clip(clips, notes), track, notes)
        else:
            for audio in track.clips:
                self._add_audio(_add_clip(clips, audio), audio)

    def _add_audio(self, element: ET.Element, clip: AudioClip) -> None:
        source = clip.source
        units = {"contentTimeUnit": "seconds", "timeUnit": "beats"}
        warps = ET.SubElement(element, "Warps", {"id": self._new_id()} | units)
        audio = {
            "id": self._new_id(),
            "algorithm": "stretch",
            "channels": str(source.channels),
            "duration": _number(source.seconds),
            "sampleRate": str(source.sample_rate),
        }
        file = ET.SubElement(warps, "Audio", audio)
        ET.SubElement(file, "File", path=self._audio[source.path])
        for beat, second in ((0.0, 0.0), (clip.duration, source.seconds)):
            ET.SubElement(warps, "Warp", time=_number(beat), contentTime=_number(second))

    def _add_notes(self, element: ET.Element, track: MidiTrack, clip: MidiClip) -> None:
        notes = ET.SubElement(element, "Notes", id=self._new_id())
        for note in clip.part.notes:
            described = {
                "time": _number(note.start),
                "duration": _number(note.duration),
                "channel": str(track.channel),
                "key": str(note.pitch),
                "vel": _number(note.velocity),
            }
            one = ET.SubElement(notes, "Note", described)
            if note.glide_to is not None:
                self._add_glide(one, note, note.glide_to - note.pitch)

    def _add_glide(self, element: ET.Element, note: Note, semitones: int) -> None:
        described = {"id": self._new_id(), "timeUnit": "beats", "unit": "semitones"}
        points = ET.SubElement(element, "Points", described)
        ET.SubElement(points, "Target", expression="transpose")
        for time, value in ((0.0, 0), (note.duration, semitones)):
            at = {"time": _number(time), "value": str(value), "interpolation": "linear"}
            ET.SubElement(points, "RealPoint", at)

    def _new_id(self) -> str:
        return f"id{next(self._numbers)}"


def _build_metadata(session: Session) -> ET.Element:
    root = ET.Element("MetaData")
    ET.SubElement(root, "Title").text = session.name
    licences = dict.fromkeys(take.licence for take in session.takes if take.licence)
    if licences:
        ET.SubElement(root, "Copyright").text = "; ".join(licences)
    ET.SubElement(root, "Comment").text = session.notes
    return root


def _add_clip(clips: ET.Element, clip: AudioClip | MidiClip) -> ET.Element:
    at = {"time": _number(clip.start), "duration": _number(clip.duration), "playStart": "0"}
    name = clip.name if isinstance(clip, AudioClip) else clip.take.name
    return ET.SubElement(clips, "Clip", at | {"contentTimeUnit": "beats", "name": name})


def _channel(track_id: str) -> str:
    return f"{track_id}-channel"


def _number(value: float) -> str:
    return repr(float(value))
