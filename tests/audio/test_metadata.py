import json

import numpy as np
import pytest
import soundfile

from services.audio import write_wav
from services.audio.metadata import AudioMetadataExtractor

RATE = 32_000
BASE = {
    "duration_seconds", "sample_rate", "channels", "file_size_bytes", "bit_depth",
    "bpm", "bpm_confidence", "key", "key_confidence",
}  # fmt: skip
STATS = {
    "peak_amplitude", "rms_energy", "dynamic_range_db", "integrated_lufs", "true_peak_dbtp",
}  # fmt: skip


def music(seconds=8.0, bpm=120.0):
    """A minor cadence, a chord every two beats, with clicks on the beats."""
    at = np.arange(round(seconds * RATE)) / RATE
    chords = [(57, 60, 64), (62, 65, 69), (52, 56, 59), (57, 60, 64)]
    signal = np.zeros(at.size)
    length = round(RATE * 120.0 / bpm)
    for index, start in enumerate(range(0, at.size, length)):
        part = at[start : start + length] - at[start]
        for pitch in chords[index % 4]:
            hertz = 440 * 2 ** ((pitch - 69) / 12)
            signal[start : start + length] += np.sin(2 * np.pi * hertz * part) * np.exp(-part)
    clicks = np.random.default_rng(0).standard_normal(at.size) * np.exp(-60 * (at % (60.0 / bpm)))
    return (0.05 * signal + 0.15 * clicks).astype(np.float32)


@pytest.fixture
def take(tmp_path):
    path = tmp_path / "take.wav"
    write_wav(path, np.stack((music(), music())), RATE, bit_depth="PCM_24")
    return path


def test_metadata_of_a_file_has_every_key_of_the_contract(take):
    found = AudioMetadataExtractor().extract_metadata(take)
    assert set(found) == BASE | STATS
    assert found["duration_seconds"] == 8.0
    assert (found["sample_rate"], found["channels"], found["bit_depth"]) == (RATE, 2, 24)
    assert found["file_size_bytes"] == take.stat().st_size
    assert found["bpm"] == pytest.approx(120.0, abs=0.2)
    assert found["key"] == "A minor"
    assert 0.0 < found["bpm_confidence"] <= 1.0
    assert 0.0 < found["key_confidence"] <= 1.0
    assert found["peak_amplitude"] == pytest.approx(np.abs(music()).max(), abs=1e-5)
    assert found["rms_energy"] == pytest.approx(np.sqrt(np.mean(music() ** 2)), rel=1e-3)
    assert -40.0 < found["integrated_lufs"] < 0.0
    assert found["true_peak_dbtp"] > 20 * np.log10(found["peak_amplitude"]) - 0.2
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_metadata_of_a_tensor_lacks_size_and_bit_depth(take):
    extractor = AudioMetadataExtractor()
    of_file = extractor.extract_metadata(take)
    of_tensor = extractor.extract_metadata_from_tensor(np.stack((music(), music())), RATE)
    assert of_tensor["file_size_bytes"] is None
    assert of_tensor["bit_depth"] is None
    assert of_tensor["key"] == of_file["key"]
    assert of_tensor["bpm"] == pytest.approx(of_file["bpm"], abs=1e-3)
    assert of_tensor["integrated_lufs"] == pytest.approx(of_file["integrated_lufs"], abs=1e-3)


def test_statistics_are_optional(take):
    extractor = AudioMetadataExtractor()
    assert set(extractor.extract_metadata(take, compute_stats=False)) == BASE
    found = extractor.extract_metadata_from_tensor(music(2.0), RATE, compute_stats=False)
    assert set(found) == BASE


@pytest.mark.parametrize("bpm", [True, False])
@pytest.mark.parametrize("key", [True, False])
def test_fields_that_are_not_requested_are_none(bpm, key):
    extractor = AudioMetadataExtractor(extract_bpm=bpm, extract_key=key)
    found = extractor.extract_metadata_from_tensor(music(), RATE)
    assert (found["bpm"] is not None, found["bpm_confidence"] is not None) == (bpm, bpm)
    assert (found["key"] is not None, found["key_confidence"] is not None) == (key, key)
    assert extractor.get_info() == {"extract_bpm": bpm, "extract_key": key}


def test_silence_has_neither_tempo_nor_key_nor_loudness():
    found = AudioMetadataExtractor().extract_metadata_from_tensor(np.zeros((2, RATE)), RATE)
    assert found["bpm"] is None
    assert found["key"] is None
    assert (found["bpm_confidence"], found["key_confidence"]) == (0.0, 0.0)
    assert found["integrated_lufs"] is None
    assert found["true_peak_dbtp"] is None
    assert found["peak_amplitude"] == 0.0


@pytest.mark.parametrize("rate", [1_000, 4_000])
def test_audio_below_8_khz_is_measured(tmp_path, rate):
    at = np.arange(8 * rate) / rate
    beats = (0.5 * np.exp(-12 * (at % 0.5)) * np.sin(2 * np.pi * 220 * at)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", beats, rate)
    extractor = AudioMetadataExtractor()
    of_file = extractor.extract_metadata(tmp_path / "a.wav")
    of_tensor = extractor.extract_metadata_from_tensor(beats, rate)
    assert (of_file["sample_rate"], of_file["duration_seconds"]) == (rate, 8.0)
    for found in (of_file, of_tensor):
        assert found["bpm"] == pytest.approx(120.0, abs=0.1)
        assert -30 < found["integrated_lufs"] < -10
        assert found["peak_amplitude"] <= 0.5


def test_rates_below_1_khz_are_refused_with_the_range(tmp_path):
    with pytest.raises(ValueError, match="expected 1000 to 192000 Hz"):
        AudioMetadataExtractor().extract_metadata_from_tensor(np.zeros(100), 999)


def test_lossy_format_has_no_bit_depth(tmp_path):
    path = tmp_path / "take.ogg"
    soundfile.write(path, music(1.0), RATE, format="OGG", subtype="VORBIS")
    assert AudioMetadataExtractor().extract_metadata(path)["bit_depth"] is None


def test_missing_file_is_reported(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.wav"):
        AudioMetadataExtractor().extract_metadata(tmp_path / "nowhere.wav")


@pytest.mark.parametrize("content", [b"", b"not audio at all" * 100, b"RIFF\x00\x00\x00\x00WAVE"])
def test_extraction_from_other_files_fails(tmp_path, content):
    path = tmp_path / "text.wav"
    path.write_bytes(content)
    with pytest.raises(RuntimeError, match="Metadata extraction failed"):
        AudioMetadataExtractor().extract_metadata(str(path))


def test_extraction_from_folders_and_infinite_samples_fails(tmp_path):
    broken = tmp_path / "broken.wav"
    soundfile.write(broken, np.array([0.0, np.inf, 0.0]), RATE, subtype="FLOAT")
    for path in (tmp_path, broken):
        with pytest.raises(RuntimeError, match="Metadata extraction failed"):
            AudioMetadataExtractor().extract_metadata(path)


def test_invalid_tensor_is_refused_with_the_reason():
    with pytest.raises(ValueError, match="Expected max 2 channels"):
        AudioMetadataExtractor().extract_metadata_from_tensor(np.zeros((3, 100)), RATE)
