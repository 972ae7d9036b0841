import datetime as dt
import json
import math
import struct
from contextlib import suppress

import mutagen
import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wavinfo import WavInfoReader

from services import __version__
from services.audio import write_wav
from services.audio.facts import Section, TakeFacts
from services.audio.loudness import Loudness, measure_loudness
from services.audio.reading import UnreadableAudioError
from services.audio.wav_chunks import (
    WavFormat,
    build_chunks,
    find_root_note,
    place_markers,
    to_ascii,
)
from services.audio.wav_facts import read_wav_facts
from services.audio.wav_ixml import build_ixml, parse_ixml

RATE = 48_000
ID = "1b4e28ba-2fa1-4d2b-883f-0016d3cca427"
FACTS = TakeFacts(
    prompt="Warm lo-fi \u201cdusk\u201d \u2014 caf\xe9 \U0001f319 ]]> <b>",
    generation_id=ID,
    engine="composer",
    engine_version="1.2",
    seed=2**63 + 5,
    licence="CC0-1.0",
    created_at=dt.datetime(2026, 11, 21, 3, 4, 5, tzinfo=dt.UTC),
    genre="lo-fi",
    bpm=124.0,
    key="A minor",
    bars=8,
    sections=(Section(0.0, "intro"), Section(1.0, "pick-up"), Section(16 * 60 / 124, "drop")),
    loudness=Loudness(-16.0, -12.34, -14.0, 5.5, -1.02, -1.1),
    is_loop=True,
)
FORM = WavFormat(2, round(32 * 60 / 124 * RATE), RATE, 16, is_float=False)


def noise(frames=5000, channels=2):
    rng = np.random.default_rng(frames)
    return (rng.standard_normal((channels, frames)) * 0.1).astype(np.float32)


def write_take(tmp_path, facts, frames=5000, **options):
    return write_wav(tmp_path / "take.wav", noise(frames), RATE, facts=facts, **options).path


def reader(path):
    return WavInfoReader(str(path), info_encoding="utf-8")


def chunks_of(data):
    """Name -> body of each chunk; a LIST is named after its type."""
    found, at = {}, 12
    while at < len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        body = data[at + 8 : at + 8 + size]
        assert len(body) == size
        found[body[:4] if name == b"LIST" else name] = body
        at += 8 + size + size % 2
    assert at == len(data)
    return found


def chunks(facts, form=FORM, *, dithered=False):
    return chunks_of(bytes(12) + build_chunks(facts, form, dithered=dithered))


def test_all_facts_are_read_back(tmp_path):
    path = write_take(tmp_path, FACTS)
    assert read_wav_facts(path) == FACTS
    assert read_wav_facts(str(path)) == FACTS


def test_facts_follow_the_unchanged_samples(tmp_path):
    plain = write_wav(tmp_path / "plain.wav", noise(), RATE).path.read_bytes()
    with_facts = write_take(tmp_path, FACTS).read_bytes()
    assert with_facts[8 : len(plain)] == plain[8:]
    assert struct.unpack_from("<I", with_facts, 4) == (len(with_facts) - 8,)
    names = [b"fmt ", b"data", b"CSET", b"bext", b"iXML", b"acid", b"smpl", b"cue "]
    assert list(chunks_of(with_facts)) == [*names, b"adtl", b"INFO", b"id3 "]


def test_the_same_facts_give_the_same_bytes():
    one, other = (build_chunks(FACTS, FORM, dithered=True) for _ in range(2))
    assert one == other


def test_unknown_facts_write_no_chunks(tmp_path):
    path = write_take(tmp_path, TakeFacts())
    assert read_wav_facts(path) == TakeFacts()
    found = chunks_of(path.read_bytes())
    assert list(found) == [b"fmt ", b"data", b"CSET", b"bext", b"iXML", b"INFO"]
    assert reader(path).info.software == f"DGX Music {__version__}"
    assert not any(reader(path).info.to_dict()[name] for name in ("title", "comment", "keywords"))
    bext = reader(path).bext
    assert (bext.description, bext.originator_ref, bext.originator_date) == ("", "", "")
    assert bext.loudness_value == bext.max_true_peak == 327.67  # 0x7FFF: unknown


def test_wavinfo_reads_the_broadcast_extension(tmp_path):
    bext = reader(write_take(tmp_path, FACTS)).bext
    assert bext.version == 2
    assert bext.description == 'Warm lo-fi "dusk" - cafe ? ]]> <b>'
    assert bext.originator == f"DGX Music {__version__}"
    assert bext.originator_ref == ID.replace("-", "")
    assert (bext.originator_date, bext.originator_time) == ("2026-11-21", "03:04:05")
    assert (bext.time_reference, bext.umid) == (0, bytes(64))
    assert (bext.loudness_value, bext.loudness_range, bext.max_true_peak) == (-16.0, 5.5, -1.02)
    assert (bext.max_momentary_loudness, bext.max_shortterm_loudness) == (-12.34, -14.0)


@pytest.mark.parametrize(
    ("bit_depth", "channels", "line"),
    [
        ("PCM_16", 1, "A=PCM,F=48000,W=16,M=mono,T=DGX Music {}; a b 2; TPDF dither\r\n"),
        ("PCM_24", 2, "A=PCM,F=48000,W=24,M=stereo,T=DGX Music {}; a b 2; TPDF dither\r\n"),
        ("PCM_32", 2, "A=PCM,F=48000,W=32,M=stereo,T=DGX Music {}; a b 2\r\n"),
        ("FLOAT", 2, "A=PCM,F=48000,W=32,M=stereo,T=DGX Music {}; a b 2; IEEE float\r\n"),
    ],
)
def test_coding_history_describes_the_samples(tmp_path, bit_depth, channels, line):
    facts = TakeFacts(engine="a,b", engine_version="2")
    audio = noise(channels=channels)
    path = write_wav(tmp_path / "a.wav", audio, RATE, bit_depth, facts=facts).path
    assert reader(path).bext.coding_history == line.format(__version__)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("d\xe9j\xe0 vu", "deja vu"),
        ("F\u266f minor \u2013 \u2018soft\u2019\u2026", "F# minor - 'soft'..."),
        ("stra\xdfe", "strasse"),
        ("tab\tand\nline\x00end\x7f", "tab and line end"),
        ("\u65e5\u672c", "??"),
        ("\U0001f468\u200d\U0001f3a4 sings", "?? sings"),
        ("\ud800 alone", "alone"),
    ],
)
def test_text_becomes_readable_ascii(text, plain):
    assert to_ascii(text) == plain


def test_long_prompt_is_cut_only_in_short_fields(tmp_path):
    facts = TakeFacts(prompt="a" + "\xe9\u4e16" * 2000)
    path = write_take(tmp_path, facts)
    assert reader(path).bext.description == "a" + "e?" * 127 + "e"
    assert reader(path).info.title == "a" + "\xe9\u4e16" * 399 + "\xe9"  # 1998 bytes
    assert read_wav_facts(path).prompt == facts.prompt


def test_levels_out_of_range_are_written_as_unknown(tmp_path):
    loudness = measure_loudness(np.zeros((2, RATE), np.float32), RATE)
    path = write_take(tmp_path, TakeFacts(loudness=loudness))
    assert reader(path).bext.loudness_value == 327.67
    assert reader(path).bext.loudness_range == 0.0
    assert read_wav_facts(path).loudness == loudness


def test_wavinfo_reads_the_ixml_document(tmp_path):
    ixml = reader(write_take(tmp_path, FACTS)).ixml
    assert ixml.project == "DGX Music"
    assert [(track.channel_index, track.name) for track in ixml.track_list] == [
        ("1", "Left"),
        ("2", "Right"),
    ]
    root = ixml.raw_xml.getroot()
    assert root.tag == "BWFXML"
    assert root.findtext("NOTE") == FACTS.prompt
    assert root.findtext("FILE_UID") == ID
    assert {one.tag: float(one.text) for one in root.find("LOUDNESS")} == {
        "LOUDNESS_VALUE": -16.0,
        "LOUDNESS_RANGE": 5.5,
        "MAX_TRUE_PEAK_LEVEL": -1.02,
        "MAX_MOMENTARY_LOUDNESS": -12.34,
        "MAX_SHORT_TERM_LOUDNESS": -14.0,
    }
    user = json.loads(root.findtext("USER"))["dgx_music"]
    assert (user["prompt"], user["seed"], user["engine"]) == (FACTS.prompt, FACTS.seed, "composer")


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (FACTS, (6, 69, 32, 4, 4, 124.0)),
        (TakeFacts(bpm=90.5, is_loop=True), (4, 60, 23, 4, 4, 90.5)),
        (TakeFacts(bpm=60.0), (1, 60, 15, 4, 4, 60.0)),
        (
            TakeFacts(bpm=140.0, key="Eb major", bars=3, beats_per_bar=7, beat_unit=8),
            (3, 63, 21, 8, 7, 140.0),
        ),
    ],
)
def test_acid_chunk_has_tempo_beats_meter_and_root(facts, expected):
    flags, root, _, _, beats, unit, per_bar, bpm = struct.unpack(
        "<IHHfIHHf", chunks(facts)[b"acid"]
    )
    assert (flags, root, beats, unit, per_bar, bpm) == expected


def test_unknown_tempo_gives_no_acid_chunk_and_no_markers():
    assert not {b"acid", b"cue ", b"adtl"} & set(chunks(TakeFacts(bars=8, key="C major")))


@pytest.mark.parametrize(
    ("key", "note"),
    [
        ("C major", 60),
        ("C# minor", 61),
        ("Db major", 61),
        ("B\u266d minor", 70),
        ("Cb major", 71),
        ("B# minor", 60),
        ("G", 67),
        ("H minor", None),
        ("Gm", None),
        ("", None),
        (None, None),
    ],
)
def test_root_of_a_key_is_a_midi_note(key, note):
    assert find_root_note(key) == note


def test_wavinfo_reads_the_root_and_the_loop(tmp_path):
    smpl = reader(write_take(tmp_path, FACTS)).smpl
    assert (smpl.midi_note, smpl.sample_period_ns) == (69, 20_833)
    [loop] = smpl.sample_loops
    assert (loop.start, loop.end, loop.loop_type, loop.repetition_count) == (0, 4999, 0, 0)


def test_one_shot_has_no_loop(tmp_path):
    assert not reader(write_take(tmp_path, TakeFacts(key="D minor"))).smpl.sample_loops
    assert reader(write_take(tmp_path, TakeFacts(bpm=120.0))).smpl is None


@pytest.mark.parametrize("rate", [44_100, 48_000])
@pytest.mark.parametrize(("bpm", "beats_per_bar"), [(124.0, 4), (93.7, 3), (150.0, 7)])
def test_bar_markers_are_exact_to_the_sample(rate, bpm, beats_per_bar):
    facts = TakeFacts(bpm=bpm, bars=400, beats_per_bar=beats_per_bar)
    found = place_markers(facts, rate, 1 << 40)
    assert [label for _, label in found] == [f"bar {bar}" for bar in range(1, 401)]
    for bar, (frame, _) in enumerate(found):
        assert abs(frame - bar * beats_per_bar * 60 / bpm * rate) <= 0.5 + 1e-6


def test_sections_replace_the_markers_of_their_bars():
    assert place_markers(FACTS, RATE, FORM.frames) == [
        (0, "intro"),
        (48_000, "pick-up"),
        (92_903, "bar 2"),
        (185_806, "bar 3"),
        (278_710, "bar 4"),
        (371_613, "drop"),
        (464_516, "bar 6"),
        (557_419, "bar 7"),
        (650_323, "bar 8"),
    ]


def test_section_within_a_millisecond_of_a_bar_replaces_it():
    near, apart = Section(1.9995, "drop"), Section(3.99, "fill")
    facts = TakeFacts(bpm=120.0, bars=3, sections=(near, apart))
    assert place_markers(facts, RATE, 1 << 40) == [
        (0, "bar 1"),
        (96_000, "drop"),
        (191_520, "fill"),
        (192_000, "bar 3"),
    ]


def test_no_marker_is_past_the_end():
    assert place_markers(FACTS, RATE, 92_903) == [(0, "intro"), (48_000, "pick-up")]
    late = TakeFacts(sections=(Section(1e9, "never"), Section(0.5, " \n")))
    assert place_markers(late, RATE, 1 << 50) == [(24_000, "section")]  # 1e9 s are over 32 bits


def test_many_bars_get_no_markers():
    facts = TakeFacts(bpm=120.0, bars=401, sections=(Section(2.0, "verse"),))
    assert place_markers(facts, RATE, 1 << 40) == [(96_000, "verse")]


def test_wavinfo_reads_the_markers(tmp_path):
    path = write_wav(tmp_path / "a.wav", noise(FORM.frames), RATE, facts=FACTS).path
    found = reader(path).cues.to_dict()
    expected = enumerate(place_markers(FACTS, RATE, FORM.frames), 1)
    assert found == {n: {"frame": frame, "label": label} for n, (frame, label) in expected}


def test_title_and_comment_are_read_by_two_libraries(tmp_path):
    path = write_take(tmp_path, FACTS)
    info = reader(path).info
    comment = f"engine composer 1.2; seed 9223372036854775813; id {ID}"
    assert (info.title, info.comment, info.copyright) == (FACTS.prompt, comment, "CC0-1.0")
    assert (info.genre, info.keywords) == ("lo-fi", "124 BPM; A minor")
    assert (info.software, info.created_date) == (f"DGX Music {__version__}", "2026-11-21")
    with soundfile.SoundFile(path) as file:
        assert file.copy_metadata() == {
            "title": FACTS.prompt,
            "comment": comment,
            "copyright": "CC0-1.0",
            "genre": "lo-fi",
            "software": f"DGX Music {__version__}",
            "date": "2026-11-21",
        }


def test_mutagen_reads_the_length(tmp_path):
    info = mutagen.File(write_take(tmp_path, FACTS)).info
    assert (info.length, info.sample_rate, info.channels) == (5000 / RATE, RATE, 2)


def test_invalid_facts_are_left_out(tmp_path):
    strange = TakeFacts(
        prompt="kept",
        seed=1 << 200,
        created_at=dt.datetime(1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=9))),
        bpm=math.nan,
        bars=-4,
        beats_per_bar=70_000,
        sections=(Section(math.inf, "a"), Section(-1.0, "b"), Section(0.0, "")),
        loudness=Loudness(math.nan, 0.0, 0.0, 0.0, 0.0, 0.0),
    )
    assert read_wav_facts(write_take(tmp_path, strange)) == TakeFacts(
        prompt="kept", loudness=Loudness(-math.inf, 0.0, 0.0, 0.0, 0.0, 0.0)
    )


def test_numpy_numbers_are_accepted(tmp_path):
    facts = TakeFacts(bpm=np.float32(120.5), seed=np.int64(7), bars=np.int32(2))
    assert read_wav_facts(write_take(tmp_path, facts)) == TakeFacts(bpm=120.5, seed=7, bars=2)


def test_time_without_a_zone_is_utc(tmp_path):
    naive = dt.datetime(2026, 1, 2, 3, 4, 5, 678)
    found = read_wav_facts(write_take(tmp_path, TakeFacts(created_at=naive)))
    assert found.created_at == naive.replace(tzinfo=dt.UTC)


@pytest.mark.parametrize(
    "found",
    [
        None,
        [],
        "facts",
        {"prompt": 5, "bpm": True, "seed": 1.5, "bars": "8", "is_loop": 1},
        {"bpm": 1e999, "created_at": "yesterday", "sections": [1, {}, {"name": "a"}]},
        {"bpm": 10**400, "sections": {"a": 1}, "loudness": {"integrated_lufs": -16}},
        {"loudness": FACTS.loudness.to_dict() | {"true_peak_dbtp": "loud"}},
        {"beats_per_bar": 0, "beat_unit": -4, "created_at": "0001-01-01T00:00:00+14:00"},
    ],
)
def test_invalid_json_gives_no_facts(found):
    assert TakeFacts.from_dict(found) == TakeFacts()


def own_document(facts=FACTS):
    return build_ixml(facts, 2)


def test_rewritten_document_is_read():
    rewritten = own_document().replace(b"\n", b"\r\n").replace(b'"', b"&#34;")
    rewritten = rewritten.replace(b"&#34;1.0&#34; encoding=&#34;UTF-8&#34;", b'"1.0"')
    assert parse_ixml(b"\xef\xbb\xbf" + rewritten + b"\0\0") == FACTS


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"\xff\xfe\x00",
        b"<BWFXML>",
        b"<BWFXML></BWFXML>",
        b"<BWFXML><USER/></BWFXML>",
        b"<BWFXML><USER>shot on a rainy day</USER></BWFXML>",
        b"<BWFXML><USER>[1]</USER></BWFXML>",
        b'<BWFXML><USER>{"other": {"seed": 1}}</USER></BWFXML>',
        b"<BWFXML><USER>" + b"[" * 200_000 + b"</USER></BWFXML>",
        b"<BWFXML><USER>" + b"9" * 10_000 + b"</USER></BWFXML>",
        b"<a>" * 300_000,
        b"<!DOCTYPE a [<!ENTITY b '{\"dgx_music\": {}}'>]><BWFXML><USER>&b;</USER></BWFXML>",
        b'<?xml version="1.0" encoding="no-such"?><BWFXML>',
    ],
)
def test_foreign_documents_have_no_facts(document):
    assert parse_ixml(document) is None


def riff(*parts, kind=b"RIFF"):
    """A file of chunks, given as pairs of name and body."""
    body = b"".join(
        struct.pack("<4sI", name, len(data)) + data + bytes(len(data) % 2) for name, data in parts
    )
    return struct.pack("<4sI4s", kind, len(body) + 4, b"WAVE") + body


def facts_in(tmp_path, data):
    path = tmp_path / "found.wav"
    path.write_bytes(data)
    return read_wav_facts(path)


def test_a_file_that_lost_its_ixml_can_still_be_found(tmp_path):
    found = chunks_of(write_take(tmp_path, FACTS).read_bytes())
    left = [(b"LIST" if name in {b"adtl", b"INFO"} else name, body) for name, body in found.items()]
    stripped = facts_in(tmp_path, riff(*(one for one in left if one[0] != b"iXML")))
    assert stripped == TakeFacts(
        prompt=FACTS.prompt,
        generation_id=ID,
        engine="composer",
        engine_version="1.2",
        seed=FACTS.seed,
        licence="CC0-1.0",
        genre="lo-fi",
        created_at=FACTS.created_at,
        bpm=124.0,
        key="A minor",
        bars=8,
        beats_per_bar=4,
        beat_unit=4,
        is_loop=True,
    )


@pytest.mark.parametrize("reference", ["take 7", "not a UUID, though 32 letters ..."[:32]])
def test_a_reference_of_ours_that_is_no_uuid_is_the_id(tmp_path, reference):
    bext = chunks(TakeFacts(generation_id=reference))[b"bext"]
    assert facts_in(tmp_path, riff((b"bext", bext))) == TakeFacts(generation_id=reference)


def riff_with_comment(comment):
    body = comment.encode() + b"\0"
    return riff((b"LIST", b"INFOICMT" + struct.pack("<I", len(body)) + body + b"\0"))


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        (f"engine composer 1.2; seed 42; id {ID}", ("composer", "1.2", 42, ID)),
        ("engine composer; seed 42", ("composer", None, 42, None)),
        ("seed 0", (None, None, 0, None)),
        ("sow seed 42", (None, None, None, None)),
        (f"id {ID}", (None, None, None, None)),
        ("seed " + "9" * 40, (None, None, None, None)),
    ],
)
def test_own_comment_restores_engine_seed_and_id(tmp_path, comment, expected):
    found = facts_in(tmp_path, riff_with_comment(comment))
    assert (found.engine, found.engine_version, found.seed, found.generation_id) == expected


def test_foreign_file_is_read(tmp_path):
    path = tmp_path / "foreign.wav"
    with soundfile.SoundFile(path, "w", RATE, 1) as file:
        file.title, file.genre, file.copyright, file.date = "Loop", "House", "Ann", "2020-02-03"
        file.write(np.zeros(100))
    assert read_wav_facts(path) == TakeFacts(
        title="Loop",
        genre="House",
        licence="Ann",
        created_at=dt.datetime(2020, 2, 3, tzinfo=dt.UTC),
    )


def test_foreign_description_replaces_a_missing_title(tmp_path):
    texts = [b"Rain", b"Recorder", b"REF1", b"2021-05-06", b"07:08:09"]
    bext = struct.pack("<256s32s32s10s8s", *texts) + bytes(264)
    assert facts_in(tmp_path, riff((b"bext", bext))) == TakeFacts(
        title="Rain", created_at=dt.datetime(2021, 5, 6, 7, 8, 9, tzinfo=dt.UTC)
    )


def test_latin_1_texts_are_read(tmp_path):
    info = b"INFOINAM" + struct.pack("<I", 5) + b"caf\xe9\0\0"
    assert facts_in(tmp_path, riff((b"LIST", info))).title == "caf\xe9"


def test_the_texts_are_declared_to_be_utf_8():
    assert chunks(TakeFacts())[b"CSET"] == struct.pack("<4H", 65_001, 0, 0, 0)


def test_chunks_after_an_odd_one_are_found(tmp_path):
    acid = struct.pack("<IHHfIHHf", 1, 60, 0, 0.0, 7, 4, 3, 88.0)
    found = facts_in(tmp_path, riff((b"note", b"odd"), (b"acid", acid)))
    expected = TakeFacts(bpm=88.0, beats_per_bar=3, beat_unit=4, is_loop=False)
    assert found == expected  # 7 beats are not whole bars of 3


def test_chunks_after_rf64_data_are_found(tmp_path):
    ds64 = struct.pack("<QQQI", 0, 6, 3, 0)
    acid = struct.pack("<IHHfIHHf", 0, 60, 0, 0.0, 8, 4, 4, 99.5)
    data = riff((b"ds64", ds64), (b"data", b"\1" * 6), (b"acid", acid), kind=b"RF64")
    hidden = data.replace(b"data\6\0\0\0", b"data\xff\xff\xff\xff")
    assert facts_in(tmp_path, hidden) == TakeFacts(
        bpm=99.5, bars=2, beats_per_bar=4, beat_unit=4, is_loop=True
    )


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [(b"iXML", own_document() + b" " * (4 << 20)), (b"LIST", b"")],
        [(b"bext", b"short"), (b"acid", b"short"), (b"LIST", b"INFOINAM\xff\xff\xff\xff")],
        [(b"ds64", b""), (b"data", b"")],
        [(b"acid", struct.pack("<IHHfIHHf", 1, 0, 0, 0, 0, 0, 0, math.nan))],
        [(b"junk", b"")] * 1000 + [(b"iXML", own_document())],
    ],
)
def test_damaged_and_excessive_chunks_are_ignored(tmp_path, parts):
    assert facts_in(tmp_path, riff(*parts)) == TakeFacts()


def test_size_beyond_the_end_of_the_file_is_ignored(tmp_path):
    ds64 = struct.pack("<QQQI", 0, 2**64 - 1, 0, 0)
    endless = riff((b"ds64", ds64), (b"data", b""), kind=b"RF64")[:-4] + b"\xff\xff\xff\xff"
    assert facts_in(tmp_path, endless) == TakeFacts()
    cut_off = write_take(tmp_path, FACTS).read_bytes()[:-200]
    assert facts_in(tmp_path, cut_off) == FACTS


@pytest.mark.parametrize(
    "data", [b"", b"RIFF", b"fLaC" + bytes(50), b"RIFF\0\0\0\0AVI " + bytes(9)]
)
def test_other_files_are_refused(tmp_path, data):
    with pytest.raises(UnreadableAudioError, match="not a WAV file"):
        facts_in(tmp_path, data)


def test_missing_file_and_folder_have_different_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No such file: .*gone"):
        read_wav_facts(tmp_path / "gone.wav")
    with pytest.raises(UnreadableAudioError, match=r"cannot be read: .*directory"):
        read_wav_facts(tmp_path)


TEXT = st.text(st.characters(exclude_categories=[]), min_size=1, max_size=60)
MAYBE_TEXT = st.none() | TEXT
LEVEL = st.just(-math.inf) | st.floats(-200, 50)


@st.composite
def any_facts(draw):
    return TakeFacts(
        prompt=draw(MAYBE_TEXT),
        generation_id=draw(MAYBE_TEXT | st.uuids().map(str)),
        engine=draw(MAYBE_TEXT),
        engine_version=draw(MAYBE_TEXT),
        seed=draw(st.none() | st.integers(0, 2**64)),
        licence=draw(MAYBE_TEXT),
        created_at=draw(st.none() | st.datetimes(timezones=st.just(dt.UTC))),
        genre=draw(MAYBE_TEXT),
        bpm=draw(st.none() | st.floats(1, 1000)),
        key=draw(MAYBE_TEXT | st.sampled_from(["C# minor", "Eb major"])),
        bars=draw(st.none() | st.integers(1, 500)),
        beats_per_bar=draw(st.integers(1, 16)),
        beat_unit=draw(st.sampled_from([2, 4, 8, 16])),
        sections=tuple(draw(st.lists(st.builds(Section, st.floats(0, 1e6), TEXT), max_size=5))),
        loudness=draw(st.none() | st.builds(Loudness, *[LEVEL] * 6)),
        is_loop=draw(st.booleans()),
    )


FUZZ = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


def check_round_trip(tmp_path, facts, frames, bit_depth):
    audio = noise(frames)
    plain = write_wav(tmp_path / "plain.wav", audio, RATE, bit_depth).path
    with_facts = write_take(tmp_path, facts, frames, bit_depth=bit_depth)
    samples = [soundfile.read(path, dtype="float64")[0] for path in (plain, with_facts)]
    assert np.array_equal(*samples)
    assert read_wav_facts(with_facts) == facts


@settings(**FUZZ)
@given(any_facts(), st.integers(1, 500), st.sampled_from(["PCM_16", "PCM_24", "FLOAT"]))
def test_any_facts_are_read_back_beside_the_same_samples(tmp_path, facts, frames, bit_depth):
    check_round_trip(tmp_path, facts, frames, bit_depth)


@pytest.mark.nightly
@settings(max_examples=2_000, **FUZZ)
@given(any_facts(), st.integers(1, 500), st.sampled_from(["PCM_16", "PCM_24", "FLOAT"]))
def test_two_thousand_facts_are_read_back_beside_the_same_samples(
    tmp_path, facts, frames, bit_depth
):
    check_round_trip(tmp_path, facts, frames, bit_depth)


SMALL = riff((b"fmt ", struct.pack("<HHIIHH", 1, 2, RATE, RATE * 4, 4, 16)), (b"data", bytes(40)))
SMALL += build_chunks(FACTS, FORM, dithered=True)


@st.composite
def damaged(draw):
    data = bytearray(SMALL)
    for _ in range(draw(st.integers(1, 8))):
        # Names and sizes mislead a reader; most bytes are text.
        near = draw(st.sampled_from([0, *(SMALL.index(name) for name in NAMES)]))
        at = min(near + draw(st.integers(0, 80)), len(data) - 1)
        data[at] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
    if draw(st.booleans()):
        del data[draw(st.integers(0, len(data))) :]
    return bytes(data)


NAMES = [b"data", b"bext", b"iXML", b"<USER", b"acid", b"LIST", b"INFO", b"INAM"]


def read_or_refuse(tmp_path, data):
    """Read facts that can be written again, or get the one error."""
    with suppress(UnreadableAudioError):
        facts = facts_in(tmp_path, data)
        assert TakeFacts.from_dict(facts.to_dict()) == facts
        assert build_chunks(facts, FORM, dithered=False)


@settings(**FUZZ)
@given(damaged())
def test_damaged_files_are_read_or_refused(tmp_path, data):
    read_or_refuse(tmp_path, data)


@pytest.mark.nightly
@settings(max_examples=2_000, **FUZZ)
@given(damaged() | st.binary(max_size=300).map(lambda data: SMALL[:12] + data))
def test_two_thousand_damaged_files_are_read_or_refused(tmp_path, data):
    read_or_refuse(tmp_path, data)
