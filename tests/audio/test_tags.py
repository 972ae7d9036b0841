import datetime as dt
import errno
import math
import struct
import zlib

import mutagen.flac
import mutagen.id3
import mutagen.oggopus
import mutagen.oggvorbis
import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services import __version__
from services.audio import tags as tags_module
from services.audio.encoding import FORMATS, choose_format, encode
from services.audio.facts import Section, TakeFacts
from services.audio.key_names import abbreviate_key
from services.audio.loudness import Loudness
from services.audio.reading import UnreadableAudioError
from services.audio.sources import ArraySource
from services.audio.tags import read_facts, write_tags

RATE = 48_000
TAGGED = ("flac", "ogg", "opus", "mp3")
READERS = {
    "flac": mutagen.flac.FLAC,
    "ogg": mutagen.oggvorbis.OggVorbis,
    "opus": mutagen.oggopus.OggOpus,
    "mp3": mutagen.id3.ID3,
}
FUZZ = {"suppress_health_check": [HealthCheck.function_scoped_fixture]}
LOUDNESS = Loudness(
    integrated_lufs=-16.02,
    momentary_max_lufs=-12.5,
    short_term_max_lufs=-14.25,
    loudness_range_lu=3.5,
    true_peak_dbtp=-1.25,
    sample_peak_dbfs=-1.5,
)
FACTS = TakeFacts(
    prompt="Warm “house” 🎹, 124 bpm\nno vocals",
    generation_id="8c1c9a50-5d0f-4b0e-a9a7-0e8cf9a1d4b1",
    engine="composer",
    engine_version="1",
    seed=4_294_967_295,
    licence="CC0-1.0",
    created_at=dt.datetime(2026, 3, 4, 5, 6, 7, 89, dt.UTC),
    genre="house",
    bpm=123.5,
    key="C# dorian",
    bars=8,
    sections=(Section(0.0, "intro"), Section(7.75, "drop ⚡")),
    loudness=LOUDNESS,
    is_loop=True,
)


@pytest.fixture(scope="session")
def untagged(tmp_path_factory):
    """Bytes of a tenth of a second in each format, without tags."""
    audio = np.sin(np.arange(RATE // 10) * 0.05).astype(np.float32)[None] * 0.5
    folder = tmp_path_factory.mktemp("untagged")
    for name in TAGGED:
        encode(folder / name, ArraySource(audio, RATE), FORMATS[name])
    return {name: (folder / name).read_bytes() for name in TAGGED}


@pytest.fixture
def tag_file(tmp_path, untagged):
    """A function that makes a file with facts."""

    def make(name, facts=FACTS):
        path = tmp_path / f"take.{name}"
        path.write_bytes(untagged[name])
        write_tags(path, FORMATS[name], facts)
        return path

    return make


def samples(path):
    return soundfile.read(path, dtype="float32")[0]


@pytest.mark.parametrize("name", TAGGED)
def test_tagged_facts_are_read_back(tag_file, name):
    assert read_facts(tag_file(name)) == FACTS


@pytest.mark.parametrize("name", TAGGED)
def test_file_without_tags_has_no_facts(tmp_path, untagged, name):
    (tmp_path / "take").write_bytes(untagged[name])
    assert read_facts(tmp_path / "take") == TakeFacts()


@pytest.mark.parametrize("name", TAGGED)
def test_unknown_facts_are_left_out(tag_file, name):
    path = tag_file(name, TakeFacts(bpm=90.0))
    assert read_facts(path) == TakeFacts(bpm=90.0)
    found = {key.upper() for key in READERS[name](path)}
    assert not [key for key in found if "SEED" in key or "GAIN" in key or "TITLE" in key]


@pytest.mark.parametrize("name", TAGGED)
def test_tags_do_not_change_the_samples(tmp_path, tag_file, untagged, name):
    (tmp_path / "plain").write_bytes(untagged[name])
    np.testing.assert_array_equal(samples(tag_file(name)), samples(tmp_path / "plain"))


@pytest.mark.parametrize("name", TAGGED)
def test_the_same_facts_give_the_same_bytes(tag_file, name):
    assert tag_file(name).read_bytes() == tag_file(name).read_bytes()


@pytest.mark.parametrize("name", ["flac", "ogg", "opus"])
def test_vorbis_comments_have_the_standard_names(tag_file, name):
    found = {key: texts[0] for key, texts in READERS[name](tag_file(name)).items()}
    expected = {
        "title": FACTS.prompt,
        "genre": "house",
        "date": "2026-03-04",
        "bpm": "123.5",
        "key": None,
        "initialkey": "C#m",
        "license": "CC0-1.0",
        "encoded-by": f"DGX Music {__version__}",
        "comment": "Made with DGX Music: engine composer 1, seed 4294967295, "
        "generation 8c1c9a50-5d0f-4b0e-a9a7-0e8cf9a1d4b1, licence CC0-1.0",
        "dgx_prompt": FACTS.prompt,
        "dgx_key": "C# dorian",
        "dgx_seed": "4294967295",
        "dgx_engine": "composer",
        "dgx_engine_version": "1",
        "dgx_generation_id": FACTS.generation_id,
        "dgx_bars": "8",
    }
    assert {key: found.get(key) for key in expected} == expected


def test_id3_has_the_standard_frames(tag_file):
    tags = mutagen.id3.ID3(tag_file("mp3"), translate=False)
    assert tags.version == (2, 3, 0)
    texts = {name: str(tags[name].text[0]) for name in ("TIT2", "TBPM", "TKEY", "TCON", "TCOP")}
    assert texts == {
        "TIT2": FACTS.prompt,
        "TBPM": "124",
        "TKEY": "C#m",
        "TCON": "house",
        "TCOP": "2026 CC0-1.0",
    }
    assert [tags[name].text[0] for name in ("TYER", "TDAT")] == ["2026", "0403"]
    ours = {frame.desc: frame.text[0] for frame in tags.getall("TXXX")}
    assert ours["DGX_SEED"] == "4294967295"
    assert ours["DGX_PROMPT"] == FACTS.prompt
    assert ours["BPM"] == "123.5"
    assert tags["COMM::eng"].text[0].startswith("Made with DGX Music: engine composer 1, seed 42")


def test_licence_url_becomes_wcop_in_id3(tag_file):
    address = "https://creativecommons.org/publicdomain/zero/1.0/"
    tags = mutagen.id3.ID3(tag_file("mp3", TakeFacts(licence=address)))
    assert tags["WCOP"].url == address
    assert "TCOP" not in tags


@pytest.mark.parametrize("name", ["flac", "ogg", "mp3"])
def test_replay_gain_is_written(tag_file, name):
    tags = READERS[name](tag_file(name))
    found = [
        tags[key if name != "mp3" else f"TXXX:{key}"][0]
        for key in ("REPLAYGAIN_TRACK_GAIN", "REPLAYGAIN_TRACK_PEAK")
    ]
    assert found == ["-1.98 dB", f"{10 ** (-1.25 / 20):.6f}"]


@pytest.mark.parametrize(
    ("lufs", "steps"), [(-16.02, -1787), (-23.0, 0), (-30.0, 1792), (-200.0, 32767)]
)
def test_opus_has_r128_gain_instead_of_replay_gain(tag_file, lufs, steps):
    loudness = Loudness(lufs, lufs, lufs, 0.0, -3.0, -3.0)
    tags = mutagen.oggopus.OggOpus(tag_file("opus", TakeFacts(loudness=loudness)))
    assert tags["R128_TRACK_GAIN"] == [str(steps)]
    assert not [name for name in tags if name.startswith("replaygain")]


@pytest.mark.parametrize("name", TAGGED)
def test_silence_has_no_gain(tag_file, name):
    silent = Loudness(*[-math.inf] * 3, 0.0, -math.inf, -math.inf)
    path = tag_file(name, TakeFacts(loudness=silent))
    assert not [key for key in READERS[name](path) if "GAIN" in key.upper()]
    assert read_facts(path).loudness == silent


@pytest.mark.parametrize(
    ("key", "short"),
    [
        ("C# minor", "C#m"),
        ("Eb major", "Eb"),
        ("D dorian", "Dm"),
        ("F# phrygian", "F#m"),
        ("G mixolydian", "G"),
        ("A lydian", "A"),
        ("H minor", None),
        ("C blues", None),
        ("C", None),
        (None, None),
    ],
)
def test_keys_are_abbreviated_for_id3(key, short):
    assert abbreviate_key(key) == short


@pytest.mark.parametrize("name", TAGGED)
@settings(max_examples=25, **FUZZ)
@given(
    prompt=st.text(min_size=1, max_size=500),
    genre=st.text(min_size=1, max_size=20),
    seed=st.integers(0, 2**32 - 1),
    bpm=st.floats(20, 300),
    licence=st.text(min_size=1),
)
def test_any_text_is_read_back(tag_file, name, prompt, genre, seed, bpm, licence):
    facts = TakeFacts(
        prompt=prompt, genre=genre, seed=seed, bpm=bpm, licence=licence, created_at=FACTS.created_at
    )
    path = tag_file(name, facts)
    assert read_facts(path) == facts
    assert READERS[name](path)
    assert samples(path).size == RATE // 10


def test_wav_cannot_be_tagged(tmp_path):
    path = tmp_path / "take.wav"
    soundfile.write(path, np.zeros(100), RATE)
    with pytest.raises(ValueError, match="WAV files have chunks instead of tags"):
        write_tags(path, choose_format(path), FACTS)
    assert read_facts(path) == TakeFacts()


FOREIGN = {
    "title": "Sunrise",
    "bpm": "128",
    "initialkey": "Ebm",
    "genre": "Trance",
    "date": "2019-08-07",
    "license": "CC-BY-4.0",
}
FOREIGN_FACTS = TakeFacts(
    title="Sunrise",
    bpm=128.0,
    key="Eb minor",
    genre="Trance",
    licence="CC-BY-4.0",
    created_at=dt.datetime(2019, 8, 7, tzinfo=dt.UTC),
)


def test_foreign_vorbis_comments_are_read(tmp_path, untagged):
    path = tmp_path / "take.flac"
    path.write_bytes(untagged["flac"])
    tags = mutagen.flac.FLAC(path)
    tags.update(FOREIGN)
    tags.save()
    assert read_facts(path) == FOREIGN_FACTS


@pytest.mark.parametrize("version", [3, 4])
def test_foreign_id3_tags_are_read(tmp_path, untagged, version):
    path = tmp_path / "take.mp3"
    path.write_bytes(untagged["mp3"])
    frames = mutagen.id3
    tags = frames.ID3()
    tags.add(frames.TIT2(text=["Sunrise"]))
    tags.add(frames.TBPM(text=["128"]))
    tags.add(frames.TKEY(text=["Ebm"]))
    tags.add(frames.TCON(text=["Trance"]))
    tags.add(frames.TDRC(text=["2019-08-07"]))
    tags.add(frames.TXXX(desc="License", text=["CC-BY-4.0"]))
    tags.add(frames.APIC(mime="image/png", data=bytes(1000)))
    tags.save(path, v2_version=version)
    assert read_facts(path) == FOREIGN_FACTS


@pytest.mark.parametrize(
    "comments",
    [
        {"bpm": "fast", "dgx_seed": "9" * 5000, "initialkey": "8A", "date": "yesterday"},
        {"bpm": "1e999", "dgx_bars": "-3", "key": "off"},
        {"bpm": "nan", "dgx_facts": "[" * 100_000},
        {"dgx_facts": '{"seed": "7", "bpm": true, "sections": 3}'},
        {"dgx_facts": "{" + " " * (1 << 20) + "}"},
    ],
)
def test_invalid_tags_are_ignored(tmp_path, untagged, comments):
    path = tmp_path / "take.flac"
    path.write_bytes(untagged["flac"])
    tags = mutagen.flac.FLAC(path)
    tags.update(comments)
    tags.save()
    assert read_facts(path) == TakeFacts()


def test_facts_survive_without_the_json_field(tag_file):
    path = tag_file("flac")
    tags = mutagen.flac.FLAC(path)
    del tags["DGX_FACTS"]
    tags.save()
    found = read_facts(path)
    assert (found.prompt, found.seed, found.engine) == (FACTS.prompt, FACTS.seed, "composer")
    assert (found.generation_id, found.bpm, found.key) == (FACTS.generation_id, 123.5, "C# dorian")


def id3_frame(name, body, flags):
    return struct.pack(">4sIH", name, len(body), flags) + body


def test_compressed_frames_are_not_decompressed(tmp_path):
    """Decompression would multiply its size by a thousand."""
    body = b"\0\0\0\0" + zlib.compress(b"\0DGX_PROMPT\0" + b"a" * (1 << 26))
    frames = id3_frame(b"TXXX", body, 0x80) + id3_frame(b"TBPM", b"\00090", 0)
    size = bytes(len(frames) >> shift & 0x7F for shift in (21, 14, 7, 0))
    path = tmp_path / "bomb.mp3"
    path.write_bytes(b"ID3\3\0\0" + size + frames)
    assert read_facts(path) == TakeFacts(bpm=90.0)


def test_tags_of_more_than_16_mib_are_refused(tmp_path):
    path = tmp_path / "large.mp3"
    path.write_bytes(b"ID3\3\0\0\x0f\x7f\x7f\x7f" + bytes(40 << 20))
    with pytest.raises(UnreadableAudioError, match="too large"):
        read_facts(path)


@pytest.mark.parametrize("data", [b"", b"hello", b"OggS" + bytes(60), b"FORM" + bytes(60)])
def test_other_file_types_are_refused(tmp_path, data):
    (tmp_path / "take.mp3").write_bytes(data)
    with pytest.raises(UnreadableAudioError, match="is not a WAV, FLAC, Ogg Vorbis, Opus or MP3"):
        read_facts(tmp_path / "take.mp3")


def test_missing_file_and_folder_have_different_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="No such file"):
        read_facts(tmp_path / "none.flac")
    with pytest.raises(UnreadableAudioError, match="cannot be read"):
        read_facts(tmp_path)


@pytest.mark.parametrize("name", TAGGED)
def test_write_error_is_an_os_error(tmp_path, untagged, name):
    with pytest.raises(OSError, match="No such file"):
        write_tags(tmp_path / "missing", FORMATS[name], FACTS)


@pytest.mark.parametrize(
    ("cause", "code", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), errno.ENOSPC, "No space left"),
        ("broken", errno.EIO, "the tags could not be written"),
    ],
)
def test_failure_of_mutagen_is_an_os_error(tmp_path, untagged, monkeypatch, cause, code, message):
    def fail(*_args, **_options):
        raise mutagen.MutagenError(cause)

    (tmp_path / "take").write_bytes(untagged["flac"])
    monkeypatch.setattr(tags_module, "_write_comments", fail)
    with pytest.raises(OSError, match=message) as caught:
        write_tags(tmp_path / "take", FORMATS["flac"], FACTS)
    assert caught.value.errno == code


def test_control_characters_are_removed_except_line_breaks(tag_file):
    path = tag_file("flac", TakeFacts(prompt="a\x00b\x07\ud800c\nd"))
    assert mutagen.flac.FLAC(path)["TITLE"] == ["abc\nd"]


def test_duplicate_comments_keep_the_first(tmp_path, untagged):
    path = tmp_path / "take.ogg"
    path.write_bytes(untagged["ogg"])
    tags = mutagen.oggvorbis.OggVorbis(path)
    tags["genre"] = ["House", "Techno"]
    tags.save()
    assert read_facts(path).genre == "House"


@pytest.mark.parametrize(
    ("date", "year"), [(None, None), (dt.datetime(2026, 1, 2, tzinfo=dt.UTC), "2026 my licence")]
)
def test_copyright_message_needs_a_year(tag_file, date, year):
    tags = mutagen.id3.ID3(tag_file("mp3", TakeFacts(licence="my licence", created_at=date)))
    assert [str(frame) for frame in tags.getall("TCOP")] == ([year] if year else [])
    assert read_facts(tags.filename).licence == "my licence"


@st.composite
def damages(draw):
    """Changes within the first 4 KB, where the tags are."""
    kinds = st.sampled_from(["set", "drop", "insert", "cut"])
    places = st.tuples(kinds, st.integers(0, 4000), st.binary(min_size=1, max_size=8))
    return draw(st.lists(places, min_size=1, max_size=8))


def damage(data, changes):
    data = bytearray(data)
    for kind, wish, new in changes:
        place = wish % max(len(data), 1)
        if kind == "set":
            data[place : place + len(new)] = new
        elif kind == "drop":
            del data[place : place + new[0]]
        elif kind == "insert":
            data[place:place] = new
        else:
            del data[place:]
    return bytes(data)


def read_or_refuse(path, data):
    path.write_bytes(data)
    try:
        found = read_facts(path)
    except UnreadableAudioError:
        return
    assert isinstance(found, TakeFacts)


@pytest.mark.parametrize("name", TAGGED)
@settings(**FUZZ)
@given(changes=damages())
def test_a_damaged_file_is_read_or_refused(tag_file, tmp_path, name, changes):
    read_or_refuse(tmp_path / "damaged", damage(tag_file(name).read_bytes(), changes))


@pytest.mark.nightly
@pytest.mark.parametrize("name", TAGGED)
@settings(max_examples=2_000, **FUZZ)
@given(changes=damages())
def test_two_thousand_damaged_files_are_read_or_refused(tag_file, tmp_path, name, changes):
    read_or_refuse(tmp_path / "damaged", damage(tag_file(name).read_bytes(), changes))
