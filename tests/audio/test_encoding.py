import errno
import io
import signal
import subprocess
import sys
import threading

import mutagen.ogg
import numpy as np
import pytest
import soundfile

from services.audio import AudioExporter, encoding, write_wav
from services.audio.encoding import (
    FORMATS,
    check_exact_rate,
    choose_bit_depth,
    choose_format,
    choose_sample_rate,
    encode,
)
from services.audio.sources import ArraySource

RATE = 48_000
ENCODED = ("flac", "mp3", "ogg", "opus")
LOSSY = ("mp3", "ogg", "opus")


def noise(frames=RATE, channels=2, level=0.1, seed=0):
    rng = np.random.default_rng(seed)
    return (level * rng.standard_normal((channels, frames))).astype(np.float32)


def chirp(frames, rate):
    """Rises from 100 to 3000 Hz in a second, so that any delay lowers the correlation."""
    time = np.arange(frames) / rate
    sweep = 2 * np.pi * (100 * time + 1450 * time**2)
    return (0.3 * np.sin(sweep)).astype(np.float32)


def encode_file(path, audio, rate=RATE, **options):
    encode(path, ArraySource(audio, rate), choose_format(path), **options)
    return path


def read(path, dtype="float32"):
    """`[channels, samples]` and the rate, read by libsndfile."""
    frames, rate = soundfile.read(path, dtype=dtype, always_2d=True)
    return frames.T, rate


def test_formats_have_their_suffix_and_media_type():
    assert {name: (one.suffix, one.media_type) for name, one in FORMATS.items()} == {
        "wav": (".wav", "audio/wav"),
        "flac": (".flac", "audio/flac"),
        "mp3": (".mp3", "audio/mpeg"),
        "ogg": (".ogg", "audio/ogg; codecs=vorbis"),
        "opus": (".opus", "audio/ogg; codecs=opus"),
    }
    assert [name for name, one in FORMATS.items() if one.is_lossy] == list(LOSSY)


@pytest.mark.parametrize("name", FORMATS)
def test_suffix_selects_the_format_in_any_case(name):
    assert choose_format(f"a.b/take.{name}").name == name
    assert choose_format(f"TAKE.{name.upper()}").name == name
    assert choose_format("take", name.upper()).name == name


@pytest.mark.parametrize(
    ("path", "name", "message"),
    [
        ("take.m4a", None, r"Unknown file type '\.m4a'.*\.wav, \.flac, \.mp3, \.ogg, \.opus"),
        ("take", None, "Unknown file type ''"),
        ("take.wav", "aac", "Unknown format 'aac'; expected one of wav, flac, mp3, ogg, opus"),
        ("take.wav", "mp3", r"suffix \.wav of take\.wav does not match the format MP3; use \.mp3"),
    ],
)
def test_unknown_and_contradictory_formats_are_refused(path, name, message):
    with pytest.raises(ValueError, match=message):
        choose_format(path, name)


def test_bit_depth_must_belong_to_the_format():
    assert {name: choose_bit_depth(one) for name, one in FORMATS.items()} == {
        "wav": "PCM_16",
        "flac": "PCM_16",
        "mp3": None,
        "ogg": None,
        "opus": None,
    }
    assert choose_bit_depth(FORMATS["flac"], "PCM_24") == "PCM_24"
    with pytest.raises(ValueError, match=r"'FLOAT' for FLAC; expected one of PCM_16, PCM_24"):
        choose_bit_depth(FORMATS["flac"], "FLOAT")
    with pytest.raises(ValueError, match="MP3 has no bit depth; leave out PCM_24"):
        choose_bit_depth(FORMATS["mp3"], "PCM_24")


@pytest.mark.parametrize(
    ("name", "rate", "expected"),
    [
        ("opus", 8_000, 8_000),
        ("opus", 11_025, 12_000),
        ("opus", 32_000, 48_000),
        ("opus", 44_100, 48_000),
        ("opus", 192_000, 48_000),
        ("mp3", 44_100, 44_100),
        ("mp3", 30_000, 32_000),
        ("mp3", 96_000, 48_000),
        ("ogg", 192_000, 192_000),
        ("flac", 96_000, 96_000),
        ("wav", 44_101, 44_101),
    ],
)
def test_missing_rate_becomes_the_next_higher_one(name, rate, expected):
    assert choose_sample_rate(FORMATS[name], rate) == expected


def test_unsupported_rates_are_refused():
    with pytest.raises(ValueError, match="FLAC does not support 100003 Hz"):
        choose_sample_rate(FORMATS["flac"], 100_003)
    with pytest.raises(
        ValueError, match="Opus does not support 44100 Hz; expected one of 8000, 12000"
    ):
        check_exact_rate(FORMATS["opus"], 44_100)
    with pytest.raises(ValueError, match="Unsupported sample rate 4000 Hz"):
        check_exact_rate(FORMATS["wav"], 4_000)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "wav"])
def test_every_listed_rate_can_be_written(tmp_path, name):
    for rate in FORMATS[name].sample_rates or (8_000, 44_100, 96_000, 192_000):
        audio, found = read(encode_file(tmp_path / f"take.{name}", noise(rate // 5, 1), rate))
        assert (audio.shape, found) == ((1, rate // 5), rate)


@pytest.mark.parametrize("rate", [32_000, 44_100, 48_000])
@pytest.mark.parametrize("name", ENCODED)
def test_decoded_audio_has_the_same_length_and_no_delay(tmp_path, name, rate):
    frames = rate + 123
    source = chirp(frames, rate)
    exported = AudioExporter(target_lufs=None).export(source, tmp_path / f"take.{name}", rate)
    (audio,), found = read(exported.file.path)
    assert found == exported.sample_rate == (48_000 if name == "opus" else rate)
    expected = chirp(audio.size, found) if found != rate else source
    assert audio.size == exported.file.frames == (2 * frames * found + rate) // (2 * rate)
    product = np.fft.rfft(audio, 4 * audio.size) * np.conj(np.fft.rfft(expected, 4 * audio.size))
    assert np.argmax(np.fft.irfft(product)) == 0
    assert np.corrcoef(audio, expected)[0, 1] > 0.999


@pytest.mark.parametrize("dither", [True, False])
@pytest.mark.parametrize("bit_depth", ["PCM_16", "PCM_24"])
@pytest.mark.parametrize("channels", [1, 2])
def test_flac_and_wav_have_the_same_samples(tmp_path, bit_depth, dither, channels):
    audio = noise(70_001, channels, level=0.5)
    audio[:, :100] = 0.0
    flac = encode_file(tmp_path / "take.flac", audio, bit_depth=bit_depth, dither=dither)
    wav = write_wav(tmp_path / "take.wav", audio, RATE, bit_depth, dither=dither).path
    assert soundfile.info(flac).subtype == bit_depth
    np.testing.assert_array_equal(read(flac, "int32")[0], read(wav, "int32")[0])


@pytest.mark.parametrize("name", ENCODED)
def test_the_same_samples_give_the_same_bytes(tmp_path, name):
    files = [encode_file(tmp_path / f"{i}.{name}", noise()).read_bytes() for i in range(2)]
    assert files[0] == files[1]


@pytest.mark.parametrize("name", ["ogg", "opus"])
def test_ogg_serial_number_depends_on_the_samples(tmp_path, name):
    serials = []
    for seed in range(2):
        data = encode_file(tmp_path / f"{seed}.{name}", noise(seed=seed)).read_bytes()
        file, pages = io.BytesIO(data), []
        while file.tell() < len(data):
            pages.append(mutagen.ogg.OggPage(file))
        serials.append({page.serial for page in pages})
        # libogg drops pages with a wrong checksum.
        assert [page.sequence for page in pages] == list(range(len(pages)))
        assert b"".join(page.write() for page in pages) == data
    assert len(serials[0]) == len(serials[1]) == 1
    assert serials[0] != serials[1]


@pytest.mark.parametrize("name", LOSSY)
def test_lossy_files_keep_levels_above_full_scale(tmp_path, name):
    audio = (1.5 * np.sin(np.arange(RATE) * 0.05)).astype(np.float32)[None]
    found, _ = read(encode_file(tmp_path / f"take.{name}", audio))
    assert np.abs(found).max() == pytest.approx(1.5, abs=0.05)


def test_vorbis_accepts_a_block_of_a_minute(tmp_path):
    """In its own process, since a failure is a crash of the interpreter."""
    script = """
import sys, numpy as np
from pathlib import Path
from services.audio.encoding import FORMATS, encode

class OneBlock:
    sample_rate, channels = 48_000, 1
    def blocks(self):
        yield np.zeros((1, 70 * 48_000), np.float32)

print(encode(Path(sys.argv[1]), OneBlock(), FORMATS["ogg"]))
"""
    command = [sys.executable, "-c", script, str(tmp_path / "take.ogg")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{70 * RATE}\n"), done.stderr
    assert soundfile.info(tmp_path / "take.ogg").frames == 70 * RATE


@pytest.mark.parametrize("name", ENCODED)
def test_encoding_returns_the_number_of_frames(tmp_path, name):
    source = ArraySource(noise(12_345), RATE)
    assert encode(tmp_path / "take", source, FORMATS[name]) == 12_345


@pytest.mark.parametrize("name", ["flac", "mp3", "opus"])  # libvorbis decides by block
def test_samples_do_not_depend_on_the_block_size(tmp_path, name):
    audio = noise(2 * RATE + 77)

    class OneBlock(ArraySource):
        def blocks(self):
            yield audio

    for file, source in (("one", OneBlock(audio, RATE)), ("many", ArraySource(audio, RATE))):
        encode(tmp_path / file, source, FORMATS[name])
    assert np.array_equal(read(tmp_path / "one")[0], read(tmp_path / "many")[0])


class FullDisk(io.BytesIO):
    def __init__(self, limit):
        super().__init__()
        self.limit = limit

    def write(self, data):
        if self.tell() + len(data) > self.limit:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


@pytest.mark.parametrize("limit", [0, 100, 20_000])
@pytest.mark.parametrize("name", ENCODED)
def test_full_disk_is_reported_by_its_own_error(name, limit):
    sink = encoding._Sink(FullDisk(limit))
    audio_format = FORMATS[name]
    depth = choose_bit_depth(audio_format)

    def write():
        with encoding._open_encoder(sink, ArraySource(noise(), RATE), audio_format, depth) as out:
            for _ in range(3):
                with sink.raise_failures():
                    out.write(noise().T)

    with pytest.raises(OSError, match="No space left") as caught:
        write()
    assert caught.value.errno == errno.ENOSPC


class Unseekable(io.BytesIO):
    def seek(self, *_args):
        raise OSError(errno.ESPIPE, "Illegal seek")


def test_failed_seek_is_reported():
    sink = encoding._Sink(Unseekable())
    assert sink.seek(0, 0) == -1
    with pytest.raises(OSError, match="Illegal seek"), sink.raise_failures():
        pass


def test_failure_of_the_encoder_itself_is_an_io_error():
    def fail():
        with encoding._Sink(io.BytesIO()).raise_failures():
            raise soundfile.LibsndfileError(1)

    with pytest.raises(OSError, match="the encoder failed") as caught:
        fail()
    assert caught.value.errno == errno.EIO


@pytest.fixture
def received():
    """Signals that arrived, in order."""
    numbers = []
    old = signal.signal(signal.SIGTERM, lambda number, _frame: numbers.append(number))
    yield numbers
    signal.signal(signal.SIGTERM, old)


def test_signals_are_delivered_after_the_block(received):
    handler = signal.getsignal(signal.SIGTERM)
    with encoding._defer_signals():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert received == []
    assert received == [signal.SIGTERM] * 2
    assert signal.getsignal(signal.SIGTERM) is handler


def test_signals_are_delivered_after_an_error(received):
    def fail():
        with encoding._defer_signals():
            signal.raise_signal(signal.SIGTERM)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert received == [signal.SIGTERM]


def test_other_threads_leave_the_handlers_alone(received):
    handlers = []

    def look_up():
        with encoding._defer_signals():
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look_up)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGTERM)]
