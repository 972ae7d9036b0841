"""The compiler of the sample loops, with the types of what it compiles kept for the checker."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

_Loop = TypeVar("_Loop", bound=Callable[..., object])


def kernel(loop: _Loop) -> _Loop:
    """Compile on first use, keep the machine code on disk, release the GIL while it runs.

    No fast-math: the compiler may not reorder sums, so results do not change with its version.
    Where numba finds no folder that it may write to, every process compiles anew.
    """
    try:
        compiled = numba.njit(cache=True, nogil=True, error_model="numpy")(loop)
    except RuntimeError:
        compiled = numba.njit(nogil=True, error_model="numpy")(loop)
    return cast("_Loop", compiled)
