"""Finding the NVIDIA GPUs of this machine through the driver, without loading CUDA."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

QUERY_SECONDS = 10.0
"""Time limit of nvidia-smi, which has to load the driver first without persistence mode."""

_FIELDS = ("name", "memory.total", "driver_version", "memory.used")
_DRIVER = Path("/proc/driver/nvidia")
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU; None for values the driver does not report, such as memory shared with the host."""

    name: str
    driver: str | None
    memory_total_bytes: int | None
    memory_used_bytes: int | None

    @property
    def summary(self) -> str:
        memory = self.memory_total_bytes
        parts = (self.name, memory and f"{memory // _MIB} MiB", self.driver)
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class GpuReport:
    """The GPUs, or the reason why none was found."""

    gpus: tuple[Gpu, ...]
    reason: str | None = None
    """One sentence; None when there are GPUs."""
    is_broken: bool = False
    """Whether there is a driver that does not answer."""


def detect_gpus() -> GpuReport:
    """Ask the driver for its GPUs; takes up to `QUERY_SECONDS`."""
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
    """Parse "122570 MiB"; "[N/A]", from a GPU that shares the host's memory, is None."""
    number = text.partition(" ")[0]
    return int(number) * _MIB if number.isdecimal() else None


def _without_tool() -> GpuReport:
    """Read the kernel module's files: a container may have the driver without its tools."""
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
