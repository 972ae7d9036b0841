"""Files of other programs are read to their true end, or refused with what helps."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import mutagen.flac
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from services.audio import UnreadableAudioError, decoder, decoding, open_audio
from services.audio.conversion import convert_file
from services.audio.lengths import check_length
from services.audio.plain_wav import find_plain_wav
from tests.audio.foreign_files import (
    FRAMES_OF_MP3,
    RATE,
    encode,
    encode_mp3,
    fmt,
    noise,
    pcm,
    tone,
    wav,
    write,
    write_soundfile,
)
from tests.conftest import LIMIT_SECONDS, wait_until

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
COMMAND = r"`scripts/setup formats` or `pip install 'dgx-music\[formats\]'` installs it"
LOUD_FIRST = np.concatenate([noise(1), tone(5, level=0.0001)], axis=1)
QUIET_FIRST = np.concatenate([tone(1, level=0), noise(3)], axis=1)

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")


@pytest.fixture(scope="module")
def decoder_without_ffmpeg(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[decoding._Decoder]:
    """A decoder as where the extra `formats` is not installed."""
    folder = tmp_path_factory.mktemp("hidden")
    (folder / "av.py").write_text("raise ModuleNotFoundError('No module named av')")
    found = decoding._Decoder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(ROOT)]))
        found._start_process()
    yield found
    found.end()


@pytest.fixture
def without_ffmpeg(
    decoder_without_ffmpeg: decoding._Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "_decoder", decoder_without_ffmpeg)


def count(path: Path) -> tuple[int, int]:
    """The samples that a file is said to have, and those that are read."""
    file = open_audio(path)
    return file.frames, file.read().shape[1]


@pytest.mark.parametrize("audio", [LOUD_FIRST, QUIET_FIRST], ids=["loud first", "quiet first"])
def test_a_variable_mp3_without_a_header_frame_is_read_to_its_end(tmp_path, audio):
    data, frames = encode_mp3(audio, xing=False)
    true = frames * FRAMES_OF_MP3
    claimed = soundfile.info(io.BytesIO(data)).frames
    assert abs(claimed - true) > RATE, "libsndfile takes its length for another"
    assert count(write(tmp_path / "a.mp3", data)) == (true, true)


JOINED = {"mp3": 6, "mp3 with tags": 6, "vorbis": 5, "flac": 6}
"""True seconds of the joined files."""


@pytest.fixture(scope="module")
def joined() -> dict[str, bytes]:
    """Files that were joined; a fixture, so that a failing encoder fails only their tests."""
    mp3, _ = encode_mp3(tone(3), xing=True)
    vorbis = write_soundfile(tone(3), format="OGG", subtype="VORBIS")
    other = write_soundfile(tone(2), format="OGG", subtype="VORBIS")
    flac = write_soundfile(tone(3), format="FLAC")
    tag = b"TAG" + bytes(125)
    return {
        "mp3": mp3 + mp3,
        "mp3 with tags": mp3 + tag + mp3,
        "vorbis": vorbis + other,
        "flac": flac + flac,
    }


@pytest.mark.parametrize("name", JOINED)
def test_joined_files_are_read_to_their_end(tmp_path, joined, name):
    said, read = count(write(tmp_path / "joined", joined[name]))
    assert said == read
    # Encoders add a little at both ends of each part.
    assert read / RATE == pytest.approx(JOINED[name], abs=0.1)


@pytest.mark.parametrize("name", JOINED)
@pytest.mark.usefixtures("without_ffmpeg")
def test_joined_files_are_refused_with_the_command_that_helps(tmp_path, joined, name):
    path = write(tmp_path / "joined", joined[name])
    with pytest.raises(UnreadableAudioError, match=f"libsndfile reads .*{COMMAND}"):
        open_audio(path)


@pytest.mark.usefixtures("without_ffmpeg")
def test_what_libsndfile_reads_needs_no_ffmpeg(tmp_path):
    data, frames = encode_mp3(QUIET_FIRST, xing=False)
    true = frames * FRAMES_OF_MP3
    assert count(write(tmp_path / "a.mp3", data)) == (true, true)
    data, _ = encode_mp3(LOUD_FIRST, xing=False)
    message = rf"has 6\.\d\d s of audio, of which libsndfile reads \d\.\d\d s\. FFmpeg .*{COMMAND}"
    with pytest.raises(UnreadableAudioError, match=message):
        open_audio(write(tmp_path / "a.mp3", data))


def test_a_flac_file_with_too_short_a_header_is_read_to_its_end(tmp_path):
    data = bytearray(write_soundfile(tone(5), format="FLAC"))
    lengths = int.from_bytes(data[18:26], "big")
    data[18:26] = (lengths >> 36 << 36 | RATE).to_bytes(8, "big")
    assert soundfile.info(io.BytesIO(data)).frames == RATE
    assert count(write(tmp_path / "a.flac", bytes(data))) == (5 * RATE, 5 * RATE)


def test_a_flac_file_from_a_pipe_is_read_exactly(tmp_path):
    audio = np.round(tone(2) * 32768) / np.float32(32768)
    data, _ = encode(audio, "flac", "flac", sample_format="s16", piped=True)
    file = open_audio(write(tmp_path / "a.flac", data))
    assert (file.frames, file.encoding, file.bit_depth) == (2 * RATE, "PCM_16", 16)
    assert np.array_equal(file.read(), audio)


def test_mp3_with_other_bytes_in_the_middle_is_read_to_its_end(tmp_path):
    data, _ = encode_mp3(tone(4), xing=True)
    half = len(data) // 2
    file = open_audio(write(tmp_path / "a.mp3", data[:half] + bytes(5000) + data[half:]))
    # The frame that was cut is lost, and with it up to two that lean on it.
    assert 4 * RATE - 3 * FRAMES_OF_MP3 <= file.read().shape[1] == file.frames <= 4 * RATE
    assert file.remarks == ("read without 1 packet that is damaged",)


def test_mp3_with_a_damaged_frame_is_read_beyond_it(tmp_path):
    data = bytearray(encode_mp3(tone(4), xing=True)[0])
    at = data.find(b"\xff\xfb", len(data) // 4)
    data[at : at + 300] = bytes(300)
    said, read = count(write(tmp_path / "a.mp3", bytes(data)))
    assert 4 * RATE - 6 * FRAMES_OF_MP3 <= read == said <= 4 * RATE


@pytest.mark.parametrize("kind", ["rate", "channels"])
def test_mp3_that_changes_midway_is_refused_with_the_reason(tmp_path, kind):
    first, _ = encode_mp3(tone(3), xing=False)
    second, _ = encode_mp3(
        tone(3, 1 if kind == "channels" else 2, 32_000 if kind == "rate" else RATE),
        xing=False, rate=32_000 if kind == "rate" else RATE,
    )  # fmt: skip
    with pytest.raises(UnreadableAudioError, match="sample rate or its channels change midway"):
        open_audio(write(tmp_path / "a.mp3", first + second)).read()


def test_an_ogg_file_that_goes_on_at_another_rate_is_refused(tmp_path):
    other = io.BytesIO()
    soundfile.write(other, tone(2, 1, 48_000).T, 48_000, format="OGG")
    data = write_soundfile(tone(2), format="OGG") + other.getvalue()
    with pytest.raises(UnreadableAudioError, match="it is read only in part"):
        open_audio(write(tmp_path / "a.ogg", data)).read()


@pytest.mark.parametrize(
    ("codec", "container", "sample_format", "named", "bits"),
    [
        ("aac", "mp4", "fltp", ("MP4", "AAC"), None),
        ("aac", "adts", "fltp", ("AAC", "AAC"), None),
        ("alac", "ipod", "s16p", ("MP4", "PCM_16"), 16),
        ("alac", "ipod", "s32p", ("MP4", "PCM_24"), 24),
        ("libopus", "webm", "flt", ("MATROSKA", "OPUS"), None),
        ("wavpack", "wv", "fltp", ("WV", "FLOAT"), 32),
    ],
)
def test_formats_of_ffmpeg_are_read(tmp_path, codec, container, sample_format, named, bits):
    rate = 48_000
    audio = tone(2, rate=rate)
    data, _ = encode(audio, codec, container, rate=rate, sample_format=sample_format)
    file = open_audio(write(tmp_path / "take", data))
    assert (file.container, file.encoding) == named
    assert (file.sample_rate, file.channels, file.bit_depth) == (rate, 2, bits)
    found = file.read()
    assert found.shape[1] == file.frames
    if bits is None:
        assert file.frames / rate == pytest.approx(2, abs=0.05)
        assert np.sqrt(np.mean(found**2)) == pytest.approx(np.sqrt(np.mean(audio**2)), rel=0.05)
    else:
        assert np.abs(found - audio).max() <= 2.0 ** (1 - bits)


@pytest.mark.usefixtures("without_ffmpeg")
def test_other_formats_are_refused_with_the_command_that_helps(tmp_path):
    data, _ = encode(tone(1), "aac", "mp4")
    with pytest.raises(UnreadableAudioError, match=rf"take\.m4a is not audio, .*{COMMAND}\.$"):
        open_audio(write(tmp_path / "take.m4a", data))


ODD_WAVS = {
    "no data size": wav(fmt(2), (b"data", pcm(tone(1)), 0)),
    "a short PEAK chunk": wav(fmt(2), (b"PEAK", b"\1\0\0\0", None), (b"data", pcm(tone(1)), None)),
    "an empty fact chunk": wav(fmt(2), (b"fact", b"", None), (b"data", pcm(tone(1)), None)),
    "an odd chunk without padding": wav(
        fmt(2), (b"junk", b"abc", None), (b"data", pcm(tone(1)), None), pad=False
    ),
    "an odd list without padding": wav(
        fmt(2), (b"LIST", b"INFOISFT\3\0\0\0abc", None), (b"data", pcm(tone(1)), None), pad=False
    ),
    "a short PEAK after an odd chunk": wav(
        fmt(2), (b"junk", b"abc", None), (b"PEAK", b"\1", None), (b"data", pcm(tone(1)), None)
    ),
}


@pytest.mark.parametrize("name", ODD_WAVS)
def test_odd_wav_files_are_read_exactly(tmp_path, name):
    file = open_audio(write(tmp_path / "odd.wav", ODD_WAVS[name]))
    assert np.array_equal(np.round(file.read() * 32768), np.round(tone(1) * 32767))
    assert (file.frames, file.encoding) == (RATE, "PCM_16")


@pytest.mark.parametrize("name", sorted(set(ODD_WAVS) - {"no data size"}))
@pytest.mark.usefixtures("without_ffmpeg")
def test_odd_chunks_need_no_ffmpeg(tmp_path, name):
    assert count(write(tmp_path / "odd.wav", ODD_WAVS[name])) == (RATE, RATE)


@given(
    st.lists(
        st.tuples(st.integers(-80, 120), st.sampled_from([0, 1, 2]), st.integers(0, 60)),
        max_size=20,
    )
)
def test_a_plain_wav_file_is_read_like_one_in_memory(steps):
    samples = bytes(range(50))
    odd = wav(fmt(1), (b"junk", b"abc", None), (b"data", samples, None), pad=False)
    plain = find_plain_wav(io.BytesIO(odd))
    whole = io.BytesIO(wav(fmt(1), (b"data", samples, None)))
    assert plain is not None
    for offset, whence, size in steps:
        start = {0: 0, 1: whole.tell(), 2: len(whole.getvalue())}[whence]
        by = max(offset, -start)
        assert plain.seek(by, whence) == whole.seek(by, whence)
        assert plain.read(size) == whole.read(size)
    plain.seek(0)
    assert plain.read() == whole.getvalue()


@pytest.mark.parametrize("content", [b"hello, world" * 50, bytes(4096)])
def test_the_reasons_of_both_libraries_are_given(tmp_path, content):
    path = write(tmp_path / "take.wav", content)
    with pytest.raises(UnreadableAudioError, match=r"is not audio, .*\(FFmpeg: Invalid data"):
        open_audio(path)


def test_a_list_of_files_opens_no_other_file(tmp_path):
    secret = write(tmp_path / "secret.aac", encode(tone(1), "aac", "adts")[0])
    assert open_audio(secret).frames > 0
    lines = ["#EXTM3U", "#EXT-X-TARGETDURATION:1", "#EXTINF:1,", str(secret), "#EXT-X-ENDLIST"]
    lists = {
        "list.m3u8": "\n".join(lines),
        "list.ffconcat": f"ffconcat version 1.0\nfile '{secret.name}'\n",
    }
    for name, text in lists.items():
        with pytest.raises(UnreadableAudioError, match=r"is not audio, .* \(FFmpeg: "):
            open_audio(write(tmp_path / name, text.encode()))


def test_names_that_are_no_text_are_read_by_ffmpeg_too(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xff.m4a"))
    assert open_audio(write(path, encode(tone(1), "aac", "mp4")[0])).container == "MP4"


def test_blocks_of_ffmpeg_have_the_size_that_was_asked_for(tmp_path):
    data, _ = encode(tone(1), "alac", "ipod", sample_format="s16p")
    file = open_audio(write(tmp_path / "a.m4a", data))
    sizes = [block.shape[1] for block in file.blocks(1000)]
    assert sizes == [1000] * 44 + [100]


def test_ffmpeg_is_loaded_once_and_only_when_a_file_needs_it(tmp_path):
    decoding._decoder.end()
    path = write(tmp_path / "a.wav", write_soundfile(tone(1), format="WAV"))
    open_audio(path)
    process = decoding._decoder._process
    assert process is not None
    libraries = Path(f"/proc/{process.pid}/maps")
    assert "libavformat" not in libraries.read_text(encoding="utf-8")
    open_audio(write(tmp_path / "a.m4a", encode(tone(1), "aac", "mp4")[0]))
    wait_until(lambda: "libavformat" in libraries.read_text(encoding="utf-8"))


def test_a_file_that_takes_long_to_count_is_said_to_be_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(decoder, "COUNTING_SECONDS", 0.0)
    path = write(tmp_path / "a.m4a", encode(tone(1), "aac", "mp4")[0])
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as out:
        # No limit: the timer would end the tests.
        decoder._decode(os.fsencode(path), 0, 0.0, math.inf, out, lambda: None)
    with os.fdopen(reading, "rb") as sent:
        sizes = iter(lambda: sent.read(decoder.SIZE.size), b"")
        objects = [json.loads(sent.read(-decoder.SIZE.unpack(size)[0])) for size in sizes]
    assert objects[:40] == [{}] * 40
    assert objects[-1]["frames"] == open_audio(path).frames


def test_a_file_that_is_too_long_is_not_decoded_to_its_end(tmp_path):
    path = write(tmp_path / "a.m4a", encode(tone(8), "alac", "ipod", sample_format="s16p")[0])
    assert open_audio(path).duration_seconds == 8.0
    assert 2.0 < open_audio(path, longest_seconds=2.0).duration_seconds < 3.0
    assert open_audio(path, longest_seconds=9.0).duration_seconds == 8.0


SURROUND = {
    "L R C": (3, ("WAV", None), "3.0"),
    "quad": (4, ("WAV", None), "quad"),
    "5.1": (6, ("WAV", None), "5.1"),
    "5.1 of FLAC": (6, ("FLAC", None), "5.1(side)"),
}
CENTRE = 2**-0.5


def mix_down(audio: np.ndarray) -> np.ndarray:
    """Mix to stereo as ITU-R BS.775-3, table 2, has it: without the low-frequency channel."""
    left, right = audio[0], audio[1]
    if len(audio) == 4:
        centre, surround = 0 * left, audio[2:4]
    elif len(audio) == 6:
        centre, surround = audio[2], audio[4:6]
    else:
        centre, surround = audio[2], 0 * audio[:2]
    return np.stack([left, right]) + CENTRE * (centre + surround)


def test_a_mix_to_stereo_has_levels_of_its_own(tmp_path):
    path = write(tmp_path / "a.flac", write_soundfile(tone(1, 6), format="FLAC"))
    tags = mutagen.flac.FLAC(path)
    tags.update({"REPLAYGAIN_ALBUM_GAIN": "-3.00 dB", "TITLE": "Roof"})
    tags.save()
    done = convert_file(path, tmp_path / "b.flac")
    assert done.left_out == ("REPLAYGAIN_ALBUM_GAIN, which is for the old file",)
    assert "replaygain_album_gain" not in mutagen.flac.FLAC(done.path)


@pytest.mark.parametrize("name", SURROUND)
def test_more_channels_are_mixed_down_and_said_to_be(tmp_path, name):
    channels, (container, subtype), layout = SURROUND[name]
    audio = tone(1, channels, level=0.9)
    path = write(tmp_path / "take", write_soundfile(audio, format=container, subtype=subtype))
    file = open_audio(path)
    assert np.abs(file.read() - mix_down(audio)).max() < 2.0**-13
    assert (file.channels, file.frames, file.bit_depth) == (2, RATE, None)
    (remark,) = file.remarks
    assert remark.startswith(f"mixed down from {layout} to stereo by ITU-R BS.775")
    assert ("without the low-frequency channel" in remark) == (channels == 6)


def test_channels_for_no_known_speakers_are_refused(tmp_path):
    path = write(tmp_path / "a.wav", write_soundfile(tone(1, 12), format="WAV"))
    with pytest.raises(UnreadableAudioError, match="has 12 channels, and does not say for which"):
        open_audio(path)


@pytest.mark.usefixtures("without_ffmpeg")
def test_more_channels_are_refused_with_the_command_that_helps(tmp_path):
    path = write(tmp_path / "a.wav", write_soundfile(tone(1, 6), format="WAV"))
    with pytest.raises(UnreadableAudioError, match=rf"has 6 channels\. FFmpeg .*{COMMAND}\.$"):
        open_audio(path)


KINDS = [("MP3", None), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24")]


@given(
    kind=st.sampled_from(KINDS),
    rate=st.sampled_from([8_000, 16_000, 24_000, 48_000]),
    channels=st.integers(1, 2),
    samples=st.integers(5_000, 60_000),
    level=st.sampled_from([0.0, 0.001, 0.5]),
    twice=st.booleans(),
)
def test_a_length_is_doubted_where_files_were_joined_and_nowhere_else(
    tmp_path_factory, kind, rate, channels, samples, level, twice
):
    audio = np.random.default_rng(samples).uniform(-level, level, (samples, channels))
    path = tmp_path_factory.getbasetemp() / "length"
    soundfile.write(path, audio, rate, format=kind[0], subtype=kind[1])
    if twice:
        path.write_bytes(path.read_bytes() * 2)
    with soundfile.SoundFile(path) as claims, path.open("rb") as file:
        found = check_length(file, claims.format, claims.subtype, claims.frames, rate)
    assert found.frames == samples
    assert (found.shortfall is not None) == twice


TAGS = (
    b"ID3\4\0\0\0\0\0\7" + bytes(7),
    b"APETAGEX" + struct.pack("<IIII", 2000, 32, 0, 1 << 29) + bytes(8),
    b"TAG" + bytes(125),
    b"fLaC\0\0\0\x22",
    b"OggS\0\2" + bytes(20) + b"\1\x09",
    b"\xff\xfb\xff\xff",
    b"\xff\xf8\xc9\x18\xff",
)


@given(
    name=st.sampled_from(sorted(JOINED)),
    edits=st.lists(
        st.tuples(st.floats(0, 1), st.one_of(st.sampled_from(TAGS), st.binary(max_size=8))),
        max_size=5,
    ),
    cut=st.floats(0.001, 1),
)
def test_the_length_of_any_damaged_file_is_doubted_or_believed(
    tmp_path_factory, joined, name, edits, cut
):
    data = bytearray(joined[name])
    for place, piece in edits:
        at = int(place * len(data))
        data[at : at + len(piece) // 2] = piece
    path = write(
        tmp_path_factory.getbasetemp() / "damaged", bytes(data[: int(cut * len(data)) + 1])
    )
    container, encoding = {"vorbis": ("OGG", "VORBIS"), "flac": ("FLAC", "PCM_16")}.get(
        name, ("MP3", "MPEG_LAYER_III")
    )
    with path.open("rb") as file:
        found = check_length(file, container, encoding, 3 * RATE, RATE)
    assert 0 <= found.frames <= 7 * RATE


def decode_with_ffmpeg(path: Path, rate: int) -> np.ndarray:
    command = [
        "ffmpeg",
        "-v",
        "quiet",
        "-i",
        path,
        "-f",
        "f32le",
        "-ac",
        "2",
        "-ar",
        str(rate),
        "-",
    ]
    done = subprocess.run(command, capture_output=True, check=True, timeout=LIMIT_SECONDS)
    return np.frombuffer(done.stdout, "<f4").reshape(-1, 2).T


JUDGED = {
    "loud first": lambda _: encode_mp3(LOUD_FIRST, xing=False)[0],
    "quiet first": lambda _: encode_mp3(QUIET_FIRST, xing=False)[0],
    "joined mp3": lambda joined: joined["mp3"],
    "joined vorbis": lambda joined: joined["vorbis"],
    "piped flac": lambda _: encode(tone(2), "flac", "flac", sample_format="s16", piped=True)[0],
    "aac": lambda _: encode(tone(2), "aac", "mp4")[0],
    "no data size": lambda _: ODD_WAVS["no data size"],
    "5.1": lambda _: write_soundfile(tone(1, 6), format="FLAC"),
}


@needs_ffmpeg
@pytest.mark.parametrize("name", JUDGED)
def test_the_program_ffmpeg_reads_as_much_and_the_same(tmp_path, joined, name):
    path = write(tmp_path / "take", JUDGED[name](joined))
    file = open_audio(path)
    ours, theirs = file.read(), decode_with_ffmpeg(path, file.sample_rate)
    assert ours.shape[1] / file.sample_rate == pytest.approx(
        theirs.shape[1] / file.sample_rate, abs=0.02
    )
    # Behind a splice, versions differ by the few milliseconds that they cut there.
    alike = min(RATE, ours.shape[1])
    assert np.abs(ours[:, :alike] - theirs[:, :alike]).max() < 2e-3
