"""The copy of a take that the user asked for: checked before the job runs, written whole."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from services.errors import InvalidRequestError, OutputError
from services.library.attachments import MIDI, STEM
from services.machine.umask import callers_umask

if TYPE_CHECKING:
    from services.audio import AudioExporter
    from services.jobs.attachments import AttachedFile
    from services.jobs.models import Job

STDOUT = "-"
SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus")
"""Those of `services.audio.FORMATS`, which is slow to import; a test compares them."""


@dataclass(frozen=True, slots=True)
class Destination:
    """A file to write, a folder to write into, or standard output."""

    path: Path | None
    """None for standard output."""
    is_folder: bool
    force: bool

    @classmethod
    def parse(
        cls, text: str, *, force: bool, stems: bool = False, midi: bool = False
    ) -> Destination:
        """Read a file name, a folder or `-`, and check that it can be written.

        Args:
            text: from the command line.
            force: whether an existing file may be replaced.
            stems: whether a folder of stems is to be beside the file.
            midi: whether a MIDI file is to be beside it.

        Raises:
            InvalidRequestError: the suffix is of no format, or stdout is a terminal.
            OutputError: the file exists, or its folder cannot be written.
        """
        if text == STDOUT:
            if sys.stdout is None or sys.stdout.isatty():
                raise InvalidRequestError(
                    "Audio cannot be written to a terminal. Pipe it to a program, or name a file."
                )
            return cls(None, is_folder=False, force=force)
        try:
            parsed = cls._parse_path(text, force=force)
            if parsed.path is not None and not parsed.is_folder:
                for kind in [STEM] * stems + [MIDI] * midi:
                    refuse_overwrite(_beside(parsed.path, kind), force=force)
            return parsed
        except OSError as error:
            raise OutputError(f"{text} cannot be written: {error.strerror}.") from error

    @classmethod
    def _parse_path(cls, text: str, *, force: bool) -> Destination:
        path = Path(text).expanduser()
        is_folder = path.is_dir() or text.endswith(os.sep)
        if not text.strip():
            raise InvalidRequestError("The output needs a name: a .wav file, a folder, or -.")
        if not is_folder:
            if path.suffix.lower() not in SUFFIXES:
                raise InvalidRequestError(
                    f"The output {text!r} must end in one of {', '.join(SUFFIXES)}."
                )
            refuse_overwrite(path, force=force)
        folder = path if is_folder else path.parent
        _require_writable(folder)
        return cls(path, is_folder=is_folder, force=force)

    def deliver(self, job: Job, take: Path, exporter: AudioExporter) -> Path:
        """Copy a take here, in the format of the name, and return the path of the copy.

        Args:
            job: gives the file its name in a folder.
            take: the WAV file, on this machine.
            exporter: has the loudness and peak that an encoded copy must decode to.

        Raises:
            OutputError: it could not be written; the take is still in the library.
        """
        kept = job.file or take
        if self.path is None:
            try:
                with take.open("rb") as source:
                    shutil.copyfileobj(source, sys.stdout.buffer)
                    sys.stdout.buffer.flush()
            except BrokenPipeError:
                raise
            except OSError as error:
                raise OutputError(
                    f"stdout cannot be written: {error.strerror}. The take is kept as {kept}."
                ) from error
            return take
        target = self.path / suggest_name(job) if self.is_folder else self.path
        try:
            if target.suffix.lower() == take.suffix.lower():
                copy_whole(take, target, replace=self.force)
            else:
                _copy_encoded(take, target, exporter, replace=self.force)
        except FileExistsError:
            raise OutputError(f"{_exists_error(target)} The take is kept as {kept}.") from None
        except RuntimeError as error:
            raise OutputError(f"{error} The take is kept as {kept}.") from error
        except OSError as error:
            raise OutputError(
                f"{target} could not be written: {error.strerror}. The take is kept as {kept}."
            ) from error
        return target

    def deliver_attached(
        self, job: Job, delivered: Path, files: Sequence[tuple[AttachedFile, Path]]
    ) -> list[tuple[AttachedFile, Path]]:
        """Copy stems and MIDI beside the delivered take: `NAME.stems/drums.wav`, `NAME.mid`.

        Stems are WAV files whatever the format of the take is. An earlier set that `force` lets
        this one replace is removed. Nothing is copied beside standard output.

        Args:
            job: of the take.
            delivered: what `deliver` returned.
            files: each with its path on this machine.

        Returns:
            The files with the paths of their copies.

        Raises:
            OutputError: one could not be written; all are still in the library.
        """
        if self.path is None:
            return []
        copies = [(one, source, _beside(delivered, one.kind, one.name)) for one, source in files]
        try:
            for _, source, target in copies:
                copy_whole(source, target, replace=self.force)
            names = {target.name for one, _, target in copies if one.kind == STEM}
            if names and self.force:
                for old in _beside(delivered, STEM).glob("*.wav"):
                    if old.name not in names:
                        old.unlink()
        except OSError as error:
            reason = "it exists" if isinstance(error, FileExistsError) else error.strerror
            raise OutputError(
                f"{target} could not be written: {reason}. The stems and MIDI are kept beside "
                f"{job.file}."
            ) from error
        return [(one, target) for one, _, target in copies]


def _beside(take: Path, kind: str, name: str | None = None) -> Path:
    """Return the place of the MIDI file or of a stem of a take, or of the folder of its stems."""
    if kind == MIDI:
        return take.with_suffix(".mid")
    folder = take.with_suffix(".stems")
    return folder if name is None else folder / f"{name}.wav"


def _copy_encoded(take: Path, target: Path, exporter: AudioExporter, *, replace: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        encoded = Path(folder) / target.name
        encode_take(take, encoded, exporter.target_lufs, exporter.true_peak_dbtp)
        copy_whole(encoded, target, replace=replace)


def encode_take(take: Path, target: Path, target_lufs: float | None, true_peak_dbtp: float) -> None:
    """Write a finished take in the format of the target's name.

    Args:
        take: the WAV file.
        target: has the suffix of a format.
        target_lufs: integrated loudness of the decoded copy; None leaves it as it is.
        true_peak_dbtp: ceiling of its true peak.

    Raises:
        RuntimeError: the disk refuses; no file is left.
    """
    from services.audio import convert_file, normalise_file
    from services.audio.encoding import choose_format

    if choose_format(target).is_lossy and target_lufs is not None:
        normalise_file(take, target, target_lufs=target_lufs, true_peak_dbtp=true_peak_dbtp)
    else:
        # The take is mastered and dithered already.
        convert_file(take, target)


def suggest_name(job: Job) -> str:
    """Return a file name with the first words of the prompt, tempo, key and the start of the id."""
    words = re.sub(r"[^a-z0-9]+", "-", job.prompt.lower()).strip("-")[:40].strip("-") or "take"
    tempo = f"_{job.metadata['bpm']:g}bpm" if "bpm" in job.metadata else ""
    key = f"_{job.metadata['key'].replace(' ', '-')}" if "key" in job.metadata else ""
    return f"{words}{tempo}{key}_{job.job_id[:8]}.wav"


def copy_whole(source: Path, target: Path, *, replace: bool = True) -> None:
    """Copy a file so that even after a crash the target is the old file or the whole new one.

    Raises:
        FileExistsError: the target exists, and `replace` is False.
        OSError: the disk refuses; no partial file is left.
    """
    temporary = target.parent / f".dgx-{secrets.token_hex(8)}.part"
    try:
        with ExitStack() as stack:
            data = stack.enter_context(source.open("rb"))
            with callers_umask():
                target.parent.mkdir(parents=True, exist_ok=True)
                out = stack.enter_context(temporary.open("xb"))
            shutil.copyfileobj(data, out)
            out.flush()
            os.fsync(out.fileno())
        if replace:
            temporary.replace(target)
        else:
            # Unlike a rename, a link never replaces a file that appeared meanwhile.
            target.hardlink_to(temporary)
    finally:
        temporary.unlink(missing_ok=True)


def refuse_overwrite(path: Path, *, force: bool) -> None:
    """Check that nothing has this name, not even a broken link, unless `force`.

    Raises:
        OutputError: something has it.
    """
    if os.path.lexists(path) and not force:
        raise _exists_error(path)


def _exists_error(path: Path) -> OutputError:
    return OutputError(f"{path} exists. Add --force to replace it, or name another.")


def _require_writable(folder: Path) -> None:
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise OutputError(f"{nearest} is not a folder. Name a file in a folder.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise OutputError(f"The folder {nearest} cannot be written. Name a file in another one.")
