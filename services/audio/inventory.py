"""What lies under a folder of audio files: found without following links, with age and size."""

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
    """A name for a file that is not whole yet: hidden, and short whatever the final name is."""
    return f"{_TEMPORARY_PREFIX}{secrets.token_hex(8)}{_TEMPORARY_SUFFIX}"


def lock_name(of: str) -> str:
    """A name for a file that a process holds locked: it is no audio, and never listed here."""
    return f"{_TEMPORARY_PREFIX}{of}{_LOCK_SUFFIX}"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file as it was found."""

    base: Path
    """The folder that was scanned."""
    relative: str
    """The path from there, with slashes."""
    size: int
    """Bytes."""
    changed: float
    """Seconds since the epoch."""
    written: float
    """Seconds since the epoch: the last change, or the end of the folder's day if that is earlier.

    Neither a touch nor a restored backup makes music newer than the day it was made."""

    @property
    def path(self) -> Path:
        """Where it is; made when it is asked for, since many are listed and few are opened."""
        return self.base / self.relative

    @property
    def is_temporary(self) -> bool:
        """Whether it has the name of a file that is not whole yet."""
        name = self.relative.rpartition("/")[2]
        return name.startswith(_TEMPORARY_PREFIX) and name.endswith(_TEMPORARY_SUFFIX)

    @property
    def is_in_day_folder(self) -> bool:
        """Whether it lies in a folder `YYYY/MM/DD`, or in one below."""
        return _DAY_FOLDER.match(self.relative) is not None and self.relative[10:11] == "/"

    @property
    def day(self) -> dt.date:
        """The day in UTC on which it was written."""
        return dt.datetime.fromtimestamp(min(self.written, _LAST_MOMENT), dt.UTC).date()


@dataclass(frozen=True, slots=True)
class FileCleanup:
    """What a clean-up removed, or would remove, and what stays."""

    files: tuple[StoredFile, ...]
    """Oldest first."""
    kept_files: int
    kept_bytes: int
    deleted: bool

    @property
    def total_bytes(self) -> int:
        """What the files take together."""
        return sum(file.size for file in self.files)


def listed_file(relative: str, size: int, changed: float) -> StoredFile:
    """A file that was found elsewhere than in a folder: it has no path.

    Args:
        relative: its name, with slashes.
        size: bytes.
        changed: seconds since the epoch.
    """
    return StoredFile(Path(), relative, size, changed, min(changed, _day_end(relative[:10])))


def summarise(files: Iterable[StoredFile], shown: Callable[[StoredFile], str]) -> dict[str, Any]:
    """Count, sizes, ends and kinds of files; oldest and newest as `shown` gives them, or None."""
    ordered = oldest_first(files)
    size = sum(file.size for file in ordered)
    return {
        "total_files": len(ordered),
        "total_size_bytes": size,
        "total_size_mb": size / _MIB,
        "total_size_gb": size / (_MIB << 10),
        "oldest_file": shown(ordered[0]) if ordered else None,
        "newest_file": shown(ordered[-1]) if ordered else None,
        "file_types": dict(Counter(PurePosixPath(one.relative).suffix.lower() for one in ordered)),
    }


def scan(base_dir: AnyPath) -> Iterator[StoredFile]:
    """Every file under the folder, temporary ones too; links are not followed and not given.

    Locks are not given either.

    What vanishes meanwhile and folders that may not be read are left out.
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


def oldest_first(files: Iterable[StoredFile]) -> list[StoredFile]:
    """The files by the time they were written; of one moment, by name."""
    return sorted(files, key=lambda file: (file.written, file.changed, file.relative))


def plan_cleanup(
    files: Iterable[StoredFile],
    *,
    written_before: float | None = None,
    max_bytes: int | None = None,
) -> FileCleanup:
    """Choose what has to go, oldest first.

    Args:
        files: what there is.
        written_before: everything older goes, seconds since the epoch.
        max_bytes: as many more go as it takes for the rest to fit.

    Raises:
        ValueError: a negative number of bytes.
    """
    if max_bytes is not None and max_bytes < 0:
        raise ValueError(f"max_bytes must be 0 or more, got {max_bytes}.")
    ordered = oldest_first(files)
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
    """The last moment of the day a folder stands for; infinity for other folders."""
    match = _DAY_FOLDER.fullmatch(relative.rstrip("/"))
    if match is None:
        return float("inf")
    try:
        start = dt.datetime.fromisoformat(f"{'-'.join(match.groups())}T00:00:00+00:00")
    except ValueError:
        return float("inf")
    return start.timestamp() + _DAY_SECONDS - 1e-3
