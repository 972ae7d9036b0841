"""Where a finished take goes besides the library: checked before it is made, written whole."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from services.errors import InvalidRequestError, OutputError

if TYPE_CHECKING:
    from services.audio import AudioExporter
    from services.jobs.models import Job

STDOUT = "-"
SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus")
"""A test holds them equal to those of the audio formats, whose module is slow to import."""


@dataclass(frozen=True, slots=True)
class Destination:
    """A file to write, a folder to write into, or standard output."""

    path: Path | None
    """None: standard output."""
    is_folder: bool
    force: bool

    @classmethod
    def check(cls, text: str, *, force: bool) -> Destination:
        """Say now what would go wrong after the music is made.

        Raises:
            InvalidRequestError: no name of a format, or stdout is a terminal.
            OutputError: the file exists, or its folder cannot be written.
        """
        if text == STDOUT:
            if sys.stdout is None or sys.stdout.isatty():
                raise InvalidRequestError(
                    "A WAV file makes no sense on a terminal. Pipe it on, or name a file."
                )
            return cls(None, is_folder=False, force=force)
        try:
            return cls._check_path(text, force=force)
        except OSError as error:
            raise OutputError(f"{text} cannot be written: {error.strerror}.") from error

    @classmethod
    def _check_path(cls, text: str, *, force: bool) -> Destination:
        path = Path(text).expanduser()
        is_folder = path.is_dir() or text.endswith(os.sep)
        if not text.strip():
            raise InvalidRequestError("The output needs a name: a .wav file, a folder, or -.")
        if not is_folder:
            if path.suffix.lower() not in SUFFIXES:
                raise InvalidRequestError(
                    f"The output {text!r} must end in one of {', '.join(SUFFIXES)}."
                )
            require_free(path, force=force)
        folder = path if is_folder else path.parent
        _require_writable(folder)
        return cls(path, is_folder=is_folder, force=force)

    def deliver(self, job: Job, made: Path, exporter: AudioExporter) -> Path:
        """Copy the finished file `made` there, in the format of the name; the path of the copy.

        Args:
            job: what was made, for the name in a folder.
            made: the WAV file, as it can be read on this machine.
            exporter: its levels hold for another format too, as a player decodes it.

        Raises:
            OutputError: it could not be written; the take is still in the library.
        """
        kept = job.file or made
        if self.path is None:
            try:
                with made.open("rb") as source:
                    shutil.copyfileobj(source, sys.stdout.buffer)
                    sys.stdout.buffer.flush()
            except BrokenPipeError:
                raise
            except OSError as error:
                raise OutputError(
                    f"stdout cannot be written: {error.strerror}. The take is kept as {kept}."
                ) from error
            return made
        target = self.path / suggested_name(job) if self.is_folder else self.path
        try:
            if target.suffix.lower() == made.suffix.lower():
                copy_whole(made, target, replace=self.force)
            else:
                _encode(made, target, exporter, replace=self.force)
        except FileExistsError:
            raise OutputError(f"{_exists(target)} The take is kept as {kept}.") from None
        except RuntimeError as error:
            raise OutputError(f"{error} The take is kept as {kept}.") from error
        except OSError as error:
            raise OutputError(
                f"{target} could not be written: {error.strerror}. The take is kept as {kept}."
            ) from error
        return target


def _encode(made: Path, target: Path, exporter: AudioExporter, *, replace: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        encoded = Path(folder) / target.name
        encode(made, encoded, exporter.target_lufs, exporter.true_peak_dbtp)
        copy_whole(encoded, target, replace=replace)


def encode(made: Path, target: Path, target_lufs: float | None, true_peak_dbtp: float) -> None:
    """Write a finished take in the format of the target's name, at the levels it has to have.

    They hold for what a player decodes.

    Raises:
        RuntimeError: the disk says no; nothing is left.
    """
    from services.audio import convert_file, normalise_file
    from services.audio.encoding import choose_format

    if choose_format(target).is_lossy and target_lufs is not None:
        normalise_file(made, target, target_lufs=target_lufs, true_peak_dbtp=true_peak_dbtp)
    else:
        # Mastered and dithered already: the samples stay as they are.
        convert_file(made, target)


def suggested_name(job: Job) -> str:
    """A name that tells a DAW and a person what is inside: words, tempo, key, id."""
    words = re.sub(r"[^a-z0-9]+", "-", job.prompt.lower()).strip("-")[:40].strip("-") or "take"
    tempo = f"_{job.metadata['bpm']:g}bpm" if "bpm" in job.metadata else ""
    key = f"_{job.metadata['key'].replace(' ', '-')}" if "key" in job.metadata else ""
    return f"{words}{tempo}{key}_{job.job_id[:8]}.wav"


def copy_whole(source: Path, target: Path, *, replace: bool = True) -> None:
    """Copy a file so that the target is the old one or the whole new one, also after a crash.

    Raises:
        FileExistsError: there is a target, and it is not to be replaced.
        OSError: the disk says no; nothing is left.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".dgx-", suffix=".part", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as out, source.open("rb") as data:
            shutil.copyfileobj(data, out)
            out.flush()
            os.fsync(out.fileno())
        shutil.copymode(source, temporary)
        if replace:
            temporary.replace(target)
        else:
            # Unlike a rename, a link never takes the place of a file that came meanwhile.
            target.hardlink_to(temporary)
    finally:
        temporary.unlink(missing_ok=True)


def require_free(path: Path, *, force: bool) -> None:
    """Refuse to replace what is there without being told to.

    Raises:
        OutputError: something has that name; a link that leads nowhere is somebody's too.
    """
    if os.path.lexists(path) and not force:
        raise _exists(path)


def _exists(path: Path) -> OutputError:
    return OutputError(f"{path} exists. Add --force to replace it, or name another.")


def _require_writable(folder: Path) -> None:
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise OutputError(f"{nearest} is not a folder. Name a file in a folder.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise OutputError(f"The folder {nearest} cannot be written. Name a file in another one.")
