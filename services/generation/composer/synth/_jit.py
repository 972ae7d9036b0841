"""Compiles the sample loops and keeps their types for mypy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

_Loop = TypeVar("_Loop", bound=Callable[..., object])


def kernel(loop: _Loop) -> _Loop:
    """Compile on first use, keep the machine code on disk, and release the GIL while it runs.

    Without a folder that numba may write to, every process compiles anew.
    """
    # No fast-math: reordered sums would make results depend on the version of the compiler.
    try:
        compiled = numba.njit(cache=True, nogil=True, error_model="numpy")(loop)
    except RuntimeError:
        compiled = numba.njit(nogil=True, error_model="numpy")(loop)
    return cast("_Loop", compiled)
