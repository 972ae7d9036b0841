"""Free space: how much there is, and the floor under which no job is accepted."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from services import storage
from services.errors import OutputError

if TYPE_CHECKING:
    from services.config import Settings

_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Place:
    """A folder that something is written to."""

    what: str
    """In words, for people who may not know the machine."""
    folder: Path
    free_bytes: int
    """On its disk."""
    is_writable: bool
    variable: str
    """The setting that moves it."""


def places(settings: Settings) -> list[Place]:
    """Look at the output folder, and at that of the database where it is a file here.

    Raises:
        OutputError: one of them cannot be looked at.
    """
    found = [_place("output folder", settings.output_dir, "DGX_MUSIC_OUTPUT_DIR")]
    file = storage.database_file(settings.database_url)
    if file is not None:
        found.append(_place("database", file.parent, "DATABASE_URL"))
    return found


def free_bytes(folder: Path) -> int:
    """Count what is free on the disk of a folder, there already or not.

    Raises:
        OutputError: the system does not say.
    """
    try:
        return shutil.disk_usage(nearest(folder)).free
    except OSError as error:
        raise OutputError(
            f"The folder {folder} cannot be used: {error.strerror}. Give another one."
        ) from error


def nearest(folder: Path) -> Path:
    """Give the folder, or the innermost of its parents that is there."""
    found = folder.absolute()
    while not os.path.lexists(found):
        found = found.parent
    return found


def require_floor(settings: Settings) -> None:
    """Refuse what would be written while less than the floor is free.

    Raises:
        OutputError: it is, or a folder cannot be used.
    """
    for place in places(settings):
        if place.free_bytes < settings.disk_floor_bytes:
            raise OutputError(
                f"The disk of the {place.what} has {place.free_bytes / _GIB:.2f} GiB free, and new "
                f"jobs need {settings.disk_floor_bytes / _GIB:.2f} GiB. Free some space, or give "
                f"another disk in {place.variable}."
            )


def require_usable(settings: Settings) -> None:
    """Refuse an output folder that is none, or that this user may not write to.

    Raises:
        OutputError: it is so.
    """
    place, *_ = places(settings)
    if not nearest(place.folder).is_dir() or not place.is_writable:
        raise OutputError(
            f"The output folder {place.folder} cannot be written. Check its rights, or give "
            f"another one in {place.variable}."
        )


def _place(what: str, folder: Path, variable: str) -> Place:
    is_writable = os.access(nearest(folder), os.W_OK | os.X_OK, effective_ids=True)
    return Place(what, folder, free_bytes(folder), is_writable, variable)
