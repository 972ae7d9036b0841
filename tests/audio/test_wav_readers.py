"""WAV files read by other programs: libsndfile's tools, FFmpeg and MediaInfo."""

import datetime as dt
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from services import __version__
from services.audio import measure_loudness, write_wav
from services.audio import wav as wav_module
from services.audio.facts import Section, TakeFacts
from services.audio.wav_chunks import build_chunks, place_markers
from tests.conftest import LIMIT_SECONDS

pytestmark = pytest.mark.integration

RATE = 48_000
BPM = 124.0
ID = "1b4e28ba-2fa1-4d2b-883f-0016d3cca427"
PROMPT = "Warm lo-fi \u201cdusk\u201d, caf\xe9 \U0001f319"
FRAMES = round(32 * 60 / BPM * RATE)


def sound():
    time = np.arange(FRAMES) / RATE
    return (0.3 * np.sin(2 * np.pi * np.array([[220], [277]]) * time)).astype(np.float32)


def facts(audio):
    return TakeFacts(
        prompt=PROMPT,
        generation_id=ID,
        engine="composer",
        engine_version="1.2",
        seed=42,
        licence="CC0-1.0",
        created_at=dt.datetime(2026, 11, 21, 3, 4, 5, tzinfo=dt.UTC),
        genre="lo-fi",
        bpm=BPM,
        key="A minor",
        bars=8,
        sections=(Section(0.0, "intro"), Section(16 * 60 / BPM, "refrain \xe9")),
        loudness=measure_loudness(audio, RATE),
        is_loop=True,
    )


@pytest.fixture(scope="module")
def take(tmp_path_factory):
    """Path and facts of a take with all facts."""
    audio = sound()
    facts_of_take = facts(audio)
    path = tmp_path_factory.mktemp("wav") / "take.wav"
    write_wav(path, audio, RATE, "PCM_24", facts=facts_of_take)
    return path, facts_of_take


@pytest.fixture(scope="module")
def long_take(tmp_path_factory):
    """Path and frames of a sparse RF64 file of silence."""
    facts_of_take = TakeFacts(prompt="long", seed=7, bpm=120.0, bars=3)
    frames = 2**30 + 12_345
    wav_format = wav_module._make_format(2, frames, RATE, "PCM_16")
    planned = wav_module._plan_layout(
        wav_format, build_chunks(facts_of_take, wav_format, dithered=True)
    )
    path = tmp_path_factory.mktemp("wav") / "long.wav"
    with path.open("wb") as file:
        file.write(planned.head)
        file.seek(planned.file_bytes - len(planned.tail))
        file.write(planned.tail)
    yield path, frames
    path.unlink()


def run_program(program, *arguments):
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    done = subprocess.run(
        [program, *map(str, arguments)], capture_output=True, check=True, timeout=LIMIT_SECONDS
    )
    return done.stdout.decode()


def probe(path):
    """Return the format, first stream and chapters by ffprobe."""
    show = ("-show_format", "-show_streams", "-show_chapters")
    found = json.loads(run_program("ffprobe", "-v", "warning", "-of", "json", *show, path))
    return found["format"], found["streams"][0], found["chapters"]


def test_libsndfile_reads_the_tempo_the_loop_and_the_markers(take):
    path, facts_of_take = take
    lines = re.sub(r" +", " ", run_program("sndfile-info", path))
    for line in (
        "Flags : 0x0006 (Loop,RootNoteValid,StretchOn,RAMBased",
        "Root note : 0x45",
        "Beats : 32",
        "Meter : 4/4",
        "Tempo : 124.000000",
        "Midi Note : 69",
        "Loop Count : 1",
        f"Start : 0 End : {FRAMES - 1}",
        f"INAM : {PROMPT}",
        "Frames : " + str(FRAMES),
    ):
        assert line in lines
    marks = place_markers(facts_of_take, RATE, FRAMES)
    assert re.findall(r"labl : (\d+) : (.*)", lines) == [
        (str(number), label) for number, (_, label) in enumerate(marks, 1)
    ]
    cues = re.findall(r"Cue ID : \d+ Pos : (\d+) Chunk : data .* Offset : (\d+)", lines)
    assert cues == [(str(frame), str(frame)) for frame, _ in marks]
    # "***" marks what it does not understand; it knows neither CSET nor ID3.
    unknown = re.findall(r"\*\*\* (.*)", lines)
    assert {line.split(" ")[0] for line in unknown} <= {"CSET", "id3"}


def test_libsndfile_reads_the_broadcast_extension(take):
    path, facts_of_take = take
    lines = re.sub(r" +", " ", run_program("sndfile-info", "--broadcast", path))
    for line in (
        'Description : Warm lo-fi "dusk", cafe ?',
        f"Originator : DGX Music {__version__}",
        f"Origination ref : {ID.replace('-', '')}",
        "Origination date : 2026-11-21",
        "Origination time : 03:04:05",
        "BWF version : 2",
        f"Loudness value : {facts_of_take.loudness.integrated_lufs:.2f} LUFS",
        f"Max. true peak level : {facts_of_take.loudness.true_peak_dbtp:.2f} dBTP",
        f"A=PCM,F=48000,W=24,M=stereo,T=DGX Music {__version__}; composer 1.2; TPDF dither",
    ):
        assert line in lines


def test_ffmpeg_reads_tags_and_chapters(take):
    path, facts_of_take = take
    container, stream, chapters = probe(path)
    assert (stream["codec_name"], stream["duration_ts"]) == ("pcm_s24le", FRAMES)
    assert (
        container["tags"]
        | {
            "title": PROMPT,
            "comment": f"engine composer 1.2; seed 42; id {ID}",
            "copyright": "CC0-1.0",
            "genre": "lo-fi",
            "date": "2026-11-21",
            "encoder": f"DGX Music {__version__}",
            "encoded_by": f"DGX Music {__version__}",
            "originator_reference": ID.replace("-", ""),
            "creation_time": "03:04:05",
        }
        == container["tags"]
    )
    found = [(chapter["start"], chapter["tags"]["title"]) for chapter in chapters]
    assert found == place_markers(facts_of_take, RATE, FRAMES)
    assert chapters[0]["time_base"] == f"1/{RATE}"


def test_ffmpeg_decodes_the_samples_that_were_written(take):
    path, _ = take
    plain = path.with_name("plain.wav")
    write_wav(plain, sound(), RATE, "PCM_24")
    digests = [
        run_program("ffmpeg", "-v", "error", "-i", one, "-f", "md5", "-c", "copy", "-")
        for one in (path, plain)
    ]
    assert digests[0] == digests[1]


def test_mediainfo_reads_the_loudness(take):
    path, facts_of_take = take
    tracks = json.loads(run_program("mediainfo", "--Output=JSON", path))["media"]["track"]
    general, audio = tracks
    assert (general["Encoded_Date"], general["Genre"]) == ("2026-11-21 03:04:05", "lo-fi")
    assert audio["SamplingCount"] == str(FRAMES)
    found = {name: float(value) for name, value in audio["extra"].items() if value}
    assert found == {
        "LoudnessValue": round(facts_of_take.loudness.integrated_lufs, 2),
        "LoudnessRange": round(facts_of_take.loudness.loudness_range_lu, 2),
        "MaxTruePeakLevel": round(facts_of_take.loudness.true_peak_dbtp, 2),
        "MaxMomentaryLoudness": round(facts_of_take.loudness.momentary_max_lufs, 2),
        "MaxShortTermLoudness": round(facts_of_take.loudness.short_term_max_lufs, 2),
    }


def test_libsndfile_reads_a_whole_file_over_4_gib(long_take):
    path, frames = long_take
    lines = re.sub(r" +", " ", run_program("sndfile-info", path))
    assert f"\nFrames : {frames}\n" in lines
    assert re.findall(r"labl : \d+ : (.*)", lines) == ["bar 1", "bar 2", "bar 3"]
    assert "INAM : long" in lines


def test_ffmpeg_reads_a_whole_file_over_4_gib(long_take):
    path, frames = long_take
    container, stream, chapters = probe(path)
    assert stream["duration_ts"] == frames
    assert (container["tags"]["title"], container["tags"]["comment"]) == ("long", "seed 7")
    assert [chapter["start"] for chapter in chapters] == [0, 96_000, 192_000]
