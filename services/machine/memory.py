"""Memory management that suits how long a process runs: glibc's malloc and Python's collector."""

from __future__ import annotations

import ctypes
import gc
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_AVAILABLE = re.compile(r"^MemAvailable:\s+(\d+) kB$", re.MULTILINE)

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8

ARENAS = 2
"""Pools that threads share. By default glibc makes more, and memory that a thread freed is not used
by threads of other pools."""

MAPPED_BYTES = 512 * 1024
"""A block of this size or larger is a mapping of its own, returned to the system when freed.

By default glibc raises this bound to the largest block freed so far. A growing Python table is a
block of megabytes that is reallocated now and then; in a pool each time leaves a hole, which small
blocks then keep from being returned.
"""

KEPT_FREE_BYTES = 1024 * 1024
"""Free memory at the end of a pool that is kept; the rest is returned to the system."""

TRIM_SECONDS = 30.0
"""Pause between two calls of malloc_trim, each of which takes 0.2 to 2 ms."""

_USUAL_THRESHOLDS = gc.get_threshold()

_RARE_THRESHOLDS = (50_000, 20, 100)
"""Imports alone make some hundred thousand objects, nearly all of which stay until the end."""


def collect_rarely() -> None:
    """Search for reference cycles rarely, as suits a command of seconds that is mostly imports."""
    gc.set_threshold(*_RARE_THRESHOLDS)


def collect_as_usual() -> None:
    """Search for reference cycles as often as Python does, in a process that stays."""
    gc.set_threshold(*_USUAL_THRESHOLDS)


def limit_memory_growth() -> None:
    """Make malloc reuse freed memory or return it to the system, where it is glibc's.

    Call it before threads are started. Without it the process grows for hours.
    """
    library = ctypes.CDLL(None)
    mallopt = getattr(library, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, ARENAS)
        mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES)
        mallopt(_M_TRIM_THRESHOLD, KEPT_FREE_BYTES)
    trim = getattr(library, "malloc_trim", None)
    if trim is not None:
        threading.Thread(target=_trim_forever, args=(trim,), name="trim", daemon=True).start()


def _trim_forever(trim: Callable[[int], int]) -> None:
    while True:
        time.sleep(TRIM_SECONDS)
        trim(KEPT_FREE_BYTES)


def read_available_bytes() -> int | None:
    """Return the memory that programs can get, the page cache included; None outside Linux."""
    try:
        found = _AVAILABLE.search(_MEMINFO.read_text(encoding="ascii"))
    except OSError:
        return None
    return None if found is None else int(found[1]) * 1024
