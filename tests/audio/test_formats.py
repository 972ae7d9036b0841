"""Files in every format, on a real disk and read by other programs."""

import json
import resource
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyebur128
import pytest
import soundfile

from services.audio import AudioExporter, measure_loudness, write_wav
from services.audio.conversion import convert_file, normalise_file
from services.audio.encoding import FORMATS, encode
from services.audio.facts import Section, TakeFacts
from services.audio.mastering import master
from services.audio.reading import UnreadableAudioError
from services.audio.sources import ArraySource
from services.audio.tags import read_facts

pytestmark = pytest.mark.integration

RATE = 48_000
LOSSY = ("mp3", "ogg", "opus")
FACTS = TakeFacts(
    prompt="dark techno 🎹 “132”",
    generation_id="8c1c9a50-5d0f-4b0e-a9a7-0e8cf9a1d4b1",
    engine="composer",
    engine_version="1",
    seed=42,
    licence="CC0-1.0",
    bpm=132.0,
    key="F# minor",
    bars=4,
    sections=(Section(0.0, "drop"),),
)

needs_ffmpeg = pytest.mark.skipif(
    not (shutil.which("ffmpeg") and shutil.which("ffprobe")), reason="ffmpeg is not installed"
)


def take(seconds=4.0, rate=RATE, snare_level=0.15):
    """Bass, chords and a loud snare: needs limiting, which lossy encoders partly undo."""
    rng = np.random.default_rng(16)
    time = np.arange(round(seconds * rate)) / rate
    chords = sum(np.sin(2 * np.pi * f * time + f) for f in (220, 277.2, 329.6)) * 0.02
    bass = 0.1 * np.sin(2 * np.pi * 55 * time)
    snare = rng.standard_normal((2, time.size)) * np.exp(-30 * (time % 0.5)) * snare_level
    return (chords + bass + snare).astype(np.float32)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def read(path, dtype="float32"):
    """`[channels, samples]` and the rate, by libsndfile."""
    frames, rate = soundfile.read(path, dtype=dtype, always_2d=True)
    return np.ascontiguousarray(frames.T), rate


def true_peaks(audio, rate):
    """dBTP by services.audio and by libebur128."""
    state = pyebur128.R128State(len(audio), rate, pyebur128.MeasurementMode.MODE_TRUE_PEAK)
    state.add_frames(audio.T.astype(np.float64).ravel(), audio.shape[1])
    theirs = max(pyebur128.get_true_peak(state, channel) for channel in range(len(audio)))
    return measure_loudness(audio, rate).true_peak_dbtp, 20 * np.log10(theirs)


@pytest.mark.parametrize("target", [-16.0, pytest.param(-14.0, marks=pytest.mark.nightly), -9.0])
@pytest.mark.parametrize("name", LOSSY)
def test_decoded_audio_keeps_the_ceiling_and_the_loudness(tmp_path, name, target):
    audio = take(snare_level=0.15 if target < -9 else 0.05)
    exported = AudioExporter(target).export(audio, tmp_path / f"take.{name}", RATE)
    audio, rate = read(exported.file.path)
    assert max(true_peaks(audio, rate)) <= -1.0
    assert measure_loudness(audio, rate).integrated_lufs == pytest.approx(target, abs=0.1)
    assert exported.flags == ()


@pytest.mark.parametrize("name", LOSSY)
def test_encoder_alone_would_exceed_the_ceiling(tmp_path, name):
    """Shows that the test above can fail."""
    mastered = master(take(snare_level=0.05), RATE, -9.0)
    path = tmp_path / f"take.{name}"
    encode(path, ArraySource(mastered.audio, RATE), FORMATS[name])
    assert max(true_peaks(*read(path))) > -1.0


def test_unreachable_loudness_is_flagged(tmp_path):
    clicks = np.zeros((1, 2 * RATE), np.float32)
    clicks[:, ::12_000] = 0.5
    exported = AudioExporter(-9.0).export(clicks, tmp_path / "take.opus", RATE)
    assert exported.flags == ("peak_limited",)
    assert exported.loudness.true_peak_dbtp <= -1.0


def decode_with_ffmpeg(path, rate):
    command = ["ffmpeg", "-v", "error", "-i", path, "-f", "f32le", "-ar", str(rate), "-"]
    output = subprocess.run(command, capture_output=True, check=True)
    assert not output.stderr
    return np.frombuffer(output.stdout, "<f4").reshape(-1, 2).T


@needs_ffmpeg
@pytest.mark.parametrize(
    ("name", "tolerance"), [("flac", 1e-6), ("mp3", 1e-4), ("ogg", 1e-4), ("opus", 5e-3)]
)
def test_ffmpeg_decodes_the_same_samples(tmp_path, name, tolerance):
    """FFmpeg has its own Opus decoder, so its tolerance is larger."""
    exported = AudioExporter(-14.0).export(take(), tmp_path / f"take.{name}", RATE, facts=FACTS)
    audio, rate = read(exported.file.path)
    theirs = decode_with_ffmpeg(exported.file.path, rate)
    assert theirs.shape == audio.shape
    assert np.abs(theirs - audio).max() < tolerance
    assert max(true_peaks(np.ascontiguousarray(theirs), rate)) <= -1.0 + 10 * tolerance


@needs_ffmpeg
@pytest.mark.parametrize("name", ["flac", "mp3", "ogg", "opus"])
def test_ffprobe_shows_the_facts(tmp_path, name):
    path = tmp_path / f"take.{name}"
    AudioExporter().export(take(1.0), path, RATE, facts=FACTS)
    command = ["ffprobe", "-v", "error", "-show_format", "-show_streams", "-of", "json", path]
    output = subprocess.run(command, capture_output=True, check=True).stdout
    found = json.loads(output)
    tags = found["format"].get("tags") or found["streams"][0]["tags"]
    tags = {key.upper(): text for key, text in tags.items()}
    assert tags["TITLE"] == tags["DGX_PROMPT"] == FACTS.prompt
    assert (tags["DGX_SEED"], tags["DGX_ENGINE"], tags["DGX_ENGINE_VERSION"]) == (
        "42",
        "composer",
        "1",
    )
    assert tags["DGX_GENERATION_ID"] == FACTS.generation_id
    assert tags["BPM"] == "132"
    assert (tags["TKEY"] if name == "mp3" else tags["INITIALKEY"]) == "F#m"
    assert ("R128_TRACK_GAIN" if name == "opus" else "REPLAYGAIN_TRACK_GAIN") in tags


@pytest.mark.parametrize("name", ["flac", "mp3", "ogg", "opus"])
def test_write_error_leaves_only_the_old_file(tmp_path, name):
    path = tmp_path / f"take.{name}"
    path.write_text("old")
    exporter, audio = AudioExporter(target_lufs=None), take(2.0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(RuntimeError, match=r"Could not write .* file .*file-size limit"):
            exporter.export(audio, path, RATE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "old"
    assert names_in(tmp_path) == [path.name]


@pytest.mark.parametrize("name", ["flac", "mp3", "ogg", "opus"])
def test_write_error_in_the_tags_leaves_no_file(tmp_path, name):
    exporter, audio = AudioExporter(target_lufs=None), take(0.2)
    plain = exporter.export(audio, tmp_path / f"plain.{name}", RATE)
    facts = replace(FACTS, prompt="x" * 100_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (plain.file.bytes + 10_000, hard))
    try:
        with pytest.raises(RuntimeError, match=r"Could not write .* file .*file-size limit"):
            exporter.export(audio, tmp_path / f"take.{name}", RATE, facts=facts)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names_in(tmp_path) == [f"plain.{name}"]


@pytest.fixture
def original(tmp_path):
    """A mastered 24-bit WAV with facts."""
    audio = master(take(1.0), RATE).audio
    return write_wav(tmp_path / "original.wav", audio, RATE, "PCM_24", facts=FACTS).path


@pytest.mark.parametrize("name", FORMATS)
def test_converted_file_keeps_levels_and_facts(tmp_path, original, name):
    copy = convert_file(original, tmp_path / "new" / f"copy.{name}")
    audio, rate = read(copy.path)
    source, _ = read(original)
    assert (audio.shape, copy.frames) == (source.shape, source.shape[1])
    loudness, before = measure_loudness(audio, rate), measure_loudness(source, RATE)
    # Encoders drop everything above 20 kHz, of which the snare has much.
    assert loudness.integrated_lufs == pytest.approx(before.integrated_lufs, abs=0.3)
    facts = read_facts(copy.path)
    assert replace(facts, loudness=None) == FACTS
    assert facts.loudness.integrated_lufs == pytest.approx(loudness.integrated_lufs, abs=0.001)


def test_lossless_round_trip_keeps_the_samples(tmp_path, original):
    flac = convert_file(original, tmp_path / "copy.flac").path
    back = convert_file(flac, tmp_path / "back.wav").path
    assert soundfile.info(flac).subtype == soundfile.info(back).subtype == "PCM_24"
    for copy in (flac, back):
        np.testing.assert_array_equal(read(copy, "int32")[0], read(original, "int32")[0])


@pytest.mark.parametrize(
    ("subtype", "target", "expected"),
    [
        ("PCM_U8", "wav", "PCM_16"),
        ("PCM_16", "flac", "PCM_16"),
        ("PCM_32", "wav", "PCM_32"),
        ("PCM_32", "flac", "PCM_24"),
        ("FLOAT", "wav", "FLOAT"),
        ("DOUBLE", "wav", "FLOAT"),
        ("FLOAT", "flac", "PCM_24"),
        ("ULAW", "flac", "PCM_24"),
    ],
)
def test_converted_file_has_the_bit_depth_of_its_source(tmp_path, subtype, target, expected):
    soundfile.write(tmp_path / "a.wav", take(0.1).T, RATE, subtype=subtype)
    copy = convert_file(tmp_path / "a.wav", tmp_path / f"b.{target}")
    assert soundfile.info(copy.path).subtype == expected


def test_reduced_bit_depth_is_dithered(tmp_path):
    quiet = np.full((1, RATE), 0.25 / 32768, np.float32)
    source = write_wav(tmp_path / "quiet.wav", quiet, RATE, "FLOAT").path
    copy, _ = read(convert_file(source, tmp_path / "copy.flac", bit_depth="PCM_16").path)
    assert np.unique(copy).size > 1
    assert copy.mean() == pytest.approx(quiet.mean(), abs=0.05 / 32768)


@pytest.mark.parametrize(("target", "rate"), [("a.wav", 44_100), ("a.opus", 24_000)])
def test_converted_file_has_the_requested_rate(tmp_path, original, target, rate):
    copy = convert_file(original, tmp_path / target, sample_rate=rate)
    audio, found = read(copy.path)
    assert (found, audio.shape) == (rate, (2, rate))


def test_given_facts_replace_those_of_the_source(tmp_path, original):
    copy = convert_file(original, tmp_path / "a.mp3", facts=TakeFacts(seed=1))
    assert replace(read_facts(copy.path), loudness=None) == TakeFacts(seed=1)


def test_source_can_be_the_target(original):
    convert_file(original, original, bit_depth="PCM_16")
    assert soundfile.info(original).subtype == "PCM_16"
    assert names_in(original.parent) == ["original.wav"]


def test_source_without_readable_facts_is_converted(tmp_path):
    soundfile.write(tmp_path / "a.aiff", take(0.1).T, RATE)
    copy = convert_file(tmp_path / "a.aiff", tmp_path / "a.flac")
    assert replace(read_facts(copy.path), loudness=None) == TakeFacts()


@pytest.mark.parametrize("name", ["wav", "flac"])
def test_truncated_source_is_converted_up_to_its_end(tmp_path, name):
    whole = convert_file(
        write_wav(tmp_path / "a.wav", take(2.0), RATE).path, tmp_path / "a.mp3"
    ).path
    (tmp_path / "cut.mp3").write_bytes(whole.read_bytes()[:50_000])
    copy = convert_file(tmp_path / "cut.mp3", tmp_path / f"copy.{name}")
    audio, _ = read(copy.path)
    assert 0 < audio.shape[1] == copy.frames < 2 * RATE


def test_failed_conversion_leaves_no_file(tmp_path, original):
    (tmp_path / "text.wav").write_text("no audio")
    with pytest.raises(FileNotFoundError, match="No such file"):
        convert_file(tmp_path / "none.wav", tmp_path / "new.mp3")
    with pytest.raises(UnreadableAudioError, match="not audio, or it is damaged"):
        convert_file(tmp_path / "text.wav", tmp_path / "new.mp3")
    with pytest.raises(ValueError, match="Unknown file type"):
        convert_file(original, tmp_path / "new.m4a")
    with pytest.raises(ValueError, match="Opus does not support 44100 Hz"):
        convert_file(original, tmp_path / "new.opus", sample_rate=44_100)
    with pytest.raises(ValueError, match="MP3 has no bit depth"):
        convert_file(original, tmp_path / "new.mp3", bit_depth="PCM_16")
    assert names_in(tmp_path) == ["original.wav", "text.wav"]


@pytest.mark.parametrize("name", ["flac", "ogg"])
def test_a_file_can_be_mastered_into_any_format(tmp_path, original, name):
    done = normalise_file(original, tmp_path / f"loud.{name}", target_lufs=-12.0)
    audio, rate = read(done.file.path)
    assert measure_loudness(audio, rate).integrated_lufs == pytest.approx(-12.0, abs=0.1)
    assert max(true_peaks(audio, rate)) <= -1.0
    assert read_facts(done.file.path) == replace(FACTS, loudness=done.loudness)
    assert done.bit_depth == ("PCM_24" if name == "flac" else None)
    assert done.gain_reduction_db > 0


def test_mastering_a_file_equals_mastering_its_samples(tmp_path, original):
    audio, _ = read(original)
    exported = AudioExporter(-12.0).export(audio, tmp_path / "a.mp3", RATE, facts=FACTS)
    done = normalise_file(original, tmp_path / "b.mp3", target_lufs=-12.0)
    assert done.file.sha256 == exported.file.sha256


def test_mastering_without_a_target_only_converts(tmp_path, original):
    done = normalise_file(original, tmp_path / "a.flac", target_lufs=None)
    assert done.file.sha256 == convert_file(original, tmp_path / "b.flac").sha256


def test_normalise_refuses_levels_out_of_range(tmp_path, original):
    with pytest.raises(ValueError, match="must be from -60 to 0 LUFS"):
        normalise_file(original, tmp_path / "a.flac", target_lufs=1.0)
    assert names_in(tmp_path) == ["original.wav"]


# Peak memory in kB; `getrusage` would include the parent process.
CONVERT_BOTH = """
import sys
from pathlib import Path
from services.audio import conversion
for source in sys.argv[1:3]:
    conversion.convert_file(source, sys.argv[3])
    print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.parametrize("name", ["flac", "ogg"])
def test_memory_does_not_grow_with_the_length(tmp_path, name):
    """100 s at 48 kHz are 19 MB of floats per channel."""
    part = take(5.0)[0]
    for seconds in (5, 100):
        with soundfile.SoundFile(tmp_path / f"{seconds}.wav", "w", RATE, 1, "PCM_16") as file:
            for _ in range(seconds // 5):
                file.write(part)
    paths = [tmp_path / "5.wav", tmp_path / "100.wav", tmp_path / f"copy.{name}"]
    command = [sys.executable, "-c", CONVERT_BOTH, *map(str, paths)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    short, long = map(int, output.split())
    assert soundfile.info(paths[2]).frames == 100 * RATE
    assert long - short < 8_000, "kilobytes"
