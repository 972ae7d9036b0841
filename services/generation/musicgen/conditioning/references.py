"""Audio that a person gives: a file to go on from, or whose melody is followed. No torch."""

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
"""A longer file is refused: it is a mix or a mistake."""
CONTINUED_SECONDS = 12.0
"""Of a file that is continued, its end is heard; as much as a long clip keeps of itself."""
MELODY_SECONDS = 30.0
"""Of a file whose melody is followed, its beginning is heard: what the models were trained on."""

# A job's files have names of their own by now, which say nothing to the person who sent them.
_CONTINUED = "The file to continue"
_MELODY = "The file of the melody"

_SPARE_SECONDS = 0.5
"""Read before what is kept, so that the resampler has come to rest where that begins."""


def read_for_continuation(path: Path, sample_rate: int, channels: int, frame: int) -> Audio:
    """The end of a file, `[channels, samples]`, at most 12 s of it.

    Args:
        path: of any format that libsndfile reads: WAV, FLAC, MP3, Ogg and others.
        sample_rate: of the model, Hz.
        channels: of the model; a mono file is put on both, a stereo file is mixed.
        frame: samples of a code; the result is a whole number of them and ends as the file does.

    Raises:
        InvalidRequestError: no such file, not audio, silent, too short or too long.
    """
    file = _opened(path, _CONTINUED)
    source = _last(file, _CONTINUED, CONTINUED_SECONDS + _SPARE_SECONDS)
    audio = _resampled(source, file.sample_rate, sample_rate)
    count = min(audio.shape[1], round(CONTINUED_SECONDS * sample_rate)) // frame * frame
    return _checked(_CONTINUED, _with_channels(audio[:, audio.shape[1] - count :], channels))


def read_melody(path: Path, sample_rate: int) -> Audio:
    """The beginning of a file in mono, `[1, samples]`, at most 30 s; arguments as above.

    Raises:
        InvalidRequestError: no such file, not audio, silent, too short or too long.
    """
    file = _opened(path, _MELODY)
    source = _first(file, _MELODY, MELODY_SECONDS + _SPARE_SECONDS)
    audio = _resampled(source, file.sample_rate, sample_rate)
    return _checked(_MELODY, _with_channels(audio[:, : round(MELODY_SECONDS * sample_rate)], 1))


def _opened(path: Path, what: str) -> AudioFile:
    try:
        file = open_audio(path)
    except (FileNotFoundError, UnreadableAudioError) as error:
        raise InvalidRequestError(
            f"{str(error).replace(str(path), what).rstrip('.')}. Give a WAV, FLAC, MP3 or Ogg file."
        ) from error
    if file.duration_seconds > LONGEST_FILE_SECONDS:
        raise InvalidRequestError(
            f"{what} lasts {file.duration_seconds / 60:.0f} minutes, and at most "
            f"{LONGEST_FILE_SECONDS / 60:.0f} can be given. Cut out what counts."
        )
    if file.duration_seconds < SHORTEST_REFERENCE_SECONDS:
        raise InvalidRequestError(
            f"{what} lasts {file.duration_seconds:.2f} s, and at least "
            f"{SHORTEST_REFERENCE_SECONDS:g} s are needed. Give a longer file."
        )
    return file


def _blocks(file: AudioFile, what: str) -> Iterator[Audio]:
    """The blocks as far as the limit: a header may say less than there is."""
    left = round(LONGEST_FILE_SECONDS * file.sample_rate)
    try:
        for block in file.blocks():
            left -= block.shape[1]
            if left < 0:
                raise InvalidRequestError(
                    f"{what} lasts over {LONGEST_FILE_SECONDS / 60:.0f} minutes. Cut out what "
                    "counts."
                )
            yield block
    except UnreadableAudioError as error:
        raise InvalidRequestError(str(error).replace(str(file.path), what)) from error


def _first(file: AudioFile, what: str, seconds: float) -> Audio:
    wanted = round(seconds * file.sample_rate)
    kept, count = [], 0
    for block in _blocks(file, what):
        kept.append(block)
        count += block.shape[1]
        if count >= wanted:
            break
    return np.concatenate(kept, axis=1)[:, :wanted]


def _last(file: AudioFile, what: str, seconds: float) -> Audio:
    wanted = round(seconds * file.sample_rate)
    kept: deque[Audio] = deque()
    count = 0
    for block in _blocks(file, what):
        kept.append(block)
        count += block.shape[1]
        while count - kept[0].shape[1] >= wanted:
            count -= kept.popleft().shape[1]
    return np.concatenate(kept, axis=1)[:, -wanted:]


def _resampled(audio: Audio, rate: int, to: int) -> Audio:
    if rate == to:
        return audio
    import soxr  # type: ignore[import-untyped]  # ships neither stubs nor py.typed

    frames = soxr.resample(np.ascontiguousarray(audio.T), rate, to, quality="VHQ")
    return np.ascontiguousarray(frames.T, dtype=np.float32)


def _with_channels(audio: Audio, channels: int) -> Audio:
    if audio.shape[0] == channels:
        return np.ascontiguousarray(audio)
    if channels == 1:
        mixed: Audio = audio.mean(axis=0, keepdims=True, dtype=np.float32)
        return mixed
    return np.repeat(audio, channels, axis=0)


def _checked(what: str, audio: Audio) -> Audio:
    if not audio.size or np.abs(audio).max() < SILENT_PEAK:
        raise InvalidRequestError(
            f"{what} is silent where it is heard, or its channels cancel one another out. Give "
            "another file, or cut the silence off."
        )
    return audio
