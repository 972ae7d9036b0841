import io
import itertools
import os
from contextlib import suppress

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.audio.reading import UnreadableAudioError, open_audio

RATE = 8_000


def noise(samples=2_000, channels=2):
    return np.random.default_rng(0).uniform(-0.5, 0.5, (channels, samples)).astype(np.float32)


def write(path, audio, rate=RATE, **kind):
    soundfile.write(path, audio.T, rate, **kind)
    return path


def encode_bytes(container, encoding, rate=RATE):
    out = io.BytesIO()
    soundfile.write(out, noise().T, rate, format=container, subtype=encoding)
    return out.getvalue()


FORMATS = [
    ("WAV", "PCM_16"),
    ("WAV", "FLOAT"),
    ("RF64", "PCM_24"),
    ("FLAC", "PCM_16"),
    ("AIFF", "PCM_16"),
    ("MP3", "MPEG_LAYER_III"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
]
BYTES = {kind: encode_bytes(*kind) for kind in FORMATS}


@pytest.mark.parametrize("kind", FORMATS, ids="-".join)
def test_header_and_samples_of_each_format_are_read(tmp_path, kind):
    path = tmp_path / "take.bin"
    path.write_bytes(BYTES[kind])
    file = open_audio(path)
    assert (file.container, file.encoding) == kind
    assert (file.sample_rate, file.channels, file.frames) == (RATE, 2, 2_000)
    assert file.duration_seconds == pytest.approx(0.25)
    assert file.bytes == len(BYTES[kind])
    assert file.read().shape == (2, 2_000)


def test_lossless_samples_come_back_exactly(tmp_path):
    audio = noise()
    file = open_audio(write(tmp_path / "take.wav", audio, subtype="FLOAT"))
    assert np.array_equal(file.read(), audio)
    assert file.read().dtype == np.float32


@pytest.mark.parametrize("frames", [1, 7, 1_999, 2_000, 5_000])
def test_joined_blocks_are_the_whole_file(tmp_path, frames):
    file = open_audio(write(tmp_path / "take.wav", noise(), subtype="FLOAT"))
    for _ in range(2):
        blocks = list(file.blocks(frames))
        assert all(block.shape == (2, frames) for block in blocks[:-1])
        assert np.array_equal(np.concatenate(blocks, axis=1), noise())


@pytest.mark.parametrize(
    ("encoding", "bits"), [("PCM_16", 16), ("PCM_24", 24), ("FLOAT", 32), ("PCM_U8", 8)]
)
def test_the_bit_depth_is_that_of_the_samples(tmp_path, encoding, bits):
    assert open_audio(write(tmp_path / "a.wav", noise(), subtype=encoding)).bit_depth == bits


def test_lossy_file_has_no_bit_depth(tmp_path):
    assert open_audio(write(tmp_path / "a.ogg", noise())).bit_depth is None


def test_missing_file_is_reported(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No such file: .*gone\.wav"):
        open_audio(tmp_path / "gone.wav")


@pytest.mark.parametrize("content", [b"", b"R", b"RIFF", b"hello, world" * 50, bytes(4096)])
def test_other_file_is_refused_with_its_name(tmp_path, content):
    path = tmp_path / "take.wav"
    path.write_bytes(content)
    with pytest.raises(UnreadableAudioError, match=r"take\.wav"):
        open_audio(path)


def test_folder_is_refused(tmp_path):
    with pytest.raises(UnreadableAudioError, match="not a file"):
        open_audio(tmp_path)


def test_pipe_is_refused_without_blocking(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(UnreadableAudioError, match="not a file"):
        open_audio(tmp_path / "pipe.wav")


@pytest.mark.parametrize("rate", [4_000, 384_000])
def test_rate_out_of_range_is_refused(tmp_path, rate):
    with pytest.raises(UnreadableAudioError, match=f"{rate} Hz"):
        open_audio(write(tmp_path / "take.wav", noise(), rate))


def test_a_file_without_samples_is_refused(tmp_path):
    with pytest.raises(UnreadableAudioError, match="no samples"):
        open_audio(write(tmp_path / "take.wav", noise(samples=0)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_invalid_samples_are_refused(tmp_path, bad):
    audio = noise()
    audio[1, 1_500] = bad
    file = open_audio(write(tmp_path / "take.wav", audio, subtype="FLOAT"))
    with pytest.raises(UnreadableAudioError, match="NaN or infinite"):
        file.read()


def test_truncated_file_is_read_up_to_its_end(tmp_path):
    path = tmp_path / "take.wav"
    whole = BYTES["WAV", "PCM_16"]
    path.write_bytes(whole[: len(whole) // 2])
    audio = open_audio(path).read()
    assert 900 < audio.shape[1] < 1_000


def test_file_that_is_emptied_after_opening_is_refused(tmp_path):
    file = open_audio(write(tmp_path / "take.wav", noise()))
    write(tmp_path / "take.wav", noise(samples=0))
    with pytest.raises(UnreadableAudioError, match=r"take\.wav has no samples"):
        file.read()


def test_file_that_is_deleted_after_opening_is_refused(tmp_path):
    file = open_audio(write(tmp_path / "take.wav", noise()))
    (tmp_path / "take.wav").unlink()
    with pytest.raises(
        UnreadableAudioError, match=r"take\.wav cannot be read: No such file or directory"
    ):
        file.read()


def test_file_can_be_closed_before_its_end(tmp_path):
    blocks = open_audio(write(tmp_path / "take.wav", noise())).blocks(100)
    assert next(blocks).shape == (2, 100)
    blocks.close()
    assert list(blocks) == []


def test_name_that_is_too_long_is_refused(tmp_path):
    with pytest.raises(UnreadableAudioError, match=r"cannot be read: .*too long"):
        open_audio(tmp_path / ("x" * 300))


def read_or_refuse(data, tmp_path):
    """Read finite samples, or get the one error."""
    path = tmp_path / "hostile"
    path.write_bytes(data)
    with suppress(UnreadableAudioError):
        file = open_audio(path)
        for block in itertools.islice(file.blocks(), 100):
            assert block.shape[0] == file.channels
            assert np.isfinite(block).all()


@st.composite
def damaged(draw):
    data = bytearray(BYTES[draw(st.sampled_from(FORMATS))])
    reach = draw(st.sampled_from([64, 512, len(data)]))
    for _ in range(draw(st.integers(1, 8))):
        at = draw(st.integers(0, min(reach, len(data)) - 1))
        data[at] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


FUZZ = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


@settings(**FUZZ)
@given(data=damaged())
def test_damaged_files_are_read_or_refused(tmp_path, data):
    read_or_refuse(data, tmp_path)


@pytest.mark.nightly
@settings(max_examples=2_000, **FUZZ)
@given(data=damaged())
def test_two_thousand_damaged_files_are_read_or_refused(tmp_path, data):
    read_or_refuse(data, tmp_path)
