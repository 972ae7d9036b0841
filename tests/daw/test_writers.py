"""What all formats keep: nothing half written, nothing overwritten, sources checked first."""

import hashlib
import os
import re
import zipfile
from dataclasses import replace

import pytest

from services.audio.facts import TakeFacts
from services.daw.building import build_session
from services.daw.sources import copy_source
from services.daw.writers import WRITERS
from services.errors import FileDamagedError, FileGoneError, InvalidRequestError, OutputError
from tests.conftest import disk_of
from tests.daw.takes import BAD_NAMES, make_take

FORMATS = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    folder = tmp_path_factory.mktemp("takes")
    takes = [make_take(folder, "a"), make_take(folder, "a", bpm=97.3, metre=(7, 8))]
    return build_session("session", takes)


@pytest.fixture
def lasting(tmp_path):
    """A session whose sources a test may change."""
    return build_session("session", [make_take(tmp_path / "in")])


def digests_of_audio(folder):
    """Return the SHA-256 of all WAV files in a folder and in the ZIPs in it."""
    found = []
    for path in folder.rglob("*"):
        if path.suffix == ".wav":
            found.append(path.read_bytes())
        elif path.suffix == ".dawproject":
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if name.endswith(".wav")]
                found += [archive.read(name) for name in names]
    return sorted(hashlib.sha256(data).hexdigest() for data in found)


@FORMATS
def test_all_audio_is_copied_byte_for_byte(write, session, tmp_path):
    path = write(session, tmp_path)
    assert path.exists()
    assert digests_of_audio(tmp_path) == sorted(source.sha256 for source in session.sources)


@FORMATS
def test_only_the_output_is_left(write, session, tmp_path):
    path = write(session, tmp_path)
    [only] = tmp_path.iterdir()
    assert only in {path, path.parent}


def test_the_gain_of_a_track_is_written(session, tmp_path):
    first, *others = session.tracks
    quieter = replace(session, tracks=(replace(first, gain_db=-20.0), *others))
    text = WRITERS["ardour"](quieter, tmp_path).read_text()
    gains = re.findall(r'name="gaincontrol".* value="([^"]+)"', text)
    assert sorted(map(float, gains))[:2] == pytest.approx([0.1, 1.0])
    with zipfile.ZipFile(WRITERS["dawproject"](quieter, tmp_path)) as archive:
        text = archive.read("project.xml").decode()
    volumes = re.findall(r'name="Volume".* value="([^"]+)"', text)
    assert sorted(map(float, volumes))[:2] == pytest.approx([0.1, 1.0])
    text = WRITERS["reaper"](quieter, tmp_path).read_text()
    assert re.findall(r"VOLPAN (\S+)", text)[:2] == ["0.1", "1"]


@FORMATS
def test_an_output_is_not_written_over(write, session, tmp_path):
    path = write(session, tmp_path)
    with pytest.raises(InvalidRequestError, match="already exists"):
        write(session, tmp_path)
    assert write(session, tmp_path, force=True) == path


def test_all_formats_fit_into_one_folder(session, tmp_path):
    paths = {write(session, tmp_path) for write in WRITERS.values()}
    assert len(paths) == len(WRITERS)


@FORMATS
def test_a_missing_source_is_named_before_anything_is_written(write, lasting, tmp_path):
    lost = lasting.sources[1].path
    lost.unlink()
    with pytest.raises(FileGoneError, match=lost.name):
        write(lasting, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@FORMATS
def test_a_changed_source_is_named_before_anything_is_written(write, lasting, tmp_path):
    changed = lasting.sources[0].path
    data = bytearray(changed.read_bytes())
    data[-1] ^= 1
    changed.write_bytes(data)
    with pytest.raises(FileDamagedError, match=changed.name):
        write(lasting, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@FORMATS
def test_a_shortened_source_without_a_digest_is_named(write, lasting, tmp_path):
    first, *others = lasting.tracks
    source = replace(first.clips[0].source, sha256=None)
    clips = (replace(first.clips[0], source=source),)
    session = replace(lasting, tracks=(replace(first, clips=clips), *others))
    source.path.write_bytes(source.path.read_bytes()[:-4])
    with pytest.raises(FileDamagedError, match=source.path.name):
        write(session, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_source_that_changes_while_it_is_copied_is_an_error(lasting, tmp_path):
    source = replace(lasting.sources[0], bytes=1)
    with pytest.raises(FileDamagedError, match="changed during the export"):
        copy_source(source, tmp_path / "copy.wav")
    with (tmp_path / "copy").open("wb") as copy, pytest.raises(FileDamagedError):
        copy_source(source, copy)


def test_all_sources_at_fault_are_named(lasting, tmp_path):
    first, second = (source.path for source in lasting.sources[:2])
    first.unlink()
    second.write_bytes(b"")
    with pytest.raises(FileGoneError, match=f"{first.name}.*{second.name}"):
        WRITERS["folder"](lasting, tmp_path / "out")


@FORMATS
def test_a_full_disk_leaves_no_half_session(write, lasting, tmp_path):
    with disk_of(tmp_path / "small", 1) as disk:
        with pytest.raises(OutputError, match="Free some space"):
            write(lasting, disk / "out")
        assert [path for path in disk.rglob("*") if path.is_file()] == []


@pytest.fixture(scope="module")
def badly_named(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    chosen = [name for name in BAD_NAMES if len(name) > 200 or not name.isprintable()]
    facts = {"prompt": "\ud800 <&>\x00", "key": "\ud800", "licence": "\ud800"}
    takes = [
        make_take(folder, name, stems=("/../x", "con"), facts=TakeFacts(**facts)) for name in chosen
    ]
    return build_session("/../../\x00 con", takes)


@FORMATS
def test_bad_names_stay_inside_the_folder(write, badly_named, tmp_path):
    write(badly_named, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    [only] = (tmp_path / "out").iterdir()
    assert len(digests_of_audio(tmp_path / "out")) == len(badly_named.sources)
    assert len(os.fsencode(only.name)) < 200
