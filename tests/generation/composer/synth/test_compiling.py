"""Compilation of the loops, and the cache of their machine code."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
COLD = """
from services.generation.composer.warm_up import warm_up
from services.generation.composer.synth import kernels
warm_up()
loops = [value for value in vars(kernels).values() if hasattr(value, "signatures")]
print(len(loops), [loop.__name__ for loop in loops if not loop.signatures])
"""


def test_warm_up_compiles_every_loop():
    shown = subprocess.run(
        [sys.executable, "-c", COLD], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    count, cold = shown.split(" ", 1)
    assert int(count) >= 5
    assert cold.strip() == "[]"


def test_loops_run_without_a_writable_cache_folder(tmp_path):
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("root may write everywhere")
    package = tmp_path / "services"
    shutil.copytree(
        ROOT / "services", package, ignore=shutil.ignore_patterns("__pycache__", "*.nbi", "*.nbc")
    )
    for folder in [package, *(path for path in package.rglob("*") if path.is_dir())]:
        folder.chmod(0o555)
    drop = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"]
    program = "from services.generation.composer.synth.kernels import echo; import numpy as np\n"
    program += "a = np.ones((2, 8), np.float32); echo(a, 4, 0.5, 1.0); print(a[0].tolist())"
    try:
        ran = subprocess.run(
            [*(drop if os.geteuid() == 0 else []), sys.executable, "-c", program],
            cwd=tmp_path,
            env={"HOME": "/proc", "PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        for folder in [package, *(path for path in package.rglob("*") if path.is_dir())]:
            folder.chmod(0o755)
    assert (ran.returncode, ran.stdout) == (0, f"{[0.0] * 4 + [1.0] * 4}\n"), ran.stderr
