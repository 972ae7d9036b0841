"""The GPUs that torch finds, and a test kernel on each."""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from services.machine.gpu_verdict import Device, KernelRun, TorchBuild
from services.machine.memory import read_available_bytes

_SIZE = 512
_SEED = 5


def probe_gpus() -> TorchBuild:
    """Describe torch's build and every device, and run a kernel on each; takes seconds."""
    cuda = torch.version.cuda
    build = TorchBuild(
        version=str(torch.__version__), cuda=cuda, targets=tuple(torch.cuda.get_arch_list())
    )
    if cuda is None:
        return build
    try:
        # This raises the reason why CUDA does not start; `device_count` would just return 0.
        torch.cuda.current_device()
        devices = tuple(_probe_device(index) for index in range(torch.cuda.device_count()))
    except (RuntimeError, AssertionError) as error:
        return replace(build, problem=_first_line(error))
    return replace(build, devices=devices)


def read_device_memory(device: torch.device | int) -> tuple[int, int, bool]:
    """Return the free and the total bytes of a GPU, and whether they are the processor's too.

    The driver of such a GPU (GB10) counts the page cache as used, which Linux gives back on demand.
    """
    free, total = torch.cuda.mem_get_info(device)
    is_shared = bool(getattr(torch.cuda.get_device_properties(device), "is_integrated", False))
    available = read_available_bytes() if is_shared else None
    return (free if available is None else min(available, total)), total, is_shared


def run_kernel(device: torch.device) -> KernelRun:
    """Multiply two matrices on a device, in fp32 and in bf16, and compare with the CPU's product.

    Raises:
        RuntimeError: the device cannot run it.
    """
    source = torch.Generator().manual_seed(_SEED)
    left = torch.randn(_SIZE, _SIZE, generator=source)
    right = torch.randn(_SIZE, _SIZE, generator=source)
    expected = left.double() @ right.double()
    left, right = left.to(device), right.to(device)
    _ = left @ right
    _synchronise(device)
    began = time.perf_counter()
    product = left @ right
    _synchronise(device)
    seconds = time.perf_counter() - began
    product_bf16 = left.to(torch.bfloat16) @ right.to(torch.bfloat16)
    return KernelRun(
        error_fp32=_relative_error(product, expected),
        error_bf16=_relative_error(product_bf16, expected),
        seconds=seconds,
    )


def _probe_device(index: int) -> Device:
    properties = torch.cuda.get_device_properties(index)
    free, total, is_shared = read_device_memory(index)
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
        shares_memory=is_shared,
        kernel=kernel,
        problem=problem,
    )


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _relative_error(product: torch.Tensor, expected: torch.Tensor) -> float:
    return float((product.cpu().double() - expected).abs().max() / expected.abs().max())


def _is_in_use() -> bool:
    # torch does not annotate this function.
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


def reset_peak() -> None:
    """Reset the memory peak of every device, if CUDA is in use."""
    if _is_in_use():
        for index in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(index)


def peak_bytes() -> int | None:
    """Return the peak of tensor memory on all devices since the reset; None if CUDA is unused."""
    if not _is_in_use():
        return None
    return sum(torch.cuda.max_memory_allocated(index) for index in range(torch.cuda.device_count()))
