"""The output folder: one folder per day under a base folder, and no access outside it."""

from __future__ import annotations

import datetime as dt
import os
import re
import shutil
import time
import unicodedata
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from services.audio.inventory import (
    AnyPath,
    FileCleanup,
    StoredFile,
    plan_cleanup,
    scan,
    sort_oldest_first,
    summarise,
    temporary_name,
)

Day = dt.date | dt.datetime

_JOB_ID = re.compile(r"\w(?:[\w.-]{0,126}[\w-])?")
_LONGEST_ID_BYTES = 200
"""In UTF-8. File systems allow 255 bytes for a name, which has an extension too."""

_EXTENSION = re.compile(r"\.?([A-Za-z0-9]{1,10})")
_DAY_SECONDS = 86_400
_MIB = 1 << 20


class AudioFileManager:
    """Names, finds, moves and deletes the files under a base folder.

    Days are UTC. A relative path starts at the working folder if it then lies in the base folder
    (as the results of `get_output_path` do), otherwise at the base folder. Links are neither
    followed nor listed. A path outside the base folder is a ValueError.

    Args:
        base_dir: the base folder.
        create: create it. Where that is impossible, files can still be listed and read.
    """

    def __init__(self, base_dir: AnyPath = "data/outputs", *, create: bool = True) -> None:
        self.base_dir = Path(base_dir)
        if create:
            # A disk that cannot be written says so with the first file.
            with suppress(OSError):
                self.base_dir.mkdir(parents=True, exist_ok=True)

    def get_output_path(
        self,
        job_id: str,
        extension: str = ".wav",
        create_dirs: bool = True,
        date: Day | None = None,
    ) -> Path:
        """Return the path for the file of a job: `base_dir/YYYY/MM/DD/job_id.wav`.

        Args:
            job_id: up to 128 letters, marks and digits of any script, `.`, `_` and `-`; at most
                200 bytes in UTF-8. It begins with a letter, a digit or `_` and does not end with
                `.`. It may end with the extension.
            extension: with or without its dot.
            create_dirs: create the folder.
            date: the day; today by default.

        Raises:
            ValueError: the id or extension is not a plain name, or a folder is a link that leads
                out of the base folder.
        """
        # Scripts such as Devanagari and Thai write vowels as marks, which are not in `\w`.
        plain = "".join("_" if _is_mark(char) else char for char in job_id[1:])
        is_plain = _JOB_ID.fullmatch(job_id[:1] + plain)
        if not is_plain or len(job_id.encode()) > _LONGEST_ID_BYTES:
            raise ValueError(
                f"Invalid job id {job_id!r}: use up to 128 letters, digits, '.', '_' and '-', "
                f"and no more than {_LONGEST_ID_BYTES} bytes."
            )
        folder = self.base_dir / _to_utc_day(date).isoformat().replace("-", "/")
        ending = _normalise_extension(extension)
        has_ending = job_id.lower().endswith(ending.lower())
        path = folder / (job_id if has_ending else job_id + ending)
        self.resolve(path)
        if create_dirs:
            folder.mkdir(parents=True, exist_ok=True)
        return path

    def file_exists(self, job_id: str, extension: str = ".wav", date: Day | None = None) -> bool:
        return self.get_output_path(job_id, extension, create_dirs=False, date=date).is_file()

    def get_file_size(self, path: AnyPath) -> int:
        return self._require_file(path).stat().st_size

    def get_file_size_mb(self, path: AnyPath) -> float:
        """Return the size in units of 2**20 bytes."""
        return self.get_file_size(path) / _MIB

    def delete_file(self, path: AnyPath) -> bool:
        """Delete a file; return False if it does not exist."""
        try:
            self._require_file(path).unlink()
        except FileNotFoundError:
            return False
        return True

    def move_file(self, source: AnyPath, destination: AnyPath) -> Path:
        """Rename a file, replacing an existing destination; return the destination.

        Raises:
            FileNotFoundError: the source does not exist.
            ValueError: either path is outside the base folder.
        """
        found, target = self._require_file(source), self._prepare_target(destination)
        found.replace(target)
        return target

    def copy_file(self, source: AnyPath, destination: AnyPath) -> Path:
        """Copy a file atomically, with its times; return the destination.

        Raises:
            FileNotFoundError: the source does not exist.
            ValueError: either path is outside the base folder.
        """
        found, target = self._require_file(source), self._prepare_target(destination)
        temporary = target.parent / temporary_name()
        try:
            shutil.copy2(found, temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        return target

    def resolve(self, path: AnyPath) -> Path:
        """Return the path, made relative to the base folder if needed.

        Raises:
            ValueError: the path, with all links followed, is outside the base folder.
        """
        given = Path(path)
        base = self.base_dir.resolve()
        candidates = [given] if given.is_absolute() else [given, self.base_dir / given]
        for candidate in candidates:
            # A link to itself: Python 3.13 returns it, older versions raise RuntimeError.
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
        """Return the files of the days from `start_date` to `end_date` inclusive, newest first."""
        first = _to_utc_day(start_date) if start_date else dt.date.min
        last = _to_utc_day(end_date) if end_date else dt.date.max
        ending = _normalise_extension(extension).lower() if extension else None
        newest_first = reversed(sort_oldest_first(self._files()))
        chosen = [
            file.path
            for file in newest_first
            if first <= file.day <= last and ending in {None, file.path.suffix.lower()}
        ]
        return chosen[: None if limit is None else max(limit, 0)]

    def cleanup_old_files(self, days_old: float = 30, dry_run: bool = True) -> int:
        """Delete files, and abandoned temporary files, by age; return the number of files.

        Args:
            days_old: delete files older than this many days of 24 hours; 0 deletes all.
            dry_run: count the files without deleting them.

        Raises:
            ValueError: `days_old` is negative.
        """
        if not days_old >= 0:
            raise ValueError(f"days_old must be 0 or more, got {days_old}.")
        limit = time.time() - days_old * _DAY_SECONDS
        old = plan_cleanup(scan(self.base_dir), written_before=limit).files
        if dry_run:
            return len(old)
        return sum(self.delete_file(file.path) for file in old)

    def cleanup_to_size(self, max_bytes: int, dry_run: bool = True) -> FileCleanup:
        """Delete the oldest files until the rest takes `max_bytes` or less.

        Temporary files are neither counted nor deleted, since they may be in use.

        Args:
            max_bytes: 0 deletes all.
            dry_run: return the plan without deleting.

        Raises:
            ValueError: `max_bytes` is negative.
        """
        plan = plan_cleanup(self._files(), max_bytes=max_bytes)
        if dry_run:
            return plan
        for file in plan.files:
            self.delete_file(file.path)
        return replace(plan, deleted=True)

    def cleanup_empty_directories(self) -> int:
        """Delete empty folders below the base folder; return their number."""
        removed = 0
        for folder, _, _ in os.walk(self.base_dir, topdown=False):
            if Path(folder) == self.base_dir:
                continue
            try:
                Path(folder).rmdir()
            except OSError:
                # Not empty; a job may have written to it just now.
                continue
            removed += 1
        return removed

    def get_storage_stats(self) -> dict[str, Any]:
        return summarise(self._files(), lambda file: str(file.path))

    def get_info(self) -> dict[str, Any]:
        """Return the base folder, whether it exists, and the free bytes of its disk or None."""
        exists = self.base_dir.is_dir()
        return {
            "base_dir": str(self.base_dir),
            "base_dir_exists": exists,
            "free_bytes": shutil.disk_usage(self.base_dir).free if exists else None,
        }

    def _require_file(self, path: AnyPath) -> Path:
        found = self.resolve(path)
        if not found.is_file():
            raise FileNotFoundError(f"No such file: {os.fspath(path)}")
        return found

    def _prepare_target(self, path: AnyPath) -> Path:
        """Return the path to write to, in a folder that exists."""
        target = self.resolve(path)
        if ".." in target.parts:
            # To follow `missing/..`, the system would need `missing`, which may lie outside.
            target = target.parent.resolve() / target.name
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def _files(self) -> list[StoredFile]:
        return [file for file in scan(self.base_dir) if not file.is_temporary]


def _is_mark(char: str) -> bool:
    return unicodedata.category(char).startswith("M")


def _to_utc_day(moment: Day | None) -> dt.date:
    if moment is None:
        return dt.datetime.now(dt.UTC).date()
    if isinstance(moment, dt.datetime):
        return (moment.astimezone(dt.UTC) if moment.tzinfo else moment).date()
    return moment


def _normalise_extension(extension: str) -> str:
    match = _EXTENSION.fullmatch(extension)
    if match is None:
        raise ValueError(f"Invalid extension {extension!r}: use 1 to 10 letters and digits.")
    return f".{match[1]}"
