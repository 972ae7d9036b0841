"""DAWproject files, read back from the ZIP.

The published schemas are no part of this project: the nightly test takes them from a folder.
"""

import os
import shutil
import subprocess
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path

import pytest

from services.daw.building import build_session
from services.daw.dawproject import write_dawproject
from tests.daw.takes import make_take

SCHEMAS = "DGX_MUSIC_TEST_DAWPROJECT_SCHEMAS"
"""A folder with Project.xsd and MetaData.xsd of DAWproject."""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dawproject")
    takes = [
        make_take(folder / "in", "one <&> \x01", bpm=97.3, metre=(7, 8)),
        make_take(folder / "in", "two", do_stems_sum_to_mix=False),
    ]
    return write_dawproject(build_session('two "takes"', takes), folder)


@pytest.fixture(scope="module")
def project(file):
    with zipfile.ZipFile(file) as archive:
        return ET.fromstring(archive.read("project.xml"))


def test_the_zip_is_whole_and_has_the_files_that_clips_name(file, project):
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        names = set(archive.namelist())
    named = {element.get("path") for element in project.iter("File")}
    assert names == named | {"project.xml", "metadata.xml"}
    assert len(named) == 6


def test_ids_are_unique_and_references_lead_somewhere(project):
    ids = [element.get("id") for element in project.iter() if element.get("id")]
    assert len(set(ids)) == len(ids)
    for element in project.iter():
        for key in ("track", "destination", "parameter"):
            assert element.get(key) in {None, *ids}


def test_tracks_are_in_order_and_stems_in_their_group(project):
    structure = project.find("Structure")
    assert [(track.get("name"), track.get("contentType")) for track in structure] == [
        ("Mix", "audio"), ("Stems", "tracks"), ("drums MIDI", "notes"), ("bass MIDI", "notes"),
        ("Master", "audio notes"),
    ]  # fmt: skip
    assert [track.get("name") for track in structure[1].findall("Track")] == ["drums", "bass"]
    muted = {
        track.get("name"): track.find("Channel/Mute").get("value")
        for track in structure.iter("Track")
    }
    assert [name for name, value in muted.items() if value == "true"] == ["Stems"]


def test_tempo_and_metre_change_with_the_take(project):
    transport = project.find("Transport")
    assert float(transport.find("Tempo").get("value")) == 97.3
    assert transport.find("TimeSignature").get("numerator") == "7"
    tempos = project.findall("Arrangement/TempoAutomation/RealPoint")
    assert [(float(one.get("time")), float(one.get("value"))) for one in tempos] == [
        (0, 97.3),
        (3.5, 124),
    ]
    metres = project.findall("Arrangement/TimeSignatureAutomation/TimeSignaturePoint")
    assert [one.get("denominator") for one in metres] == ["8", "4"]


def test_clips_are_in_beats_and_warped_to_the_length_of_their_file(project):
    lanes = project.find("Arrangement/Lanes")
    assert lanes.get("timeUnit") == "beats"
    clips = lanes[0].findall("Clips/Clip")
    assert [float(clip.get("time")) for clip in clips] == [0, 3.5]
    for clip, beats, seconds in zip(clips, (3.5, 4), (3.5 * 60 / 97.3, 4 * 60 / 124), strict=True):
        assert float(clip.get("duration")) == pytest.approx(beats, abs=1e-4)
        warps = clip.find("Warps")
        assert (warps.get("timeUnit"), warps.get("contentTimeUnit")) == ("beats", "seconds")
        last = warps.findall("Warp")[-1]
        assert float(last.get("time")) == pytest.approx(beats, abs=1e-4)
        assert float(last.get("contentTime")) == pytest.approx(seconds, abs=1e-4)


def test_notes_are_in_one_clip_and_keep_slides(project):
    lanes = project.findall("Arrangement/Lanes/Lanes")
    clips = lanes[-1].findall("Clips/Clip")
    notes = clips[0].findall("Notes/Note")
    assert [(float(note.get("time")), note.get("key")) for note in notes] == [
        (0, "40"),
        (1.5, "43"),
    ]
    slide = notes[0].findall("Points/RealPoint")
    assert [point.get("value") for point in slide] == ["0", "5"]
    assert not clips[0].findall(".//Clips")


def test_markers_are_in_beats(project):
    markers = project.findall("Arrangement/Markers/Marker")
    assert [(one.get("name"), float(one.get("time"))) for one in markers] == [
        ("one <&>", 0), ("intro", 0), ("two", 3.5), ("intro", 3.5),
    ]  # fmt: skip


def test_the_metadata_has_title_licence_and_facts(file):
    with zipfile.ZipFile(file) as archive:
        metadata = ET.fromstring(archive.read("metadata.xml"))
    assert metadata.findtext("Title") == 'two "takes"'
    assert metadata.findtext("Copyright") == "CC0-1.0"
    assert "Seed: 7" in metadata.findtext("Comment")


def test_the_same_session_gives_the_same_bytes(tmp_path):
    session = build_session("same", [make_take(tmp_path / "in")])
    first = write_dawproject(session, tmp_path / "a").read_bytes()
    assert write_dawproject(session, tmp_path / "b").read_bytes() == first


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["Project", "MetaData"])
def test_the_published_schemas_hold(file, tmp_path, name):
    if SCHEMAS not in os.environ or shutil.which("xmllint") is None:
        pytest.skip(f"needs xmllint, and {SCHEMAS} to name a folder with the schemas")
    with zipfile.ZipFile(file) as archive:
        archive.extract(f"{name.lower()}.xml", tmp_path)
    schema = Path(os.environ[SCHEMAS], f"{name}.xsd")
    command = ["xmllint", "--noout", "--schema", schema, tmp_path / f"{name.lower()}.xml"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
