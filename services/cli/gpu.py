"""`dgx-music validate-gpu`: what there is of a GPU, what is missing, why, and what to do."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from services.cli.console import answer, answer_json, note
from services.machine.gpu_verdict import INSTEAD, GpuSetup, is_usable, judge

NO_GPU_EXIT_CODE = 9


def validate_gpu(
    as_json: Annotated[bool, typer.Option("--json", help="Answer with JSON.")] = False,
) -> None:
    """Look at driver, CUDA, torch and memory, and run a kernel; exit code 9 if no GPU is usable."""
    checks = judge(look())
    usable = is_usable(checks)
    if as_json:
        answer_json(
            {
                "usable": usable,
                "checks": [asdict(check) for check in checks],
                "instead": None if usable else INSTEAD,
            }
        )
    else:
        for check in checks:
            answer(f"{check.verdict:<4}  {check.name:<15}  {check.detail}")
            if check.advice is not None:
                answer(f"{'':<4}  {'':<15}  -> {check.advice}")
        note("The GPU can be used." if usable else f"No GPU can be used here. {INSTEAD}")
    if not usable:
        raise typer.Exit(NO_GPU_EXIT_CODE)


def look() -> GpuSetup:
    """Ask the settings, the driver and torch; nothing is changed."""
    from services.config import load_settings
    from services.machine.gpu import look_for_gpus

    use_gpu = load_settings().use_gpu
    driver = look_for_gpus()
    try:
        from services.generation.musicgen.gpu_probe import probe_gpus
    except ImportError as error:
        problem = f"torch does not load: {error}"
        return GpuSetup(use_gpu=use_gpu, driver=driver, torch=None, torch_problem=problem)
    return GpuSetup(use_gpu=use_gpu, driver=driver, torch=probe_gpus())
