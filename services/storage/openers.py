"""Which processes of this machine have a file open."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")


def find_other_openers(file: Path) -> list[tuple[int, str]]:
    """Give process id and name of every other process that has the file open.

    Those of other users or containers cannot be seen, and none on a system without /proc.
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
    # A process may end, or close a file, while it is looked at.
    with suppress(OSError):
        for descriptor in descriptors.iterdir():
            with suppress(OSError):
                if os.path.samestat(descriptor.stat(), wanted):
                    return True
    return False
