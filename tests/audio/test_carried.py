"""What others wrote into a file reaches the next one, by the word of other programs' readers."""

import base64
import io
import json
import math
import re
import shutil
import struct
import subprocess
import zlib
from dataclasses import replace
from fractions import Fraction

import mutagen
import mutagen.aiff
import mutagen.apev2
import mutagen.flac
import mutagen.id3
import mutagen.oggopus
import mutagen.oggvorbis
import mutagen.wave
import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from wavinfo import WavInfoReader

from services.audio import carried_reading
from services.audio.carried import Carried, Picture
from services.audio.carried_fitting import fit_carried
from services.audio.carried_reading import read_carried
from services.audio.carried_writing import _build_info, build_carried_chunks, list_lost
from services.audio.conversion import convert_file, normalise_file
from services.audio.facts import TakeFacts
from services.audio.id3_tags import Id3Frames, build_id3, encode_id3, list_texts, read_id3
from services.audio.loudness import Loudness
from services.audio.reading import AudioFile, UnreadableAudioError
from services.audio.riff import (
    Marker,
    parse_markers,
)
from services.audio.riff_changes import (
    scale_chunk,
)
from services.audio.tags import _build_riff_parts, read_facts
from services.audio.wav import write_wav
from services.audio.wav_chunks import WavFormat
from tests.conftest import LIMIT_SECONDS

RATE = 48_000
FRAMES = RATE // 2
TAGGED = {"flac": mutagen.flac.FLAC, "ogg": mutagen.oggvorbis.OggVorbis}
TAGGED["opus"] = mutagen.oggopus.OggOpus
TEXTS = {
    "title": "Sunrise",
    "artist": "Ann Björk",
    "album": "Dawn",
    "albumartist": "Various",
    "tracknumber": "3",
    "tracktotal": "12",
    "composer": "Ben",
    "date": "2019-08-07",
    "genre": "Trance",
    "isrc": "USS1Z9900001",
    "comment": "for the radio",
    "bpm": "128",
    "initialkey": "Ebm",
    "mood": "bright",
    "my own field": "kept",
}


def sound(rate=RATE, frames=FRAMES):
    return (0.25 * np.sin(np.arange(frames) * 440 * 2 * np.pi / rate)).astype(np.float32)


@pytest.fixture(scope="session")
def cover():
    data = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(data, "PNG")
    return data.getvalue()


def riff_chunk(name, body):
    return struct.pack("<4sI", name, len(body)) + body + bytes(len(body) % 2)


def info(**texts):
    parts = (riff_chunk(name.encode(), text.encode() + b"\0") for name, text in texts.items())
    return b"INFO" + b"".join(parts)


BEXT = (
    struct.pack(
        "<256s32s32s10s8sQH64s5h180x",
        b"Rain on a roof",
        b"Recorder 7",
        b"REF0001",
        b"2021-05-06",
        b"07:08:09",
        48_000 * 3600,
        2,
        b"\x06\x0a" * 32,
        *(-2300, 500, -200, -1900, -2000),
    )
    + b"A=PCM,F=48000,W=16,M=mono,T=Recorder 7\r\n"
)
CUE = struct.pack("<I", 2) + b"".join(
    struct.pack("<II4sIII", number, frame, b"data", 0, 0, frame)
    for number, frame in ((7, 4_800), (9, 12_000))
)
ADTL = (
    b"adtl"
    + riff_chunk(b"labl", struct.pack("<I", 7) + b"door\0")
    + riff_chunk(b"labl", struct.pack("<I", 9) + b"window\0")
    + riff_chunk(b"ltxt", struct.pack("<II4s4H", 9, 2_400, b"rgn ", 0, 0, 0, 0))
)
SMPL = struct.pack("<9I", 0, 0, 20_833, 57, 0, 0, 0, 1, 0) + struct.pack(
    "<6I", 1, 0, 6_000, 17_999, 0, 0
)
IXML = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<BWFXML><!-- by the recorder --><SCENE>12A</SCENE>'
    b"<SPEED><FILE_SAMPLE_RATE>48000</FILE_SAMPLE_RATE><AUDIO_BIT_DEPTH>16</AUDIO_BIT_DEPTH>"
    b"<TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_HI>0</TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_HI>"
    b"<TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_LO>172800000</TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_LO>"
    b"</SPEED></BWFXML>"
)
INST = bytes([57, 0, 0, 0, 127, 1, 127, 0])
INFO = info(INAM="Roof", IART="Ann", IPRD="Weather", ITRK="4", ICMT="near", IXYZ="unusual")


def id3_chunk(cover):
    tags = mutagen.id3.ID3()
    tags.add(mutagen.id3.TSRC(text=["USS1Z9900001"]))
    tags.add(mutagen.id3.APIC(mime="image/png", type=3, desc="", data=cover))
    tags.add(mutagen.id3.PRIV(owner="dj", data=b"\1\2\3"))
    file = io.BytesIO()
    tags.save(file, v2_version=3, padding=lambda _: 0)
    return file.getvalue()


@pytest.fixture
def recording(tmp_path, cover):
    """A WAV file with every chunk, as a field recorder and a sampler would write it."""
    path = tmp_path / "recording.wav"
    soundfile.write(path, sound(), RATE, "PCM_16")
    chunks = {
        b"bext": BEXT,
        b"iXML": IXML,
        b"smpl": SMPL,
        b"inst": INST,
        b"cue ": CUE,
        b"id3 ": id3_chunk(cover),
        b"zzzz": b"unknown",
    }
    added = b"".join(riff_chunk(*one) for one in chunks.items())
    added += riff_chunk(b"LIST", ADTL) + riff_chunk(b"LIST", INFO)
    data = path.read_bytes() + added
    path.write_bytes(data[:4] + struct.pack("<I", len(data) - 8) + data[8:])
    return path


def chunks_of(path):
    """Name -> body; a LIST is named after its type."""
    data, found, at = path.read_bytes(), {}, 12
    while at < len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        body = data[at + 8 : at + 8 + size]
        found[body[:4] if name == b"LIST" else name] = body
        at += 8 + size + size % 2
    return found


def own_chunks(path):
    sounding = {b"fmt ", b"data", b"fact"}
    return {name: body for name, body in chunks_of(path).items() if name not in sounding}


@pytest.fixture
def tagged(tmp_path, cover):
    """A function that makes a foreign file with all texts and a cover."""

    def make(name):
        path = tmp_path / f"foreign.{name}"
        if name == "mp3":
            make_mp3(path, cover)
            return path
        if name == "opus":
            soundfile.write(path, sound(), RATE, format="OGG", subtype="OPUS")
        else:
            soundfile.write(path, sound(), RATE)
        tags = TAGGED[name](path)
        tags.update(TEXTS)
        picture = mutagen.flac.Picture()
        picture.type, picture.mime, picture.desc, picture.data = 3, "image/png", "front", cover
        if name == "flac":
            tags.add_picture(picture)
        else:
            tags["metadata_block_picture"] = [base64.b64encode(picture.write()).decode()]
        tags.save()
        return path

    return make


def make_mp3(path, cover, version=4):
    soundfile.write(path, sound(), RATE)
    frames = mutagen.id3
    tags = frames.ID3()
    for name, text in (
        ("TIT2", "Sunrise"),
        ("TPE1", "Ann Björk"),
        ("TALB", "Dawn"),
        ("TPE2", "Various"),
        ("TRCK", "3/12"),
        ("TCOM", "Ben"),
        ("TDRC", "2019-08-07"),
        ("TCON", "Trance"),
        ("TSRC", "USS1Z9900001"),
        ("TBPM", "128"),
        ("TKEY", "Ebm"),
        ("TMOO", "bright"),
    ):
        tags.add(getattr(frames, name)(encoding=3, text=[text]))
    tags.add(frames.COMM(encoding=3, lang="eng", desc="", text=["for the radio"]))
    tags.add(frames.TXXX(encoding=3, desc="MY OWN FIELD", text=["kept"]))
    tags.add(frames.PRIV(owner="dj", data=b"\1\2\3"))
    tags.add(frames.GEOB(encoding=3, mime="a/b", filename="", desc="cues", data=b"\4\5"))
    tags.add(frames.APIC(encoding=3, mime="image/png", type=3, desc="front", data=cover))
    tags.add(
        frames.CHAP(
            element_id="c1",
            start_time=100,
            end_time=200,
            sub_frames=[frames.TIT2(encoding=3, text=["door"])],
        )
    )
    tags.save(path, v2_version=version)


def texts_of(path):
    """Texts by the names of Vorbis comments, by mutagen."""
    if path.suffix in {".wav", ".mp3"}:
        tags = mutagen.wave.WAVE(path).tags if path.suffix == ".wav" else mutagen.id3.ID3(path)
        standard = {
            "title": "TIT2",
            "artist": "TPE1",
            "album": "TALB",
            "albumartist": "TPE2",
            "composer": "TCOM",
            "date": "TDRC",
            "genre": "TCON",
            "isrc": "TSRC",
            "bpm": "TBPM",
            "initialkey": "TKEY",
            "comment": "COMM::eng",
            "my own field": "TXXX:MY OWN FIELD",
        }
        found = {name: str(tags[key].text[0]) for name, key in standard.items() if key in tags}
        if "TRCK" in tags:
            found["tracknumber"], _, found["tracktotal"] = str(tags["TRCK"]).partition("/")
        found["mood"] = str(tags["TMOO"] if "TMOO" in tags else tags.get("TXXX:MOOD", ""))
        return found
    tags = TAGGED[path.suffix[1:]](path)
    return {name.lower(): texts[0] for name, texts in tags.items()}


def pictures_of(path):
    if path.suffix == ".flac":
        return [picture.data for picture in mutagen.flac.FLAC(path).pictures]
    if path.suffix in {".wav", ".mp3"}:
        tags = mutagen.wave.WAVE(path).tags if path.suffix == ".wav" else mutagen.id3.ID3(path)
        return [frame.data for frame in tags.getall("APIC")]
    blocks = TAGGED[path.suffix[1:]](path).get("metadata_block_picture", [])
    return [mutagen.flac.Picture(base64.b64decode(text)).data for text in blocks]


def probe(path):
    if shutil.which("ffprobe") is None:
        pytest.skip("ffprobe is not installed")
    show = ("-show_format", "-show_streams", "-show_chapters", "-of", "json")
    done = subprocess.run(
        ["ffprobe", "-v", "error", *show, str(path)],
        capture_output=True,
        check=True,
        timeout=LIMIT_SECONDS,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("source", ["flac", "ogg", "opus", "mp3"])
@pytest.mark.parametrize("target", ["wav", "flac", "ogg", "opus", "mp3"])
def test_texts_and_cover_reach_every_format(tmp_path, tagged, cover, source, target):
    done = convert_file(tagged(source), tmp_path / f"new.{target}")
    found = texts_of(done.path)
    assert {name: found.get(name) for name in TEXTS} == TEXTS
    assert pictures_of(done.path) == [cover]
    expected = source == "mp3" and target not in {"wav", "mp3"}
    names = ("the ID3 frame PRIV", "the ID3 frame GEOB", "the ends of chapters")
    lost = names if expected else ()
    assert sorted(done.left_out) == sorted(lost)


@pytest.mark.parametrize("target", ["wav", "flac", "ogg", "mp3"])
def test_a_foreign_file_does_not_become_a_take(tmp_path, tagged, target):
    source = tagged("flac")
    for done in (
        convert_file(source, tmp_path / f"a.{target}").path,
        normalise_file(source, tmp_path / f"b.{target}").file.path,
    ):
        assert b"DGX" not in done.read_bytes()
        facts = read_facts(done)
        assert (facts.title, facts.prompt, facts.engine) == ("Sunrise", None, None)
        assert not facts.is_take
        assert (facts.beats_per_bar, facts.is_loop) == (None, None)


def test_all_chunks_pass_to_another_wav_file_byte_for_byte(tmp_path, recording):
    done = convert_file(recording, tmp_path / "copy.wav")
    assert own_chunks(done.path) == own_chunks(recording)
    assert done.left_out == ()


def test_normalising_in_place_keeps_all_but_the_stated_loudness(recording):
    before = own_chunks(recording)
    done = normalise_file(recording, recording)
    after = own_chunks(recording)
    assert {name: body for name, body in after.items() if name != b"bext"} == {
        name: body for name, body in before.items() if name != b"bext"
    }
    bext = WavInfoReader(str(recording)).bext
    assert (bext.description, bext.originator) == ("Rain on a roof", "Recorder 7")
    assert (bext.time_reference, bext.originator_ref) == (48_000 * 3600, "REF0001")
    assert bext.loudness_value == pytest.approx(done.loudness.integrated_lufs, abs=0.006)
    assert after[b"bext"][422:] == BEXT[422:]


def test_positions_keep_their_time_at_another_rate(tmp_path, recording):
    done = convert_file(recording, tmp_path / "new.wav", sample_rate=96_000)
    found = WavInfoReader(str(done.path), info_encoding="utf-8")
    assert found.bext.time_reference == 96_000 * 3600
    cues = found.cues.to_dict()
    assert {number: (one["frame"], one["label"]) for number, one in cues.items()} == {
        7: (9_600, "door"),
        9: (24_000, "window"),
    }
    [loop] = found.smpl.sample_loops
    assert (loop.start, loop.end) == (12_000, 35_999)
    assert found.smpl.sample_period_ns == round(20_833 / 2)
    ixml = chunks_of(done.path)[b"iXML"].decode()
    assert "<TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_LO>345600000<" in ixml
    assert "<FILE_SAMPLE_RATE>96000<" in ixml
    assert "<!-- by the recorder --><SCENE>12A</SCENE>" in ixml
    assert struct.unpack_from("<I", chunks_of(done.path)[b"adtl"], -12 - 4)[0] == 4_800
    assert done.left_out == ('the chunk "zzzz", whose positions are unknown',)


def test_stated_bit_depth_follows_the_file(tmp_path, recording):
    done = convert_file(recording, tmp_path / "new.wav", bit_depth="PCM_24")
    expected = IXML.replace(b"DEPTH>16<", b"DEPTH>24<")
    assert chunks_of(done.path)[b"iXML"].rstrip(b"\0") == expected


def test_flac_carries_the_chunks_of_a_wav_file_there_and_back(tmp_path, recording):
    flac = convert_file(recording, tmp_path / "a.flac")
    assert flac.left_out == ()
    assert texts_of(flac.path)["artist"] == "Ann"
    assert texts_of(flac.path)["isrc"] == "USS1Z9900001"
    back = convert_file(flac.path, tmp_path / "back.wav")
    before, after = own_chunks(recording), own_chunks(back.path)
    assert set(after) == set(before) | {b"CSET"}
    for name in (b"bext", b"iXML", b"smpl", b"inst", b"cue ", b"zzzz", b"adtl"):
        assert after[name] == before[name]
    read = [WavInfoReader(str(one), info_encoding="utf-8").info for one in (recording, back.path)]
    assert read[0].to_dict() == read[1].to_dict()
    assert mutagen.wave.WAVE(back.path).tags.getall("PRIV")[0].data == b"\1\2\3"
    assert np.array_equal(soundfile.read(back.path)[0], soundfile.read(recording)[0])


def test_comments_that_changed_in_flac_win_over_its_chunks(tmp_path, recording):
    flac = convert_file(recording, tmp_path / "a.flac").path
    tags = mutagen.flac.FLAC(flac)
    tags["artist"], tags["label"] = "Cleo", "Self"
    tags.save()
    back = convert_file(flac, tmp_path / "back.wav").path
    assert WavInfoReader(str(back), info_encoding="utf-8").info.artist == "Cleo"
    found = mutagen.wave.WAVE(back).tags
    assert (str(found["TPE1"]), str(found["TPUB"])) == ("Cleo", "Self")


def test_the_reference_decoder_restores_the_wav_file(tmp_path, recording):
    if shutil.which("flac") is None:
        pytest.skip("flac is not installed")
    flac = convert_file(recording, tmp_path / "a.flac").path
    command = ["flac", "-s", "-d", "--keep-foreign-metadata", "-o", tmp_path / "b.wav", flac]
    subprocess.run(command, check=True, timeout=LIMIT_SECONDS)
    assert own_chunks(tmp_path / "b.wav") == own_chunks(recording)


@pytest.mark.parametrize("target", ["ogg", "opus", "mp3", "flac"])
def test_markers_become_chapters_and_the_loop_a_tag(tmp_path, recording, target):
    done = convert_file(recording, tmp_path / f"new.{target}")
    chapters = probe(done.path)["chapters"]
    found = [(float(one["start_time"]), one["tags"]["title"]) for one in chapters]
    assert found == [(0.1, "door"), (0.25, "window")]
    tags = mutagen.File(done.path).tags
    loop = [tags[f"TXXX:{n}" if target == "mp3" else n] for n in ("LOOPSTART", "LOOPLENGTH")]
    assert [str(one[0] if isinstance(one, list) else one) for one in loop] == ["6000", "12000"]
    lost = ['the chunk "iXML"', 'the chunk "smpl" but for its first loop', 'the chunk "inst"']
    lost += ['the chunk "zzzz"']
    lost += [] if target == "mp3" else ["the lengths of markers", "the ID3 frame PRIV"]
    assert done.left_out == (() if target == "flac" else tuple(lost))


def test_chapters_and_loop_tags_become_markers_and_a_loop(tmp_path):
    path = tmp_path / "a.ogg"
    soundfile.write(path, sound(), RATE)
    tags = mutagen.oggvorbis.OggVorbis(path)
    tags.update({"CHAPTER001": "00:00:00.100", "CHAPTER001NAME": "door", "title": "x"})
    tags.update({"LOOPSTART": "6000", "LOOPLENGTH": "12000", "TIME_REFERENCE": "4800"})
    tags["ORIGINATOR"] = "Recorder 7"
    tags.save()
    done = convert_file(path, tmp_path / "b.wav", sample_rate=96_000)
    found = WavInfoReader(str(done.path), info_encoding="utf-8")
    assert found.cues.to_dict() == {1: {"frame": 9_600, "label": "door"}}
    assert [(one.start, one.end) for one in found.smpl.sample_loops] == [(12_000, 35_999)]
    assert (found.bext.originator, found.bext.time_reference) == ("Recorder 7", 9_600)
    again = convert_file(path, tmp_path / "c.ogg", sample_rate=96_000).path
    kept = mutagen.oggvorbis.OggVorbis(again)
    assert (kept["LOOPSTART"], kept["LOOPLENGTH"]) == (["12000"], ["24000"])
    assert kept["CHAPTER001"] == ["00:00:00.100"]


def test_fields_of_a_recorder_return_whole_from_comments_of_any_case(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, sound(), RATE)
    tags = mutagen.flac.FLAC(path)
    tags.update({"originator": "Recorder 7", "time_reference": "4800", "description": "雨" * 300})
    tags.save()
    done = convert_file(path, tmp_path / "b.wav").path
    bext = WavInfoReader(str(done)).bext
    assert (bext.originator, bext.time_reference) == ("Recorder 7", 4_800)
    assert str(mutagen.wave.WAVE(done).tags["TXXX:DESCRIPTION"]) == "雨" * 300


@pytest.mark.parametrize("version", [3, 4])
def test_id3_frames_of_every_kind_pass_to_another_mp3(tmp_path, cover, version):
    make_mp3(tmp_path / "a.mp3", cover, version)
    before = mutagen.id3.ID3(tmp_path / "a.mp3", translate=False)
    done = normalise_file(tmp_path / "a.mp3", tmp_path / "b.mp3", target_lufs=-20.0)
    after = mutagen.id3.ID3(done.file.path, translate=False)
    assert after.version == before.version
    for name, frame in before.items():
        assert repr(after[name]) == repr(frame)
    assert done.left_out == ()


def test_compressed_id3_frames_pass_as_they_are(tmp_path):
    body = struct.pack(">I", 6) + zlib.compress(b"\0title")
    frame = struct.pack(">4sIH", b"TIT2", len(body), 0x80) + body
    size = bytes(len(frame) >> shift & 0x7F for shift in (21, 14, 7, 0))
    soundfile.write(tmp_path / "plain.mp3", sound(), RATE)
    path = tmp_path / "a.mp3"
    path.write_bytes(b"ID3\3\0\0" + size + frame + (tmp_path / "plain.mp3").read_bytes())
    assert str(mutagen.id3.ID3(convert_file(path, tmp_path / "b.mp3").path)["TIT2"]) == "title"
    assert convert_file(path, tmp_path / "b.ogg").left_out == ("the ID3 frame TIT2",)


def test_id3v1_and_ape_tags_are_read(tmp_path):
    path = tmp_path / "a.mp3"
    soundfile.write(path, sound(), RATE)
    ape = mutagen.apev2.APEv2()
    ape["Composer"] = "Ben"
    ape.save(path)
    with path.open("ab") as file:
        file.write(struct.pack("<3s30s30s30s4s30sB", b"TAG", b"Old", b"Ann", b"", b"1999", b"", 17))
    found = texts_of(convert_file(path, tmp_path / "b.flac").path)
    assert (found["title"], found["artist"], found["date"]) == ("Old", "Ann", "1999")
    assert found["composer"] == "Ben"


def aiff_chunk(name, body):
    return struct.pack(">4sI", name, len(body)) + body + bytes(len(body) % 2)


def test_aiff_texts_markers_and_loop_are_read(tmp_path):
    path = tmp_path / "a.aiff"
    soundfile.write(path, sound(), RATE, "PCM_16")
    marks = struct.pack(">H", 3) + b"".join(
        struct.pack(">hIB", number, frame, len(name)) + name + bytes((len(name) + 1) % 2)
        for number, frame, name in ((1, 4_800, b"door"), (2, 6_000, b"in"), (3, 18_000, b"out"))
    )
    inst = bytes([57, 0, 0, 127, 1, 127, 0, 0]) + struct.pack(">6h", 1, 2, 3, 0, 0, 0)
    added = aiff_chunk(b"NAME", b"Roof") + aiff_chunk(b"AUTH", b"Ann")
    added += aiff_chunk(b"MARK", marks) + aiff_chunk(b"INST", inst) + aiff_chunk(b"APPL", b"abcd")
    data = path.read_bytes() + added
    path.write_bytes(data[:4] + struct.pack(">I", len(data) - 8) + data[8:])
    done = convert_file(path, tmp_path / "b.wav")
    found = WavInfoReader(str(done.path), info_encoding="utf-8")
    assert (found.info.title, found.info.artist) == ("Roof", "Ann")
    assert found.cues.to_dict() == {1: {"frame": 4_800, "label": "door"}}
    assert [(one.start, one.end) for one in found.smpl.sample_loops] == [(6_000, 17_999)]
    assert done.left_out == ('the chunk "APPL"',)


def test_aiff_id3_chunk_is_read(tmp_path, cover):
    path = tmp_path / "a.aiff"
    soundfile.write(path, sound(), RATE, "PCM_16")
    file = mutagen.aiff.AIFF(path)
    file.add_tags()
    file.tags.add(mutagen.id3.TPE1(text=["Ann"]))
    file.tags.add(mutagen.id3.APIC(mime="image/png", type=3, desc="", data=cover))
    file.save()
    done = convert_file(path, tmp_path / "b.flac").path
    assert texts_of(done)["artist"] == "Ann"
    assert pictures_of(done) == [cover]


def test_a_type_whose_metadata_is_not_read_is_named(tmp_path):
    soundfile.write(tmp_path / "a.caf", sound(), RATE, "PCM_16")
    done = convert_file(tmp_path / "a.caf", tmp_path / "b.wav")
    assert done.left_out == ("the metadata of CAF files, which is not read",)


def test_blocks_of_a_flac_file_pass_to_another_one(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, sound(), RATE)
    tags = mutagen.flac.FLAC(path)
    block = mutagen.flac.MetadataBlock(b"abcdsettings")
    block.code = 2
    tags.metadata_blocks.append(block)
    tags["title"] = ["one", "two"]
    tags.save()
    done = convert_file(path, tmp_path / "b.flac").path
    codes = {one.code: one.write() for one in mutagen.flac.FLAC(done).metadata_blocks if one.code}
    assert codes[2] == b"abcdsettings"
    assert mutagen.flac.FLAC(done)["title"] == ["one", "two"]
    left = convert_file(path, tmp_path / "b.ogg").left_out
    assert left == ("the cue sheet and application blocks of FLAC",)


def test_old_gains_are_replaced_and_those_of_the_album_named(tmp_path, tagged):
    source = tagged("flac")
    tags = mutagen.flac.FLAC(source)
    tags.update({"replaygain_track_gain": "+9.00 dB", "replaygain_album_gain": "-1.00 dB"})
    tags.save()
    same = convert_file(source, tmp_path / "same.ogg")
    found = mutagen.oggvorbis.OggVorbis(same.path)
    assert found["replaygain_album_gain"] == ["-1.00 dB"]
    assert len(found["replaygain_track_gain"]) == 1
    assert found["replaygain_track_gain"] != ["+9.00 dB"]
    louder = normalise_file(source, tmp_path / "new.ogg")
    assert louder.left_out == ("replaygain_album_gain, which is for the old file",)
    assert "replaygain_album_gain" not in mutagen.oggvorbis.OggVorbis(louder.file.path)


def test_levels_and_lengths_of_the_old_encoding_do_not_reach_a_player(tmp_path, tagged):
    source = tagged("mp3")
    tags = mutagen.id3.ID3(source)
    tags.add(mutagen.id3.COMM(encoding=0, lang="eng", desc="iTunSMPB", text=[" 0 840 1C0 1B68"]))
    tags.add(mutagen.id3.COMM(encoding=0, lang="eng", desc="iTunNORM", text=[" 0000 0000"]))
    tags.add(mutagen.id3.RVA2(desc="track", channel=1, gain=-6.0, peak=1.0))
    tags.save(source)
    same = convert_file(source, tmp_path / "same.mp3")
    found = mutagen.id3.ID3(same.path)
    assert "COMM:iTunSMPB:eng" not in found
    assert {"COMM:iTunNORM:eng", "RVA2:track"} <= set(found)
    for target in ("mp3", "wav"):
        louder = normalise_file(same.path, tmp_path / f"louder.{target}")
        assert louder.left_out == (
            "COMMENT:iTunNORM, which is for the old file",
            "the ID3 frame RVA2, which is for the old file",
        )
        kept = str(list(mutagen.File(louder.file.path).tags))
        assert "PRIV" in kept
        assert "NORM" not in kept
        assert "RVA2" not in kept


def test_what_others_add_to_a_take_stays_in_it(tmp_path, cover):
    facts = TakeFacts(prompt="warm house", seed=7, engine="composer", bpm=124.0, bars=1)
    path = write_wav(tmp_path / "take.wav", sound(), RATE, facts=facts).path
    tags = mutagen.wave.WAVE(path)
    tags.tags.add(mutagen.id3.TPE1(text=["Ann"]))
    tags.tags.add(mutagen.id3.TIT2(text=["My song"]))
    tags.tags.add(mutagen.id3.APIC(mime="image/png", type=3, desc="", data=cover))
    tags.save()
    for name in ("flac", "mp3", "ogg", "wav"):
        done = convert_file(path, tmp_path / f"new.{name}")
        assert done.left_out == ()
        found = read_facts(done.path)
        assert (found.prompt, found.seed, found.bpm) == ("warm house", 7, 124.0)
        assert texts_of(done.path)["artist"] == "Ann"
        assert texts_of(done.path)["title"] == "My song"
        assert pictures_of(done.path) == [cover]


def test_place_of_a_take_in_time_passes_through_flac(tmp_path):
    facts = TakeFacts(prompt="warm house", seed=7, engine="composer")
    path = write_wav(tmp_path / "take.wav", sound(), RATE, facts=facts).path
    data = path.read_bytes()
    at = data.index(b"bext") + 8 + 338
    path.write_bytes(data[:at] + struct.pack("<Q", 48_000) + data[at + 8 :])
    flac = convert_file(path, tmp_path / "a.flac").path
    assert mutagen.flac.FLAC(flac)["TIME_REFERENCE"] == ["48000"]
    back = convert_file(flac, tmp_path / "b.wav", sample_rate=96_000).path
    assert WavInfoReader(str(back)).bext.time_reference == 96_000
    assert read_facts(back).prompt == "warm house"


def test_coding_history_of_a_take_says_what_became_of_it(tmp_path):
    facts = TakeFacts(prompt="warm house", seed=7, engine="composer")
    path = write_wav(tmp_path / "take.wav", sound(), RATE, facts=facts).path
    same = convert_file(path, tmp_path / "same.wav").path
    new = convert_file(path, tmp_path / "new.wav", sample_rate=96_000, bit_depth="PCM_24").path
    lines = [
        WavInfoReader(str(one)).bext.coding_history.strip().split("\r\n")
        for one in (path, same, new)
    ]
    assert lines[2][0] == lines[0][0]
    assert lines[2][1].startswith("A=PCM,F=96000,W=24,M=mono,T=DGX Music")


def test_sizes_past_4_gib_are_those_of_rf64(tmp_path):
    info = mutagen.flac.StreamInfo.__new__(mutagen.flac.StreamInfo)
    info.channels, info.sample_rate, info.bits_per_sample = 2, RATE, 24
    info.total_samples = 1 << 30
    carried = Carried(sample_rate=RATE, chunks=((b"inst", INST),))
    facts = TakeFacts(loudness=Loudness(*[-20.0] * 6))
    head, ds64, form, data, inst = _build_riff_parts(info, facts, carried, new_levels=False)
    assert (head[:4], ds64[:4], form[:4], data) == (
        b"RF64",
        b"ds64",
        b"fmt ",
        b"data" + b"\xff" * 4,
    )
    assert struct.unpack_from("<QQQ", ds64, 8)[1:] == (6 << 30, 1 << 30)
    assert inst == riff_chunk(b"inst", INST)


USUAL = (
    "TITLE ARTIST ISRC COMMENT COMMENT:Mixed LYRICS MOOD URL COPYRIGHT ENCODER TRACKTOTAL DATE BPM "
    "KEY IARL TCON TXXX WXXX LICENSE WEBSITE GENRE"
)
NAMES = st.sampled_from(USUAL.split()) | st.from_regex(r"[A-Z][A-Z0-9_]{0,12}", fullmatch=True)
VALUES = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=40)


@settings(max_examples=100, deadline=None)
@given(texts=st.dictionaries(NAMES, VALUES, max_size=6))
def test_id3_holds_any_texts(texts):
    tags, version = build_id3(list(texts.items()), sample_rate=RATE)
    tag = read_id3(io.BytesIO(encode_id3(tags, version)))
    found = {} if tag is None else dict(list_texts(tag))
    assert found == texts


@pytest.mark.parametrize("date", ["1999", "1999-05", "1999-05-06", "May 1999", "1999-05-06T07:08"])
@pytest.mark.parametrize("target", ["mp3", "wav"])
def test_dates_keep_all_they_say(tmp_path, date, target):
    soundfile.write(tmp_path / "a.flac", sound(), RATE)
    tags = mutagen.flac.FLAC(tmp_path / "a.flac")
    tags["date"] = date
    tags.save()
    middle = convert_file(tmp_path / "a.flac", tmp_path / f"b.{target}").path
    back = convert_file(middle, tmp_path / "c.flac").path
    assert mutagen.flac.FLAC(back)["date"] == [date]


def test_damaged_tags_are_named_and_the_audio_is_converted(tmp_path):
    soundfile.write(tmp_path / "plain.wav", sound(), RATE)
    bad = riff_chunk(b"id3 ", b"ID3\x03\0\0\x7f\x7f\x7f\x7fshort")
    data = (tmp_path / "plain.wav").read_bytes() + bad
    (tmp_path / "a.wav").write_bytes(data[:4] + struct.pack("<I", len(data) - 8) + data[8:])
    done = convert_file(tmp_path / "a.wav", tmp_path / "b.mp3")
    assert done.left_out == ('the chunk "id3", which is damaged',)


def carried_of(path, *parts, form=b"RIFF"):
    """What is read from a file of these parts, which state their own sizes."""
    body = b"".join(parts)
    order, kind = (">", b"AIFF") if form == b"FORM" else ("<", b"WAVE")
    path.write_bytes(form + struct.pack(f"{order}I", len(body) + 4) + kind + body)
    return read_carried(AudioFile(path, RATE, 1, FRAMES, "WAV", "PCM_16", len(body) + 12))


FMT = riff_chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, RATE, RATE * 2, 2, 16))
DATA = riff_chunk(b"data", bytes(100))


def test_a_damaged_ape_tag_costs_no_id3_tag(tmp_path):
    path = tmp_path / "a.mp3"
    soundfile.write(path, sound(), RATE)
    ape = mutagen.apev2.APEv2()
    ape["Composer"] = "Ben"
    ape.save(path)
    data = path.read_bytes()
    at = data.index(b"Composer\0") - 4
    path.write_bytes(data[:at] + struct.pack("<I", 3 << 1) + data[at + 4 :])
    tags = mutagen.id3.ID3()
    tags.add(mutagen.id3.TPE1(text=["Ann"]))
    tags.save(path)
    done = convert_file(path, tmp_path / "b.flac")
    assert texts_of(done.path)["artist"] == "Ann"
    assert done.left_out == ("the APE tag (value type must be 0, 1, or 2)",)


def test_a_damaged_id3_tag_costs_no_ape_tag(tmp_path, monkeypatch):
    path = tmp_path / "a.mp3"
    soundfile.write(path, sound(), RATE)
    ape = mutagen.apev2.APEv2()
    ape["Composer"] = "Ben"
    ape.save(path)

    def fail(_):
        raise mutagen.MutagenError("cut short")

    monkeypatch.setattr(carried_reading, "read_id3", fail)
    carried = read_carried(AudioFile(path, RATE, 1, FRAMES, "MP3", "X", 1))
    assert carried.texts == (("COMPOSER", "Ben"),)
    assert carried.left_out == ("the ID3 tag (cut short)",)


BAD_ID3 = b"ID3\x03\0\0\x7f\x7f\x7f\x7fshort"


def test_a_damaged_id3_chunk_of_aiff_costs_no_other_one(tmp_path):
    parts = (aiff_chunk(b"NAME", b"Roof"), aiff_chunk(b"ID3 ", BAD_ID3))
    carried = carried_of(tmp_path / "a.aiff", *parts, form=b"FORM")
    assert carried.texts == (("TITLE", "Roof"),)
    assert carried.left_out == ('the chunk "ID3", which is damaged',)


@pytest.mark.parametrize("second", [b"id3 ", b"ID3 "])
def test_of_two_id3_chunks_only_the_one_that_is_read_passes(tmp_path, second):
    def tag(**texts):
        return encode_id3(*build_id3(list(texts.items()), [], [], sample_rate=RATE))

    first = riff_chunk(b"id3 ", tag(ARTIST="Ann", REPLAYGAIN_TRACK_GAIN="-3 dB"))
    other = riff_chunk(second, tag(ARTIST="Ben"))
    path = tmp_path / "a.wav"
    carried_of(path, FMT, DATA, *((first, other) if second == b"id3 " else (other, first)))
    done = convert_file(path, tmp_path / "b.wav")
    assert str(mutagen.wave.WAVE(done.path)["TPE1"]) == "Ann"
    assert (b"id3 " in chunks_of(done.path), b"ID3 " in chunks_of(done.path)) == (True, False)
    assert done.path.read_bytes().lower().count(b"id3 ") == 1
    assert done.left_out == (f'another ID3 tag, in the chunk "{second.decode().strip()}"',)


def test_a_mix_to_stereo_keeps_nothing_about_the_old_channels(tmp_path):
    tracks = b"<TRACK_LIST><TRACK_COUNT>6</TRACK_COUNT></TRACK_LIST>"
    ixml = IXML.replace(b"</BWFXML>", tracks + b"</BWFXML>")
    of_channels = {b"chna": bytes(44), b"axml": b"<ebuCoreMain/>"}
    path = tmp_path / "a.wav"
    parts = [riff_chunk(*one) for one in {**of_channels, b"iXML": ixml, b"inst": INST}.items()]
    carried_of(path, FMT, DATA, *parts)
    file = AudioFile(path, RATE, 2, 50, "WAV", "PCM_16", 1)
    assert len(read_carried(file).chunks) == 4
    mixed = read_carried(replace(file, is_mixed_down=True))
    assert mixed.chunks == ((b"iXML", IXML), (b"inst", INST))
    assert mixed.left_out == tuple(
        f"{what}, for the channels before the mix to stereo"
        for what in ('the chunk "chna"', 'the chunk "axml"', "the TRACK_LIST of iXML")
    )


def test_a_mix_to_stereo_keeps_no_mask_of_channels(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, sound(), RATE)
    tags = mutagen.flac.FLAC(path)
    tags.update({"waveformatextensible_channel_mask": "0x3F", "title": "Roof"})
    tags.save()
    file = AudioFile(path, RATE, 2, FRAMES, "FLAC", "PCM_16", 1, is_mixed_down=True)
    mixed = read_carried(file)
    assert [name.upper() for name, _ in mixed.texts if name.upper() != "ENCODER"] == ["TITLE"]
    assert len(mixed.left_out) == 1


@pytest.mark.parametrize("start", [b"", b"abcd" + struct.pack("<I", 4000)])
@pytest.mark.parametrize("stated", [0, 36, None])
def test_samples_whose_size_was_never_written_are_not_taken_for_chunks(tmp_path, start, stated):
    path = tmp_path / "unclosed.wav"
    carried_of(path, FMT, b"data" + bytes(4), start.ljust(8000, b"\0"))
    data = bytearray(path.read_bytes())
    if stated is not None:
        data[4:8] = struct.pack("<I", stated)
    path.write_bytes(data)
    done = convert_file(path, tmp_path / "b.wav")
    assert (done.frames, done.left_out) == (4000, ())
    assert set(own_chunks(done.path)) <= {b"CSET"}


def test_chunks_after_an_odd_one_without_padding_are_carried(tmp_path):
    odd = riff_chunk(b"note", b"odd")[:-1]
    carried = carried_of(tmp_path / "a.wav", FMT, odd, DATA, riff_chunk(b"inst", INST))
    assert carried.chunks == ((b"note", b"odd"), (b"inst", INST))
    assert carried.left_out == ()


@pytest.mark.parametrize("form", [b"RIFF", b"FORM"])
def test_bytes_after_the_last_chunk_are_named(tmp_path, form):
    carried = carried_of(tmp_path / "a", FMT if form == b"RIFF" else b"", bytes(4096), form=form)
    assert carried.chunks == ()
    assert carried.left_out == ("the last 4096 bytes, which are no chunk",)


def test_what_lies_behind_the_end_of_the_riff_is_named(tmp_path):
    path = tmp_path / "a.wav"
    carried_of(path, FMT, DATA, riff_chunk(b"inst", INST))
    with path.open("ab") as file:
        file.write(riff_chunk(b"abcd", bytes(92)))
    carried = read_carried(AudioFile(path, RATE, 1, 50, "WAV", "PCM_16", 300))
    assert carried.chunks == ((b"inst", INST),)
    assert carried.left_out == ("the last 100 bytes, which lie behind the end of its chunks",)


@pytest.mark.parametrize("form", [b"RIFF", b"FORM"])
def test_chunks_beyond_the_limit_are_named(tmp_path, form):
    carried = carried_of(tmp_path / "a", *[b"abcd" + bytes(4)] * 1001, form=form)
    assert "all chunks after the first 1000" in carried.left_out
    whole = carried_of(tmp_path / "b", *[b"abcd" + bytes(4)] * 1000, form=form)
    assert "all chunks after the first 1000" not in whole.left_out


def test_entries_beyond_the_limit_are_named(tmp_path):
    count = 10_001
    parts = {
        "cue points": (b"cue ", bytes(4 + 24 * count)),
        "loops": (b"smpl", bytes(36 + 24 * count)),
        "texts of INFO": (b"LIST", b"INFO" + riff_chunk(b"IXYZ", b"a\0") * count),
    }
    carried = carried_of(tmp_path / "a.wav", FMT, *(riff_chunk(*one) for one in parts.values()))
    assert carried.left_out == tuple(
        f"all {what} after the first 10000, except within their chunk" for what in parts
    )
    assert len(carried.markers) == len(carried.loops) == len(carried.texts) == count - 1


def test_all_regions_keep_their_time():
    region = riff_chunk(b"ltxt", struct.pack("<II4s4H", 9, 2_400, b"rgn ", 0, 0, 0, 0))
    name = riff_chunk(b"labl", struct.pack("<I", 9) + b"a\0")
    scaled = scale_chunk(b"LIST", b"adtl" + name * 10_000 + region, Fraction(1, 2))
    assert struct.unpack_from("<I", scaled, len(scaled) - 16) == (1_200,)
    assert [one.length for one in parse_markers(CUE, (name * 10_000 + region))] == [0, 2_400]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    place=st.integers(44, 2_000),
    new=st.binary(min_size=1, max_size=8),
    cut=st.none() | st.integers(44, 2_000),
)
def test_damaged_chunks_are_carried_or_named(tmp_path, recording, place, new, cut):
    sounding = recording.read_bytes()
    start = sounding.index(b"bext")
    damaged = bytearray(sounding[:44] + bytes(2) + sounding[start:])
    damaged[40:44] = struct.pack("<I", 2)  # the size of one sample
    damaged[place : place + len(new)] = new
    path = tmp_path / "damaged.wav"
    path.write_bytes(damaged[:cut])
    file = AudioFile(path, RATE, 1, FRAMES, "WAV", "PCM_16", len(damaged))
    carried = read_carried(file).without_old_levels(new_levels=True).at_rate(44_100)
    silent = Loudness(*[-math.inf] * 6)
    form = WavFormat(1, FRAMES, 44_100, 16, is_float=False)
    for kind in (carried.kind, "flac"):
        chunks = build_carried_chunks(
            replace(carried, kind=kind),
            TakeFacts(),
            form,
            dithered=False,
            loudness=silent,
            new_levels=True,
        )
        assert len(chunks) % 2 == 0
    assert isinstance(list_lost(carried, "mp3"), tuple)


@pytest.mark.parametrize("name", ["flac", "ogg", "opus", "mp3"])
def test_damaged_tags_of_any_kind_are_carried_or_named(tmp_path, tagged, name):
    whole = tagged(name).read_bytes()
    path = tmp_path / f"damaged.{name}"

    @settings(max_examples=40, deadline=None)
    @given(place=st.integers(0, 3_000), new=st.binary(min_size=1, max_size=8), cut=st.booleans())
    def check(place, new, cut):
        data = bytearray(whole)
        data[place : place + len(new)] = new
        path.write_bytes(data[: place + 9] if cut else data)
        carried = read_carried(AudioFile(path, RATE, 1, FRAMES, "X", "X", len(data)))
        assert carried.texts or carried.frames or carried.pictures or carried.left_out or cut

    check()


def test_dj_software_reads_tempo_key_and_title_of_a_take(tmp_path):
    facts = TakeFacts(prompt="warm house", bpm=124.0, key="C# minor", genre="house")
    path = write_wav(tmp_path / "take.wav", sound(), RATE, facts=facts).path
    tags = mutagen.wave.WAVE(path).tags
    found = [str(tags[name]) for name in ("TIT2", "TBPM", "TKEY", "TCON")]
    assert found == ["warm house", "124", "C#m", "house"]
    assert tags.version == (2, 3, 0)


def test_the_field_that_a_dj_program_needs_for_itself_is_not_written(tmp_path):
    facts = TakeFacts(prompt="warm house", bpm=124.0, key="C# minor")
    path = write_wav(tmp_path / "take.wav", sound(), RATE, facts=facts).path
    tags = mutagen.flac.FLAC(convert_file(path, tmp_path / "a.flac").path)
    assert "KEY" not in tags
    assert tags["INITIALKEY"] == ["C#m"]
    assert not re.search(r"(^|\W)KEY=", str(tags.tags.pprint()), re.MULTILINE)


def make_tagged_flac(path, **comments):
    soundfile.write(path, sound(), RATE)
    tags = mutagen.flac.FLAC(path)
    if tags.tags is None:
        tags.add_tags()
    # Setting one compares its name with all others: minutes for ten thousand.
    tags.tags.extend(comments.items())
    tags.save()
    return path


@pytest.mark.parametrize("target", ["wav", "mp3", "flac", "ogg"])
@pytest.mark.parametrize("rate", [None, 32_000])
def test_positions_past_32_bits_are_listed(tmp_path, target, rate):
    source = make_tagged_flac(
        tmp_path / "a.flac",
        CHAPTER001="00:00:00.100",
        CHAPTER002="9999:00:00.000",
        LOOPSTART="9999999999",
        LOOPLENGTH="5",
    )
    done = convert_file(source, tmp_path / f"b.{target}", sample_rate=rate)
    far = "past the 32 bits of a position"
    markers, loop = f"the markers {far}", f"the loop {far}"
    lost = {"wav": (markers, loop), "mp3": (markers,)}
    assert done.left_out == lost.get(target, ())
    if target == "wav":
        found = WavInfoReader(str(done.path), info_encoding="utf-8")
        frame = RATE // 10 if rate is None else rate // 10
        assert found.cues.to_dict() == {1: {"frame": frame, "label": "marker 1"}}


def test_a_chapter_at_the_last_millisecond_of_id3_is_read(tmp_path):
    soundfile.write(tmp_path / "a.mp3", sound(), RATE)
    tags = mutagen.id3.ID3()
    tags.add(mutagen.id3.CHAP(element_id="c", start_time=0xFFFFFFFF, end_time=0xFFFFFFFF))
    tags.save(tmp_path / "a.mp3")
    done = convert_file(tmp_path / "a.mp3", tmp_path / "b.wav")
    assert done.left_out == ("the markers past the 32 bits of a position",)
    kept = convert_file(tmp_path / "a.mp3", tmp_path / "c.mp3", sample_rate=44_100)
    assert kept.left_out == ()
    assert mutagen.id3.ID3(kept.path)["CHAP:c"].start_time == 0xFFFFFFFF


def test_an_id3_tag_of_over_8_mib_is_read_whole(tmp_path):
    soundfile.write(tmp_path / "a.mp3", sound(), RATE)
    tags = mutagen.id3.ID3()
    tags.add(mutagen.id3.TIT2(text=["Sunrise"]))
    tags.add(mutagen.id3.APIC(mime="image/png", type=3, data=bytes(9 << 20)))
    tags.save(tmp_path / "a.mp3")
    assert read_facts(tmp_path / "a.mp3").title == "Sunrise"
    done = convert_file(tmp_path / "a.mp3", tmp_path / "b.mp3")
    assert done.left_out == ()
    assert [len(one) for one in pictures_of(done.path)] == [9 << 20]


# With a search of all frames for each name these tests would take minutes.


def test_thousands_of_names_pass_through_id3():
    texts = [(f"NAME {number}", "x") for number in range(4_000)]
    tags, version = build_id3(texts, sample_rate=RATE)
    other = [(name, "y") for name, _ in texts]
    again, _ = build_id3(other, sample_rate=RATE, base=Id3Frames(tags, tags, version))
    assert len(again.getall("TXXX")) == len(texts)
    assert {frame.text[0] for frame in again.getall("TXXX")} == {"y"}


def test_many_texts_of_one_name_are_cut_as_they_are_joined():
    found = _build_info([("ARTIST", "aaaa")] * 200_000)
    assert 2_000 <= len(found[b"IART"]) < 2_100


def test_many_stale_gains_are_dropped_in_one_go():
    texts = tuple((f"REPLAYGAIN_{number}", "x") for number in range(20_000))
    kept = Carried(sample_rate=RATE, texts=texts).without_old_levels(new_levels=True)
    assert kept.texts == ()


@pytest.mark.parametrize("target", ["wav", "mp3", "flac", "ogg"])
def test_texts_past_ten_thousand_are_listed(tmp_path, target):
    comments = {f"NAME{number:05}": "x" for number in range(10_003)}
    source = make_tagged_flac(tmp_path / "a.flac", **comments)
    done = convert_file(source, tmp_path / f"b.{target}")
    assert done.left_out == ("all texts after the first 10000",)
    data = done.path.read_bytes().replace(b"\0", b"")
    assert (b"NAME09999" in data, b"NAME10000" in data) == (True, False)


def nest_chapters(path, levels):
    body = b""
    for _ in range(levels):
        body = b"c\0" + struct.pack(">4I", 0, 1, 0, 0) + body
        body = b"CHAP" + synchsafe(len(body)) + b"\0\0" + body
    path.write_bytes(b"ID3\4\0\0" + synchsafe(len(body)) + body + path.read_bytes())


def synchsafe(size):
    return bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))


@pytest.mark.parametrize("target", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("source", ["caf", "mp3"])
def test_a_file_without_readable_tags_does_not_become_a_take(tmp_path, source, target):
    path = tmp_path / f"a.{source}"
    soundfile.write(path, sound(), RATE)
    if source == "mp3":
        nest_chapters(path, levels=40)
    done = convert_file(path, tmp_path / f"b.{target}")
    assert len(done.left_out) == 1
    assert b"DGX" not in done.path.read_bytes()


@pytest.mark.parametrize("levels", [400, 40])
def test_nested_chapters_are_named_and_the_audio_is_converted(tmp_path, levels):
    soundfile.write(tmp_path / "a.mp3", sound(), RATE)
    nest_chapters(tmp_path / "a.mp3", levels)
    with pytest.raises(UnreadableAudioError):
        read_facts(tmp_path / "a.mp3")
    done = convert_file(tmp_path / "a.mp3", tmp_path / "b.mp3")
    assert [one.startswith("the ID3 tag (") for one in done.left_out] == [True]


def make_chapters(path, cover, rate):
    soundfile.write(path, sound(rate), rate)
    frames = mutagen.id3
    tags = frames.ID3()
    for number in range(6):
        parts = [
            frames.TIT2(text=[f"part {number}"]),
            frames.WXXX(desc="", url="http://example.org"),
            frames.APIC(mime="image/png", type=3, data=cover),
        ]
        start = 15 + 30 * number  # half frames at 44.1 kHz
        tags.add(
            frames.CHAP(
                element_id=f"id{number}", start_time=start, end_time=start + 7, sub_frames=parts
            )
        )
    tags.save(path)
    return path


@pytest.mark.parametrize("rates", [(44_100, 48_000), (44_100, 32_000), (8_000, 44_100)])
def test_chapters_of_id3_stay_whole_at_another_rate(tmp_path, cover, rates):
    source = make_chapters(tmp_path / "a.mp3", cover, rates[0])
    done = convert_file(source, tmp_path / "b.mp3", sample_rate=rates[1])
    before, after = (mutagen.id3.ID3(path).getall("CHAP") for path in (source, done.path))
    assert sorted(map(repr, after)) == sorted(map(repr, before))
    assert done.left_out == ()


def test_what_only_chapters_of_id3_hold_is_listed(tmp_path, cover):
    source = make_chapters(tmp_path / "a.mp3", cover, RATE)
    done = convert_file(source, tmp_path / "b.flac")
    assert sorted(done.left_out) == [
        "the ID3 frame APIC of chapters",
        "the ID3 frame WXXX of chapters",
        "the ends of chapters",
    ]
    assert mutagen.flac.FLAC(done.path)["CHAPTER002NAME"] == ["part 1"]


def test_texts_too_long_for_a_block_of_flac_are_listed(tmp_path):
    soundfile.write(tmp_path / "a.wav", sound(), RATE)
    texts = riff_chunk(b"INAM", b"Roof\0") + riff_chunk(b"ICMT", b"\xe9" * (9 << 20) + b"\0")
    data = (tmp_path / "a.wav").read_bytes() + riff_chunk(b"LIST", b"INFO" + texts)
    (tmp_path / "a.wav").write_bytes(data[:4] + struct.pack("<I", len(data) - 8) + data[8:])
    done = convert_file(tmp_path / "a.wav", tmp_path / "b.flac")
    assert done.left_out == ("COMMENT, which is too long",)
    assert mutagen.flac.FLAC(done.path)["title"] == ["Roof"]


def test_pictures_and_markers_too_long_for_a_block_of_flac_are_listed():
    carried = Carried(
        sample_rate=RATE,
        texts=(("TITLE", "x"),),
        pictures=(Picture(3, "image/png", "\xe9" * 200, bytes((16 << 20) - 100)),),
        markers=(Marker(0, "\xe9" * (9 << 20)),),
    )
    fitted = fit_carried(carried, TakeFacts(), "flac", RATE)
    assert (fitted.texts, fitted.pictures, fitted.markers) == (carried.texts, (), ())
    assert fitted.left_out == (
        "the pictures of 16 MiB and more",
        "the markers, whose names are too long",
    )


def test_names_that_begin_like_a_chapter_reach_mp3(tmp_path):
    source = make_tagged_flac(tmp_path / "a.flac", CHAPTERS="seven", CHAPTER001="00:00:00.100")
    tags = mutagen.id3.ID3(convert_file(source, tmp_path / "b.mp3").path)
    assert [frame.desc for frame in tags.getall("TXXX") if "CHAPTER" in frame.desc] == ["CHAPTERS"]


@pytest.mark.parametrize(
    ("kind", "mime", "description"),
    [(300, "image/png", "x"), (3, "image/\u0436", "x"), (3, "image/png", "a\0b")],
)
@pytest.mark.parametrize("target", ["wav", "mp3"])
def test_pictures_that_only_flac_can_describe_reach_id3(
    tmp_path, cover, kind, mime, description, target
):
    source = make_tagged_flac(tmp_path / "a.flac")
    tags = mutagen.flac.FLAC(source)
    picture = mutagen.flac.Picture()
    picture.type, picture.mime, picture.desc, picture.data = kind, mime, description, cover
    tags.add_picture(picture)
    tags.save()
    done = convert_file(source, tmp_path / f"b.{target}")
    assert (pictures_of(done.path), done.left_out) == ([cover], ())


@pytest.mark.parametrize("target", ["wav", "mp3", "ogg"])
def test_chapter_comments_without_a_time_are_listed(tmp_path, target):
    texts = {"CHAPTER001": "00:00:00.100", "CHAPTER001NAME": "door", "CHAPTER002": "soon"}
    done = convert_file(make_tagged_flac(tmp_path / "a.flac", **texts), tmp_path / f"b.{target}")
    assert done.left_out == (() if target == "ogg" else ("CHAPTER texts that are no chapters",))


def test_lyrics_with_old_line_ends_stay_whole_in_id3_and_keep_their_lines(tmp_path):
    soundfile.write(tmp_path / "a.mp3", sound(), RATE)
    tags = mutagen.id3.ID3()
    tags.add(mutagen.id3.USLT(lang="deu", desc="", text="eins\rzwei\r\ndrei"))
    tags.save(tmp_path / "a.mp3")
    done = convert_file(tmp_path / "a.mp3", tmp_path / "b.mp3")
    assert mutagen.id3.ID3(done.path).getall("USLT") == tags.getall("USLT")
    done = convert_file(tmp_path / "a.mp3", tmp_path / "c.flac")
    assert mutagen.flac.FLAC(done.path)["LYRICS"] == ["eins\nzwei\ndrei"]


def test_byte_positions_of_the_old_mp3_are_forgotten(tmp_path):
    soundfile.write(tmp_path / "a.mp3", sound(), RATE)
    tags = mutagen.id3.ID3()
    times = {"start_time": 100, "end_time": 200, "start_offset": 500, "end_offset": 900}
    tags.add(mutagen.id3.CHAP(element_id="c", **times, sub_frames=[]))
    tags.add(mutagen.id3.MLLT(frames=1, bytes=9, milliseconds=9, bits_for_bytes=8,
                              bits_for_milliseconds=8, data=b"12"))  # fmt: skip
    tags.save(tmp_path / "a.mp3")
    done = convert_file(tmp_path / "a.mp3", tmp_path / "b.mp3")
    found = mutagen.id3.ID3(done.path)
    chapter = found["CHAP:c"]
    assert (chapter.start_offset, chapter.end_offset) == (0xFFFFFFFF, 0xFFFFFFFF)
    assert (chapter.start_time, chapter.end_time) == (100, 200)
    assert found.getall("MLLT") == []


def test_a_flac_file_behind_an_id3_tag_keeps_its_own_texts(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, sound(), RATE)
    flac = mutagen.flac.FLAC(path)
    flac["ARTIST"] = ["Ada"]
    flac.save()
    before = path.read_bytes()
    tags = mutagen.id3.ID3()
    tags.add(mutagen.id3.TIT2(text=["In front"]))
    tags.save(tmp_path / "tag")
    path.write_bytes((tmp_path / "tag").read_bytes() + before)
    done = convert_file(path, tmp_path / "b.flac")
    assert mutagen.flac.FLAC(done.path)["ARTIST"] == ["Ada"]
    assert read_facts(path).title is None


def test_all_lists_of_a_kind_are_translated(tmp_path):
    cue = struct.pack("<I", 2) + b"".join(
        struct.pack("<II4sIII", number, at, b"data", 0, 0, at)
        for number, at in ((1, 100), (2, 200))
    )
    label = b"labl" + struct.pack("<II", 8, 2) + b"two\0"
    lists = [
        (b"LIST", b"INFO" + b"INAM" + struct.pack("<I", 4) + b"Dawn"),
        (b"LIST", b"INFO" + b"IART" + struct.pack("<I", 4) + b"Ada\0"),
        (b"cue ", cue),
        (b"LIST", b"adtl" + b"labl" + struct.pack("<II", 8, 1) + b"one\0"),
        (b"LIST", b"adtl" + label),
    ]
    path = write_chunks(tmp_path / "a.wav", lists)
    tags = mutagen.flac.FLAC(convert_file(path, tmp_path / "b.flac").path)
    assert (tags["TITLE"], tags["ARTIST"]) == (["Dawn"], ["Ada"])
    assert (tags["CHAPTER001NAME"], tags["CHAPTER002NAME"]) == (["one"], ["two"])


@pytest.mark.parametrize(
    ("name", "body"),
    [
        (b"cart", bytes(2048)),
        (b"iXML", "<BWFXML><FILE_SAMPLE_RATE>44100</FILE_SAMPLE_RATE></BWFXML>".encode("utf-16")),
    ],
    ids=["cart", "iXML in UTF-16"],
)
def test_positions_that_are_not_found_are_left_out_at_another_rate(tmp_path, name, body):
    path = write_chunks(tmp_path / "a.wav", [(name, body)])
    same = convert_file(path, tmp_path / "b.wav")
    assert body in same.path.read_bytes()
    other = convert_file(path, tmp_path / "c.wav", sample_rate=RATE // 2)
    assert body not in other.path.read_bytes()
    assert any(name.decode() in one for one in other.left_out)


def write_chunks(path, chunks):
    soundfile.write(path, sound(), RATE)
    data = bytearray(path.read_bytes())
    for name, body in chunks:
        data += name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)
    data[4:8] = struct.pack("<I", len(data) - 8)
    path.write_bytes(data)
    return path
