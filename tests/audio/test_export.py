import errno
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from services.audio import AudioExporter, atomic, measure_loudness
from services.audio.facts import TakeFacts
from services.audio.tags import read_facts

RATE = 32_000


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def tone(seconds=2.0, channels=2, level=0.05):
    time = np.arange(round(seconds * RATE)) / RATE
    return np.tile((level * np.sin(2 * np.pi * 440 * time)).astype(np.float32), (channels, 1))


def read(path):
    """`[channels, samples]`, read by libsndfile."""
    frames, rate = soundfile.read(path, dtype="float32", always_2d=True)
    assert rate == RATE
    return np.ascontiguousarray(frames.T)


def fail_at(monkeypatch, name, number, error):
    """Make the n-th call of a method of Path fail."""
    original, calls = getattr(Path, name), []

    def counted(self, *args, **kwargs):
        calls.append(self)
        if len(calls) == number:
            raise error
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Path, name, counted)


def test_wav_file_has_the_loudness_of_the_exporter(tmp_path):
    path, size = AudioExporter().export_wav(tone(), tmp_path / "take.wav")
    loudness = measure_loudness(read(path), RATE)
    assert loudness.integrated_lufs == pytest.approx(-16.0, abs=0.1)
    assert loudness.true_peak_dbtp <= -1.0
    assert size == path.stat().st_size == 44 + 2 * 2 * 2 * RATE


@pytest.mark.parametrize("target", [-30.0, -23.0, -14.0])
def test_target_and_ceiling_are_attributes_and_hold(tmp_path, target):
    exporter = AudioExporter(target_lufs=target, true_peak_dbtp=-2.0)
    assert (exporter.target_lufs, exporter.true_peak_dbtp) == (target, -2.0)
    path, _ = exporter.export_wav(tone(), tmp_path / "take.wav")
    loudness = measure_loudness(read(path), RATE)
    assert loudness.integrated_lufs == pytest.approx(target, abs=0.1)
    assert loudness.true_peak_dbtp <= -2.0


def test_export_returns_the_path_and_size_of_the_file(tmp_path):
    path, size = AudioExporter().export_wav(tone(), str(tmp_path / "a" / "take.wav"))
    assert path == tmp_path / "a" / "take.wav"
    assert size == Path(path).stat().st_size


@pytest.mark.parametrize("bit_depth", AudioExporter.SUPPORTED_BIT_DEPTHS)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_bit_depth_keeps_channels_and_length(tmp_path, bit_depth, channels):
    path, _ = AudioExporter().export_wav(
        tone(0.7, channels), tmp_path / "take.wav", RATE, bit_depth=bit_depth
    )
    info = soundfile.info(path)
    assert (info.subtype, info.channels, info.frames) == (bit_depth, channels, 22_400)


def test_one_dimension_becomes_mono(tmp_path):
    path, _ = AudioExporter().export_wav(tone()[0], tmp_path / "take.wav")
    assert soundfile.info(path).channels == 1


def test_samples_are_kept_without_normalising(tmp_path):
    rng = np.random.default_rng(0)
    words = rng.integers(-(2**15), 2**15, (2, 999)).astype(np.int16)
    path, _ = AudioExporter().export_wav(words, tmp_path / "take.wav", RATE, normalize=False)
    assert np.array_equal(soundfile.read(path, dtype="int16")[0].T, words)
    floats = (tone() * 40).astype(np.float32)
    path, _ = AudioExporter().export_wav(
        floats, tmp_path / "f.wav", RATE, normalize=False, bit_depth="FLOAT"
    )
    assert np.array_equal(read(path), floats)


def test_samples_are_kept_without_a_target(tmp_path):
    words = np.arange(-500, 500, dtype=np.int16)
    path, _ = AudioExporter(target_lufs=None).export_wav(words, tmp_path / "take.wav")
    assert np.array_equal(soundfile.read(path, dtype="int16")[0], words)


def test_the_same_audio_gives_the_same_file(tmp_path):
    files = [AudioExporter().export_wav(tone(), tmp_path / f"{i}.wav")[0] for i in range(2)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_silence_is_exported_as_silence(tmp_path):
    path, _ = AudioExporter().export_wav(np.zeros((2, RATE)), tmp_path / "take.wav")
    assert not read(path).any()


REFUSED = {
    "Unsupported bit depth": {"bit_depth": "PCM_8"},
    "Invalid audio dimensions": {"audio_tensor": np.zeros((1, 2, 3))},
    "Expected max 2 channels": {"audio_tensor": np.zeros((3, 100))},
    "Empty audio": {"audio_tensor": np.zeros((2, 0))},
    "NaN or infinite": {"audio_tensor": np.array([0.0, np.nan])},
    "Unsupported sample rate": {"sample_rate": 0},
}


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("message", REFUSED)
def test_invalid_wav_export_raises_value_error_and_creates_no_file(tmp_path, message, normalize):
    arguments = {"audio_tensor": tone(), "output_path": tmp_path / "new" / "take.wav"}
    with pytest.raises(ValueError, match=message):
        AudioExporter().export_wav(**arguments | REFUSED[message], normalize=normalize)
    assert not names_in(tmp_path)


@pytest.mark.parametrize("levels", [{"target_lufs": 3.0}, {"true_peak_dbtp": 1.0}])
def test_exporter_refuses_levels_out_of_range(levels):
    with pytest.raises(ValueError, match="must be from"):
        AudioExporter(**levels)


def test_write_error_raises_runtime_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RuntimeError, match="Could not write WAV file"):
        AudioExporter().export_wav(tone(), tmp_path / "file" / "take.wav")


def test_info_has_levels_and_bit_depths():
    info = AudioExporter(-18.0).get_info()
    assert info["target_lufs"] == -18.0
    assert info["normalization_available"] is True
    assert info["supported_bit_depths"] == ["PCM_16", "PCM_24", "PCM_32", "FLOAT"]


def test_batch_writes_all_files_in_order(tmp_path):
    paths = [tmp_path / "b.wav", str(tmp_path / "a.wav"), tmp_path / "deep" / "c.wav"]
    tensors = [tone(0.5), tone(0.6, 1), tone(0.7)]
    results = AudioExporter().export_wav_batch(tensors, paths)
    assert [path for path, _ in results] == [Path(path) for path in paths]
    assert [size for _, size in results] == [Path(path).stat().st_size for path in paths]
    assert [soundfile.info(path).frames for path in paths] == [16_000, 19_200, 22_400]


def test_batch_writes_the_same_bytes_as_a_single_export(tmp_path):
    exporter = AudioExporter()
    single, _ = exporter.export_wav(tone(), tmp_path / "single.wav")
    [(batch, _)] = exporter.export_wav_batch([tone()], [tmp_path / "batch.wav"])
    assert single.read_bytes() == batch.read_bytes()


def test_empty_batch_returns_an_empty_list():
    assert AudioExporter().export_wav_batch([], []) == []


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_batch_of_different_lengths_is_refused(tmp_path, count):
    paths = [tmp_path / f"{i}.wav" for i in range(count)]
    with pytest.raises(ValueError, match="Length mismatch"):
        AudioExporter().export_wav_batch([tone(), tone()], paths)
    assert not names_in(tmp_path)


def test_duplicate_path_is_refused(tmp_path):
    for second in (tmp_path / "a.wav", f"{tmp_path}/x/../a.wav"):
        with pytest.raises(ValueError, match="Duplicate output path"):
            AudioExporter().export_wav_batch([tone(), tone()], [tmp_path / "a.wav", second])
    assert not names_in(tmp_path)


@pytest.mark.parametrize("bad", [np.zeros((3, 9)), np.zeros((1, 1, 1)), np.full(4, np.inf)])
def test_batch_is_checked_before_writing(tmp_path, bad):
    paths = [tmp_path / f"{i}.wav" for i in range(3)]
    with pytest.raises(ValueError, match=r"(?i)audio|channels"):
        AudioExporter().export_wav_batch([tone(), tone(), bad], paths)
    assert not names_in(tmp_path)


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("call", ["open", "replace"])
def test_failed_batch_leaves_no_files(tmp_path, monkeypatch, call, number):
    fail_at(monkeypatch, call, number, OSError(errno.ENOSPC, "No space left on device"))
    paths = [tmp_path / f"{i}.wav" for i in range(3)]
    with pytest.raises(RuntimeError, match=r"Could not write WAV file .*Free some space"):
        AudioExporter().export_wav_batch([tone(0.5)] * 3, paths)
    assert not names_in(tmp_path)


def test_failed_batch_keeps_existing_files(tmp_path, monkeypatch):
    paths = [tmp_path / f"{i}.wav" for i in range(3)]
    for path in paths:
        path.write_text("old")
    fail_at(monkeypatch, "open", 3, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(RuntimeError, match="Could not write WAV file"):
        AudioExporter().export_wav_batch([tone(0.5)] * 3, paths)
    assert [path.read_text() for path in paths] == ["old"] * 3


def test_interrupted_batch_leaves_no_files(tmp_path, monkeypatch):
    fail_at(monkeypatch, "replace", 2, KeyboardInterrupt())
    paths = [tmp_path / f"{i}.wav" for i in range(3)]
    with pytest.raises(KeyboardInterrupt):
        AudioExporter().export_wav_batch([tone(0.5)] * 3, paths)
    assert not names_in(tmp_path)


def test_batch_is_undone_if_the_folder_cannot_be_synced(tmp_path, monkeypatch):
    def fail(_folder):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(atomic, "_sync_folder", fail)
    paths = [tmp_path / f"{i}.wav" for i in range(2)]
    with pytest.raises(RuntimeError, match="The disk reports an error"):
        AudioExporter().export_wav_batch([tone(0.5)] * 2, paths)
    assert not names_in(tmp_path)


@given(
    signal=hnp.arrays(
        st.sampled_from(["<f2", "<f4", ">f8", "<i2", "<i4", "<i8"]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=60),
    ),
    normalize=st.booleans(),
    bit_depth=st.sampled_from(AudioExporter.SUPPORTED_BIT_DEPTHS),
)
def test_any_signal_is_refused_or_exported(tmp_path_factory, signal, normalize, bit_depth):
    folder = tmp_path_factory.mktemp("export")
    try:
        path, size = AudioExporter().export_wav(
            signal, folder / "take.wav", RATE, normalize=normalize, bit_depth=bit_depth
        )
    except ValueError:
        assert not names_in(folder)
        return
    shape = (1, *signal.shape)[-2:]
    found = read(path)
    assert found.shape == shape
    assert np.isfinite(found).all()
    assert size == Path(path).stat().st_size
    assert names_in(folder) == ["take.wav"]


FORMATS = ("wav", "flac", "mp3", "ogg", "opus")
FACTS = TakeFacts(prompt="warm house", seed=7, bpm=124.0, key="A minor", engine="composer")


@pytest.mark.parametrize("name", FORMATS)
def test_export_reaches_the_loudness_in_every_format(tmp_path, name):
    exported = AudioExporter().export(tone(), tmp_path / "new" / f"take.{name}", RATE)
    frames, rate = soundfile.read(exported.file.path, dtype="float32", always_2d=True)
    loudness = measure_loudness(frames.T, rate)
    assert loudness.integrated_lufs == pytest.approx(-16.0, abs=0.1)
    assert loudness.true_peak_dbtp <= -1.0
    # WAV is measured before rounding, other formats after decoding.
    assert exported.loudness.integrated_lufs == pytest.approx(loudness.integrated_lufs, abs=0.001)
    assert exported.loudness.true_peak_dbtp == pytest.approx(loudness.true_peak_dbtp, abs=0.001)
    assert (exported.audio_format, exported.sample_rate) == (name, rate)
    assert exported.file.bytes == exported.file.path.stat().st_size
    assert exported.file.frames == len(frames)


def test_export_without_facts_writes_the_same_wav_as_export_wav(tmp_path):
    path, _ = AudioExporter().export_wav(tone(), tmp_path / "a.wav", RATE)
    exported = AudioExporter().export(tone(), tmp_path / "b.wav", RATE)
    assert path.read_bytes() == exported.file.path.read_bytes()
    assert exported.file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", FORMATS)
def test_facts_and_measured_loudness_are_in_the_file(tmp_path, name):
    exported = AudioExporter().export(tone(), tmp_path / f"take.{name}", RATE, facts=FACTS)
    found = read_facts(exported.file.path)
    assert found == replace(FACTS, loudness=exported.loudness)


@pytest.mark.parametrize(
    ("name", "bit_depth"), [("wav", "PCM_24"), ("wav", "FLOAT"), ("flac", "PCM_24")]
)
def test_lossless_formats_use_the_requested_bit_depth(tmp_path, name, bit_depth):
    exported = AudioExporter().export(tone(), tmp_path / f"take.{name}", RATE, bit_depth=bit_depth)
    assert soundfile.info(exported.file.path).subtype == exported.bit_depth == bit_depth


@pytest.mark.parametrize("levels", [{"normalize": False}, {}])
@pytest.mark.parametrize("name", FORMATS)
def test_levels_are_kept_without_a_target(tmp_path, name, levels):
    exporter = AudioExporter() if levels else AudioExporter(target_lufs=None)
    exported = exporter.export(tone(level=0.5), tmp_path / f"take.{name}", RATE, **levels)
    found = measure_loudness(tone(level=0.5), RATE)
    assert exported.loudness.integrated_lufs == pytest.approx(found.integrated_lufs, abs=0.1)
    assert exported.flags == ()


def test_flac_samples_are_kept_without_a_target(tmp_path):
    words = np.arange(-500, 500, dtype=np.int16)
    exported = AudioExporter(target_lufs=None).export(words, tmp_path / "take.flac", RATE)
    assert np.array_equal(soundfile.read(exported.file.path, dtype="int16")[0], words)


def test_named_format_needs_no_suffix(tmp_path):
    exported = AudioExporter().export(tone(), tmp_path / "take", RATE, audio_format="flac")
    assert soundfile.info(exported.file.path).format == "FLAC"
    assert exported.media_type == "audio/flac"


def test_export_result_is_json_ready(tmp_path):
    exported = AudioExporter().export(np.zeros(RATE), tmp_path / "take.flac", RATE)
    found = json.loads(json.dumps(exported.to_dict()))
    assert found["audio_format"] == "flac"
    assert found["integrated_lufs"] is None
    assert found["flags"] == ["silent"]
    assert found["sha256"] == exported.file.sha256


@pytest.mark.parametrize("name", ["wav", "mp3"])
def test_raw_audio_is_written_beside_the_master(tmp_path, name):
    audio = tone(level=1.5)
    exported = AudioExporter().export(
        audio, tmp_path / f"take.{name}", RATE, facts=FACTS, keep_raw=True
    )
    assert exported.raw.path == tmp_path / "take.raw.wav"
    assert names_in(tmp_path) == ["take.raw.wav", f"take.{name}"][:: -1 if name == "mp3" else 1]
    assert np.array_equal(read(exported.raw.path), audio)
    assert soundfile.info(exported.raw.path).subtype == "FLOAT"
    assert read_facts(exported.raw.path).seed == 7


@pytest.mark.parametrize("number", [1, 2])
def test_raw_and_master_appear_together_or_not_at_all(tmp_path, monkeypatch, number):
    fail_at(monkeypatch, "replace", number, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(RuntimeError, match=r"Could not write .* file .*Free some space"):
        AudioExporter().export(tone(), tmp_path / "take.ogg", RATE, keep_raw=True)
    assert not names_in(tmp_path)


EXPORT_REFUSED = {
    "Unknown file type '.m4a'": {"path": "take.m4a"},
    "Unknown format 'aac'": {"audio_format": "aac"},
    "does not match the format MP3": {"audio_format": "mp3"},
    "MP3 has no bit depth": {"path": "take.mp3", "bit_depth": "PCM_16"},
    "Unsupported bit depth 'PCM_32' for FLAC": {"path": "take.flac", "bit_depth": "PCM_32"},
    "FLAC does not support 100003 Hz": {"path": "take.flac", "sample_rate": 100_003},
    "Unsupported sample rate": {"sample_rate": 0},
    "NaN or infinite": {"audio": np.array([0.0, np.inf])},
    "Empty audio": {"audio": np.zeros((2, 0))},
    "The audio is too short": {"path": "take.opus", "audio": np.ones(1), "sample_rate": 192_000},
}


@pytest.mark.parametrize("message", EXPORT_REFUSED)
def test_invalid_export_raises_value_error_and_creates_no_file(tmp_path, message):
    arguments = {"audio": tone(), "path": "take.wav", "sample_rate": RATE}
    arguments |= EXPORT_REFUSED[message]
    arguments["path"] = tmp_path / arguments["path"]
    with pytest.raises(ValueError, match=re.escape(message)):
        AudioExporter().export(**arguments)
    assert not names_in(tmp_path)


def test_batch_writes_several_formats(tmp_path):
    paths = [tmp_path / f"take.{name}" for name in FORMATS]
    facts = [replace(FACTS, seed=seed) for seed in range(len(paths))]
    batch = AudioExporter().export_batch(
        [tone()] * len(paths), paths, RATE, bit_depth="PCM_24", facts=facts
    )
    assert [one.file.path for one in batch] == paths
    assert [one.bit_depth for one in batch] == ["PCM_24", "PCM_24", None, None, None]
    assert [read_facts(path).seed for path in paths] == [0, 1, 2, 3, 4]
    single = AudioExporter().export(tone(), tmp_path / "single.mp3", RATE, facts=facts[2])
    assert single.file.sha256 == batch[2].file.sha256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audios": [tone()]}, "Length mismatch: 1 audio tensors, 2 output paths"),
        ({"facts": [FACTS]}, "Length mismatch"),
        ({"paths": ["a.mp3", "./a.mp3"]}, "Duplicate output path"),
        ({"paths": ["a.mp3", "a.txt"]}, "Unknown file type"),
        ({"audios": [tone(), np.full(4, np.nan)]}, "NaN or infinite"),
        ({"bit_depth": "PCM_8"}, "Unsupported bit depth"),
    ],
)
def test_batch_of_formats_is_checked_before_writing(tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    arguments = {"audios": [tone(), tone()], "paths": ["a.mp3", "a.wav"], "sample_rate": RATE}
    with pytest.raises(ValueError, match=message):
        AudioExporter().export_batch(**arguments | change)
    assert not names_in(tmp_path)


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_batch_of_formats_appears_whole_or_not_at_all(tmp_path, monkeypatch, number):
    fail_at(monkeypatch, "replace", number, OSError(errno.ENOSPC, "No space left on device"))
    paths = [tmp_path / f"take.{name}" for name in FORMATS]
    with pytest.raises(RuntimeError, match=r"Could not write .* file .*Free some space"):
        AudioExporter().export_batch([tone(0.2)] * len(paths), paths, RATE)
    assert not names_in(tmp_path)
