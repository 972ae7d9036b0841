"""glibc's malloc returns freed memory to the system."""

from __future__ import annotations

import gc
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from services.machine import memory
from tests.conftest import LIMIT_SECONDS

COUNT_MAPPED = """
import ctypes
from services.machine.memory import MAPPED_BYTES
from services.machine.memory import limit_memory_growth

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

LEAVE_HOLES = """
import os, time
from pathlib import Path
from services.machine import memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

memory.TRIM_SECONDS = 0.05
{settle}
blocks = [bytearray(8000) for _ in range(10_000)]
full = resident()
del blocks[::2], blocks[::2], blocks[::2]  # What is left keeps the pool from shrinking.
ends = time.monotonic() + {patience}
while resident() > full - 40_000_000 and time.monotonic() < ends:
    time.sleep(0.01)
print(resident() < full - 40_000_000)
"""

of_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")


def run_program(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout


@of_glibc
@pytest.mark.parametrize(("settle", "mapped"), [("limit_memory_growth()", "1 0"), ("", "0 0")])
def test_a_large_block_is_returned_whatever_was_freed_before(settle: str, mapped: str) -> None:
    assert run_program(COUNT_MAPPED.format(settle=settle)).split() == mapped.split()


@of_glibc
@pytest.mark.parametrize(
    ("settle", "patience", "smaller"),
    [("memory.limit_memory_growth()", LIMIT_SECONDS, "True"), ("", 0.3, "False")],
)
def test_free_pages_between_used_ones_are_returned(
    settle: str, patience: float, smaller: str
) -> None:
    printed = run_program(LEAVE_HOLES.format(settle=settle, patience=patience))
    assert printed.strip() == smaller


def test_a_server_searches_for_cycles_as_often_as_python_does() -> None:
    program = """
import gc
from services.machine.memory import collect_as_usual, collect_rarely
collect_rarely()
print(*gc.get_threshold())
collect_as_usual()
print(*gc.get_threshold())
"""
    rare, usual = (tuple(map(int, line.split())) for line in run_program(program).splitlines())
    assert rare[0] > usual[0]
    assert usual == gc.get_threshold()


@pytest.mark.skipif(platform.system() != "Linux", reason="of Linux")
def test_available_memory_is_positive_and_at_most_all() -> None:
    everything = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    available = memory.read_available_bytes()
    assert available is not None
    assert 0 < available <= everything


@pytest.mark.parametrize("content", [None, "MemTotal: 5 kB\n"])
def test_available_memory_is_unknown_without_linux(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    if content is not None:
        (tmp_path / "meminfo").write_text(content)
    assert memory.read_available_bytes() is None
