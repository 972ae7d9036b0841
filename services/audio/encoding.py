"""The file formats, and the encoders for FLAC, MP3, Ogg Vorbis and Opus (libsndfile).

Samples are encoded in blocks of at most a second. Memory does not grow with the length, and
libvorbis, which allocates its working memory on the stack, crashes on a block of a minute.
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
from services.audio.wav import BITS, Dither, quantise

if TYPE_CHECKING:
    from types import FrameType

    import soundfile  # type: ignore[import-untyped]  # ships neither stubs nor py.typed
    from numpy.typing import NDArray

    from services.audio.arrays import Audio
    from services.audio.sources import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioFormat:
    name: str
    label: str
    """For messages, as "MP3"."""
    suffix: str
    media_type: str
    container: str
    """libsndfile's short name."""
    bit_depths: tuple[str, ...] = ()
    """The first is the default; empty for a lossy format."""
    sample_rates: tuple[int, ...] = ()
    """Hz, ascending; empty for any rate from 8 to 192 kHz."""
    encoder: str = ""
    """libsndfile's name of the encoding, for formats without a bit depth."""
    compression: float = 0.0
    """libsndfile's scale: 0 is the best quality (FLAC: the fastest), 1 the smallest file."""

    @property
    def is_lossy(self) -> bool:
        return not self.bit_depths


# The lossy settings are transparent. With five takes of the composer at -9 LUFS (48 kHz stereo),
# decoded peaks exceeded the ceiling by at most 0.3 dB for MP3 at 320 kb/s (0.4 dB for its best
# variable rate, which saves a fifth), 0.4 dB for Vorbis quality 7 (180 to 230 kb/s) and 0.8 dB for
# Opus at 190 kb/s (0.9 dB at 165 kb/s).
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
        compression=0.625,  # libFLAC's level 5; the highest saves 3 % and takes three times as long
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
"""Formats by name: wav, flac, mp3, ogg (Vorbis) and opus."""

_BY_SUFFIX = {one.suffix: one for one in _FORMATS}
_HIGHEST_ODD_FLAC_RATE = 65_535


def choose_format(path: str | os.PathLike[str], audio_format: str | None = None) -> AudioFormat:
    """Return the format called `audio_format`, or else the format of the suffix.

    Raises:
        ValueError: the format or the suffix is unknown, or they contradict each other.
    """
    suffix = Path(path).suffix.lower()
    by_suffix = _BY_SUFFIX.get(suffix)
    if audio_format is None:
        if by_suffix is None:
            raise ValueError(
                f"Unknown file type {suffix!r} of {os.fspath(path)}; expected one of "
                f"{', '.join(_BY_SUFFIX)}."
            )
        return by_suffix
    named = FORMATS.get(audio_format.lower())
    if named is None:
        raise ValueError(f"Unknown format {audio_format!r}; expected one of {', '.join(FORMATS)}.")
    if by_suffix not in {None, named}:
        raise ValueError(
            f"The suffix {suffix} of {os.fspath(path)} does not match the format {named.label}; "
            f"use {named.suffix}."
        )
    return named


def choose_bit_depth(audio_format: AudioFormat, bit_depth: str | None = None) -> str | None:
    """Return the requested bit depth or the default of the format; None for lossy formats.

    Raises:
        ValueError: the format does not have the bit depth.
    """
    if audio_format.is_lossy:
        if bit_depth is not None:
            raise ValueError(
                f"{audio_format.label} has no bit depth; leave out {bit_depth}, or choose "
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


def choose_sample_rate(audio_format: AudioFormat, sample_rate: int) -> int:
    """Return the rate in Hz at which the format stores audio of `sample_rate`.

    That is the same rate, or the next higher one the format has. Opus and MP3 end at 48 kHz, to
    which higher rates go down.

    Raises:
        ValueError: FLAC does not have the rate.
    """
    if audio_format.name == "flac" and sample_rate > _HIGHEST_ODD_FLAC_RATE and sample_rate % 10:
        raise ValueError(
            f"FLAC does not support {sample_rate} Hz: above {_HIGHEST_ODD_FLAC_RATE} Hz, choose a "
            "multiple of 10."
        )
    rates = audio_format.sample_rates
    if not rates:
        return sample_rate
    return next((rate for rate in rates if rate >= sample_rate), rates[-1])


def check_exact_rate(audio_format: AudioFormat, sample_rate: int) -> None:
    """Raise ValueError if the format does not have the rate; the message lists the rates."""
    if not LOWEST_RATE_HZ <= sample_rate <= HIGHEST_RATE_HZ:
        raise ValueError(
            f"Unsupported sample rate {sample_rate} Hz; "
            f"expected {LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ} Hz."
        )
    if choose_sample_rate(audio_format, sample_rate) != sample_rate:
        known = ", ".join(map(str, audio_format.sample_rates))
        raise ValueError(
            f"{audio_format.label} does not support {sample_rate} Hz; expected one of {known}."
        )


def encode(
    path: Path,
    source: Source,
    audio_format: AudioFormat,
    *,
    bit_depth: str | None = None,
    dither: bool = True,
) -> int:
    """Write a FLAC, MP3, Vorbis or Opus file without tags; return its samples per channel.

    The same samples give the same bytes.

    Args:
        path: the file; an existing file is overwritten.
        source: audio at a rate the format has.
        audio_format: any but WAV.
        bit_depth: for FLAC, see `choose_bit_depth`.
        dither: for FLAC, see `write_wav`.

    Raises:
        ValueError: the format does not have the bit depth.
        OSError: the file cannot be written.
    """
    depth = choose_bit_depth(audio_format, bit_depth)
    with path.open("w+b") as file:
        sink = _Sink(file)
        frames = checksum = 0
        with _open_encoder(sink, source, audio_format, depth) as encoder:
            for block in _prepare(source, depth, dither=dither):
                with sink.raise_failures():
                    encoder.write(block)
                frames += len(block)
                checksum = zlib.crc32(block.data, checksum)
        if audio_format.container == "OGG":
            _set_serial(file, checksum)
        file.flush()
    return frames


def _prepare(
    source: Source, bit_depth: str | None, *, dither: bool
) -> Iterator[NDArray[np.float32] | NDArray[np.int32]]:
    """Yield the blocks for libsndfile, `[frames, channels]`: float for lossy, else int32."""
    blocks = _split_into_seconds(source)
    if bit_depth is None:
        for block in blocks:
            yield np.ascontiguousarray(block.T)
        return
    noise = Dither() if dither else None
    for block in blocks:
        steps = quantise(block.T, BITS[bit_depth], noise)
        yield _upper_bits(steps, BITS[bit_depth]).reshape(-1, source.channels)


def _upper_bits(steps: bytes, bits: int) -> NDArray[np.int32]:
    """Move packed little-endian samples of 16 or 24 bit into the upper bits of int32."""
    width = bits // 8
    words = np.zeros((len(steps) // width, 4), np.uint8)
    words[:, 4 - width :] = np.frombuffer(steps, np.uint8).reshape(-1, width)
    return words.view("<i4").astype(np.int32, copy=False)


def _split_into_seconds(source: Source) -> Iterator[Audio]:
    for block in source.blocks():
        for start in range(0, block.shape[1], source.sample_rate):
            yield block[:, start : start + source.sample_rate]


class _Sink:
    """The file object given to libsndfile; it records why a call failed.

    libsndfile itself only learns that bytes are missing, and its MP3 and Ogg encoders ignore it.
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
    def raise_failures(self) -> Iterator[None]:
        """Raise failures of the file or the encoder in the `with` block as an OSError."""
        import soundfile

        try:
            with _defer_signals():
                yield
        except (soundfile.LibsndfileError, AssertionError) as error:
            raise self._failure or OSError(errno.EIO, f"the encoder failed ({error})") from error
        if self._failure is not None:
            raise self._failure


@contextmanager
def _defer_signals() -> Iterator[None]:
    """Delay signals until the end of the `with` block.

    An exception that a handler raises inside a C callback is printed and lost, Ctrl-C included.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)

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
        for late in received:
            signal.raise_signal(late)


@contextmanager
def _open_encoder(
    sink: _Sink, source: Source, audio_format: AudioFormat, bit_depth: str | None
) -> Iterator[soundfile.SoundFile]:
    import soundfile

    with sink.raise_failures():
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
        with sink.raise_failures():
            encoder.close()


def _set_serial(file: BinaryIO, serial: int) -> None:
    """Replace libsndfile's random serial number, so that the same samples give the same bytes.

    Serial numbers only have to differ between the streams of one file (RFC 3533, section 4). Each
    page has the number and a checksum over it.
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
