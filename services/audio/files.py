"""Where audio files lie: one folder a day under one base folder, and nothing outside it."""

from __future__ import annotations

import datetime as dt
import os
import re
import shutil
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from services.audio.inventory import (
    AnyPath,
    FileCleanup,
    StoredFile,
    oldest_first,
    plan_cleanup,
    scan,
    summarise,
    temporary_name,
)

Day = dt.date | dt.datetime

_JOB_ID = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9_-])?")
_EXTENSION = re.compile(r"\.?([A-Za-z0-9]{1,10})")
_DAY_SECONDS = 86_400
_MIB = 1 << 20


class AudioFileManager:
    """Names, finds, moves and removes the files under one folder.

    Days are days in UTC. A relative path is taken from the working folder if that leads into the
    base folder (as what `get_output_path` returns does), otherwise from the base folder. Links are
    neither followed nor listed, and a path that leads out of the base folder is a ValueError.
    """

    def __init__(self, base_dir: AnyPath = "data/outputs") -> None:
        self.base_dir = Path(base_dir)

    def get_output_path(
        self,
        job_id: str,
        extension: str = ".wav",
        create_dirs: bool = True,
        date: Day | None = None,
    ) -> Path:
        """Where the file of a job belongs: `base_dir/YYYY/MM/DD/job_id.wav`.

        Args:
            job_id: up to 128 letters, digits, `.`, `_` and `-`; no dot at either end.
            extension: with or without its dot.
            create_dirs: make the folder.
            date: the day; today without one.

        Raises:
            ValueError: an id or extension that is not a plain name, or a folder that is a link
                out of the base folder.
        """
        if not _JOB_ID.fullmatch(job_id):
            raise ValueError(f"Invalid job id {job_id!r}: letters, digits, '.', '_' and '-' only.")
        folder = self.base_dir / _day(date).strftime("%Y/%m/%d")
        path = folder / f"{job_id}{_normal_extension(extension)}"
        self.resolve(path)
        if create_dirs:
            folder.mkdir(parents=True, exist_ok=True)
        return path

    def file_exists(self, job_id: str, extension: str = ".wav", date: Day | None = None) -> bool:
        """Whether the job has a file on that day (today without one)."""
        return self.get_output_path(job_id, extension, create_dirs=False, date=date).is_file()

    def get_file_size(self, path: AnyPath) -> int:
        """Size in bytes; FileNotFoundError without the file."""
        return self._existing(path).stat().st_size

    def get_file_size_mb(self, path: AnyPath) -> float:
        """Size in units of 2**20 bytes; FileNotFoundError without the file."""
        return self.get_file_size(path) / _MIB

    def delete_file(self, path: AnyPath) -> bool:
        """Remove a file; False if there was none."""
        try:
            self._existing(path).unlink()
        except FileNotFoundError:
            return False
        return True

    def move_file(self, source: AnyPath, destination: AnyPath) -> Path:
        """Rename a file, replacing one of the new name; return the destination.

        Raises:
            FileNotFoundError: there is no source.
            ValueError: either path leads out of the base folder.
        """
        found, target = self._existing(source), self.resolve(destination)
        target.parent.mkdir(parents=True, exist_ok=True)
        found.replace(target)
        return target

    def copy_file(self, source: AnyPath, destination: AnyPath) -> Path:
        """Copy a file, times included; it appears whole; return the destination.

        Raises:
            FileNotFoundError: there is no source.
            ValueError: either path leads out of the base folder.
        """
        found, target = self._existing(source), self.resolve(destination)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / temporary_name()
        try:
            shutil.copy2(found, temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        return target

    def resolve(self, path: AnyPath) -> Path:
        """The path as it may be used; ValueError when something on it leads out of the folder."""
        given = Path(path)
        base = self.base_dir.resolve()
        candidates = [given] if given.is_absolute() else [given, self.base_dir / given]
        for candidate in candidates:
            # A link that leads to itself leads nowhere: Python 3.13 leaves it, older ones raise.
            with suppress(RuntimeError):
                found = candidate.resolve()
                if base in found.parents and not found.is_symlink():
                    return candidate
        raise ValueError(f"Path {os.fspath(path)!r} is outside {self.base_dir}.")

    def list_files(
        self,
        start_date: Day | None = None,
        end_date: Day | None = None,
        limit: int | None = None,
        extension: str | None = None,
    ) -> list[Path]:
        """The files of the days from `start_date` to `end_date`, both included, newest first."""
        first = _day(start_date) if start_date else dt.date.min
        last = _day(end_date) if end_date else dt.date.max
        ending = _normal_extension(extension).lower() if extension else None
        newest_first = reversed(oldest_first(self._files()))
        chosen = [
            file.path
            for file in newest_first
            if first <= file.day <= last and ending in {None, file.path.suffix.lower()}
        ]
        return chosen[: None if limit is None else max(limit, 0)]

    def cleanup_old_files(self, days_old: float = 30, dry_run: bool = True) -> int:
        """Remove files older than that many days, left-over temporary ones too; return how many.

        Args:
            days_old: 24-hour days; 0 means every file.
            dry_run: only count.

        Raises:
            ValueError: a negative age.
        """
        if not days_old >= 0:
            raise ValueError(f"days_old must be 0 or more, got {days_old}.")
        limit = time.time() - days_old * _DAY_SECONDS
        old = plan_cleanup(scan(self.base_dir), written_before=limit).files
        if dry_run:
            return len(old)
        return sum(self.delete_file(file.path) for file in old)

    def cleanup_to_size(self, max_bytes: int, dry_run: bool = True) -> FileCleanup:
        """Remove the oldest files until the rest takes `max_bytes` or less; return which.

        Temporary files are neither counted nor removed: one of them may be what is being written.

        Args:
            max_bytes: 0 means every file.
            dry_run: only say what would go.

        Raises:
            ValueError: a negative number of bytes.
        """
        plan = plan_cleanup(self._files(), max_bytes=max_bytes)
        if dry_run:
            return plan
        for file in plan.files:
            self.delete_file(file.path)
        return replace(plan, deleted=True)

    def cleanup_empty_directories(self) -> int:
        """Remove the folders that hold nothing, base folder excepted; return how many."""
        removed = 0
        for folder, _, _ in os.walk(self.base_dir, topdown=False):
            if Path(folder) == self.base_dir:
                continue
            try:
                Path(folder).rmdir()
            except OSError:
                # Not empty, or filled by a job this very moment: both are reasons to keep it.
                continue
            removed += 1
        return removed

    def get_storage_stats(self) -> dict[str, Any]:
        """Count, sizes, ends and kinds of the files; oldest and newest are paths or None."""
        return summarise(self._files(), lambda file: str(file.path))

    def get_info(self) -> dict[str, Any]:
        """The base folder, whether it is there, and how many bytes its disk has left (or None)."""
        exists = self.base_dir.is_dir()
        return {
            "base_dir": str(self.base_dir),
            "base_dir_exists": exists,
            "free_bytes": shutil.disk_usage(self.base_dir).free if exists else None,
        }

    def _existing(self, path: AnyPath) -> Path:
        found = self.resolve(path)
        if not found.is_file():
            raise FileNotFoundError(f"No such file: {os.fspath(path)}")
        return found

    def _files(self) -> list[StoredFile]:
        return [file for file in scan(self.base_dir) if not file.is_temporary]


def _day(moment: Day | None) -> dt.date:
    if moment is None:
        return dt.datetime.now(dt.UTC).date()
    if isinstance(moment, dt.datetime):
        return (moment.astimezone(dt.UTC) if moment.tzinfo else moment).date()
    return moment


def _normal_extension(extension: str) -> str:
    match = _EXTENSION.fullmatch(extension)
    if match is None:
        raise ValueError(f"Invalid extension {extension!r}: letters and digits only.")
    return f".{match[1]}"
