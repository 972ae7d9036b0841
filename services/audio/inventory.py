"""List the files under a folder of audio files, with age and size, without following links."""

from __future__ import annotations

import datetime as dt
import os
import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

AnyPath = str | os.PathLike[str]

_TEMPORARY_PREFIX, _TEMPORARY_SUFFIX, _LOCK_SUFFIX = ".dgx-", ".part", ".lock"
_DAY_FOLDER = re.compile(r"([0-9]{4})/([0-9]{2})/([0-9]{2})")
_DAY_SECONDS = 86_400
_MIB = 1 << 20
_LAST_MOMENT = dt.datetime.max.replace(tzinfo=dt.UTC).timestamp() - 1.0


def temporary_name() -> str:
    """Return a new name for an unfinished file: hidden, and shorter than any length limit."""
    return f"{_TEMPORARY_PREFIX}{secrets.token_hex(8)}{_TEMPORARY_SUFFIX}"


def lock_name(of: str) -> str:
    """Return the name of a lock file, which `scan` leaves out."""
    return f"{_TEMPORARY_PREFIX}{of}{_LOCK_SUFFIX}"


@dataclass(frozen=True, slots=True)
class StoredFile:
    base: Path
    """The folder that was scanned."""
    relative: str
    """The path below `base`, with slashes."""
    size: int
    """Bytes."""
    changed: float
    """Last change, seconds since the epoch."""
    written: float
    """The last change, or the end of the folder's day if that is earlier; seconds since the epoch.

    A restored backup is not newer than the day the audio was rendered."""

    @property
    def path(self) -> Path:
        # Computed on demand: many files are listed and few are opened.
        return self.base / self.relative

    @property
    def is_temporary(self) -> bool:
        name = self.relative.rpartition("/")[2]
        return name.startswith(_TEMPORARY_PREFIX) and name.endswith(_TEMPORARY_SUFFIX)

    @property
    def is_in_day_folder(self) -> bool:
        """Whether the file is under a folder `YYYY/MM/DD`."""
        return _DAY_FOLDER.match(self.relative) is not None and self.relative[10:11] == "/"

    @property
    def day(self) -> dt.date:
        """The UTC day of `written`."""
        return dt.datetime.fromtimestamp(min(self.written, _LAST_MOMENT), dt.UTC).date()


@dataclass(frozen=True, slots=True)
class FileCleanup:
    """The files that a clean-up deletes, and what it keeps."""

    files: tuple[StoredFile, ...]
    """Files to delete, oldest first."""
    kept_files: int
    kept_bytes: int
    deleted: bool

    @property
    def total_bytes(self) -> int:
        """Size of the files to delete."""
        return sum(file.size for file in self.files)


def listed_file(relative: str, size: int, changed: float) -> StoredFile:
    """Describe a file that is not in a local folder, so that its `path` is meaningless.

    Args:
        relative: its name, with slashes.
        size: bytes.
        changed: seconds since the epoch.
    """
    return StoredFile(Path(), relative, size, changed, min(changed, _day_end(relative[:10])))


def summarise(files: Iterable[StoredFile], label: Callable[[StoredFile], str]) -> dict[str, Any]:
    """Return number, sizes and types of files; oldest and newest as `label` names them, or None."""
    ordered = sort_oldest_first(files)
    size = sum(file.size for file in ordered)
    return {
        "total_files": len(ordered),
        "total_size_bytes": size,
        "total_size_mb": size / _MIB,
        "total_size_gb": size / (_MIB << 10),
        "oldest_file": label(ordered[0]) if ordered else None,
        "newest_file": label(ordered[-1]) if ordered else None,
        "file_types": dict(Counter(PurePosixPath(one.relative).suffix.lower() for one in ordered)),
    }


def scan(base_dir: AnyPath) -> Iterator[StoredFile]:
    """Yield every file under a folder, temporary ones included.

    Links, lock files, files that vanish during the scan and unreadable folders are left out.
    """
    base = Path(base_dir)
    folders = [""]
    while folders:
        folder = folders.pop()
        day_end = _day_end(folder)
        try:
            entries = os.scandir(base / folder)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
        with entries:
            for entry in entries:
                relative = f"{folder}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    folders.append(f"{relative}/")
                elif _is_lock(entry.name):
                    continue
                elif entry.is_file(follow_symlinks=False):
                    try:
                        found = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    changed = found.st_mtime
                    yield StoredFile(base, relative, found.st_size, changed, min(changed, day_end))


def sort_oldest_first(files: Iterable[StoredFile]) -> list[StoredFile]:
    """Sort files by `written`, then by last change and name."""
    return sorted(files, key=lambda file: (file.written, file.changed, file.relative))


def plan_cleanup(
    files: Iterable[StoredFile],
    *,
    written_before: float | None = None,
    max_bytes: int | None = None,
) -> FileCleanup:
    """Choose the files to delete, oldest first.

    Args:
        files: all files.
        written_before: delete older files; seconds since the epoch.
        max_bytes: delete more files until the rest takes no more than this.

    Raises:
        ValueError: `max_bytes` is negative.
    """
    if max_bytes is not None and max_bytes < 0:
        raise ValueError(f"max_bytes must be 0 or more, got {max_bytes}.")
    ordered = sort_oldest_first(files)
    kept_bytes = sum(file.size for file in ordered)
    count = 0
    for file in ordered:
        is_old = written_before is not None and file.written < written_before
        is_too_much = max_bytes is not None and kept_bytes > max_bytes
        if not (is_old or is_too_much):
            break
        kept_bytes -= file.size
        count += 1
    return FileCleanup(tuple(ordered[:count]), len(ordered) - count, kept_bytes, deleted=False)


def _is_lock(name: str) -> bool:
    return name.startswith(_TEMPORARY_PREFIX) and name.endswith(_LOCK_SUFFIX)


def _day_end(relative: str) -> float:
    """Return the last moment of the day of a folder `YYYY/MM/DD`; infinity for other folders."""
    match = _DAY_FOLDER.fullmatch(relative.rstrip("/"))
    if match is None:
        return float("inf")
    try:
        start = dt.datetime.fromisoformat(f"{'-'.join(match.groups())}T00:00:00+00:00")
    except ValueError:
        return float("inf")
    return start.timestamp() + _DAY_SECONDS - 1e-3
