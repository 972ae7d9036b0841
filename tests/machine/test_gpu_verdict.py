"""The verdict on a GPU, from facts; these tests need no GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.machine.gpu import Gpu, GpuReport
from services.machine.gpu_verdict import (
    Device,
    GpuSetup,
    KernelRun,
    TorchBuild,
    find_target,
    is_usable,
    judge,
    minimum_driver,
)

GIB = 1 << 30
TARGETS = ("sm_80", "sm_90", "sm_100", "sm_110", "sm_120", "compute_120")
RUN = KernelRun(error_fp32=3e-7, error_bf16=4e-3, seconds=2e-5)
GB10 = Device(
    name="NVIDIA GB10",
    capability=(12, 1),
    memory_bytes=120 * GIB,
    free_bytes=100 * GIB,
    shares_memory=True,
    kernel=RUN,
)
BUILD = TorchBuild(version="2.13.0+cu130", cuda="13.0", targets=TARGETS, devices=(GB10,))
DRIVER = GpuReport((Gpu("NVIDIA GB10", "580.95.05", None, None),))
GOOD = GpuSetup(use_gpu=True, driver=DRIVER, torch=BUILD)


def with_device(**changed: object) -> GpuSetup:
    return replace(GOOD, torch=replace(BUILD, devices=(replace(GB10, **changed),)))


def driver(version: str | None) -> GpuReport:
    return GpuReport((Gpu("NVIDIA GB10", version, None, None),))


def test_a_gb10_with_the_wheel_for_aarch64_can_be_used() -> None:
    checks = judge(GOOD)
    assert is_usable(checks)
    assert [check.name for check in checks] == [
        "driver", "torch", "driver for cuda", "code", "memory", "kernel",
    ]  # fmt: skip
    said = {check.name: check.detail for check in checks}
    assert said["code"] == "NVIDIA GB10 is sm_121, which runs sm_120"
    assert said["memory"] == "100.0 GiB free of 120.0 GiB, shared with the processor"
    assert all(check.advice is None for check in checks)


@pytest.mark.parametrize(
    ("facts", "name", "said"),
    [
        (replace(GOOD, use_gpu=False), "setting", "DGX_MUSIC_USE_GPU is false"),
        (replace(GOOD, driver=GpuReport((), "There is no NVIDIA driver.")), "driver", "no NVIDIA"),
        (replace(GOOD, driver=GpuReport((), "It hangs.", is_broken=True)), "driver", "It hangs"),
        (replace(GOOD, torch=None, torch_problem="torch does not load"), "torch", "not load"),
        (replace(GOOD, torch=TorchBuild(version="2+cpu", cuda=None)), "torch", "without CUDA"),
        (replace(GOOD, driver=driver("570.10")), "driver for cuda", "needs driver 580"),
        (
            replace(GOOD, torch=replace(BUILD, problem="no device", devices=())),
            "cuda",
            "does not start: no device",
        ),
        (with_device(capability=(7, 5)), "code", "sm_75, for which this torch has no code"),
        (with_device(free_bytes=GIB // 2), "memory", "0.5 GiB free"),
        (with_device(kernel=None, problem="no kernel image"), "kernel", "no kernel image"),
        (with_device(kernel=replace(RUN, error_fp32=0.1)), "kernel", "1.0e-01"),
        (with_device(kernel=replace(RUN, error_bf16=float("nan"))), "kernel", "nan"),
    ],
)
def test_a_failed_check_has_a_reason_and_advice(facts: GpuSetup, name: str, said: str) -> None:
    checks = judge(facts)
    assert not is_usable(checks)
    failed = [check for check in checks if check.verdict == "fail"]
    assert [check.name for check in failed] == [name]
    assert said in failed[0].detail
    assert failed[0].advice


def test_a_driver_of_unknown_version_is_a_warning() -> None:
    checks = judge(replace(GOOD, driver=driver(None)))
    assert is_usable(checks)
    assert [check.name for check in checks if check.verdict == "warn"] == ["driver for cuda"]


@pytest.mark.parametrize(
    ("targets", "capability", "found"),
    [
        (TARGETS, (12, 1), "sm_120"),
        (TARGETS, (9, 0), "sm_90"),
        (TARGETS, (8, 9), "sm_80"),
        (TARGETS, (10, 3), "sm_100"),
        (TARGETS, (13, 0), "compute_120"),
        (TARGETS, (7, 5), None),
        (("sm_121",), (12, 0), None),
        (("sm_90a",), (9, 0), "sm_90a"),
        (("sm_120a",), (12, 1), None),
        (("sm_120f",), (12, 1), "sm_120f"),
        (("compute_90a",), (12, 1), None),
        (("sm_80", "compute_80"), (9, 0), "compute_80"),
        ((), (12, 1), None),
        (("gfx942", ""), (9, 0), None),
    ],
)
def test_the_best_target_for_a_device_is_found(
    targets: tuple[str, ...], capability: tuple[int, int], found: str | None
) -> None:
    assert find_target(targets, capability) == found


@given(st.lists(st.text(max_size=12)), st.tuples(st.integers(0, 99), st.integers(0, 9)))
def test_the_target_is_one_of_the_list_for_any_text(
    targets: list[str], capability: tuple[int, int]
) -> None:
    found = find_target(tuple(targets), capability)
    assert found is None or found in targets


@pytest.mark.parametrize(
    ("cuda", "driver"), [("13.0", 580), ("12.8", 525), ("11.8", 450), ("99.1", None), ("", None)]
)
def test_the_first_driver_for_a_cuda_version(cuda: str, driver: int | None) -> None:
    assert minimum_driver(cuda) == driver
