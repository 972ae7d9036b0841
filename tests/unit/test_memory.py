from __future__ import annotations

import platform
import subprocess
import sys

import pytest

COUNT_MAPPED = """
import ctypes
from services.generation.memory import MAPPED_BYTES, keep_memory_level

class Facts(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
        "fordblks", "keepcost")]

library = ctypes.CDLL(None)
library.mallinfo2.restype = Facts

def mapped():
    return library.mallinfo2().hblks

{settle}
bytearray(8 * MAPPED_BYTES)  # Freed at once: glibc takes its size for the new bound.
before = mapped()
block = bytearray(2 * MAPPED_BYTES)
during = mapped()
del block
print(during - before, mapped() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
@pytest.mark.parametrize(("settle", "mapped"), [("keep_memory_level()", "1 0"), ("", "0 0")])
def test_a_large_block_goes_back_to_the_system_whatever_was_freed_before(
    settle: str, mapped: str
) -> None:
    program = COUNT_MAPPED.format(settle=settle)
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == mapped.split()
