"""The formats that a session can be written in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from services.daw.ardour import write_ardour
from services.daw.dawproject import write_dawproject
from services.daw.folder import write_folder
from services.daw.pack import write_pack
from services.daw.reaper import write_reaper

if TYPE_CHECKING:
    from services.daw.session import Session


class Writer(Protocol):
    def __call__(self, session: Session, folder: Path, *, force: bool = False) -> Path: ...


WRITERS: dict[str, Writer] = {
    "ardour": write_ardour,
    "dawproject": write_dawproject,
    "reaper": write_reaper,
    "folder": write_folder,
    "pack": write_pack,
}
"""Name of the format -> function that writes a session in it into a folder."""
