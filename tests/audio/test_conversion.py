import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from services.audio.conversion import _choose_lossless_depth, convert_file, normalise_file
from services.audio.encoding import FORMATS
from services.audio.facts import TakeFacts
from services.audio.reading import open_audio
from services.audio.tags import read_facts
from services.audio.wav import write_wav

RATE = 48_000


def sine(samples=RATE // 2, level=0.25):
    return (level * np.sin(np.arange(samples) * 0.06)).astype(np.float32)[None]


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def source(tmp_path):
    return write_wav(tmp_path / "source.wav", sine(), RATE, facts=TakeFacts(seed=5)).path


@pytest.mark.parametrize("samples", [1, 10, 200, 1000, 3000])
@pytest.mark.parametrize("name", ["wav", "flac"])
def test_very_short_file_is_resampled(tmp_path, name, samples):
    source = write_wav(tmp_path / "a.wav", sine(samples), RATE).path
    written = convert_file(source, tmp_path / f"b.{name}", sample_rate=44_100)
    assert written.frames == soundfile.info(written.path).frames
    assert written.frames == pytest.approx(samples * 44_100 / RATE, abs=0.5)


@pytest.mark.parametrize("name", FORMATS)
def test_file_that_loses_all_its_samples_is_refused(tmp_path, name):
    source = write_wav(tmp_path / "a.wav", sine(1), 192_000).path
    with pytest.raises(ValueError, match="The audio is too short: it has no samples at 8000 Hz"):
        convert_file(source, tmp_path / f"b.{name}", sample_rate=8_000)
    assert names_in(tmp_path) == ["a.wav"]


def test_same_depth_and_rate_keep_the_samples(tmp_path, source):
    copy = convert_file(source, tmp_path / "copy.wav").path
    assert np.array_equal(soundfile.read(copy)[0], soundfile.read(source)[0])


def test_named_format_overrides_a_missing_suffix(tmp_path, source):
    copy = convert_file(source, tmp_path / "copy", audio_format="FLAC")
    assert soundfile.info(copy.path).format == "FLAC"


def test_loudness_of_the_source_is_measured_again(tmp_path, source):
    loudness = normalise_file(source, tmp_path / "a.wav", target_lufs=None).loudness
    wrong = replace(loudness, integrated_lufs=-3.0)
    copy = convert_file(source, tmp_path / "b.wav", facts=TakeFacts(seed=9, loudness=wrong))
    assert read_facts(copy.path) == TakeFacts(seed=9, loudness=loudness)


def test_result_of_normalising_is_json_ready(tmp_path, source):
    done = normalise_file(source, tmp_path / "b.flac", target_lufs=-20.0)
    found = json.loads(json.dumps(done.to_dict(), allow_nan=False))
    assert (found["audio_format"], found["bit_depth"], found["flags"]) == ("flac", "PCM_16", [])
    assert found["integrated_lufs"] == pytest.approx(-20.0, abs=0.1)
    assert (found["sample_rate"], found["frames"]) == (RATE, RATE // 2)
    assert done.raw is None


@pytest.mark.parametrize("arguments", [{"target_lufs": 0.5}, {"true_peak_dbtp": 0.1}])
def test_levels_are_checked_before_the_source_is_opened(tmp_path, arguments):
    with pytest.raises(ValueError, match="must be from"):
        normalise_file(tmp_path / "missing.wav", tmp_path / "b.wav", **arguments)


@pytest.mark.parametrize(
    ("encoding", "bits", "name", "expected"),
    [
        ("PCM_16", 16, "wav", "PCM_16"),
        ("PCM_24", 24, "wav", "PCM_24"),
        ("PCM_S8", 8, "flac", "PCM_16"),
        ("ALAC_20", 20, "flac", "PCM_24"),
        ("PCM_32", 32, "flac", "PCM_24"),
        ("DOUBLE", 64, "wav", "FLOAT"),
        ("VORBIS", None, "wav", "PCM_24"),
        ("PCM_16", 16, "mp3", None),
    ],
)
def test_depth_keeps_the_samples_of_the_source(source, encoding, bits, name, expected):
    file = replace(open_audio(source), encoding=encoding)
    assert file.bit_depth == bits
    assert _choose_lossless_depth(FORMATS[name], file) == expected
