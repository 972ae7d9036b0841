"""How a process that stays for long uses memory."""

from __future__ import annotations

import ctypes

_M_ARENA_MAX = -8
"""Of mallopt(3), glibc."""

ARENAS = 2


def keep_few_arenas() -> None:
    """Have all threads share two pools of memory, before there are threads.

    glibc gives each thread one of its own, and with dozens of threads that take turns what each of
    them freed is kept for it alone: the process grows for hours. Nothing happens without glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, ARENAS)
