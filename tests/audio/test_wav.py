import errno
import hashlib
import itertools
import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from services.audio import SUPPORTED_BIT_DEPTHS, write_wav
from services.audio import wav as wav_module
from services.audio.facts import TakeFacts
from services.audio.reading import UnreadableAudioError
from services.audio.wav import atomic_wav, atomic_wav_stream
from services.audio.wav_chunks import build_chunks
from services.audio.wav_facts import read_wav_facts

RATE = 48_000
STEPS = {"PCM_16": 2**15, "PCM_24": 2**23, "PCM_32": 2**31}


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def noise(samples=1000, channels=2, level=0.3):
    rng = np.random.default_rng(samples)
    return (rng.standard_normal((channels, samples)) * level).clip(-0.99, 0.99).astype(np.float32)


def read(path):
    """`[channels, samples]` float64, read by libsndfile."""
    frames, _ = soundfile.read(path, dtype="float64", always_2d=True)
    return frames.T


def make_fail(monkeypatch, name, error):
    """Make a function of `os` fail."""

    def fail(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(wav_module.os, name, fail)


@pytest.mark.parametrize("bit_depth", SUPPORTED_BIT_DEPTHS)
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("samples", [1, 3, 65_537])
def test_libsndfile_reads_the_written_samples(tmp_path, bit_depth, channels, samples):
    audio = noise(samples, channels)
    written = write_wav(tmp_path / "take.wav", audio, RATE, bit_depth, dither=False)
    info = soundfile.info(written.path)
    assert (info.format, info.subtype) == ("WAV", bit_depth)
    assert (info.frames, info.channels, info.samplerate) == (samples, channels, RATE)
    error = np.abs(read(written.path) - audio).max()
    assert error <= (0.5 / STEPS[bit_depth] if bit_depth in STEPS else 0.0)


def test_the_result_describes_the_file(tmp_path):
    path = tmp_path / "take.wav"
    written = write_wav(path, noise(), 32_000)
    data = path.read_bytes()
    assert written.path == path
    assert written.bytes == len(data) == 44 + 4000
    assert written.sha256 == hashlib.sha256(data).hexdigest()
    assert written.frames == 1000


@pytest.mark.parametrize("bit_depth", SUPPORTED_BIT_DEPTHS)
def test_the_same_samples_give_the_same_bytes(tmp_path, bit_depth):
    digests = {write_wav(tmp_path / f"{i}.wav", noise(), RATE, bit_depth).sha256 for i in range(3)}
    assert len(digests) == 1


def test_chunks_are_even_and_the_riff_size_covers_the_file(tmp_path):
    written = write_wav(tmp_path / "odd.wav", noise(3, 1), RATE, "PCM_24")
    data = written.path.read_bytes()
    assert written.bytes == len(data) == 44 + 9 + 1
    assert struct.unpack_from("<4sI", data) == (b"RIFF", len(data) - 8)
    assert struct.unpack_from("<4sI", data, 36) == (b"data", 9)


def test_pcm_clips_at_full_scale(tmp_path):
    audio = np.array([[2.0, 1.0, -1.0, -2.0, 9e4, -9e4]], np.float32)
    for bit_depth, steps in STEPS.items():
        written = write_wav(tmp_path / f"{bit_depth}.wav", audio, RATE, bit_depth, dither=False)
        top = (steps - 1) / steps
        assert read(written.path)[0] == pytest.approx([top, top, -1, -1, top, -1], abs=1e-12)


def test_float_keeps_levels_above_full_scale(tmp_path):
    audio = np.array([[2.0, -3.5, 1e-20]], np.float32)
    assert np.array_equal(read(write_wav(tmp_path / "a.wav", audio, RATE, "FLOAT").path), audio)


def test_sixteen_bit_samples_are_exact(tmp_path):
    words = np.arange(-(2**15), 2**15, dtype=np.int16)
    written = write_wav(tmp_path / "all.wav", words, RATE, dither=False)
    assert np.array_equal(soundfile.read(written.path, dtype="int16")[0], words)


def test_dither_makes_the_rounding_error_independent_of_the_signal(tmp_path):
    time = np.arange(4 * RATE) / RATE
    quiet = (0.4 / 2**15 * np.sin(2 * np.pi * 1000 * time)).astype(np.float32)
    plain = read(write_wav(tmp_path / "plain.wav", quiet, RATE, dither=False).path)[0]
    dithered = read(write_wav(tmp_path / "dithered.wav", quiet, RATE).path)[0]
    assert not plain.any()
    amplitude = 2 * np.mean(dithered * np.sin(2 * np.pi * 1000 * time))
    assert amplitude * 2**15 == pytest.approx(0.4, abs=0.02)
    error = (dithered - quiet) * 2**15
    # Rounding 1/12 and two uniform dithers of 1/12 each: a quarter of a step squared.
    assert error.var() == pytest.approx(0.25, rel=0.03)
    assert np.abs(error).max() <= 1.5


def test_channels_have_independent_dither(tmp_path):
    audio = np.full((2, 5000), 0.1, np.float32)
    left, right = read(write_wav(tmp_path / "a.wav", audio, RATE).path) - audio
    assert abs(np.corrcoef(left, right)[0, 1]) < 0.1


def test_silence_is_not_dithered(tmp_path):
    assert not read(write_wav(tmp_path / "a.wav", np.zeros((2, 500)), RATE).path).any()


def test_24_bit_is_dithered_as_well(tmp_path):
    time = np.arange(4 * RATE) / RATE
    quiet = (0.4 / 2**23 * np.sin(2 * np.pi * 1000 * time)).astype(np.float32)
    loud = quiet + np.float32(0.5)
    plain = read(write_wav(tmp_path / "plain.wav", quiet, RATE, "PCM_24", dither=False).path)[0]
    dithered = read(write_wav(tmp_path / "dithered.wav", quiet, RATE, "PCM_24").path)[0]
    assert not plain.any()
    assert ((dithered - quiet) * 2**23).var() == pytest.approx(0.25, rel=0.03)
    # The noise is complete even next to a large sample, where float32 is too coarse.
    near_full_scale = read(write_wav(tmp_path / "loud.wav", loud, RATE, "PCM_24").path)[0]
    assert ((near_full_scale - loud) * 2**23).var() == pytest.approx(0.25, rel=0.03)


@pytest.mark.parametrize("bit_depth", ["PCM_32", "FLOAT"])
def test_32_bit_samples_are_not_dithered(tmp_path, bit_depth):
    one = write_wav(tmp_path / "a.wav", noise(), RATE, bit_depth, dither=True)
    other = write_wav(tmp_path / "b.wav", noise(), RATE, bit_depth, dither=False)
    assert one.sha256 == other.sha256


def test_dither_starts_with_the_first_sound(tmp_path):
    sound = noise(3000)
    late = np.concatenate([np.zeros((2, 70_001), np.float32), sound], axis=1)
    plain = read(write_wav(tmp_path / "plain.wav", sound, RATE).path)
    delayed = read(write_wav(tmp_path / "late.wav", late, RATE).path)
    assert not delayed[:, :70_001].any()
    assert np.array_equal(delayed[:, 70_001:], plain)


def test_folders_are_created(tmp_path):
    written = write_wav(str(tmp_path / "a" / "b" / "take.wav"), noise(), RATE)
    assert written.path == tmp_path / "a" / "b" / "take.wav"
    assert written.path.is_file()


def test_an_existing_file_is_replaced(tmp_path):
    path = tmp_path / "take.wav"
    path.write_text("old")
    write_wav(path, noise(), RATE)
    assert soundfile.info(path).frames == 1000
    assert names_in(tmp_path) == ["take.wav"]


def test_a_link_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "elsewhere").write_text("precious")
    (tmp_path / "take.wav").symlink_to("elsewhere")
    write_wav(tmp_path / "take.wav", noise(), RATE)
    assert (tmp_path / "elsewhere").read_text() == "precious"
    assert not (tmp_path / "take.wav").is_symlink()


def test_file_has_default_permissions(tmp_path):
    (tmp_path / "plain").touch()
    written = write_wav(tmp_path / "take.wav", noise(), RATE)
    assert written.path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_longest_file_name_can_be_written(tmp_path):
    path = tmp_path / ("n" * 251 + ".wav")
    assert write_wav(path, noise(), RATE).path.is_file()


@pytest.mark.parametrize("bit_depth", ["PCM_8", "pcm_16", "", "24"])
def test_unknown_bit_depths_are_refused(tmp_path, bit_depth):
    with pytest.raises(ValueError, match="Unsupported bit depth"):
        write_wav(tmp_path / "take.wav", noise(), RATE, bit_depth)
    assert not names_in(tmp_path)


def test_invalid_audio_creates_neither_file_nor_folder(tmp_path):
    for audio in (np.zeros((3, 9)), np.zeros(0), np.full(5, np.nan)):
        with pytest.raises(ValueError, match=r"(?i)audio|channels"):
            write_wav(tmp_path / "new" / "take.wav", audio, RATE)
    assert not names_in(tmp_path)


def layout(frames, channels=2, bit_depth="PCM_16", chunks=b""):
    wav_format = wav_module._make_format(channels, frames, RATE, bit_depth)
    return wav_module._plan_layout(wav_format, chunks)


@pytest.mark.parametrize(
    ("frames", "chunks", "kind"),
    [
        (2**30 - 10, b"", b"RIFF"),  # the largest RIFF file: 36 bytes of header and the samples
        (2**30 - 9, b"", b"RF64"),
        (2**30 - 10, b"note\0\0\0\0", b"RF64"),
        (2**33, b"", b"RF64"),
    ],
)
def test_sizes_beyond_32_bits_give_an_rf64_file(frames, chunks, kind):
    planned = layout(frames, chunks=chunks)
    assert planned.head[:4] == kind
    assert planned.file_bytes == len(planned.head) + 4 * frames + len(planned.tail)
    riff, wave = struct.unpack_from("<I4s", planned.head, 4)
    name, data = struct.unpack_from("<4sI", planned.head, len(planned.head) - 8)
    assert (wave, name) == (b"WAVE", b"data")
    if kind == b"RIFF":
        assert (riff, data) == (planned.file_bytes - 8, 4 * frames)
        return
    assert (riff, data) == (0xFFFFFFFF, 0xFFFFFFFF)
    ds64 = struct.unpack_from("<4sIQQQI", planned.head, 12)
    assert ds64 == (b"ds64", 28, planned.file_bytes - 8, 4 * frames, frames, 0)


@pytest.mark.parametrize("bit_depth", ["PCM_16", "PCM_24", "FLOAT"])
def test_libsndfile_reads_every_frame_of_an_rf64_file(tmp_path, bit_depth):
    frames = 2**32 // 4 + 12_345
    facts = TakeFacts(prompt="long", seed=7, bpm=120.0, bars=3, is_loop=True)
    wav_format = wav_module._make_format(2, frames, RATE, bit_depth)
    planned = wav_module._plan_layout(wav_format, build_chunks(facts, wav_format, dithered=False))
    path = tmp_path / "long.wav"
    with path.open("wb") as file:  # a sparse file
        file.write(planned.head)
        file.seek(planned.file_bytes - len(planned.tail))
        file.write(planned.tail)
    assert path.stat().st_size == planned.file_bytes
    info = soundfile.info(path)
    assert (info.format, info.subtype, info.frames) == ("RF64", bit_depth, frames)
    with soundfile.SoundFile(path) as file:
        assert file.title == "long"
        file.seek(frames - 10)
        assert file.read(100).shape == (10, 2)
    assert read_wav_facts(path) == facts


def cut(audio, *lengths):
    """Blocks of these lengths, repeated."""
    start = 0
    for length in itertools.cycle(lengths):
        if start >= audio.shape[1]:
            return
        yield audio[:, start : start + length]
        start += length


def stream(path, blocks, channels=2, frames=1000, **options):
    with atomic_wav_stream(path, blocks, channels, frames, RATE, **options) as file:
        file.publish()
    return file.written_file


@pytest.mark.parametrize("bit_depth", SUPPORTED_BIT_DEPTHS)
@pytest.mark.parametrize("channels", [1, 2])
def test_file_does_not_depend_on_the_block_lengths(tmp_path, bit_depth, channels):
    audio = noise(70_001, channels)
    audio[:, :333] = 0
    facts = TakeFacts(prompt="blocks", bpm=100.0)
    whole = write_wav(tmp_path / "whole.wav", audio, RATE, bit_depth, facts=facts)
    for lengths in [(70_001,), (1024,), (1, 333, 7), (65_537, 0, 3)]:
        blocks = cut(audio, *lengths)
        options = {"bit_depth": bit_depth, "facts": facts}
        streamed = stream(tmp_path / "cut.wav", blocks, channels, 70_001, **options)
        assert (streamed.sha256, streamed.frames) == (whole.sha256, whole.frames)
        assert streamed.path.read_bytes() == whole.path.read_bytes()


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([noise(999)], "999 of the expected 1000 frames"),
        ([], "0 of the expected 1000 frames"),
        ([noise(600), noise(401)], "more than the expected 1000 frames"),
        ([noise(600), noise(400, 1)], "A block has 1 channels"),
        ([noise(600), np.full((2, 400), np.nan, np.float32)], "NaN"),
    ],
)
def test_unexpected_blocks_leave_no_file(tmp_path, blocks, message):
    with pytest.raises(ValueError, match=message):
        stream(tmp_path / "take.wav", blocks)
    assert not names_in(tmp_path)


def test_failing_source_leaves_no_file(tmp_path):
    def broken():
        yield noise(500)
        raise UnreadableAudioError("broken.mp3 cannot be decoded")

    with pytest.raises(UnreadableAudioError, match="broken"):
        stream(tmp_path / "take.wav", broken())
    assert not names_in(tmp_path)


@pytest.mark.parametrize(("channels", "frames"), [(0, 10), (3, 10), (2, 0), (1, -1)])
def test_a_stream_needs_channels_and_frames(tmp_path, channels, frames):
    with pytest.raises(ValueError, match="A WAV file"):
        stream(tmp_path / "take.wav", [], channels, frames)
    assert not names_in(tmp_path)


def test_the_memory_of_a_stream_does_not_grow_with_the_file(tmp_path):
    def peak(count):
        tracemalloc.start()
        stream(tmp_path / "take.wav", itertools.repeat(block, count), 2, count * 10_000)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    block = noise(10_000)
    assert peak(100) < peak(3) + 200_000


ERRORS = [
    (errno.ENOSPC, "Free some space"),
    (errno.EDQUOT, "disk quota"),
    (errno.EFBIG, "file-size limit"),
    (errno.EIO, "check the disk"),
    (errno.EROFS, "folder you can write to"),
    (errno.EBUSY, "another folder"),
]


@pytest.mark.parametrize(("code", "advice"), ERRORS)
@pytest.mark.parametrize("call", ["fsync", "fstat"])
def test_disk_errors_are_explained_and_leave_nothing(tmp_path, monkeypatch, call, code, advice):
    (tmp_path / "take.wav").write_text("old")
    make_fail(monkeypatch, call, OSError(code, os.strerror(code)))
    with pytest.raises(RuntimeError, match=f"Could not write WAV file .*{advice}") as caught:
        write_wav(tmp_path / "take.wav", noise(), RATE)
    monkeypatch.undo()
    assert os.strerror(code) in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)
    assert names_in(tmp_path) == ["take.wav"]
    assert (tmp_path / "take.wav").read_text() == "old"


def test_short_file_is_not_published(tmp_path, monkeypatch):
    monkeypatch.setattr(wav_module.os, "fstat", lambda _fd: os.stat_result(range(10)))
    with pytest.raises(
        RuntimeError, match=r"Could not write WAV file .*only 6 of 4044 bytes were written"
    ):
        write_wav(tmp_path / "take.wav", noise(), RATE)
    monkeypatch.undo()
    assert not names_in(tmp_path)


def test_interrupt_leaves_nothing(tmp_path, monkeypatch):
    make_fail(monkeypatch, "fsync", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        write_wav(tmp_path / "take.wav", noise(), RATE)
    monkeypatch.undo()
    assert not names_in(tmp_path)


def test_file_in_place_of_a_folder_is_explained(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RuntimeError, match="part of the path is a file"):
        write_wav(tmp_path / "file" / "take.wav", noise(), RATE)


def test_folder_in_place_of_the_file_is_explained(tmp_path):
    (tmp_path / "take.wav").mkdir()
    with pytest.raises(RuntimeError, match="the path is a folder"):
        write_wav(tmp_path / "take.wav", noise(), RATE)
    assert names_in(tmp_path) == ["take.wav"]


def test_long_name_is_explained(tmp_path):
    with pytest.raises(RuntimeError, match="shorter file name"):
        write_wav(tmp_path / ("n" * 300), noise(), RATE)
    assert not names_in(tmp_path)


def test_file_is_synced_before_and_folders_after_the_rename(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, Path.replace

    def record_fsync(descriptor):
        name = Path(f"/proc/self/fd/{descriptor}").readlink()
        events.append("file" if name.suffix == ".part" else name)
        fsync(descriptor)

    def record_replace(self, target):
        events.append("rename")
        return replace(self, target)

    monkeypatch.setattr(wav_module.os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "replace", record_replace)
    write_wav(tmp_path / "a" / "b" / "take.wav", noise(), RATE)
    assert events[:3] == ["file", "rename", tmp_path / "a" / "b"]
    assert set(events[3:]) == {tmp_path / "a", tmp_path}


def test_unpublished_file_is_deleted(tmp_path):
    with atomic_wav(tmp_path / "take.wav", noise(), RATE) as file:
        assert len(names_in(tmp_path)) == 1
        assert not (tmp_path / "take.wav").exists()
        file.withdraw()
    assert not names_in(tmp_path)


def test_published_file_can_be_withdrawn(tmp_path):
    with atomic_wav(tmp_path / "take.wav", noise(), RATE) as file:
        file.publish()
        assert names_in(tmp_path) == ["take.wav"]
        file.withdraw()
    assert not names_in(tmp_path)


@given(
    audio=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 2), st.integers(1, 40)),
        elements=st.floats(-2, 2, width=32),
    ),
    bit_depth=st.sampled_from(list(STEPS)),
    dither=st.booleans(),
)
def test_every_sample_is_within_the_rounding_error(tmp_path_factory, audio, bit_depth, dither):
    path = tmp_path_factory.mktemp("wav") / "take.wav"
    write_wav(path, audio, 8_000, bit_depth, dither=dither)
    steps = STEPS[bit_depth]
    kept = audio.astype(np.float64).clip(-1, (steps - 1) / steps)
    allowed = 1.5 if dither and bit_depth != "PCM_32" else 0.5
    assert np.abs(read(path) - kept).max() <= allowed / steps + 1e-12


def test_folder_without_sync_support_is_accepted(tmp_path, monkeypatch):
    fsync = os.fsync

    def only_files(descriptor):
        if Path(f"/proc/self/fd/{descriptor}").readlink() == tmp_path:
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(wav_module.os, "fsync", only_files)
    assert write_wav(tmp_path / "take.wav", noise(), RATE).path.is_file()


def test_unreadable_folder_is_accepted(tmp_path, monkeypatch):
    make_fail(monkeypatch, "open", PermissionError(errno.EACCES, "Permission denied"))
    written = write_wav(tmp_path / "take.wav", noise(), RATE)
    monkeypatch.undo()
    assert written.path.is_file()


def test_disk_error_on_the_folder_fails(tmp_path, monkeypatch):
    fsync = os.fsync

    def only_files(descriptor):
        if Path(f"/proc/self/fd/{descriptor}").readlink() == tmp_path:
            raise OSError(errno.EIO, "Input/output error")
        fsync(descriptor)

    monkeypatch.setattr(wav_module.os, "fsync", only_files)
    with pytest.raises(RuntimeError, match="The disk reports an error"):
        write_wav(tmp_path / "take.wav", noise(), RATE)
