"""Growth of the server over many jobs: memory, open files and threads.

Run as `python -m benchmarks.jobs_memory [--jobs 10000] [--concurrency 4] [--database-url ...]`. The
jobs last as long as mastering one second of audio does. A listener of all events and a client that
asks for jobs and history are there all the time. 2,000 jobs before those that count have every
connection, statement and buffer in use once.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import uvloop

from benchmarks.api import JOBS_THERE, Bench
from benchmarks.http_load import let_many_files_be_open, listeners, load

MOST_WAITING = 60
WARM_JOBS = 2_000
LIMIT = 200
"""Bytes a job."""


@dataclass(frozen=True)
class Sample:
    """A process and its engines after a number of jobs."""

    jobs: int
    server: int
    """Resident bytes."""
    engines: int
    files: int
    """Open."""
    threads: int
    drafts: int
    """In the output folder."""


def resident(pid: int) -> int:
    fields = (Path("/proc") / str(pid) / "statm").read_text(encoding="ascii").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def children(pid: int) -> list[int]:
    tasks = (Path("/proc") / str(pid) / "task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text(encoding="ascii").split()]


def count_drafts(folder: Path) -> int:
    found = 0
    # Unlike rglob, os.walk continues when a folder disappears.
    for _, _, names in os.walk(folder):
        found += sum(name.startswith(".dgx-") and name.endswith(".part") for name in names)
    return found


def sample(bench: Bench, jobs: int) -> Sample:
    pid = bench.process.pid
    process = Path("/proc") / str(pid)
    return Sample(
        jobs=jobs,
        server=resident(pid),
        engines=sum(resident(child) for child in children(pid)),
        files=len(list((process / "fd").iterdir())),
        threads=len(list((process / "task").iterdir())),
        drafts=count_drafts(bench.folder / "outputs"),
    )


def growth(samples: list[Sample], of: str) -> float:
    """Return bytes a job, without the warm-up."""
    late = [one for one in samples if one.jobs >= WARM_JOBS]
    slope, _ = np.polyfit([one.jobs for one in late], [getattr(one, of) for one in late], 1)
    return float(slope)


def make(bench: Bench, jobs: int, every: int) -> list[Sample]:
    samples: list[Sample] = []
    submitted = 0
    began = time.monotonic()
    print(f"{'jobs':>6} {'server MB':>10} {'engines MB':>11} {'files':>6} {'threads':>8} drafts")
    while not samples or samples[-1].jobs < jobs:
        unfinished = bench.unfinished()
        if submitted < jobs and unfinished < MOST_WAITING:
            submitted += len(bench.submit(min(10, jobs - submitted)))
            continue
        done = submitted - unfinished
        if done >= (samples[-1].jobs if samples else 0) + every or done == jobs:
            samples.append(one := sample(bench, done))
            print(
                f"{done:6} {one.server / 1e6:10.2f} {one.engines / 1e6:11.2f} {one.files:6} "
                f"{one.threads:8} {one.drafts:6}",
                flush=True,
            )
        time.sleep(0.05)
    print(f"{jobs / (time.monotonic() - began):.1f} jobs a second")
    return samples


def accompany(bench: Bench, ids: list[str], ended: threading.Event) -> None:
    """Listen to all events, and poll ten times a second."""

    async def ask() -> None:
        async with listeners(bench.port, 1):
            while not ended.is_set():
                await load(bench.port, bench.reads(ids), clients=2, seconds=5.0, every=0.2)

    uvloop.run(ask())


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.jobs_memory", description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--every", type=int, default=500, help="jobs between two samples")
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--database-url")
    options = parser.parse_args()
    let_many_files_be_open()
    os.environ["DGX_MUSIC_WORKER_CONCURRENCY"] = str(options.concurrency)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench = Bench(folder, options.database_url or f"sqlite:///{folder / 'memory.db'}")
        ended = threading.Event()
        company = threading.Thread(target=lambda: accompany(bench, ids, ended))
        try:
            ids = bench.submit(JOBS_THERE // 4)
            bench.until(lambda: not bench.unfinished())
            company.start()
            samples = make(bench, WARM_JOBS + options.jobs, options.every)
        finally:
            ended.set()
            company.join()
            bench.end()
    for of in ("server", "engines"):
        print(f"{of}: {growth(samples, of):.0f} bytes a job (to hold: {LIMIT})")


if __name__ == "__main__":
    main()
