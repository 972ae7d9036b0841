"""Which NVIDIA GPUs this machine has, as its driver says; nothing is loaded for it."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

QUERY_SECONDS = 10.0
"""What nvidia-smi has to answer; without persistence mode it wakes the driver first."""

_FIELDS = ("name", "memory.total", "driver_version", "memory.used")
_DRIVER = Path("/proc/driver/nvidia")
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU; None is what the driver does not say: the memory of one that shares the host's."""

    name: str
    driver: str | None
    memory_total_bytes: int | None
    memory_used_bytes: int | None

    @property
    def summary(self) -> str:
        """Name, memory and driver in a few words."""
        memory = self.memory_total_bytes
        parts = (self.name, memory and f"{memory // _MIB} MiB", self.driver)
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class GpuReport:
    """The GPUs, or why there are none to be seen."""

    gpus: tuple[Gpu, ...]
    reason: str | None = None
    """One sentence; None when there are some."""
    is_broken: bool = False
    """There is a driver, and it does not answer."""


def look_for_gpus() -> GpuReport:
    """Ask the driver; takes a moment, up to `QUERY_SECONDS`."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return _without_tool()
    query = [tool, f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(  # noqa: S603 - a fixed command, found on PATH
            query, capture_output=True, text=True, timeout=QUERY_SECONDS, check=True
        )
    except subprocess.TimeoutExpired:
        reason = f"nvidia-smi is here but did not answer within {QUERY_SECONDS:g} s."
        return GpuReport((), reason, is_broken=True)
    except subprocess.CalledProcessError as error:
        reason = f"nvidia-smi is here but ends with code {error.returncode}; run it to see why."
        return GpuReport((), reason, is_broken=True)
    except (OSError, UnicodeDecodeError):
        return GpuReport((), "nvidia-smi is here but cannot be run.", is_broken=True)
    gpus = tuple(_parse(line) for line in answer.stdout.splitlines() if line.strip())
    return GpuReport(gpus, None if gpus else "The NVIDIA driver sees no GPU.")


def _parse(line: str) -> Gpu:
    found = [part.strip() for part in line.split(",")]
    name, total, driver, used = (found + [""] * len(_FIELDS))[: len(_FIELDS)]
    return Gpu(name, driver or None, _bytes(total), _bytes(used))


def _bytes(text: str) -> int | None:
    """Read "122570 MiB"; "[N/A]" where GPU and processor share their memory."""
    number = text.partition(" ")[0]
    return int(number) * _MIB if number.isdecimal() else None


def _without_tool() -> GpuReport:
    """Look at what the driver's module shows, as in a container without its tools."""
    gpus = []
    for file in sorted(_DRIVER.glob("gpus/*/information")):
        try:
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        facts = {
            name.strip(): value.strip() for name, _, value in (one.partition(":") for one in lines)
        }
        gpus.append(Gpu(facts.get("Model", "NVIDIA GPU"), None, None, None))
    return GpuReport(tuple(gpus), None if gpus else "There is no NVIDIA driver on this machine.")
