"""Checks the audio files of a session before anything is written."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

from services.audio import UnreadableAudioError, open_audio
from services.daw.session import Session, Source
from services.errors import DGXMusicError, FileDamagedError, FileGoneError, InvalidRequestError

_Item = TypeVar("_Item")
_BLOCK_BYTES = 1 << 20
_THREADS = min(4, os.cpu_count() or 1)
"""Reading waits for the disk, and digests are computed outside the interpreter's lock."""
_WAV = frozenset({"WAV", "WAVEX", "RF64"})


@dataclass(frozen=True, slots=True)
class SourceFile:
    """An audio file as the caller knows it."""

    path: Path
    sha256: str | None = None
    """Hexadecimal digest that the file must have, if it is known."""


def read_sources(files: Iterable[SourceFile]) -> dict[Path, Source]:
    """Read the headers of WAV files that are to be in one session.

    Raises:
        FileGoneError: a file does not exist.
        FileDamagedError: a file cannot be read.
        InvalidRequestError: a file is no WAV file, or its sample rate is not that of the first.
    """
    found: dict[Path, Source] = {}

    def read(file: SourceFile) -> None:
        found[file.path] = _read_source(file)

    known = {file.path: file for file in files}
    _raise_all(read, known.values())
    rate = found[next(iter(known))].sample_rate
    others = [source for source in found.values() if source.sample_rate != rate]
    if others:
        names = ", ".join(f"{source.path.name} ({source.sample_rate} Hz)" for source in others)
        raise InvalidRequestError(
            f"A session has one sample rate, {rate} Hz here: {names} cannot be in it. "
            "Export takes of different sample rates one by one."
        )
    return found


def check_sources(session: Session) -> None:
    """Check that all sources are there and unchanged since the session was built.

    Raises:
        FileGoneError: a file does not exist.
        FileDamagedError: the size or digest of a file differs, or it cannot be read.
    """
    _raise_all(_check_source, session.sources)


def copy_source(source: Source, target: Path | IO[bytes]) -> None:
    """Copy the bytes of a source to a new file, or into an open one.

    Raises:
        FileDamagedError: the file has changed while it was copied.
    """
    if isinstance(target, Path):
        shutil.copyfile(source.path, target)
        copied = target.stat().st_size
    else:
        with source.path.open("rb") as file:
            shutil.copyfileobj(file, target, _BLOCK_BYTES)
            copied = file.tell()
    if copied != source.bytes:
        raise FileDamagedError(f"{source.path} changed during the export. Export again.")


def _raise_all(check: Callable[[_Item], None], items: Iterable[_Item]) -> None:
    """Check all, some at a time, then raise the first error with the messages of all."""

    def find_error(item: _Item) -> DGXMusicError | None:
        try:
            check(item)
        except DGXMusicError as error:
            return error
        return None

    with ThreadPoolExecutor(_THREADS) as threads:
        errors = [error for error in threads.map(find_error, items) if error is not None]
    if errors:
        raise type(errors[0])(" ".join(str(error) for error in errors))


def _read_source(file: SourceFile) -> Source:
    try:
        audio = open_audio(file.path)
    except FileNotFoundError as error:
        raise _gone(file.path) from error
    except UnreadableAudioError as error:
        raise FileDamagedError(str(error)) from error
    if audio.container not in _WAV or audio.is_mixed_down:
        raise InvalidRequestError(
            f"{file.path} is no mono or stereo WAV file. Convert it to WAV first."
        )
    return Source(
        path=file.path,
        sample_rate=audio.sample_rate,
        channels=audio.channels,
        frames=audio.frames,
        bit_depth=min(32, max(16, audio.bit_depth or 16)),
        bytes=audio.bytes,
        sha256=file.sha256,
    )


def _check_source(source: Source) -> None:
    try:
        size = source.path.stat().st_size
        with source.path.open("rb") as file:
            digest = source.sha256 and hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise _gone(source.path) from error
    except OSError as error:
        raise FileDamagedError(f"{source.path} cannot be read: {error.strerror}.") from error
    if size != source.bytes or digest != source.sha256:
        raise FileDamagedError(
            f"{source.path} is no longer the file that was rendered. Restore it or render it again."
        )


def _gone(path: Path) -> FileGoneError:
    return FileGoneError(f"{path} is missing. Restore it or render it again.")
