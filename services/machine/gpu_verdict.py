"""Whether a GPU of this machine can be used: a verdict on each fact, with advice.

The facts come from gpu.py, which asks the driver, and musicgen/gpu_probe.py, which asks torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from services.machine.gpu import GpuReport

Verdict = Literal["ok", "warn", "fail"]

FALLBACK = "MusicGen runs on the processor instead, more slowly; the composer needs no GPU."

LEAST_FREE_BYTES = 1 << 30
"""Least free device memory: the smallest decoder, 420 million weights, takes 0.8 GiB in bf16."""

TOLERANCE_FP32 = 1e-4
TOLERANCE_BF16 = 2e-2
"""Largest difference from the processor's result, relative to its largest value."""

_NEEDED_DRIVERS = {11: 450, 12: 525, 13: 580}
"""Major version of CUDA -> first driver for Linux that runs it (CUDA compatibility guide)."""

_GIB = 1 << 30
_TARGET = re.compile(r"(sm|compute)_([0-9]+)([0-9])([af]?)")
_BUILD_ADVICE = (
    "Run `pip uninstall torch`, then `scripts/setup musicgen`, with pip set up for the registry "
    "whose torch has CUDA."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRun:
    """A matrix product on the device, compared with the same on the processor."""

    error_fp32: float
    """Largest difference, relative to the largest value."""
    error_bf16: float
    seconds: float
    """Time of the second run; the first one loads the code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A GPU as torch sees it."""

    name: str
    capability: tuple[int, int]
    """Compute capability, major and minor."""
    memory_bytes: int
    free_bytes: int
    shares_memory: bool
    """Whether the processor uses the same memory, as on the GB10."""
    kernel: KernelRun | None = None
    problem: str | None = None
    """Why the kernel did not run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchBuild:
    """The installed torch, and the devices it sees."""

    version: str
    cuda: str | None
    """Version it was built with; None for a build without CUDA."""
    targets: tuple[str, ...] = ()
    """Architectures it has code for: sm_90, sm_120, compute_120, ..."""
    problem: str | None = None
    """Why CUDA does not start; None when it does."""
    devices: tuple[Device, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSetup:
    """The setting, the driver and the torch of a machine: what decides if its GPU is usable."""

    use_gpu: bool
    """The setting DGX_MUSIC_USE_GPU."""
    driver: GpuReport
    torch: TorchBuild | None
    torch_problem: str | None = None
    """Why torch cannot be loaded."""


@dataclass(frozen=True, slots=True)
class Check:
    """The verdict on one fact."""

    name: str
    verdict: Verdict
    detail: str
    advice: str | None = None
    """What to do if the verdict is not ok."""


def judge(facts: GpuSetup) -> list[Check]:
    """Return a verdict on each fact; later facts depend on earlier ones."""
    checks = [_check_driver(facts.driver), _check_torch(facts)]
    if not facts.use_gpu:
        checks.insert(
            0,
            Check(
                "setting",
                "fail",
                "DGX_MUSIC_USE_GPU is false: no engine uses a GPU",
                "Take DGX_MUSIC_USE_GPU out of the environment and .env.",
            ),
        )
    if facts.torch is None or facts.torch.cuda is None:
        return checks
    checks.append(_check_driver_for_cuda(facts.driver, facts.torch.cuda))
    if facts.driver.gpus and facts.torch.problem is not None:
        checks.append(
            Check(
                "cuda",
                "fail",
                f"CUDA does not start: {facts.torch.problem}",
                "Check CUDA_VISIBLE_DEVICES; after an update of the driver, restart the machine.",
            )
        )
    for device in facts.torch.devices:
        checks += [
            _check_code(device, facts.torch.targets),
            _check_memory(device),
            _check_kernel(device),
        ]
    return checks


def is_usable(checks: list[Check]) -> bool:
    """Whether no check failed."""
    return all(check.verdict != "fail" for check in checks)


def find_target(targets: tuple[str, ...], capability: tuple[int, int]) -> str | None:
    """Return the best target of a build that a device can run, or None.

    Code for sm_XY runs on devices of major version X and minor version Y or higher: the GB10,
    sm_121, runs code for sm_120. With the suffix `a` it runs on X.Y only. compute_XY is compiled
    at load for X.Y and all newer devices (CUDA programming guide, binary and PTX compatibility).
    """
    best: tuple[tuple[int, int, int], str] | None = None
    for target in targets:
        match = _TARGET.fullmatch(target)
        if match is None:
            continue
        kind, own = match[1], (int(match[2]), int(match[3]))
        if match[4] == "a":
            runs = own == capability
        elif kind == "sm" or match[4] == "f":
            runs = own[0] == capability[0] and own[1] <= capability[1]
        else:
            runs = own <= capability
        rank = (int(kind == "sm"), *own)
        if runs and (best is None or rank > best[0]):
            best = (rank, target)
    return best[1] if best else None


def minimum_driver(cuda: str) -> int | None:
    """Return the first driver version that runs a version of CUDA, or None if unknown."""
    major = cuda.partition(".")[0]
    return _NEEDED_DRIVERS.get(int(major)) if major.isdecimal() else None


def _check_driver(report: GpuReport) -> Check:
    if report.gpus:
        return Check("driver", "ok", "; ".join(gpu.summary for gpu in report.gpus))
    reason = (report.reason or "No GPU was found.").rstrip(".")
    if report.is_broken:
        advice = "Run `nvidia-smi`, and look for NVRM in `dmesg`; a restart loads a new driver."
    else:
        advice = (
            "Install NVIDIA's driver, 580 or newer. In a container, start it with the GPUs: "
            "`docker run --gpus all`."
        )
    return Check("driver", "fail", reason, advice)


def _check_torch(facts: GpuSetup) -> Check:
    if facts.torch is None:
        return Check(
            "torch",
            "fail",
            facts.torch_problem or "torch is missing",
            "Run `scripts/setup musicgen`.",
        )
    if facts.torch.cuda is None:
        detail = f"torch {facts.torch.version} was built without CUDA"
        return Check("torch", "fail", detail, _BUILD_ADVICE)
    targets = " ".join(facts.torch.targets) or "no list of targets"
    return Check("torch", "ok", f"{facts.torch.version}, CUDA {facts.torch.cuda}, {targets}")


def _check_driver_for_cuda(report: GpuReport, cuda: str) -> Check:
    needed = minimum_driver(cuda)
    found = next((gpu.driver for gpu in report.gpus if gpu.driver), None)
    major = (found or "").partition(".")[0]
    if needed is None or not major.isdecimal():
        return Check("driver for cuda", "warn", f"unknown whether the driver runs CUDA {cuda}")
    if int(major) < needed:
        return Check(
            "driver for cuda",
            "fail",
            f"CUDA {cuda} needs driver {needed} or newer, and {found} is installed",
            f"Install driver {needed} or newer.",
        )
    return Check("driver for cuda", "ok", f"{found} runs CUDA {cuda}, which needs {needed}")


def _check_code(device: Device, targets: tuple[str, ...]) -> Check:
    major, minor = device.capability
    target = find_target(targets, device.capability)
    shown = f"{device.name} is sm_{major}{minor}"
    if target is None:
        return Check("code", "fail", f"{shown}, for which this torch has no code", _BUILD_ADVICE)
    how = "compiled at load from" if target.startswith("compute") else "which runs"
    return Check("code", "ok", f"{shown}, {how} {target}")


def _check_memory(device: Device) -> Check:
    shared = ", shared with the processor" if device.shares_memory else ""
    detail = (
        f"{device.free_bytes / _GIB:.1f} GiB free of {device.memory_bytes / _GIB:.1f} GiB{shared}"
    )
    if device.free_bytes < LEAST_FREE_BYTES:
        return Check(
            "memory", "fail", detail, "End the programs that use the GPU: `nvidia-smi` lists them."
        )
    return Check("memory", "ok", detail)


def _check_kernel(device: Device) -> Check:
    run = device.kernel
    if run is None:
        advice = "Run `nvidia-smi`; if it reports no error, run `scripts/setup musicgen` again."
        return Check("kernel", "fail", f"it did not run: {device.problem}", advice)
    detail = (
        f"a matrix product differs from the processor's by {run.error_fp32:.1e} in fp32 and "
        f"{run.error_bf16:.1e} in bf16, in {run.seconds * 1e3:.2f} ms"
    )
    # Negated, so that NaN fails.
    if not (run.error_fp32 <= TOLERANCE_FP32 and run.error_bf16 <= TOLERANCE_BF16):
        return Check("kernel", "fail", detail, "The GPU computes wrong results: have it repaired.")
    return Check("kernel", "ok", detail)
