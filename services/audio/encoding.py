"""The file formats besides plain samples: FLAC, MP3, Ogg Vorbis and Opus, written by libsndfile.

Samples arrive in blocks and leave in blocks of a second at most: memory does not grow with the
length, and libvorbis, which takes its working memory from the stack, breaks on a minute at once.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from services.audio.arrays import HIGHEST_RATE_HZ, LOWEST_RATE_HZ
from services.audio.wav import BITS, Dither, quantised

if TYPE_CHECKING:
    from types import FrameType

    import soundfile  # type: ignore[import-untyped]  # ships neither stubs nor py.typed
    from numpy.typing import NDArray

    from services.audio.arrays import Audio
    from services.audio.sources import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioFormat:
    """A kind of file that can be written."""

    name: str
    label: str
    """For messages: "MP3"."""
    suffix: str
    media_type: str
    container: str
    """libsndfile's short name."""
    bit_depths: tuple[str, ...] = ()
    """The first is the usual one; empty where the samples are not kept exactly."""
    sample_rates: tuple[int, ...] = ()
    """Hz, rising; empty where any rate from 8 to 192 kHz can be written."""
    encoder: str = ""
    """libsndfile's name of the encoding, where it does not follow from the bit depth."""
    compression: float = 0.0
    """libsndfile's scale: 0 is the best quality, or for FLAC the fastest; 1 the smallest file."""

    @property
    def lossy(self) -> bool:
        """Whether what is decoded differs from what was encoded."""
        return not self.bit_depths


# The lossy settings are transparent ones. Over five takes of the composer at -9 LUFS (48 kHz
# stereo), decoded peaks rose above the ceiling by at most 0.3 dB with MP3 at 320 kb/s (0.4 dB with
# its best variable rate, which saves a fifth), 0.4 dB with Vorbis quality 7 (180 to 230 kb/s) and
# 0.8 dB with Opus at 190 kb/s (0.9 dB at 165 kb/s).
_FORMATS = (
    AudioFormat(
        name="wav",
        label="WAV",
        suffix=".wav",
        media_type="audio/wav",
        container="WAV",
        bit_depths=("PCM_16", "PCM_24", "PCM_32", "FLOAT"),
    ),
    AudioFormat(
        name="flac",
        label="FLAC",
        suffix=".flac",
        media_type="audio/flac",
        container="FLAC",
        bit_depths=("PCM_16", "PCM_24"),
        compression=0.625,  # libFLAC's own level 5: smaller takes three times as long for 3 %
    ),
    AudioFormat(
        name="mp3",
        label="MP3",
        suffix=".mp3",
        media_type="audio/mpeg",
        container="MP3",
        sample_rates=(8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000),
        encoder="MPEG_LAYER_III",
        compression=0.0,
    ),
    AudioFormat(
        name="ogg",
        label="Ogg Vorbis",
        suffix=".ogg",
        media_type="audio/ogg; codecs=vorbis",
        container="OGG",
        encoder="VORBIS",
        compression=0.3,
    ),
    AudioFormat(
        name="opus",
        label="Opus",
        suffix=".opus",
        media_type="audio/ogg; codecs=opus",
        container="OGG",
        sample_rates=(8_000, 12_000, 16_000, 24_000, 48_000),
        encoder="OPUS",
        compression=0.65,
    ),
)

FORMATS: dict[str, AudioFormat] = {one.name: one for one in _FORMATS}
"""By name: wav, flac, mp3, ogg (Vorbis), opus."""

_BY_SUFFIX = {one.suffix: one for one in _FORMATS}
_HIGHEST_ODD_FLAC_RATE = 65_535


def format_for(path: str | os.PathLike[str], audio_format: str | None = None) -> AudioFormat:
    """The format of a file to be: the one named, otherwise the one its suffix stands for.

    Raises:
        ValueError: there is no such format or suffix, or the suffix stands for another format.
    """
    suffix = Path(path).suffix.lower()
    by_suffix = _BY_SUFFIX.get(suffix)
    if audio_format is None:
        if by_suffix is None:
            raise ValueError(
                f"Unknown file type {suffix!r} of {os.fspath(path)}; expected one of "
                f"{', '.join(_BY_SUFFIX)}, or name the format."
            )
        return by_suffix
    named = FORMATS.get(audio_format.lower())
    if named is None:
        raise ValueError(f"Unknown format {audio_format!r}; expected one of {', '.join(FORMATS)}.")
    if by_suffix not in {None, named}:
        raise ValueError(
            f"{os.fspath(path)} is to be {named.label}, but {suffix} stands for another format; "
            f"name it {named.suffix}."
        )
    return named


def depth_for(audio_format: AudioFormat, bit_depth: str | None = None) -> str | None:
    """The bit depth to write: the one asked for, otherwise 16 bit; None for lossy formats.

    Raises:
        ValueError: the format does not have it.
    """
    if audio_format.lossy:
        if bit_depth is not None:
            raise ValueError(
                f"{audio_format.label} has no bit depth; leave {bit_depth} out, or write "
                "WAV or FLAC."
            )
        return None
    if bit_depth is None:
        return audio_format.bit_depths[0]
    if bit_depth not in audio_format.bit_depths:
        raise ValueError(
            f"Unsupported bit depth {bit_depth!r} for {audio_format.label}; expected one of "
            f"{', '.join(audio_format.bit_depths)}."
        )
    return bit_depth


def rate_for(audio_format: AudioFormat, sample_rate: int) -> int:
    """The rate in Hz at which audio of `sample_rate` is written: the next higher one there is.

    Opus has 8, 12, 16, 24 and 48 kHz; MP3 has nine rates up to 48 kHz; what is above goes down to
    48 kHz. The others take the rate as it is.

    Raises:
        ValueError: a FLAC file cannot have the rate.
    """
    if audio_format.name == "flac" and sample_rate > _HIGHEST_ODD_FLAC_RATE and sample_rate % 10:
        raise ValueError(
            f"FLAC cannot carry {sample_rate} Hz: above {_HIGHEST_ODD_FLAC_RATE} Hz it takes "
            "multiples of 10."
        )
    rates = audio_format.sample_rates
    if not rates:
        return sample_rate
    return next((rate for rate in rates if rate >= sample_rate), rates[-1])


def check_exact_rate(audio_format: AudioFormat, sample_rate: int) -> None:
    """Refuse a rate that the format does not have.

    Raises:
        ValueError: it does not; the message names those it has.
    """
    if not LOWEST_RATE_HZ <= sample_rate <= HIGHEST_RATE_HZ:
        raise ValueError(
            f"Unsupported sample rate {sample_rate} Hz; "
            f"expected {LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ} Hz."
        )
    if rate_for(audio_format, sample_rate) != sample_rate:
        known = ", ".join(map(str, audio_format.sample_rates))
        raise ValueError(
            f"{audio_format.label} cannot carry {sample_rate} Hz; expected one of {known}."
        )


def encode(
    path: Path,
    source: Source,
    audio_format: AudioFormat,
    *,
    bit_depth: str | None = None,
    dither: bool = True,
) -> int:
    """Write a file that is not WAV, without tags; return its samples per channel.

    The same samples give the same bytes.

    Args:
        path: a name of its own, replaced if it exists (a temporary one, see `staged_file`).
        source: at a rate the format has.
        audio_format: FLAC, MP3, Vorbis or Opus.
        bit_depth: of FLAC, see `depth_for`.
        dither: for FLAC, as `write_wav` has it.

    Raises:
        ValueError: a bit depth that the format does not have.
        OSError: the disk says no.
    """
    depth = depth_for(audio_format, bit_depth)
    with path.open("w+b") as file:
        sink = _Sink(file)
        frames = checksum = 0
        with _libsndfile(sink, source, audio_format, depth) as encoder:
            for block in _prepared(source, depth, dither=dither):
                with sink.reasons():
                    encoder.write(block)
                frames += len(block)
                checksum = zlib.crc32(block.data, checksum)
        if audio_format.container == "OGG":
            _set_serial(file, checksum)
        file.flush()
    return frames


def _prepared(
    source: Source, bit_depth: str | None, *, dither: bool
) -> Iterator[NDArray[np.float32] | NDArray[np.int32]]:
    """What libsndfile gets, `[some, channels]`: float for the lossy, whole steps for the others."""
    blocks = _at_most_a_second(source)
    if bit_depth is None:
        for block in blocks:
            yield np.ascontiguousarray(block.T)
        return
    noise = Dither() if dither else None
    for block in blocks:
        steps = quantised(block.T, BITS[bit_depth], noise)
        yield _upper_bits(steps, BITS[bit_depth]).reshape(-1, source.channels)


def _upper_bits(steps: bytes, bits: int) -> NDArray[np.int32]:
    """Samples of 16 or 24 bit, as they stand in a WAV file, in the upper bits of 32."""
    width = bits // 8
    words = np.zeros((len(steps) // width, 4), np.uint8)
    words[:, 4 - width :] = np.frombuffer(steps, np.uint8).reshape(-1, width)
    return words.view("<i4").astype(np.int32, copy=False)


def _at_most_a_second(source: Source) -> Iterator[Audio]:
    for block in source.blocks():
        for start in range(0, block.shape[1], source.sample_rate):
            yield block[:, start : start + source.sample_rate]


class _Sink:
    """A file as libsndfile sees it, which remembers why a call failed.

    libsndfile hears only that bytes are missing, and its MP3 and Ogg encoders do not even look.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._failure: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self._failure = error
            return 0

    def seek(self, offset: int, whence: int) -> int:
        try:
            return self._file.seek(offset, whence)
        except OSError as error:
            self._failure = error
            return -1

    def read(self, size: int) -> bytes:
        return self._file.read(size)

    def tell(self) -> int:
        return self._file.tell()

    @contextmanager
    def reasons(self) -> Iterator[None]:
        """A block in which a failure of the file or the encoder becomes an OSError."""
        import soundfile

        try:
            with _signals_after():
                yield
        except (soundfile.LibsndfileError, AssertionError) as error:
            raise self._failure or OSError(errno.EIO, f"the encoder failed ({error})") from error
        if self._failure is not None:
            raise self._failure


@contextmanager
def _signals_after() -> Iterator[None]:
    """A block whose signals are heard at its end.

    What a handler raises in a callback of C code is printed and lost, Ctrl-C included.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    handlers = {
        number: signal.signal(number, note)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if callable(signal.getsignal(number))
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for heard in came:
            signal.raise_signal(heard)


@contextmanager
def _libsndfile(
    sink: _Sink, source: Source, audio_format: AudioFormat, bit_depth: str | None
) -> Iterator[soundfile.SoundFile]:
    import soundfile

    with sink.reasons():
        encoder = soundfile.SoundFile(
            sink,
            "w",
            source.sample_rate,
            source.channels,
            subtype=bit_depth or audio_format.encoder,
            format=audio_format.container,
            compression_level=audio_format.compression,
            bitrate_mode="CONSTANT" if audio_format.name == "mp3" else None,
        )
    try:
        yield encoder
    finally:
        with sink.reasons():
            encoder.close()


def _set_serial(file: BinaryIO, serial: int) -> None:
    """Number the stream after its samples, where libsndfile draws a number.

    The number only has to differ between streams that are put into one file (RFC 3533, section 4),
    and it stands on every page, under the checksum of the page.
    """
    from mutagen import ogg

    read_page: Any = ogg.OggPage  # mutagen has no annotations
    file.seek(0)
    while True:
        try:
            page = read_page(file)
        except EOFError:
            return
        page.serial = serial
        file.seek(page.offset)
        file.write(page.write())
