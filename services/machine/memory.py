"""How a process that stays for long uses memory: mallopt(3) and malloc_trim(3) of glibc."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8

ARENAS = 2
"""Pools that threads share. With one for each of dozens that take turns, as glibc has it, what a
thread freed is kept for it alone."""

MAPPED_BYTES = 512 * 1024
"""From this size on a block is a mapping of its own, and goes back to the system when it is freed.

glibc would raise the bound to the largest block freed so far. A table of Python's that grows is a
block of megabytes, and is made anew now and then; in the pool each time leaves a hole of its size
that small blocks then keep from closing.
"""

KEPT_FREE_BYTES = 1024 * 1024
"""At the end of a pool; a larger free end goes back to the system."""

GIVE_BACK_SECONDS = 30.0
"""Between two times that free pages within the pools go back too, which takes 0.2 to 2 ms."""


def keep_memory_level() -> None:
    """Have what is freed used again or given back; before there are threads.

    The process would else grow for hours. Nothing happens without glibc.
    """
    library = ctypes.CDLL(None)
    mallopt = getattr(library, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, ARENAS)
        mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES)
        mallopt(_M_TRIM_THRESHOLD, KEPT_FREE_BYTES)
    trim = getattr(library, "malloc_trim", None)
    if trim is not None:
        threading.Thread(target=_give_back, args=(trim,), name="give-back", daemon=True).start()


def _give_back(trim: Callable[[int], int]) -> None:
    while True:
        time.sleep(GIVE_BACK_SECONDS)
        trim(KEPT_FREE_BYTES)
