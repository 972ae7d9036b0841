"""Tracks and buses of an Ardour session: the elements `Route` of format 7002."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from services.daw.colours import find_colour
from services.daw.names import make_unique
from services.daw.session import MidiTrack, Session, Track

VERSION = "7002"

_ROUTE = {
    "version": VERSION,
    "strict-io": "1",
    "active": "1",
    "denormal-protection": "0",
    "meter-point": "MeterPostFader",
    "disk-io-point": "DiskIOPreFader",
    "meter-type": "MeterPeak",
}
_TRACK = {
    "saved-meter-point": "MeterPostFader",
    "alignment-choice": "Automatic",
    "mode": "Normal",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """A channel of the mixer."""

    name: str
    kind: Literal["audio", "midi"]
    order: int
    """In the mixer, from 0."""
    flag: Literal["MasterOut", "AudioBus", "AudioTrack", "MidiTrack"]
    colour: str = ""
    """As "#rrggbb"; empty for Ardour's own."""
    comment: str = ""
    gain: float = 1.0
    """Linear."""
    is_muted: bool = False
    output: str = "Master"
    """The name of the strip that it plays into; the master plays into the sound card."""


def list_strips(session: Session) -> tuple[Strip, list[tuple[Track, Strip]], list[Strip]]:
    """Return the master, the tracks and the buses."""
    names = _name_strips(session)
    order = iter(range(1, len(names) + 1))
    master = Strip(name="Master", kind="audio", order=0, flag="MasterOut")
    tracks = [(track, _make_strip(track, names, next(order), session)) for track in session.tracks]
    buses = [
        Strip(
            name=names[bus.name],
            kind="audio",
            order=next(order),
            flag="AudioBus",
            colour=find_colour("mix"),
            is_muted=bus.muted,
        )
        for bus in session.buses
    ]
    return master, tracks, buses


def add_route(
    routes: ET.Element, strip: Strip, ids: Iterator[str], playlist: str | None = None
) -> ET.Element:
    """Add a strip to the element `Routes`; `playlist` is the id of a track's playlist."""
    attributes = {"id": next(ids), "name": strip.name, "default-type": strip.kind, **_ROUTE}
    if playlist is not None:
        # Without a playlist Ardour takes a track for a bus.
        attributes |= {f"{strip.kind}-playlist": playlist, **_TRACK}
    route = ET.SubElement(routes, "Route", attributes)
    shown = {"order": str(strip.order), "flags": f"{strip.flag},OrderSet"}
    colour = str(int(strip.colour[1:] + "ff", 16)) if strip.colour else "0"
    ET.SubElement(route, "PresentationInfo", shown | {"color": colour})
    _add_ports(route, strip, "Input", ids)
    _add_ports(route, strip, "Output", ids)
    muted = "1" if strip.is_muted else "0"
    points = {"mute-point": "PreFader,PostFader,Listen,Main", "muted": muted}
    ET.SubElement(route, "MuteMaster", points)
    _add_control(route, "mute", muted, "Toggle,RealTime", ids)
    if strip.comment:
        ET.SubElement(route, "Comment").text = strip.comment
    _add_processors(route, strip, ids, is_track=playlist is not None)
    ET.SubElement(route, "Slavable")
    return route


def _name_strips(session: Session) -> dict[str, str]:
    """Return name -> name that Ardour can use in the names of ports."""
    names = [one.name for one in (*session.tracks, *session.buses)]
    legal = [name.replace(":", "-").replace("/", "-") for name in names]
    return dict(zip(names, make_unique(legal, ["Master"]), strict=True))


def _make_strip(track: Track, names: dict[str, str], order: int, session: Session) -> Strip:
    colour = find_colour(track.role)
    if isinstance(track, MidiTrack):
        return Strip(
            name=names[track.name],
            kind="midi",
            order=order,
            flag="MidiTrack",
            colour=colour,
            comment=f"{track.instrument}\nAdd an instrument, such as ACE Fluid Synth, to hear it.",
        )
    return Strip(
        name=names[track.name],
        kind="audio",
        order=order,
        flag="AudioTrack",
        colour=colour,
        comment=session.notes if track.role == "mix" else "",
        gain=10 ** (track.gain_db / 20),
        is_muted=track.muted,
        output=names[track.bus] if track.bus else "Master",
    )


def _add_ports(route: ET.Element, strip: Strip, direction: str, ids: Iterator[str]) -> None:
    described = {"name": strip.name, "id": next(ids), "direction": direction}
    ports = ET.SubElement(route, "IO", described | {"default-type": strip.kind})
    end = "in" if direction == "Input" else "out"
    goal = "system:playback_" if strip.flag == "MasterOut" else f"{strip.output}/audio_in "
    for number in (1, 2) if strip.kind == "audio" else (1,):
        name = f"{strip.name}/{strip.kind}_{end} {number}"
        port = ET.SubElement(ports, "Port", type=strip.kind, name=name)
        if end == "out" and strip.kind == "audio":
            ET.SubElement(port, "Connection", other=f"{goal}{number}")


def _add_processors(route: ET.Element, strip: Strip, ids: Iterator[str], *, is_track: bool) -> None:
    if is_track:
        _add_processor(route, f"recorder:{strip.name}", "diskwriter", ids).set("record-safe", "0")
        _add_processor(route, f"player:{strip.name}", "diskreader", ids)
    _add_processor(route, "Polarity", "polarity", ids)
    if strip.kind == "audio":
        trim = _add_processor(route, "Amp", "trim", ids)
        _add_control(trim, "trimcontrol", "1", "GainLike", ids)
    amplifier = _add_processor(route, "Amp", "amp", ids)
    _add_control(amplifier, "gaincontrol", repr(strip.gain), "GainLike", ids)
    _add_processor(route, f"meter-{strip.name}", "meter", ids)
    outputs = _add_processor(route, strip.name, "main-outs", ids)
    outputs.attrib |= {"role": "Main", "output": strip.name, "own-input": "1", "own-output": "0"}
    panner = {"bypassed": "0", "user-panner": "", "linked-to-route": "1"}
    ET.SubElement(outputs, "PannerShell", panner)


def _add_processor(route: ET.Element, name: str, kind: str, ids: Iterator[str]) -> ET.Element:
    latency = {"user-latency": "0", "use-user-latency": "0"}
    described = {"id": next(ids), "name": name, "active": "1", "type": kind}
    return ET.SubElement(route, "Processor", described | latency)


def _add_control(parent: ET.Element, name: str, value: str, flags: str, ids: Iterator[str]) -> None:
    described = {"name": name, "id": next(ids), "flags": flags, "value": value}
    ET.SubElement(parent, "Controllable", described)
