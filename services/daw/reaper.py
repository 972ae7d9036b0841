"""Writes projects for REAPER 6 and later (.rpp, a text format)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from services.daw.clips import list_clip_events, to_clip_ticks
from services.daw.colours import find_colour
from services.daw.midi import TICKS
from services.daw.output import new_output
from services.daw.session import AudioTrack, Bus, MidiClip, MidiTrack, Session, Track
from services.daw.sources import check_sources, copy_source

_AUDIO_FOLDER = "Media"
_HELD = 1
"""The shape of a tempo point: the tempo stays until the next point."""
_CUSTOM_COLOUR = 1 << 24


def write_reaper(session: Session, folder: Path, *, force: bool = False) -> Path:
    """Write `folder`/NAME-reaper with the project NAME.rpp and copies of all audio in Media.

    The tracks of a bus are a folder of tracks.

    Returns:
        the project file.

    Raises:
        InvalidRequestError: the project exists, and `force` is not set.
        FileGoneError, FileDamagedError: a source is missing or changed; nothing is written.
        OutputError: the project cannot be written; nothing is left of it.
    """
    check_sources(session)
    target = folder / f"{session.file_name}-reaper"
    with new_output(target, force=force) as draft:
        media = draft / _AUDIO_FOLDER
        media.mkdir(parents=True)
        audio = session.name_audio_files()
        for source in session.sources:
            copy_source(source, media / audio[source.path])
        text = "\n".join(_list_lines(session, audio)) + "\n"
        (draft / f"{session.file_name}.rpp").write_text(text, encoding="utf-8", newline="\n")
    return target / f"{session.file_name}.rpp"


def _list_lines(session: Session, audio: dict[Path, str]) -> Iterator[str]:
    first = session.takes[0]
    metre = f"{first.metre.numerator} {first.metre.denominator}"
    start, end = (_number(session.seconds_at(beat)) for beat in session.loop)
    yield '<REAPER_PROJECT 0.1 "6.80/linux-x86_64" 0'
    yield "  <NOTES 0 2"
    for line in session.notes.split("\n"):
        yield f"    |{line}"
    yield "  >"
    # Items, markers and the tempo map keep their beats when the tempo changes.
    yield "  TIMELOCKMODE 1"
    yield "  TEMPOENVLOCKMODE 1"
    yield f"  SAMPLERATE {session.sample_rate} 1 0"
    yield f"  TEMPO {_number(first.tempo_bpm)} {metre}"
    yield f"  SELECTION {start} {end}"
    yield "  LOOP 1"
    yield from _list_tempos(session)
    for number, (name, beat) in enumerate(session.markers(), 1):
        yield f"  MARKER {number} {_number(session.seconds_at(beat))} {_quote(name)} 0"
    buses = {bus.name: bus for bus in session.buses}
    for track in session.tracks:
        if not isinstance(track, AudioTrack) or track.bus is None:
            yield from _list_track(session, track, audio)
        elif bus := buses.pop(track.bus, None):
            yield from _list_group(session, bus, audio)
    yield ">"


def _list_group(session: Session, bus: Bus, audio: dict[Path, str]) -> Iterator[str]:
    members = [track for track in session.audio_tracks if track.bus == bus.name]
    yield from _open_track(bus.name, find_colour("mix"), bus.muted, 1.0, opens_folder=True)
    yield "  >"
    for track in members:
        yield from _list_track(session, track, audio, closes_folder=track is members[-1])


def _list_tempos(session: Session) -> Iterator[str]:
    takes = session.takes
    if len({(take.tempo_bpm, take.metre) for take in takes}) == 1:
        return
    yield "  <TEMPOENVEX"
    yield "    ACT 1"
    for take in takes:
        seconds = _number(session.seconds_at(take.start_beat))
        # A metre is one number: the denominator in the upper 16 bits.
        metre = take.metre.denominator << 16 | take.metre.numerator
        yield f"    PT {seconds} {_number(take.tempo_bpm)} {_HELD} {metre}"
    yield "  >"


def _open_track(
    name: str,
    colour: str,
    muted: bool,
    gain: float,
    *,
    opens_folder: bool = False,
    closes_folder: bool = False,
) -> Iterator[str]:
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    folder = "1 1" if opens_folder else "2 -1" if closes_folder else "0 0"
    yield "  <TRACK"
    yield f"    NAME {_quote(name)}"
    yield f"    PEAKCOL {_CUSTOM_COLOUR | blue << 16 | green << 8 | red}"
    yield f"    VOLPAN {_number(gain)} 0 -1 -1 1"
    yield f"    MUTESOLO {int(muted)} 0 0"
    yield f"    ISBUS {folder}"
    yield "    NCHAN 2"


def _list_track(
    session: Session, track: Track, audio: dict[Path, str], *, closes_folder: bool = False
) -> Iterator[str]:
    colour = find_colour(track.role)
    if isinstance(track, MidiTrack):
        yield from _open_track(track.name, colour, False, 1.0)
        for notes in track.clips:
            seconds = notes.duration * 60 / notes.take.tempo_bpm
            yield from _open_item(session, notes.start, seconds, notes.take.name)
            yield "      <NOTES"
            yield f"        |{track.instrument}"
            yield "      >"
            yield from _list_midi(track, notes)
            yield "    >"
    else:
        gain = 10 ** (track.gain_db / 20)
        yield from _open_track(track.name, colour, track.muted, gain, closes_folder=closes_folder)
        for clip in track.clips:
            yield from _open_item(session, clip.start, clip.source.seconds, clip.name)
            yield "      <SOURCE WAVE"
            yield f"        FILE {_quote(f'{_AUDIO_FOLDER}/{audio[clip.source.path]}')}"
            yield "      >"
            yield "    >"
    yield "  >"


def _open_item(session: Session, beat: float, seconds: float, name: str) -> Iterator[str]:
    yield "    <ITEM"
    yield f"      POSITION {_number(session.seconds_at(beat))}"
    yield f"      LENGTH {_number(seconds)}"
    yield "      LOOP 0"
    # Without fades, which REAPER otherwise adds to new items.
    yield "      FADEIN 1 0 0 1 0 0 0"
    yield "      FADEOUT 1 0 0 1 0 0 0"
    yield f"      NAME {_quote(name)}"


def _list_midi(track: MidiTrack, clip: MidiClip) -> Iterator[str]:
    yield "      <SOURCE MIDI"
    yield f"        HASDATA 1 {TICKS} QN"
    now = 0
    for tick, message in list_clip_events(track, clip):
        # Of two bytes, as of a program change, the third is zero.
        yield f"        E {tick - now} {message.ljust(3, bytes(1)).hex(' ')}"
        now = tick
    end = max(0, to_clip_ticks(clip.duration) - now)
    yield f"        E {end} b{track.channel:x} 7b 00"
    yield "      >"


def _quote(text: str) -> str:
    """Quote a string with the first quotation mark that it does not hold."""
    line = re.sub(r"\s+", " ", text)
    for mark in ('"', "'", "`"):
        if mark not in line:
            return f"{mark}{line}{mark}"
    return "`" + line.replace("`", "'") + "`"


def _number(value: float) -> str:
    """Write a number with a fixed point: REAPER reads no exponents."""
    return f"{value:.12f}".rstrip("0").rstrip(".")
