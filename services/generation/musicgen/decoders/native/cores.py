"""The number of threads that read memory fastest: one per physical core of this process."""

from __future__ import annotations

import os
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def physical_cores(cpus: Path = _CPUS, quota: Path = _QUOTA) -> int:
    """Return the physical cores this process may use within its container's quota, at least 1."""
    allowed = os.sched_getaffinity(0)
    cores = {_siblings(cpus / f"cpu{cpu}" / "topology", cpu) for cpu in allowed}
    return max(1, min(len(cores), _whole_cores(quota) or len(cores)))


def _siblings(topology: Path, cpu: int) -> str:
    for name in ("core_cpus_list", "thread_siblings_list"):
        try:
            return (topology / name).read_text().strip()
        except OSError:
            continue
    return str(cpu)


def _whole_cores(quota: Path) -> int | None:
    # With more spinning threads than the quota allows, the system pauses all of them together.
    try:
        limit, period = quota.read_text().split()
        return None if limit == "max" else max(1, int(limit) // int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return None
