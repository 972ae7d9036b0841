"""What torch sees of the GPUs, and a kernel that really runs on each."""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from services.machine.gpu_verdict import Device, KernelRun, TorchBuild

_SIZE = 512
_SEED = 5


def probe_gpus() -> TorchBuild:
    """Look at the build and at each device, and run a kernel on it; takes seconds."""
    cuda = torch.version.cuda
    build = TorchBuild(
        version=str(torch.__version__), cuda=cuda, targets=tuple(torch.cuda.get_arch_list())
    )
    if cuda is None:
        return build
    try:
        # It says why CUDA does not start; `device_count` would say 0.
        torch.cuda.current_device()
        devices = tuple(_look_at(index) for index in range(torch.cuda.device_count()))
    except (RuntimeError, AssertionError) as error:
        return replace(build, problem=_first_line(error))
    return replace(build, devices=devices)


def run_kernel(device: torch.device) -> KernelRun:
    """Multiply two matrices on a device, in fp32 and in bf16, and compare with the processor.

    Raises:
        RuntimeError: the device cannot run it.
    """
    source = torch.Generator().manual_seed(_SEED)
    left = torch.randn(_SIZE, _SIZE, generator=source)
    right = torch.randn(_SIZE, _SIZE, generator=source)
    expected = left.double() @ right.double()
    there = (left.to(device), right.to(device))
    _ = there[0] @ there[1]
    _wait_for(device)
    began = time.perf_counter()
    made = there[0] @ there[1]
    _wait_for(device)
    seconds = time.perf_counter() - began
    made_bf16 = there[0].to(torch.bfloat16) @ there[1].to(torch.bfloat16)
    return KernelRun(
        error_fp32=_difference(made, expected),
        error_bf16=_difference(made_bf16, expected),
        seconds=seconds,
    )


def _look_at(index: int) -> Device:
    properties = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    kernel, problem = None, None
    try:
        kernel = run_kernel(torch.device("cuda", index))
    except RuntimeError as error:
        problem = _first_line(error)
    return Device(
        name=properties.name,
        capability=(properties.major, properties.minor),
        memory_bytes=total,
        free_bytes=free,
        shares_memory=bool(getattr(properties, "is_integrated", False)),
        kernel=kernel,
        problem=problem,
    )


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _difference(made: torch.Tensor, expected: torch.Tensor) -> float:
    gap = (made.cpu().double() - expected).abs().max() / expected.abs().max()
    return float(gap)


def _is_in_use() -> bool:
    # torch has no annotations there.
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


def forget_peak() -> None:
    """Begin to count the peak of the memory anew, on every device that is in use."""
    if _is_in_use():
        for index in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(index)


def peak_bytes() -> int | None:
    """Give the most that tensors took on the devices since then; None without a device in use."""
    if not _is_in_use():
        return None
    return sum(torch.cuda.max_memory_allocated(index) for index in range(torch.cuda.device_count()))
