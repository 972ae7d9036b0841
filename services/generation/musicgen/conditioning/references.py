"""Reads the audio files of a request: one to continue, or one with a melody to follow. No torch."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from services.audio.reading import AudioFile, UnreadableAudioError, open_audio
from services.errors import InvalidRequestError
from services.generation.engine import SHORTEST_REFERENCE_SECONDS, SILENT_PEAK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.audio.arrays import Audio

LONGEST_FILE_SECONDS = 600.0
"""Longer files are refused: they are mixes or mistakes."""
CONTINUED_SECONDS = 12.0
"""Used from the end of a file to continue: as much as a window keeps of the one before."""
MELODY_SECONDS = 30.0
"""Used from the start of a melody: the length that the models were trained on."""

# Messages do not name the file: a job's inputs are stored under other names than the user's.
_CONTINUED = "The file to continue"
_MELODY = "The file of the melody"

_SETTLING_SECONDS = 0.5
"""Read in addition, so that the resampler has settled where the used part starts."""


def read_for_continuation(path: Path, sample_rate: int, channels: int, frame: int) -> Audio:
    """Read the end of a file, `[channels, samples]`, at most 12 s.

    Args:
        path: any file that `open_audio` opens: WAV, FLAC, MP3, Ogg and others.
        sample_rate: Hz, of the model.
        channels: channels of the model; a mono file is duplicated, a stereo file is mixed.
        frame: samples per code frame; the result has whole frames and ends with the file.

    Raises:
        InvalidRequestError: the file is missing, not audio, silent, too short or too long.
    """
    file = _open(path, _CONTINUED)
    source = _read_end(file, _CONTINUED, CONTINUED_SECONDS + _SETTLING_SECONDS)
    audio = _resample(source, file.sample_rate, sample_rate)
    count = min(audio.shape[1], round(CONTINUED_SECONDS * sample_rate)) // frame * frame
    audio = _match_channels(audio[:, audio.shape[1] - count :], channels)
    _check_audible(audio, _CONTINUED)
    return audio


def read_melody(path: Path, sample_rate: int) -> Audio:
    """Read the start of a file in mono, `[1, samples]`, at most 30 s; arguments as above.

    Raises:
        InvalidRequestError: the file is missing, not audio, silent, too short or too long.
    """
    file = _open(path, _MELODY)
    source = _read_start(file, _MELODY, MELODY_SECONDS + _SETTLING_SECONDS)
    audio = _resample(source, file.sample_rate, sample_rate)
    audio = _match_channels(audio[:, : round(MELODY_SECONDS * sample_rate)], 1)
    _check_audible(audio, _MELODY)
    return audio


def _open(path: Path, label: str) -> AudioFile:
    try:
        file = open_audio(path, longest_seconds=LONGEST_FILE_SECONDS)
    except (FileNotFoundError, UnreadableAudioError) as error:
        reason = str(error).replace(str(path), label).rstrip(".")
        raise InvalidRequestError(f"{reason}. Use a WAV, FLAC, MP3 or Ogg file.") from error
    if file.duration_seconds > LONGEST_FILE_SECONDS:
        raise InvalidRequestError(
            f"{label} lasts {file.duration_seconds / 60:.0f} minutes; the longest allowed is "
            f"{LONGEST_FILE_SECONDS / 60:.0f}. Cut out the part you need."
        )
    if file.duration_seconds < SHORTEST_REFERENCE_SECONDS:
        raise InvalidRequestError(
            f"{label} lasts {file.duration_seconds:.2f} s; the shortest allowed is "
            f"{SHORTEST_REFERENCE_SECONDS:g} s. Use a longer file."
        )
    return file


def _read_blocks(file: AudioFile, label: str) -> Iterator[Audio]:
    # The length in a header may be too short: the limit is checked again.
    left = round(LONGEST_FILE_SECONDS * file.sample_rate)
    try:
        for block in file.blocks():
            left -= block.shape[1]
            if left < 0:
                raise InvalidRequestError(
                    f"{label} lasts more than {LONGEST_FILE_SECONDS / 60:.0f} minutes. Cut out the "
                    "part you need."
                )
            yield block
    except UnreadableAudioError as error:
        raise InvalidRequestError(str(error).replace(str(file.path), label)) from error


def _read_start(file: AudioFile, label: str, seconds: float) -> Audio:
    wanted = round(seconds * file.sample_rate)
    kept, count = [], 0
    for block in _read_blocks(file, label):
        kept.append(block)
        count += block.shape[1]
        if count >= wanted:
            break
    return np.concatenate(kept, axis=1)[:, :wanted]


def _read_end(file: AudioFile, label: str, seconds: float) -> Audio:
    wanted = round(seconds * file.sample_rate)
    kept: deque[Audio] = deque()
    count = 0
    for block in _read_blocks(file, label):
        kept.append(block)
        count += block.shape[1]
        while count - kept[0].shape[1] >= wanted:
            count -= kept.popleft().shape[1]
    return np.concatenate(kept, axis=1)[:, -wanted:]


def _resample(audio: Audio, rate: int, to: int) -> Audio:
    if rate == to:
        return audio
    import soxr  # type: ignore[import-untyped]  # ships neither stubs nor py.typed

    frames = soxr.resample(np.ascontiguousarray(audio.T), rate, to, quality="VHQ")
    return np.ascontiguousarray(frames.T, dtype=np.float32)


def _match_channels(audio: Audio, channels: int) -> Audio:
    if audio.shape[0] == channels:
        return np.ascontiguousarray(audio)
    if channels == 1:
        mixed: Audio = audio.mean(axis=0, keepdims=True, dtype=np.float32)
        return mixed
    return np.repeat(audio, channels, axis=0)


def _check_audible(audio: Audio, label: str) -> None:
    if not audio.size or np.abs(audio).max() < SILENT_PEAK:
        raise InvalidRequestError(
            f"{label} is silent in the part that is used, or its channels cancel each other out. "
            "Use another file, or cut off the silence."
        )
