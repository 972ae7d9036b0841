"""Cost of keeping stems and MIDI with a take: time beside the plain take, and peak memory.

The takes are whole: rendered, mastered, measured and written. The times are those of a warm
process, where both kinds take turns; processor time is of all its threads. The memory is that of
processes that do one thing each.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_KINDS = ("render", "take", "kept")
"""A render with stems that are thrown away, a take, and a take with stems and MIDI."""


def make(seconds: float, bit_depth: str, *, kept: bool) -> tuple[float, float]:
    """Make a take in a folder that is then removed; return the seconds and the processor's."""
    from services.generation.composer.engine import ComposerEngine
    from services.generation.engine import GenerationParams
    from services.library.orders import Order
    from services.library.takes import Delivery, make_take

    with tempfile.TemporaryDirectory() as folder:
        params = GenerationParams(
            prompt="house at 122 BPM", duration_seconds=seconds, seed=1, stems=kept
        )
        order = Order(
            generation_id="1a2b3c4d-0000-4000-8000-000000000000",
            model="composer",
            created_at=datetime.now(UTC),
            file_path="a.wav",
            params=params,
            midi=kept,
        )
        delivery = Delivery(
            output_dir=Path(folder), target_lufs=-16.0, true_peak_dbtp=-1.0, bit_depth=bit_depth
        )
        draft = Path(folder) / ".dgx-a.1" / ".dgx-1.part"
        start, busy = time.perf_counter(), time.process_time()
        make_take(order, draft, ComposerEngine(), delivery, lambda *_: None, lambda: False)
        return time.perf_counter() - start, time.process_time() - busy


def render(seconds: float) -> None:
    from services.generation.composer.engine import ComposerEngine
    from services.generation.engine import GenerationParams

    params = GenerationParams(
        prompt="house at 122 BPM", duration_seconds=seconds, seed=1, stems=True
    )
    ComposerEngine().render(params, lambda *_: None, lambda: False)


def measure_peak(seconds: float, bit_depth: str, kind: str) -> float:
    """Return the peak resident MB of a process that does one thing."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "benchmarks.stems",
            f"--seconds={seconds}",
            f"--bit-depth={bit_depth}",
            f"--only={kind}",
        ],
        cwd=_ROOT,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"The process for {kind} failed.")
    return usage.ru_maxrss * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.stems", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the takes")
    parser.add_argument("--bit-depth", default="PCM_16")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=_KINDS, help="do this once, in this process")
    options = parser.parse_args()
    seconds, bit_depth = options.seconds, options.bit_depth
    if options.only == "render":
        render(seconds)
        return
    if options.only:
        make(seconds, bit_depth, kept=options.only == "kept")
        return
    measure_peak(4.0, bit_depth, "kept")  # compiles what is not compiled yet
    # Before this process grows: the peak of a child begins with the size of its parent.
    peaks = {kind: measure_peak(seconds, bit_depth, kind) for kind in _KINDS}
    make(4.0, bit_depth, kept=True)
    rounds = [
        (make(seconds, bit_depth, kept=False), make(seconds, bit_depth, kept=True))
        for _ in range(options.rounds)
    ]
    print(f"{seconds:g} s, {bit_depth}, {options.rounds} rounds, medians")
    for place, label in enumerate(("time", "processor time")):
        take = statistics.median(one[place] for one, _ in rounds)
        ratio = statistics.median(kept[place] / one[place] for one, kept in rounds)
        print(f"{label}: {take:.2f} s for a take, {ratio:.2f} of it with stems and MIDI")
    for kind, peak in peaks.items():
        print(f"peak of {kind}: {peak:.0f} MB, {peak / peaks['render']:.2f} of a render's")


if __name__ == "__main__":
    main()
