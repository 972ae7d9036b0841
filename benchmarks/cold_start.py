"""The wait for a first take: `dgx-music generate` of 16 s in a cold process, and from a bare clone.

python -m benchmarks.cold_start [--clone]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROMPT = "trap beat with heavy 808 bass at 140 BPM"
ROOT = Path(__file__).parents[1]
PROGRAM = Path(sys.executable).parent / "dgx-music"
Row = tuple[str, str]


def seconds(command: list[str], folder: Path) -> float:
    started = time.perf_counter()
    subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"DGX_MUSIC_HOME": str(folder)},
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - started


def run(repeats: int = 5) -> list[Row]:
    """Time cold processes in sequence, on one database and folder."""
    commands = {
        "dgx-music --help": ["--help"],
        "generate, 16 s": ["generate", PROMPT],
        "generate, 180 s": ["generate", PROMPT, "--duration", "180"],
        "history": ["history"],
    }
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        seconds([str(PROGRAM), "generate", PROMPT, "-d", "1"], home)
        for name, arguments in commands.items():
            times = [seconds([str(PROGRAM), *arguments], home) for _ in range(repeats)]
            rows.append((name, f"{statistics.median(times):.2f} s (best {min(times):.2f})"))
    return rows


def from_clone() -> list[Row]:
    """Clone, set-up and first take, and the start of a recipe after it."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        first = seconds(["./just", "generate", PROMPT], clone)
        second = seconds(["./just", "generate", PROMPT], clone)
        bare = seconds(["./just", "--list"], clone)
    return [
        ("bare clone: ./just generate, set-up included", f"{first:.1f} s"),
        ("again", f"{second:.2f} s"),
        ("./just before a recipe starts", f"{bare:.3f} s"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clone", action="store_true", help="also from a bare clone")
    options = parser.parse_args()
    for name, value in run() + (from_clone() if options.clone else []):
        print(f"{name:<46} {value}")


if __name__ == "__main__":
    main()
