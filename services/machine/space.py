"""Free disk space, and the floor below which no job is accepted."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from services.errors import OutputError

if TYPE_CHECKING:
    from services.config import Settings

_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class WriteFolder:
    """A folder that the service writes to, and the space on its disk."""

    what: str
    """In words: output folder or database."""
    folder: Path
    free_bytes: int
    is_writable: bool
    variable: str
    """The environment variable that sets it."""


def write_folders(settings: Settings) -> list[WriteFolder]:
    """Return the output folder, and the folder of an SQLite database.

    Raises:
        OutputError: one of them cannot be used.
    """
    # An engine process only asks for free bytes, and starts in half the time without the import.
    from services import storage

    found = [_write_folder("output folder", settings.output_dir, "DGX_MUSIC_OUTPUT_DIR")]
    file = storage.database_file(settings.database_url)
    if file is not None:
        found.append(_write_folder("database", file.parent, "DATABASE_URL"))
    return found


def free_bytes(folder: Path) -> int:
    """Return the free bytes on the disk of a folder, which need not exist yet.

    Raises:
        OutputError: the system does not report them.
    """
    try:
        return shutil.disk_usage(nearest_existing(folder)).free
    except OSError as error:
        raise OutputError(
            f"The folder {folder} cannot be used: {error.strerror}. Name another one."
        ) from error


def nearest_existing(folder: Path) -> Path:
    """Return the folder, or the innermost of its parents that exists."""
    found = folder.absolute()
    while not os.path.lexists(found):
        found = found.parent
    return found


def require_disk_floor(settings: Settings) -> None:
    """Check that every disk has the free space that new jobs need.

    Raises:
        OutputError: one has less, or a folder cannot be used.
    """
    for place in write_folders(settings):
        if place.free_bytes < settings.disk_floor_bytes:
            raise OutputError(
                f"The disk of the {place.what} has {place.free_bytes / _GIB:.2f} GiB free, and new "
                f"jobs need {settings.disk_floor_bytes / _GIB:.2f} GiB. Free some space, or set "
                f"{place.variable} to another disk."
            )


def require_output_folder(settings: Settings) -> None:
    """Check that the output folder is a folder, or can become one, and can be written.

    Raises:
        OutputError: it cannot be used.
    """
    place, *_ = write_folders(settings)
    if not nearest_existing(place.folder).is_dir() or not place.is_writable:
        raise OutputError(
            f"The output folder {place.folder} cannot be written. Check its permissions, or "
            f"set {place.variable} to another one."
        )


def _write_folder(what: str, folder: Path, variable: str) -> WriteFolder:
    is_writable = os.access(nearest_existing(folder), os.W_OK | os.X_OK, effective_ids=True)
    return WriteFolder(what, folder, free_bytes(folder), is_writable, variable)
