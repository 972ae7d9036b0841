"""The GPUs that torch finds, and the test kernel, which runs on the CPU if there are none."""

from __future__ import annotations

import torch

from services.generation.musicgen.gpu_probe import peak_bytes, probe_gpus, run_kernel
from services.machine.gpu_verdict import TOLERANCE_BF16, TOLERANCE_FP32


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
