"""Open untrusted audio files, check them and read them in blocks.

libsndfile reads WAV, RF64, FLAC, MP3, Ogg Vorbis and Opus, AIFF, CAF and others, and FFmpeg those
that libsndfile cannot read, or not whole, if the extra `formats` is installed: both in a process
of their own (decoding.py). A header may claim any length, so that no memory is allocated by it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from services.audio.arrays import HIGHEST_RATE_HZ, LOWEST_RATE_HZ, has_valid_samples

if TYPE_CHECKING:
    from services.audio.arrays import Audio
    from services.audio.decoding import Decoding

BLOCK_FRAMES = 1 << 16

_BIT_DEPTHS = {
    "PCM_S8": 8,
    "PCM_U8": 8,
    "PCM_16": 16,
    "PCM_24": 24,
    "PCM_32": 32,
    "FLOAT": 32,
    "DOUBLE": 64,
    "ALAC_16": 16,
    "ALAC_20": 20,
    "ALAC_24": 24,
    "ALAC_32": 32,
}


class UnreadableAudioError(RuntimeError):
    """An existing file has no usable audio; the message gives the reason."""


@dataclass(frozen=True, slots=True)
class AudioFile:
    """An audio file whose header has been checked."""

    path: Path
    sample_rate: int
    channels: int
    frames: int
    """Samples per channel by the header; a damaged file may have fewer."""
    container: str
    """libsndfile's short name (WAV, RF64, WAVEX, FLAC, MP3, OGG, AIFF, ...) or FFmpeg's (MP4,
    MATROSKA, AAC, ...)."""
    encoding: str
    """libsndfile's short name (PCM_16, FLOAT, VORBIS, OPUS, MPEG_LAYER_III, ...) or FFmpeg's (AAC,
    AC3, ...)."""
    bytes: int
    is_mixed_down: bool = False
    """Whether the file has more than two channels, of which `channels` is a mix."""
    remarks: tuple[str, ...] = ()
    """How it is read where that is not as it is, such as "mixed down from 5.1 to stereo by ITU-R
    BS.775": the ends of sentences."""

    @property
    def bit_depth(self) -> int | None:
        """Bits per sample; None if the encoding, or a mix of more channels, has no fixed number."""
        return None if self.is_mixed_down else _BIT_DEPTHS.get(self.encoding)

    @property
    def duration_seconds(self) -> float:
        return self.frames / self.sample_rate

    def blocks(self, frames: int = BLOCK_FRAMES) -> Iterator[Audio]:
        """Yield all samples in blocks of `[channels, frames]` or less.

        Each call reads the file again. The caller may write to the blocks.

        Raises:
            UnreadableAudioError: the file cannot be decoded, or has no or invalid samples.
        """
        with _decode(self.path, frames) as decoding:
            is_empty = True
            for block in decoding.blocks():
                is_empty = False
                if not has_valid_samples(block):
                    raise UnreadableAudioError(
                        f"{self.path} has NaN or infinite samples, or samples more than 100 dB "
                        "above full scale."
                    )
                yield np.ascontiguousarray(block.T)
            if is_empty:
                raise UnreadableAudioError(f"{self.path} has no samples.")

    def read(self) -> Audio:
        """Return all samples, `[channels, frames]`; raises like `blocks`."""
        return np.concatenate(list(self.blocks()), axis=1)


def open_audio(
    path: str | os.PathLike[str],
    lowest_rate_hz: int = LOWEST_RATE_HZ,
    longest_seconds: float | None = None,
) -> AudioFile:
    """Read and check the header of a file.

    Args:
        path: the file.
        lowest_rate_hz: to measure a file, `LOWEST_MEASURED_RATE_HZ` will do.
        longest_seconds: of audio that the caller takes. A longer file, if only decoding tells how
            long it is, is not decoded to its end, and has the length of what was decoded.

    Raises:
        FileNotFoundError: the file does not exist.
        UnreadableAudioError: not a file, not audio that can be read here, no samples, or a sample
            rate outside `lowest_rate_hz` to 192 kHz. If FFmpeg may read it, the message says how to
            install that.
        OSError: the machine starts no process to read it in.
    """
    target = Path(path)
    with _explain_errors(target):
        is_there, is_file = target.exists(), target.is_file()
    if not is_there:
        raise FileNotFoundError(f"No such file: {target}")
    if not is_file:
        raise UnreadableAudioError(f"{target} is not a file.")
    with _decode(target, 0, longest_seconds) as decoding:
        about = decoding.about | {"remarks": tuple(decoding.about["remarks"])}
        found = AudioFile(path=target, bytes=target.stat().st_size, **about)
    if not lowest_rate_hz <= found.sample_rate <= HIGHEST_RATE_HZ:
        raise UnreadableAudioError(
            f"{target} has a sample rate of {found.sample_rate} Hz; "
            f"convert it to {lowest_rate_hz} to {HIGHEST_RATE_HZ} Hz first."
        )
    return found


@contextmanager
def _decode(path: Path, frames: int, longest_seconds: float | None = None) -> Iterator[Decoding]:
    # Imported here, so that writing WAV files starts no decoder.
    from services.audio.decoding import DecodingError, decode

    try:
        with decode(path, frames, longest_seconds) as decoding:
            yield decoding
    except DecodingError as error:
        raise UnreadableAudioError(f"{path} {error}") from error


@contextmanager
def _explain_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise UnreadableAudioError(f"{path} cannot be read: {error}") from error
