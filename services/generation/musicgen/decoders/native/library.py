"""The functions of step.c and draw.c for Python."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from ctypes import (
    POINTER,
    c_char_p,
    c_double,
    c_float,
    c_int,
    c_int32,
    c_size_t,
    c_uint64,
    c_void_p,
)
from enum import IntEnum
from pathlib import Path

from services.errors import EngineUnavailableError
from services.generation.musicgen.decoders.native.build import (
    BuildError,
    build,
    find_library,
    library_folders,
)


class Shape(ctypes.Structure):
    """Mirrors `Shape` in model.h."""

    _fields_ = [
        (name, c_int32)
        for name in (
            *("layers", "hidden", "heads", "ffn", "codebooks", "codebook_size", "cross_attention"),
            *("slots", "positions", "format", "threads", "level"),
        )
    ]


class Draw(ctypes.Structure):
    """Mirrors `Draw` in draw.c."""

    _fields_ = [
        *((name, c_uint64) for name in ("seed", "step")),
        ("top_p", c_double),
        *((name, c_float) for name in ("guidance", "temperature")),
        *((name, c_int32) for name in ("top_k", "greedy")),
    ]


class Format(IntEnum):
    """Mirrors `enum format`."""

    FLOAT32 = 0
    INT8 = 1


class MatrixName(IntEnum):
    """Mirrors `enum matrix_name`."""

    QKV = 0
    SELF_OUT = 1
    CROSS_Q = 2
    CROSS_KV = 3
    CROSS_OUT = 4
    FC1 = 5
    FC2 = 6
    HEADS = 7


class VectorName(IntEnum):
    """Mirrors `enum vector_name`."""

    SELF_NORM = 0
    CROSS_NORM = 1
    LAST_NORM = 2
    FINAL_NORM = 3
    EMBEDDINGS = 4
    SINUSOIDS = 5


class NativeUnavailableError(EngineUnavailableError):
    """The native step cannot run on this machine; the message is one line with the reason."""


_SIGNATURES: dict[str, tuple[object, list[object]]] = {
    "musicgen_level": (c_char_p, [c_int]),
    "musicgen_runs": (c_int, [c_int]),
    "musicgen_new": (c_void_p, [POINTER(Shape), c_int]),
    "musicgen_free": (None, [c_void_p]),
    "musicgen_matrix": (c_int, [c_void_p, *[c_int] * 5, c_void_p]),
    "musicgen_vectors": (c_int, [c_void_p, c_int, c_int, c_void_p, c_void_p]),
    "musicgen_admit": (c_int, [c_void_p, c_int, c_void_p, c_int]),
    "musicgen_forward": (
        c_int,
        [c_void_p, c_int, POINTER(c_int32), POINTER(c_int32), c_void_p, c_void_p, c_void_p],
    ),
    "musicgen_read": (c_size_t, [c_void_p]),
    "musicgen_draw": (c_int, [*[c_int] * 3, c_void_p, POINTER(Draw), c_void_p]),
}


def open_library(folders: Sequence[Path]) -> ctypes.CDLL:
    """Load the library from one of the folders, and build it if there is none.

    Raises:
        NativeUnavailableError: it cannot be built or loaded.
    """
    try:
        found = find_library(folders)
        if found is not None:
            try:
                return _load(found)
            except OSError:
                pass  # built on another machine, for example with a newer C library
        return _load(build(folders))
    except BuildError as error:
        raise NativeUnavailableError(f"The native step could not be built: {error}.") from error
    except (AttributeError, OSError) as error:
        raise NativeUnavailableError(f"The native step could not be loaded: {error}.") from error


def _load(file: Path) -> ctypes.CDLL:
    native = ctypes.CDLL(str(file))
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(native, name)
        function.restype, function.argtypes = result, arguments
    return native


@functools.cache
def library() -> ctypes.CDLL:
    """Return the library of this process; raises as `open_library`."""
    return open_library(library_folders())


def levels() -> dict[str, int]:
    """Return the number of each instruction set that this processor can run, the slowest first."""
    native = library()
    found: dict[str, int] = {}
    number = 0
    while (name := native.musicgen_level(number)) is not None:
        if native.musicgen_runs(number):
            found[name.decode()] = number
        number += 1
    return found
