"""The wait for a first take: `dgx-music generate` of 16 s in a cold process, and from a bare clone.

python -m benchmarks.cold_start [--clone] [--against PROGRAM]
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


def seconds(command: list[str], folder: Path, home: Path | None = None) -> float:
    """Time a command in a folder; `home` is its home folder, None the one it chooses."""
    environment = {name: text for name, text in os.environ.items() if name != "DGX_MUSIC_HOME"}
    if home is not None:
        environment["DGX_MUSIC_HOME"] = str(home)
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return time.perf_counter() - started


def run(repeats: int = 5) -> list[Row]:
    """Time cold processes in sequence, on one database and folder."""
    commands = {
        "dgx-music --help": ["--help"],
        "generate, 16 s": ["generate", PROMPT, "--no-loop"],
        "generate, 180 s": ["generate", PROMPT, "--duration", "180"],
        "history": ["history"],
    }
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        seconds([str(PROGRAM), "generate", PROMPT, "-d", "1"], home, home)
        for name, arguments in commands.items():
            times = [seconds([str(PROGRAM), *arguments], home, home) for _ in range(repeats)]
            rows.append((name, f"{statistics.median(times):.2f} s (best {min(times):.2f})"))
    return rows


def compare(other: Path, pairs: int = 9) -> list[Row]:
    """Time this program and another version of it in turns, each in its own folder.

    Args:
        other: the `dgx-music` of the other version, in the virtual environment of its checkout.
        pairs: runs of each.
    """
    commands = {
        "generate, 16 s": ["generate", PROMPT],
        "history": ["history"],
        "--help": ["--help"],
    }
    folders = {program: program.parents[2] for program in (PROGRAM, other)}
    rows = []
    for name, arguments in commands.items():
        ratios = []
        for number in range(pairs):
            order = (PROGRAM, other) if number % 2 else (other, PROGRAM)
            took = {each: seconds([str(each), *arguments], folders[each]) for each in order}
            ratios.append(took[PROGRAM] / took[other])
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        rows.append((f"{name}, of the other's time", f"{statistics.median(ratios):.2f} ({spread})"))
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
    parser.add_argument("--against", type=Path, help="compare with the program of another version")
    options = parser.parse_args()
    if options.against is not None:
        rows = compare(options.against.absolute())
    else:
        rows = run() + (from_clone() if options.clone else [])
    for name, value in rows:
        print(f"{name:<46} {value}")


if __name__ == "__main__":
    main()
