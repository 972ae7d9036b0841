from __future__ import annotations

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.audio.reading import UnreadableAudioError
from services.errors import InvalidRequestError
from services.generation.musicgen.conditioning import references
from services.generation.musicgen.conditioning.references import read_for_continuation, read_melody
from tests.audio.foreign_files import encode_mp3

RATE, FRAME = 32_000, 640


def tone(seconds: float, rate: int, channels: int = 1, frequency: float = 440.0) -> np.ndarray:
    """Return `[samples, channels]`; the second channel is the inverse of the first."""
    time = np.arange(round(seconds * rate)) / rate
    wave = 0.5 * np.sin(2 * np.pi * frequency * time)
    return np.stack([wave * sign for sign in (1, -1)[:channels]], axis=1)


def pitch(audio: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(audio[0] * np.hanning(audio.shape[1])))
    return float(spectrum.argmax() * RATE / audio.shape[1])


@pytest.mark.parametrize(
    ("name", "rate"), [("a.wav", 44_100), ("a.flac", 48_000), ("a.mp3", 44_100), ("a.ogg", 22_050)]
)
def test_files_of_every_format_are_resampled_to_the_model(tmp_path, name, rate):
    path = tmp_path / name
    soundfile.write(path, tone(4.0, rate), rate)
    audio = read_melody(path, RATE)
    assert audio.dtype == np.float32
    assert audio.shape[0] == 1
    assert audio.shape[1] == pytest.approx(4.0 * RATE, abs=0.06 * RATE)
    assert pitch(audio) == pytest.approx(440.0, abs=0.5)


def test_a_melody_is_the_first_half_minute_in_mono(tmp_path):
    path = tmp_path / "long.wav"
    soundfile.write(path, np.concatenate([tone(30, 8_000), tone(20, 8_000, 1, 880.0)]), 8_000)
    audio = read_melody(path, RATE)
    assert audio.shape == (1, 30 * RATE)
    assert pitch(audio[:, -RATE:]) == pytest.approx(440.0, abs=2)


def test_a_continuation_uses_the_last_twelve_seconds(tmp_path):
    path = tmp_path / "long.wav"
    soundfile.write(path, np.concatenate([tone(30, 8_000), tone(12, 8_000, 1, 880.0)]), 8_000)
    audio = read_for_continuation(path, RATE, 1, FRAME)
    assert audio.shape == (1, 12 * RATE)
    assert pitch(audio[:, :RATE]) == pytest.approx(880.0, abs=2)


def test_a_continuation_goes_on_from_the_true_end_of_an_mp3_file(tmp_path):
    path = tmp_path / "joined.mp3"
    rate = 44_100
    for seconds, frequency in ((6, 880.0), (13, 440.0)):
        wave = tone(seconds, rate, 1, frequency).T.astype(np.float32)
        with path.open("ab") as file:
            file.write(encode_mp3(wave, xing=False)[0])
    audio = read_for_continuation(path, RATE, 1, FRAME)
    assert audio.shape == (1, 12 * RATE)
    assert pitch(audio) == pytest.approx(440.0, abs=2)


def test_the_used_samples_are_those_of_the_file(tmp_path):
    ending = tone(12.0, RATE)
    soundfile.write(tmp_path / "whole.wav", np.concatenate([tone(40, RATE), ending]), RATE)
    audio = read_for_continuation(tmp_path / "whole.wav", RATE, 1, FRAME)
    np.testing.assert_allclose(audio[0], ending[:, 0], atol=1e-4)


def test_the_used_part_starts_without_a_click_of_the_resampler(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.full(14 * 44_100, 0.5), 44_100, subtype="FLOAT")
    audio = read_for_continuation(path, RATE, 1, FRAME)
    np.testing.assert_allclose(audio[0, :RATE], 0.5, atol=1e-4)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(samples=st.integers(RATE, 3 * RATE))
def test_a_continuation_has_whole_frames_and_ends_with_the_file(tmp_path, samples):
    path = tmp_path / "a.wav"
    wave = np.linspace(-0.5, 0.5, samples)
    soundfile.write(path, wave, RATE, subtype="FLOAT")
    audio = read_for_continuation(path, RATE, 1, FRAME)
    assert audio.shape[1] == samples // FRAME * FRAME
    assert audio[0, -1] == np.float32(wave[-1])


def test_channels_are_duplicated_or_mixed_for_the_model(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(2.0, RATE), RATE)
    both = read_for_continuation(path, RATE, 2, FRAME)
    assert both.shape[0] == 2
    np.testing.assert_array_equal(both[0], both[1])
    left = tone(2.0, RATE, 2)
    left[:, 1] = 0
    soundfile.write(path, left, RATE, subtype="FLOAT")
    mixed = read_for_continuation(path, RATE, 1, FRAME)
    np.testing.assert_allclose(mixed[0], left[:, 0] / 2, atol=1e-6)
    kept = read_for_continuation(path, RATE, 2, FRAME)
    assert not kept[1].any()
    assert kept[0].any()


def test_stereo_that_cancels_out_in_mono_is_refused(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(2.0, RATE, 2), RATE, subtype="FLOAT")
    with pytest.raises(InvalidRequestError, match="silent"):
        read_melody(path, RATE)


@pytest.mark.parametrize(
    "read", [read_melody, lambda path, rate: read_for_continuation(path, rate, 2, FRAME)]
)
class TestRefusals:
    def test_a_missing_file(self, tmp_path, read):
        with pytest.raises(
            InvalidRequestError, match=r"No such file.*: The file (of the melody|to cont)"
        ):
            read(tmp_path / "none.wav", RATE)

    @pytest.mark.parametrize("content", [b"", b"These are words. " * 500, b"RIFF\x10\0\0\0WAVE"])
    def test_a_file_that_is_not_audio(self, tmp_path, read, content):
        path = tmp_path / "words.wav"
        path.write_bytes(content)
        with pytest.raises(
            InvalidRequestError, match=r"The file (of the melody|to continue).*\. Use a"
        ):
            read(path, RATE)

    def test_a_path_that_is_a_folder(self, tmp_path, read):
        with pytest.raises(InvalidRequestError, match="not a file"):
            read(tmp_path, RATE)

    @pytest.mark.parametrize("level", [0.0, 3e-5])
    def test_a_silent_file(self, tmp_path, read, level):
        path = tmp_path / "a.wav"
        soundfile.write(path, tone(2.0, RATE) * 2 * level, RATE, subtype="FLOAT")
        with pytest.raises(InvalidRequestError, match="silent"):
            read(path, RATE)

    def test_a_file_shorter_than_a_second(self, tmp_path, read):
        path = tmp_path / "a.wav"
        soundfile.write(path, tone(0.9, RATE), RATE)
        with pytest.raises(InvalidRequestError, match=r"0\.90 s"):
            read(path, RATE)

    def test_a_file_longer_than_ten_minutes(self, tmp_path, read):
        path = tmp_path / "a.flac"
        soundfile.write(path, np.zeros(3600 * 8_000, np.int16), 8_000)
        with pytest.raises(InvalidRequestError, match="60 minutes"):
            read(path, RATE)

    def test_ten_minutes_are_accepted(self, tmp_path, read):
        path = tmp_path / "a.wav"
        soundfile.write(path, np.full(600 * 8_000, 8_000, np.int16), 8_000)
        assert read(path, RATE).size

    def test_a_file_with_nan(self, tmp_path, read):
        path = tmp_path / "a.wav"
        soundfile.write(path, np.full(2 * RATE, np.nan), RATE, subtype="FLOAT")
        with pytest.raises(InvalidRequestError, match="NaN"):
            read(path, RATE)


class Endless:
    """A file whose header says two seconds, and whose blocks do not end."""

    duration_seconds, sample_rate = 2.0, RATE

    def __init__(self, path):
        self.path = path

    def blocks(self):
        while True:
            yield np.full((1, 10 * RATE), 0.5, np.float32)


def test_a_file_longer_than_its_header_says_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(references, "open_audio", lambda path, **_limits: Endless(path))
    with pytest.raises(InvalidRequestError, match="continue lasts more than 10 minutes"):
        read_for_continuation(tmp_path / "a.wav", RATE, 1, FRAME)
    assert read_melody(tmp_path / "a.wav", RATE).shape == (1, 30 * RATE)


class Broken(Endless):
    """A file that cannot be read to its end."""

    def blocks(self):
        yield np.full((1, RATE), 0.5, np.float32)
        raise UnreadableAudioError(f"{self.path} ends too early.")


def test_a_damaged_file_is_reported_without_its_path(tmp_path, monkeypatch):
    monkeypatch.setattr(references, "open_audio", lambda path, **_limits: Broken(path))
    with pytest.raises(InvalidRequestError, match=r"^The file of the melody ends too early\.$"):
        read_melody(tmp_path / "a.wav", RATE)


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rate=st.sampled_from([8_000, 22_050, 44_100, 48_000]), frame=st.integers(1, 2_000))
def test_any_rate_gives_whole_frames_of_the_model(tmp_path, rate, frame):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(1.5, rate), rate)
    audio = read_for_continuation(path, RATE, 1, frame)
    assert audio.shape[1] % frame == 0
    assert 1.5 * RATE - frame - 2 <= audio.shape[1] <= 1.5 * RATE + 2
