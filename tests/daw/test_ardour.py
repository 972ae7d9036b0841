"""Sessions for Ardour: their files, and what Ardour itself makes of them."""

import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from services.daw.ardour import write_ardour
from services.daw.building import build_session
from services.daw.session import Session
from tests.daw.takes import BAD_NAMES, RATE, make_take

MOST_EARLY_SAMPLES = 16
"""Ardour starts some exports so many samples early."""


def two_takes(folder: Path, **changes: object) -> Session:
    takes = [
        make_take(folder, "one: 7/8", bpm=97.3, metre=(7, 8), **changes),
        make_take(folder, "two", bpm=124.0, metre=(3, 4), **changes),
    ]
    return build_session("F# & <two> / takes", takes)


def mix_of(session: Session) -> np.ndarray:
    """Return what the session should play, [samples, channels]."""
    frames = round(session.seconds * RATE)
    mix = np.zeros((frames, 2))
    for clip in session.audio_tracks[0].clips:
        sound, _ = sf.read(clip.source.path, always_2d=True)
        start = round(session.seconds_at(clip.start) * RATE)
        mix[start : start + len(sound)] += sound[: frames - start]
    return mix


def difference(exported: Path, expected: np.ndarray) -> float:
    """Return the largest difference of samples after aligning by at most 16."""
    played, rate = sf.read(exported, always_2d=True)
    assert rate == RATE
    assert abs(len(played) - len(expected)) <= MOST_EARLY_SAMPLES
    found = []
    for early in range(MOST_EARLY_SAMPLES + 1):
        later = expected[early:]
        length = min(len(played), len(later))
        found.append(np.abs(played[:length] - later[:length]).max())
    return float(min(found))


def test_ardour_lists_what_the_session_has(ardour, tmp_path):
    rows = ardour.list_contents(write_ardour(two_takes(tmp_path / "in"), tmp_path))
    frames = round((3.5 * 60 / 97.3 + 3 * 60 / 124) * RATE)
    second = round(3.5 * 60 / 97.3 * RATE)
    assert ["session", "Fsharp & _two_ _ takes", "48000", str(frames)] in rows
    routes = {row[1]: row[2:5] for row in rows if row[0] == "route"}
    assert list(routes) == ["Mix", "drums", "bass", "drums MIDI", "bass MIDI", "Stems", "Master"]
    assert routes["Mix"] == ["true", "1", "d9d9d9ff"]
    assert routes["drums"] == ["false", "1", "e05c4bff"]
    comments = {row[1]: row[5] for row in rows if row[0] == "route"}
    assert "Prompt: one: 7/8" in comments["Mix"]
    assert "General MIDI program 39" in comments["bass MIDI"]
    regions = [row[1:2] + row[3:] for row in rows if row[0] == "region"]
    for track in ("Mix", "drums", "bass", "drums MIDI", "bass MIDI"):
        first, then = [row[1:] for row in regions if row[0] == track]
        assert [first[:2], then[:2]] == [["1|1|0", "0"], ["2|1|0", str(second)]]
        # The length of notes is in ticks, of which Ardour makes samples.
        lengths = [int(first[2]), int(then[2])]
        assert lengths == pytest.approx([second, frames - second], abs=1)
        assert [float(first[3]), float(then[3])] == pytest.approx([97.3, 124.0], abs=1e-5)
        assert [first[4], then[4]] == ["7/8", "3/4"]
    notes = [row[2:] for row in rows if row[:2] == ["note", "one_ 7_8 bass MIDI.1"]]
    assert notes == [["40", "89", "0:0", "1:0"], ["43", "76", "1:960", "1:0"]]
    assert [row[1:] for row in rows if row[0] == "marker"] == [
        ["one: 7/8", "1|1|0", "1|1|0"],
        ["intro", "1|1|0", "1|1|0"],
        ["two", "2|1|0", "2|1|0"],
        ["intro", "2|1|0", "2|1|0"],
    ]
    assert ["loop", "Loop", "1|1|0", "2|1|0"] in rows


@pytest.mark.parametrize("plays", ["stems", "mix"])
def test_ardour_plays_our_mix_once(ardour, tmp_path, plays):
    session = two_takes(tmp_path / "in", do_stems_sum_to_mix=plays == "stems")
    exported = tmp_path / "out.wav"
    ardour.export(write_ardour(session, tmp_path), exported)
    assert difference(exported, mix_of(session)) < 1e-6


@pytest.mark.nightly
@pytest.mark.parametrize("name", BAD_NAMES)
def test_ardour_plays_sessions_of_any_name(ardour, tmp_path, name):
    stems = tuple(dict.fromkeys(["drums", name, f"{name} 2"]))
    take = make_take(tmp_path / "in", name, stems=stems)
    session = build_session(name, [take])
    file = write_ardour(session, tmp_path / "out")
    ardour.export(file, tmp_path / "out.wav")
    assert difference(tmp_path / "out.wav", mix_of(session)) < 1e-6
    routes = [row for row in ardour.list_contents(file) if row[0] == "route"]
    assert len(routes) == len(session.tracks) + 2


@pytest.mark.nightly
def test_ardour_plays_twelve_tracks_of_five_minutes(ardour, tmp_path):
    stems = tuple(f"stem {number}" for number in range(11))
    session = build_session("long", [make_take(tmp_path / "in", stems=stems, bars=155)])
    assert session.seconds > 299
    exported = tmp_path / "out.wav"
    ardour.export(write_ardour(session, tmp_path), exported)
    assert difference(exported, mix_of(session)) < 1e-6


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The XML of a session with names that XML dislikes, and its folder."""
    folder = tmp_path_factory.mktemp("written")
    take = make_take(folder / "in", "\x01]]> & <", stems=("drums", "bass", "a\ud800<b>"))
    file = write_ardour(build_session('"', [take]), folder)
    return ET.parse(file).getroot(), file.parent


def test_no_id_is_used_twice(written):
    root, _ = written
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(set(ids)) == len(ids)
    assert int(root.get("id-counter")) > max(map(int, ids))


def test_every_source_is_in_the_folder(written):
    root, folder = written
    for source in root.iter("Source"):
        kind = f"{source.get('type')}files"
        assert (folder / "interchange" / root.get("name") / kind / source.get("name")).is_file()


def test_regions_and_playlists_name_what_is_there(written):
    root, _ = written
    sources = {source.get("id") for source in root.iter("Source")}
    for region in root.iter("Region"):
        named = {region.get(key) for key in region.attrib if "source-" in key}
        assert named <= sources
    playlists = {playlist.get("id") for playlist in root.iter("Playlist")}
    for route in root.iter("Route"):
        named = {route.get("audio-playlist"), route.get("midi-playlist")} - {None}
        assert named <= playlists


def test_audio_regions_have_a_source_for_each_side(written):
    root, _ = written
    regions = [one for one in root.iter("Region") if one.get("type") == "audio"]
    assert regions
    assert all(one.get("channels") == "2" and one.get("source-1") for one in regions)


def test_elements_without_children_are_empty(written):
    root, _ = written
    for element in root.iter():
        if len(element) == 0 and element.tag not in {"comment", "title", "Comment"}:
            assert element.text is None, element.tag


def test_regions_and_markers_are_in_musical_time(written):
    root, _ = written
    played = [region.get("length") for region in root.find("Playlists").iter("Region")]
    assert played
    assert all("@b" in length for length in played)
    marks = [place for place in root.iter("Location") if place.get("flags") != "IsSessionRange"]
    assert all(place.get("start").startswith("b") for place in marks)


def test_a_moved_session_has_no_paths_of_the_old_place(written, tmp_path):
    _, folder = written
    moved = shutil.copytree(folder, tmp_path / "moved")
    [text] = [file.read_text() for file in moved.glob("*.ardour")]
    assert str(folder.parent) not in text
