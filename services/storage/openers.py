"""Find the processes of this machine that have a file open."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")


def find_other_openers(file: Path) -> list[tuple[int, str]]:
    """Return process id and name of every other process that has the file open, by id.

    Processes of other users or containers are not visible. Without /proc nothing is found.
    """
    wanted = file.stat()
    found = []
    for folder in _PROC.glob("[0-9]*"):
        number = int(folder.name)
        if number != os.getpid() and _has_open(folder / "fd", wanted):
            with suppress(OSError):
                found.append((number, (folder / "comm").read_text(errors="replace").strip()))
    return sorted(found)


def _has_open(descriptors: Path, wanted: os.stat_result) -> bool:
    # The process may end, or close the file, during the check.
    with suppress(OSError):
        for descriptor in descriptors.iterdir():
            with suppress(OSError):
                if os.path.samestat(descriptor.stat(), wanted):
                    return True
    return False
