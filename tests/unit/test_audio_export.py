import errno
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from services.audio import AudioExporter, measure_loudness, staging

RATE = 32_000


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def tone(seconds=2.0, channels=2, level=0.05):
    time = np.arange(round(seconds * RATE)) / RATE
    return np.tile((level * np.sin(2 * np.pi * 440 * time)).astype(np.float32), (channels, 1))


def read(path):
    """`[channels, samples]` by libsndfile."""
    frames, rate = soundfile.read(path, dtype="float32", always_2d=True)
    assert rate == RATE
    return np.ascontiguousarray(frames.T)


def fail_at(monkeypatch, name, number, error):
    """Let the n-th call of a method of Path fail, the others work."""
    original, calls = getattr(Path, name), []

    def counted(self, *args, **kwargs):
        calls.append(self)
        if len(calls) == number:
            raise error
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Path, name, counted)


def test_a_file_has_the_loudness_of_the_exporter(tmp_path):
    path, size = AudioExporter().export_wav(tone(), tmp_path / "take.wav")
    loudness = measure_loudness(read(path), RATE)
    assert loudness.integrated_lufs == pytest.approx(-16.0, abs=0.1)
    assert loudness.true_peak_dbtp <= -1.0
    assert size == path.stat().st_size == 44 + 2 * 2 * 2 * RATE


@pytest.mark.parametrize("target", [-30.0, -23.0, -14.0])
def test_target_and_ceiling_are_attributes_and_are_met(tmp_path, target):
    exporter = AudioExporter(target_lufs=target, true_peak_dbtp=-2.0)
    assert (exporter.target_lufs, exporter.true_peak_dbtp) == (target, -2.0)
    path, _ = exporter.export_wav(tone(), tmp_path / "take.wav")
    loudness = measure_loudness(read(path), RATE)
    assert loudness.integrated_lufs == pytest.approx(target, abs=0.1)
    assert loudness.true_peak_dbtp <= -2.0


def test_path_and_size_are_what_was_asked_for_and_what_is_there(tmp_path):
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


def test_without_normalising_the_samples_are_kept(tmp_path):
    rng = np.random.default_rng(0)
    words = rng.integers(-(2**15), 2**15, (2, 999)).astype(np.int16)
    path, _ = AudioExporter().export_wav(words, tmp_path / "take.wav", RATE, normalize=False)
    assert np.array_equal(soundfile.read(path, dtype="int16")[0].T, words)
    floats = (tone() * 40).astype(np.float32)
    path, _ = AudioExporter().export_wav(
        floats, tmp_path / "f.wav", RATE, normalize=False, bit_depth="FLOAT"
    )
    assert np.array_equal(read(path), floats)


def test_no_target_keeps_the_samples_too(tmp_path):
    words = np.arange(-500, 500, dtype=np.int16)
    path, _ = AudioExporter(target_lufs=None).export_wav(words, tmp_path / "take.wav")
    assert np.array_equal(soundfile.read(path, dtype="int16")[0], words)


def test_the_same_audio_gives_the_same_file(tmp_path):
    files = [AudioExporter().export_wav(tone(), tmp_path / f"{i}.wav")[0] for i in range(2)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_silence_is_delivered_as_silence(tmp_path):
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
def test_what_cannot_be_exported_is_a_value_error_and_no_file(tmp_path, message, normalize):
    arguments = {"audio_tensor": tone(), "output_path": tmp_path / "new" / "take.wav"}
    with pytest.raises(ValueError, match=message):
        AudioExporter().export_wav(**arguments | REFUSED[message], normalize=normalize)
    assert not names_in(tmp_path)


@pytest.mark.parametrize("levels", [{"target_lufs": 3.0}, {"true_peak_dbtp": 1.0}])
def test_levels_that_no_master_can_have_are_refused_at_once(levels):
    with pytest.raises(ValueError, match="must be from"):
        AudioExporter(**levels)


def test_a_disk_that_says_no_is_a_runtime_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RuntimeError, match="Could not write WAV file"):
        AudioExporter().export_wav(tone(), tmp_path / "file" / "take.wav")


def test_the_information_names_levels_and_formats():
    info = AudioExporter(-18.0).get_info()
    assert info["target_lufs"] == -18.0
    assert info["normalization_available"] is True
    assert info["supported_bit_depths"] == ["PCM_16", "PCM_24", "PCM_32", "FLOAT"]


def test_a_batch_writes_every_file_in_its_order(tmp_path):
    paths = [tmp_path / "b.wav", str(tmp_path / "a.wav"), tmp_path / "deep" / "c.wav"]
    tensors = [tone(0.5), tone(0.6, 1), tone(0.7)]
    results = AudioExporter().export_wav_batch(tensors, paths)
    assert [path for path, _ in results] == [Path(path) for path in paths]
    assert [size for _, size in results] == [Path(path).stat().st_size for path in paths]
    assert [soundfile.info(path).frames for path in paths] == [16_000, 19_200, 22_400]


def test_a_batch_file_is_the_file_of_a_single_export(tmp_path):
    exporter = AudioExporter()
    single, _ = exporter.export_wav(tone(), tmp_path / "single.wav")
    [(batch, _)] = exporter.export_wav_batch([tone()], [tmp_path / "batch.wav"])
    assert single.read_bytes() == batch.read_bytes()


def test_an_empty_batch_is_empty():
    assert AudioExporter().export_wav_batch([], []) == []


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_batch_of_different_lengths_is_refused(tmp_path, count):
    paths = [tmp_path / f"{i}.wav" for i in range(count)]
    with pytest.raises(ValueError, match="Length mismatch"):
        AudioExporter().export_wav_batch([tone(), tone()], paths)
    assert not names_in(tmp_path)


def test_a_path_that_comes_twice_is_refused(tmp_path):
    for second in (tmp_path / "a.wav", f"{tmp_path}/x/../a.wav"):
        with pytest.raises(ValueError, match="Duplicate output path"):
            AudioExporter().export_wav_batch([tone(), tone()], [tmp_path / "a.wav", second])
    assert not names_in(tmp_path)


@pytest.mark.parametrize("bad", [np.zeros((3, 9)), np.zeros((1, 1, 1)), np.full(4, np.inf)])
def test_a_batch_is_checked_before_its_first_file(tmp_path, bad):
    paths = [tmp_path / f"{i}.wav" for i in range(3)]
    with pytest.raises(ValueError, match=r"(?i)audio|channels"):
        AudioExporter().export_wav_batch([tone(), tone(), bad], paths)
    assert not names_in(tmp_path)


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("call", ["open", "replace"])
def test_a_batch_that_fails_leaves_none_of_its_files(tmp_path, monkeypatch, call, number):
    fail_at(monkeypatch, call, number, OSError(errno.ENOSPC, "No space left on device"))
    paths = [tmp_path / f"{i}.wav" for i in range(3)]
    with pytest.raises(RuntimeError, match=r"Could not write WAV file .*Free some space"):
        AudioExporter().export_wav_batch([tone(0.5)] * 3, paths)
    assert not names_in(tmp_path)


def test_a_batch_that_fails_while_writing_keeps_the_files_that_were_there(tmp_path, monkeypatch):
    paths = [tmp_path / f"{i}.wav" for i in range(3)]
    for path in paths:
        path.write_text("old")
    fail_at(monkeypatch, "open", 3, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(RuntimeError, match="Could not write WAV file"):
        AudioExporter().export_wav_batch([tone(0.5)] * 3, paths)
    assert [path.read_text() for path in paths] == ["old"] * 3


def test_an_interrupted_batch_leaves_none_of_its_files(tmp_path, monkeypatch):
    fail_at(monkeypatch, "replace", 2, KeyboardInterrupt())
    paths = [tmp_path / f"{i}.wav" for i in range(3)]
    with pytest.raises(KeyboardInterrupt):
        AudioExporter().export_wav_batch([tone(0.5)] * 3, paths)
    assert not names_in(tmp_path)


def test_a_folder_that_cannot_be_brought_to_the_disk_undoes_the_batch(tmp_path, monkeypatch):
    def fail(_folder):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(staging, "_sync_folder", fail)
    paths = [tmp_path / f"{i}.wav" for i in range(2)]
    with pytest.raises(RuntimeError, match="The disk reports a fault"):
        AudioExporter().export_wav_batch([tone(0.5)] * 2, paths)
    assert not names_in(tmp_path)


@settings(max_examples=100, deadline=None)
@given(
    signal=hnp.arrays(
        st.sampled_from(["<f2", "<f4", ">f8", "<i2", "<i4", "<i8"]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=60),
    ),
    normalize=st.booleans(),
    bit_depth=st.sampled_from(AudioExporter.SUPPORTED_BIT_DEPTHS),
)
def test_an_export_is_refused_or_reads_back_whole(tmp_path_factory, signal, normalize, bit_depth):
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
