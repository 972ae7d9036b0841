"""Scores that nobody here wrote, as MIDI files of one tempo with their true tempo and key.

Run by `benchmarks.foreign` in a process of its own, because mido and music21 lie in a folder that
is not on the path otherwise: python -m benchmarks.scores LIBRARIES FOLDER
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from services.audio.key import PITCH_CLASSES

OPENMSX = Path("/usr/share/games/openttd/baseset/openmsx")
SECONDS = 30.0
"""Length of an excerpt, from the first note."""

_SHORTEST_SECONDS = 15.0
_FOLDERS = {
    "bach": 36, "haydn": 2, "mozart": 3, "schumann_clara": 2, "schumann_robert": 3,
    "ryansMammoth": 20,
}  # fmt: skip
"""Folder of the corpus of music21 -> number of scores to try. Long ones take minutes to read."""
_PROGRAMS = {
    "piano": 0, "harpsichord": 6, "organ": 19, "guitar": 24, "strings": 48, "choir": 52,
    "brass": 61, "oboe": 68,
}  # fmt: skip
_TEMPI = (66.0, 144.0)
_DRUM_CHANNEL = 9


def hash_name(name: str, purpose: str) -> float:
    """Return a number from 0 to 1 that depends on the name alone; another for each purpose."""
    digest = hashlib.sha256(f"{purpose} {name}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


def pick(name: str, purpose: str, choices: list[str]) -> str:
    return choices[int(hash_name(name, purpose) * len(choices))]


def collect_openmsx(mido: Any, folder: Path) -> Iterator[dict[str, Any]]:
    """Cut the pieces of OpenMSX and yield what is known of each: those with one tempo."""
    for path in sorted(OPENMSX.glob("*.mid")):
        midi = mido.MidiFile(path)
        tempi, signatures = read_changes(midi)
        # A file without a tempo plays at 120 BPM by the standard.
        bpm = tempi.pop() if len(tempi) == 1 else None if tempi else 120.0
        if bpm is None or not save_excerpt(mido, midi, folder / f"{path.stem}.mid", bpm, None):
            continue
        # C major is also what programs write that know no key.
        sharps = signatures.pop() if len(signatures) == 1 else 0
        key = name_key(sharps, find_last_bass(midi)) if sharps else None
        yield describe(path.stem, "OpenMSX", "General MIDI", bpm, key)


def read_changes(midi: Any) -> tuple[set[float], set[int]]:
    """Return the tempi (BPM) and key signatures (sharps, negative for flats) of an excerpt."""
    tempi, signatures, seconds = set(), set(), 0.0
    for message in midi:
        seconds += message.time
        if seconds > SECONDS:
            break
        if message.type == "set_tempo":
            tempi.add(round(60e6 / message.tempo, 3))
        if message.type == "key_signature":
            signatures.add(count_sharps(message.key))
    return tempi, signatures


def count_sharps(key: str) -> int:
    """Return the sharps of a key as MIDI names it: "Ebm" is -6."""
    fifths = "FCGDAEB".index(key[0]) - 1 + 7 * key.count("#") - 7 * key.count("b")
    return fifths - 3 if key.endswith("m") else fifths


def find_last_bass(midi: Any) -> int:
    """Return the pitch class of the lowest note among the last to begin."""
    notes, seconds = [], 0.0
    for message in midi:
        seconds += message.time
        if message.type == "note_on" and message.velocity and message.channel != _DRUM_CHANNEL:
            notes.append((round(seconds, 3), -message.note))
    return -max(notes)[1] % 12


def name_key(sharps: int, last_bass: int) -> str | None:
    """Return the key of a signature in which the last bass note is the tonic, None for neither."""
    major = 7 * sharps % 12
    if last_bass == major:
        return f"{PITCH_CLASSES[major]} major"
    minor = (major + 9) % 12
    return f"{PITCH_CLASSES[minor]} minor" if last_bass == minor else None


def collect_corpus(
    mido: Any, music21: Any, libraries: Path, folder: Path
) -> Iterator[dict[str, Any]]:
    """Play scores of the corpus of music21 in a tempo and a sound drawn from their names."""
    for name, path in list_scores(libraries / "music21" / "corpus"):
        try:
            score = music21.converter.parse(path, forceSource=True)
            meters = {(m.numerator, m.denominator) for m in score[music21.meter.TimeSignature]}
            signatures = {signature.sharps for signature in score[music21.key.KeySignature]}
            written = folder / "written.mid"
            score.write("midi", written)
        except (music21.exceptions21.Music21Exception, ValueError, AttributeError) as error:
            print(f"  left out {name}: {error}", file=sys.stderr)
            continue
        if len(meters) != 1 or next(iter(meters))[1] != 4:
            continue
        bpm = round(_TEMPI[0] * (_TEMPI[1] / _TEMPI[0]) ** hash_name(name, "tempo"), 2)
        sound = pick(name, "sound", list(_PROGRAMS))
        midi = mido.MidiFile(written)
        if not save_excerpt(mido, midi, folder / f"{name}.mid", bpm, _PROGRAMS[sound]):
            continue
        key = name_key(signatures.pop(), find_last_bass(midi)) if len(signatures) == 1 else None
        yield describe(name, "music21", sound, bpm, key)


def list_scores(corpus: Path) -> Iterator[tuple[str, Path]]:
    """Yield names and paths, in each folder those with the lowest hashes."""
    for folder, count in _FOLDERS.items():
        found = {
            f"{folder}-{path.relative_to(corpus / folder).with_suffix('')}".replace("/", "-"): path
            for path in (corpus / folder).rglob("*")
            if path.suffix in {".mxl", ".xml", ".abc"}
        }
        for name in sorted(found, key=lambda name: hash_name(name, "choice"))[:count]:
            yield name, found[name]


def save_excerpt(mido: Any, midi: Any, path: Path, bpm: float, program: int | None) -> bool:
    """Save the first 30 s at one tempo; False if there are less than 15 s.

    Args:
        mido: the library.
        midi: a file of one tempo, or whose tempo does not matter.
        path: of the new file.
        bpm: quarter notes a minute.
        program: the General MIDI sound of all parts, counted from 0; None keeps those of the file.
    """
    messages = list(mido.merge_tracks(midi.tracks))
    ticks_per_second = midi.ticks_per_beat * bpm / 60
    excerpt = mido.MidiFile(type=0, ticks_per_beat=midi.ticks_per_beat)
    track = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=round(60e6 / bpm))])
    if program is not None:
        track += [mido.Message("program_change", channel=c, program=program) for c in range(16)]
    skipped, ticks, since = count_leading_ticks(messages), 0, 0
    for message in messages:
        early = min(message.time, skipped)
        skipped -= early
        since += message.time - early
        ticks += message.time - early
        if ticks > SECONDS * ticks_per_second:
            break
        is_kept = not message.is_meta and message.type != "sysex"
        if is_kept and not (message.type == "program_change" and program is not None):
            track.append(message.copy(time=since))
            since = 0
    if ticks < _SHORTEST_SECONDS * ticks_per_second:
        return False
    # Notes that still sound would keep FluidSynth from ending.
    track += [mido.Message("control_change", channel=c, control=120) for c in range(16)]
    excerpt.tracks.append(track)
    excerpt.save(path)
    return True


def count_leading_ticks(messages: list[Any]) -> int:
    """Return the ticks before the first note."""
    ticks = 0
    for message in messages:
        ticks += message.time
        if message.type == "note_on" and message.velocity:
            break
    return ticks


def describe(name: str, group: str, sound: str, bpm: float, key: str | None) -> dict[str, Any]:
    held_out = hash_name(name, "half") < 0.5
    return {
        "name": name, "group": group, "sound": sound, "bpm": bpm, "key": key, "held_out": held_out
    }  # fmt: skip


def main() -> None:
    libraries, folder = (Path(argument) for argument in sys.argv[1:])
    # At the end of the path, so that NumPy stays the one of the project.
    sys.path.append(str(libraries))
    mido, music21 = (importlib.import_module(name) for name in ("mido", "music21"))
    pieces = list(collect_openmsx(mido, folder))
    pieces += collect_corpus(mido, music21, libraries, folder)
    (folder / "pieces.json").write_text(json.dumps(pieces, indent=1))


if __name__ == "__main__":
    main()
