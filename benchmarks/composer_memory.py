"""Peak memory and time of a render of three minutes, with its stems kept and without.

Each render has a process of its own; the two kinds take turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

_ROOT = Path(__file__).parents[1]


def render(seconds: float, *, stems: bool) -> None:
    from benchmarks.composer import BAR_SECONDS, SAMPLE_RATE, house
    from services.generation.composer.synth import render_score

    render_score(
        house(round(seconds / BAR_SECONDS)),
        sample_rate=SAMPLE_RATE,
        samples=round(seconds * SAMPLE_RATE),
        seed=1,
        progress=lambda *_: None,
        should_stop=lambda: False,
        stems=stems,
    )


def measure_process(seconds: float, kind: str) -> tuple[float, float]:
    """Return the seconds and the peak resident MB of a process that renders once."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "benchmarks.composer_memory",
            f"--seconds={seconds}",
            "--only",
            kind,
        ],
        cwd=_ROOT,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"The render with {kind} failed.")
    return time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.composer_memory", description=__doc__)
    parser.add_argument("--seconds", type=float, default=180.0, help="length of the render")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("stems", "mix"), help="render once, in this process")
    options = parser.parse_args()
    if options.only:
        render(options.seconds, stems=options.only == "stems")
        return
    measure_process(4.0, "mix")  # compiles what is not compiled yet
    shortest = measure_process(4.0, "mix")[1]
    runs = [
        (measure_process(options.seconds, "stems"), measure_process(options.seconds, "mix"))
        for _ in range(options.rounds)
    ]
    (stems_time, stems_peak), (mix_time, mix_peak) = (
        tuple(map(statistics.median, zip(*(run[kind] for run in runs), strict=True)))
        for kind in (0, 1)
    )
    mix_size = 8 * 48_000 * options.seconds / 1e6
    print(
        f"8 parts, {options.seconds:g} s; a mix is {mix_size:.0f} MB; a process {shortest:.0f} MB"
    )
    print(f"stems and mix: {stems_peak:6.0f} MB {stems_time:6.1f} s")
    print(f"mix alone:     {mix_peak:6.0f} MB {mix_time:6.1f} s")
    print(
        f"stems to mix:  {stems_peak / mix_peak:.2f} of the peak,"
        f" {(stems_peak - shortest) / (mix_peak - shortest):.2f} of what is over a process,"
        f" {stems_time / mix_time:.2f} of the time"
    )


if __name__ == "__main__":
    main()
