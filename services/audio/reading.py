"""Audio files as they come from anywhere: opened, checked, read in blocks.

libsndfile reads WAV (RF64 too), FLAC, MP3, Ogg Vorbis and Opus, AIFF, CAF and others. A header may
claim anything, so nothing is made as large as one says: what counts is what the blocks bring.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from services.audio.arrays import HIGHEST_RATE_HZ, LOWEST_RATE_HZ, MAX_CHANNELS

if TYPE_CHECKING:
    import soundfile  # type: ignore[import-untyped]  # ships neither stubs nor py.typed

    from services.audio.arrays import Audio

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
    """A file that is there, but holds no audio that can be used; the message says why."""


@dataclass(frozen=True, slots=True)
class AudioFile:
    """A file whose header has been read and found usable."""

    path: Path
    sample_rate: int
    channels: int
    frames: int
    """Samples per channel as the header has it; a broken MP3 or FLAC file may hold fewer."""
    container: str
    """libsndfile's short name: WAV, RF64, WAVEX, FLAC, MP3, OGG, AIFF, ..."""
    encoding: str
    """libsndfile's short name: PCM_16, FLOAT, VORBIS, OPUS, MPEG_LAYER_III, ..."""
    bytes: int

    @property
    def bit_depth(self) -> int | None:
        """Bits a sample; None where the encoding has no fixed number."""
        return _BIT_DEPTHS.get(self.encoding)

    @property
    def duration_seconds(self) -> float:
        """Length in seconds."""
        return self.frames / self.sample_rate

    def blocks(self, frames: int = BLOCK_FRAMES) -> Iterator[Audio]:
        """The samples from the first to the last, in blocks `[channels, frames]` or less.

        Each call reads the file anew. A block belongs to whoever got it.

        Raises:
            UnreadableAudioError: the data cannot be decoded, are none, or hold NaN or infinity.
        """
        with _opened(self.path) as file:
            for count in itertools.count():
                with _decoding(self.path):
                    block = file.read(frames, dtype="float32", always_2d=True)
                if not block.size:
                    if not count:
                        raise UnreadableAudioError(f"{self.path} holds no samples.")
                    return
                if not np.isfinite(block).all():
                    raise UnreadableAudioError(f"{self.path} holds NaN or infinite samples.")
                yield np.ascontiguousarray(block.T)

    def read(self) -> Audio:
        """All samples, `[channels, frames]`.

        Raises:
            UnreadableAudioError: as `blocks`.
        """
        return np.concatenate(list(self.blocks()), axis=1)


def open_audio(path: str | os.PathLike[str]) -> AudioFile:
    """Read the header of a file and check that there is usable audio behind it.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableAudioError: a folder, not audio, no samples, more than two channels, or a sample
            rate outside 8 to 192 kHz.
    """
    target = Path(path)
    if not target.exists():
        raise FileNotFoundError(f"No such file: {target}")
    if not target.is_file():
        raise UnreadableAudioError(f"{target} is not a file.")
    with _opened(target) as file:
        found = AudioFile(
            path=target,
            sample_rate=file.samplerate,
            channels=file.channels,
            frames=file.frames,
            container=file.format,
            encoding=file.subtype,
            bytes=target.stat().st_size,
        )
    if not LOWEST_RATE_HZ <= found.sample_rate <= HIGHEST_RATE_HZ:
        raise UnreadableAudioError(
            f"{target} has a sample rate of {found.sample_rate} Hz; "
            f"{LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ} Hz can be used."
        )
    if not 1 <= found.channels <= MAX_CHANNELS:
        raise UnreadableAudioError(
            f"{target} has {found.channels} channels; mono and stereo can be used."
        )
    if found.frames < 1:
        raise UnreadableAudioError(f"{target} holds no samples.")
    return found


@contextmanager
def _opened(path: Path) -> Iterator[soundfile.SoundFile]:
    # Who only writes does not wait for the library.
    import soundfile

    with _decoding(path):
        file = soundfile.SoundFile(path)
    with file:
        yield file


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    import soundfile

    try:
        yield
    except soundfile.LibsndfileError as error:
        raise UnreadableAudioError(
            f"{path} is not audio that can be read: {error.error_string}"
        ) from error
    except (OSError, TypeError, ValueError, OverflowError, MemoryError) as error:
        raise UnreadableAudioError(f"{path} cannot be read: {error}") from error
