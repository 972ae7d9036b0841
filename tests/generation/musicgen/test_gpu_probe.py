"""The GPUs that torch finds, and the test kernel, which runs on the CPU if there are none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from services.generation.musicgen import gpu_probe
from services.generation.musicgen.gpu_probe import peak_bytes, probe_gpus, reset_peak, run_kernel
from services.machine.gpu_verdict import TOLERANCE_BF16, TOLERANCE_FP32, KernelRun

RUN = KernelRun(error_fp32=1e-7, error_bf16=1e-3, seconds=0.01)


def test_the_kernel_agrees_with_the_cpu() -> None:
    run = run_kernel(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    assert run.error_fp32 <= TOLERANCE_FP32
    assert TOLERANCE_FP32 < run.error_bf16 <= TOLERANCE_BF16
    assert run.seconds > 0


def test_the_build_is_described() -> None:
    build = probe_gpus()
    assert build.version == torch.__version__
    assert build.cuda == torch.version.cuda
    if torch.cuda.is_available():
        assert [one.name for one in build.devices] == [torch.cuda.get_device_name(0)]
        assert all(one.kernel is not None for one in build.devices)
    else:
        assert build.devices == ()
        assert peak_bytes() is None


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA build with two GPUs, of which torch is told and which nothing runs on."""

    def properties(index: int) -> Any:
        shares = {} if index == 0 else {"is_integrated": 1}
        return SimpleNamespace(name=f"GPU {index}", major=12, minor=index, **shares)

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_90", "sm_120"])
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (10 + index, 100 + index))
    monkeypatch.setattr(gpu_probe, "read_available_bytes", lambda: 70)


@pytest.mark.usefixtures("two_gpus")
def test_each_device_is_described_with_its_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_probe, "run_kernel", lambda _device: RUN)
    build = probe_gpus()
    assert (build.cuda, build.targets, build.problem) == ("13.0", ("sm_90", "sm_120"), None)
    first, second = build.devices
    assert (first.name, first.capability, first.shares_memory) == ("GPU 0", (12, 0), False)
    assert (second.name, second.capability, second.shares_memory) == ("GPU 1", (12, 1), True)
    # The second has the memory of the processor, whose page cache its driver counts as used.
    assert (first.free_bytes, first.memory_bytes) == (10, 100)
    assert (second.free_bytes, second.memory_bytes) == (70, 101)
    assert first.kernel == second.kernel == RUN


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(("available", "free"), [(None, 11), (500, 101)])
def test_free_memory_of_an_integrated_gpu_is_at_most_its_own(
    monkeypatch: pytest.MonkeyPatch, available: int | None, free: int
) -> None:
    monkeypatch.setattr(gpu_probe, "read_available_bytes", lambda: available)
    assert gpu_probe.read_device_memory(1) == (free, 101, True)


@pytest.mark.usefixtures("two_gpus")
def test_a_kernel_that_fails_is_a_problem_of_its_device_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(device: torch.device) -> KernelRun:
        if device.index == 1:
            raise RuntimeError("no kernel image is available.\nCompile with TORCH_USE_CUDA_DSA")
        return RUN

    monkeypatch.setattr(gpu_probe, "run_kernel", run)
    first, second = probe_gpus().devices
    assert (first.kernel, first.problem) == (RUN, None)
    assert (second.kernel, second.problem) == (None, "no kernel image is available")


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (RuntimeError("Found no NVIDIA driver.\nInstall one."), "Found no NVIDIA driver"),
        (AssertionError(""), "AssertionError"),
    ],
)
def test_cuda_that_does_not_start_is_a_problem_of_the_build(
    monkeypatch: pytest.MonkeyPatch, error: Exception, problem: str
) -> None:
    def fail() -> int:
        raise error

    monkeypatch.setattr(torch.cuda, "current_device", fail)
    build = probe_gpus()
    assert (build.devices, build.problem) == ((), problem)


@pytest.mark.usefixtures("two_gpus")
def test_the_memory_peak_is_that_of_all_devices_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    reset: list[int] = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda index: 5 + index)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    reset_peak()
    assert (reset, peak_bytes()) == ([], None)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    reset_peak()
    assert (reset, peak_bytes()) == ([0, 1], 11)
