"""`dgx-music validate-gpu`: whether a GPU can be used, and if not, what to do."""

from __future__ import annotations

from dataclasses import asdict

import typer

from services.cli.console import answer, answer_json, note
from services.cli.options import AsJson
from services.machine.gpu_verdict import FALLBACK, GpuSetup, is_usable, judge

NO_GPU_EXIT_CODE = 9


def validate_gpu(as_json: AsJson = False) -> None:
    """Check the GPU: driver, CUDA, torch, memory and a test kernel.

    The exit code is 9 without a usable GPU.
    """
    checks = judge(inspect_gpus())
    usable = is_usable(checks)
    if as_json:
        answer_json(
            {
                "usable": usable,
                "checks": [asdict(check) for check in checks],
                "instead": None if usable else FALLBACK,
            }
        )
    else:
        for check in checks:
            answer(f"{check.verdict:<4}  {check.name:<15}  {check.detail}")
            if check.advice is not None:
                answer(f"{'':<4}  {'':<15}  -> {check.advice}")
        note("The GPU can be used." if usable else f"No GPU can be used. {FALLBACK}")
    if not usable:
        raise typer.Exit(NO_GPU_EXIT_CODE)


def inspect_gpus() -> GpuSetup:
    """Query the settings, the driver and torch; nothing is changed."""
    from services.config import load_settings
    from services.machine.gpu import detect_gpus

    use_gpu = load_settings().use_gpu
    driver = detect_gpus()
    try:
        from services.generation.musicgen.gpu_probe import probe_gpus
    except ImportError as error:
        problem = f"torch does not load: {error}"
        return GpuSetup(use_gpu=use_gpu, driver=driver, torch=None, torch_problem=problem)
    return GpuSetup(use_gpu=use_gpu, driver=driver, torch=probe_gpus())
