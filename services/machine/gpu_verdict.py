"""Whether a GPU of this machine can be used: facts in, a verdict on each, and what to do about it.

Nothing is looked at here. gpu.py asks the driver, musicgen/gpu_probe.py asks torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from services.machine.gpu import GpuReport

Verdict = Literal["ok", "warn", "fail"]

INSTEAD = "MusicGen runs on the processor instead, more slowly; the composer needs no GPU."

LEAST_FREE_BYTES = 1 << 30
"""Of the device's memory; in bf16 the smallest decoder, 420 million weights, takes 0.8 GiB."""

TOLERANCE_FP32 = 1e-4
TOLERANCE_BF16 = 2e-2
"""Largest difference from the processor's result, as a part of its largest value."""

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
    """A matrix product on the device, against the same on the processor."""

    error_fp32: float
    """Largest difference, as a part of the largest value."""
    error_bf16: float
    seconds: float
    """Of the second run; the first one loads the code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A GPU as torch sees it."""

    name: str
    capability: tuple[int, int]
    """Compute capability, major and minor."""
    memory_bytes: int
    free_bytes: int
    shares_memory: bool
    """With the processor, as that of the GB10."""
    kernel: KernelRun | None = None
    problem: str | None = None
    """Why there is no kernel run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchBuild:
    """The torch that is installed, and what it sees."""

    version: str
    cuda: str | None
    """That it was built with; None for a build without."""
    targets: tuple[str, ...] = ()
    """What it has code for: sm_90, sm_120, compute_120, ..."""
    problem: str | None = None
    """Why CUDA does not start; None when it does."""
    devices: tuple[Device, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSetup:
    """The setting, the driver and the torch of a machine: what decides if its GPU is usable."""

    use_gpu: bool
    """The setting."""
    driver: GpuReport
    torch: TorchBuild | None
    torch_problem: str | None = None
    """Why there is no torch."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    detail: str
    advice: str | None = None
    """What to do about it."""


def judge(facts: GpuSetup) -> list[Check]:
    """Give a verdict on each fact, in the order in which one needs the other."""
    checks = [_driver(facts.driver), _torch(facts)]
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
    checks.append(_driver_for_cuda(facts.driver, facts.torch.cuda))
    if facts.driver.gpus and facts.torch.problem is not None:
        checks.append(
            Check(
                "cuda",
                "fail",
                f"CUDA does not start: {facts.torch.problem}",
                "Look at CUDA_VISIBLE_DEVICES; after an update of the driver, restart the machine.",
            )
        )
    for device in facts.torch.devices:
        checks += [_code(device, facts.torch.targets), _memory(device), _kernel(device)]
    return checks


def is_usable(checks: list[Check]) -> bool:
    """Whether nothing stands in the way."""
    return all(check.verdict != "fail" for check in checks)


def has_code_for(targets: tuple[str, ...], capability: tuple[int, int]) -> str | None:
    """Give the target of a build that a device runs; None when it runs none.

    Code for sm_XY runs on devices of the major version X whose minor is Y or more: the GB10,
    sm_121, runs that for sm_120. With an `a` it runs on X.Y alone. compute_XY is compiled at load
    for X.Y and everything newer (CUDA programming guide, binary and PTX compatibility).
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


def needed_driver(cuda: str) -> int | None:
    """Give the first driver for a version of CUDA; None where that is not known."""
    major = cuda.partition(".")[0]
    return _NEEDED_DRIVERS.get(int(major)) if major.isdecimal() else None


def _driver(report: GpuReport) -> Check:
    if report.gpus:
        return Check("driver", "ok", "; ".join(gpu.summary for gpu in report.gpus))
    reason = (report.reason or "There is no GPU to be seen.").rstrip(".")
    if report.is_broken:
        advice = "Run `nvidia-smi`, and look for NVRM in `dmesg`; a restart loads a new driver."
    else:
        advice = (
            "Install NVIDIA's driver, 580 or newer. In a container, start it with the GPUs: "
            "`docker run --gpus all`."
        )
    return Check("driver", "fail", reason, advice)


def _torch(facts: GpuSetup) -> Check:
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


def _driver_for_cuda(report: GpuReport, cuda: str) -> Check:
    needed = needed_driver(cuda)
    found = next((gpu.driver for gpu in report.gpus if gpu.driver), None)
    major = (found or "").partition(".")[0]
    if needed is None or not major.isdecimal():
        return Check("driver for cuda", "warn", f"whether the driver runs CUDA {cuda} is not known")
    if int(major) < needed:
        return Check(
            "driver for cuda",
            "fail",
            f"CUDA {cuda} needs driver {needed} or newer, and this is {found}",
            f"Install driver {needed} or newer.",
        )
    return Check("driver for cuda", "ok", f"{found} runs CUDA {cuda}, which needs {needed}")


def _code(device: Device, targets: tuple[str, ...]) -> Check:
    major, minor = device.capability
    target = has_code_for(targets, device.capability)
    shown = f"{device.name} is sm_{major}{minor}"
    if target is None:
        return Check("code", "fail", f"{shown}, for which this torch has no code", _BUILD_ADVICE)
    how = "compiled at load from" if target.startswith("compute") else "which runs"
    return Check("code", "ok", f"{shown}, {how} {target}")


def _memory(device: Device) -> Check:
    shared = ", shared with the processor" if device.shares_memory else ""
    detail = (
        f"{device.free_bytes / _GIB:.1f} GiB free of {device.memory_bytes / _GIB:.1f} GiB{shared}"
    )
    if device.free_bytes < LEAST_FREE_BYTES:
        return Check("memory", "fail", detail, "End what uses the GPU: `nvidia-smi` lists it.")
    return Check("memory", "ok", detail)


def _kernel(device: Device) -> Check:
    run = device.kernel
    if run is None:
        advice = "Run `nvidia-smi`; if it is well, run `scripts/setup musicgen` again."
        return Check("kernel", "fail", f"it did not run: {device.problem}", advice)
    detail = (
        f"a matrix product differs from the processor's by {run.error_fp32:.1e} in fp32 and "
        f"{run.error_bf16:.1e} in bf16, in {run.seconds * 1e3:.2f} ms"
    )
    # Written so that NaN fails.
    if not (run.error_fp32 <= TOLERANCE_FP32 and run.error_bf16 <= TOLERANCE_BF16):
        return Check("kernel", "fail", detail, "The device computes wrongly: have it looked at.")
    return Check("kernel", "ok", detail)
