"""Time until a worker starts a job: idle, behind 10,000 others, after a crash, and to cancel.

Run as `python -m benchmarks.queue [--database-url postgresql://...] [--waiting 10000]`.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from services import storage
from services.config import Settings, load_settings
from services.errors import CancelledError
from services.generation.engine import (
    EngineFacts,
    GenerationParams,
    Progress,
    Rendered,
    ShouldStop,
)
from services.generation.registry import EngineEntry, Registry
from services.jobs.living import living_workers
from services.jobs.models import GenerationRequest
from services.jobs.service import MusicService

TTL = 5.0
PATIENCE = 120.0
ROOT = Path(__file__).parents[1]
FACTS = EngineFacts(
    name="idler",
    version="1",
    description="Waits as many seconds as its prompt says.",
    output_licence="CC0-1.0",
    sample_rate=8_000,
    channels=1,
    shortest_seconds=1.0,
    longest_seconds=30.0,
)


class Idler:
    """An engine that waits, so that only the queue is measured."""

    facts = FACTS

    def render(
        self, params: GenerationParams, progress: Progress, should_stop: ShouldStop
    ) -> Rendered:
        """Wait as long as the request says."""
        with Path(os.environ["DGX_MUSIC_TEST_STARTS"]).open("a", encoding="ascii") as starts:
            starts.write(f"{params.seed} {time.time()}\n")
        end = time.monotonic() + float(params.prompt.split()[1])
        while time.monotonic() < end:
            progress("waiting", 0.5)
            time.sleep(0.02)
            if should_stop():
                raise CancelledError("Cancelled.")
        audio = np.full((1, FACTS.sample_rate), 0.1, np.float32)
        return Rendered(audio=audio, sample_rate=FACTS.sample_rate, seed=params.seed)


def registry(_settings: Settings) -> Registry:
    return Registry({FACTS.name: EngineEntry(FACTS, Idler, lambda: None)})


def work() -> None:
    """The worker's process."""
    from services.worker.worker import Worker, run_worker

    settings = load_settings(None)
    worker = Worker(settings, registry(settings), registry_source="benchmarks.queue:registry")
    run_worker(worker, settings.drain_seconds)


class _Bench:
    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.starts = folder / "starts"
        self.starts.touch()
        self.environment = os.environ | {
            "DATABASE_URL": url,
            "PYTHONPATH": str(ROOT),
            "DGX_MUSIC_OUTPUT_DIR": str(folder / "outputs"),
            "DGX_MUSIC_WORKER_TTL_SECONDS": str(TTL),
            "DGX_MUSIC_TEST_STARTS": str(self.starts),
        }
        settings = Settings(DATABASE_URL=url, output_dir=folder / "outputs", worker_ttl_seconds=TTL)
        self.service = MusicService(settings, registry())
        self.workers: list[subprocess.Popen[bytes]] = []

    def worker(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "benchmarks.queue", "--work"]
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        self.workers.append(process)
        return process

    def submit(self, seconds: float, priority: str = "normal") -> str:
        request = GenerationRequest(prompt=f"wait {seconds}", duration=1)
        return self.service.submit(request, priority=priority).job_id

    def until(self, condition: Callable[[], object]) -> float:
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > PATIENCE:
                raise TimeoutError((self.folder / "log").read_text()[-2000:])
            time.sleep(0.005)
        return time.monotonic() - began

    def engine_starts(self, job_id: str) -> list[float]:
        seed = str(self.service.get(job_id).seed)
        lines = [line.split() for line in self.starts.read_text().splitlines()]
        return [float(line[1]) for line in lines if line[0] == seed]

    def status(self, job_id: str) -> str:
        with storage.get_session(read_only=True) as session:
            row = storage.get_generation(session, job_id)
        assert row is not None
        return row.status

    def living(self) -> list[int]:
        """Return the process ids of the living workers."""
        return [state.pid for state in living_workers(TTL)]

    def holder(self, job_id: str) -> int:
        """Return the process id of the worker that runs the job."""
        with storage.get_session(read_only=True) as session:
            entry = storage.get_queue_entry(session, job_id)
            states = {state.id: state.pid for state in storage.list_workers(session)}
        assert entry is not None
        assert entry.worker_id is not None
        return states[entry.worker_id]

    def end(self) -> None:
        for process in self.workers:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()


def shown(label: str, seconds: Sequence[float]) -> None:
    ordered = sorted(seconds)
    worst = ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]
    print(f"{label:58} {statistics.median(ordered):7.3f} s   p95 {worst:7.3f} s")


def idle(bench: _Bench, rounds: int = 30) -> None:
    taken, heard, accepted = [], [], []
    for _ in range(rounds):
        time.sleep(0.3)
        before, began = time.time(), time.monotonic()
        job = bench.submit(0)
        accepted.append(time.monotonic() - began)
        bench.until(lambda job=job: bench.status(job) != "pending")
        taken.append(time.monotonic() - began)
        bench.until(lambda job=job: bench.status(job) == "completed")
        heard.append(bench.engine_starts(job)[0] - before)
    shown("submit answers", accepted)
    shown("submit to start, idle (to hold: 0.150 s)", taken)
    shown("submit to the engine's first step, idle", heard)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database-url")
    parser.add_argument("--waiting", type=int, default=10_000)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work()
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench = _Bench(folder, options.database_url or f"sqlite:///{folder / 'queue.db'}")
        try:
            measure(bench, options.waiting)
        finally:
            bench.end()


def measure(bench: _Bench, waiting: int) -> None:
    worker = bench.worker()
    first = bench.submit(0)
    bench.until(lambda: bench.status(first) == "completed")
    idle(bench)
    cancelled(bench)
    recovery(bench, worker)
    busy(bench, waiting)


def cancelled(bench: _Bench) -> None:
    taken = []
    for _ in range(5):
        job = bench.submit(60)
        bench.until(lambda job=job: bench.engine_starts(job))
        bench.service.cancel(job)
        began = time.monotonic()
        after = bench.submit(0)
        bench.until(lambda after=after: bench.status(after) != "pending")
        taken.append(time.monotonic() - began)
    shown("cancel of a running job to the next job's start (2 s)", taken)


def recovery(bench: _Bench, worker: subprocess.Popen[bytes]) -> None:
    job = bench.submit(8)
    bench.until(lambda: bench.engine_starts(job))
    worker.kill()
    worker.wait()
    began = time.monotonic()
    second = bench.worker()
    bench.until(lambda: len(bench.engine_starts(job)) == 2)
    shown("kill -9, worker started again to the job's restart (5 s)", [time.monotonic() - began])
    bench.until(lambda: bench.status(job) == "completed")

    third = bench.worker()
    bench.until(lambda: len(bench.living()) == 2)
    for label, number in (("killed", signal.SIGKILL), ("frozen", signal.SIGSTOP)):
        job = bench.submit(8)
        bench.until(lambda job=job: bench.engine_starts(job))
        holder = second if second.pid == bench.holder(job) else third
        holder.send_signal(number)
        began = time.monotonic()
        bench.until(lambda job=job: len(bench.engine_starts(job)) == 2)
        bound = f"TTL {TTL:g} + 2 s"
        shown(f"takeover of a {label} worker's job ({bound})", [time.monotonic() - began])
        bench.until(lambda job=job: bench.status(job) == "completed")
        if number == signal.SIGKILL:
            holder.wait()
            bench.worker()
            bench.until(lambda: len(bench.living()) == 2)
            second, third = bench.workers[-1], third if holder is second else second


def busy(bench: _Bench, waiting: int) -> None:
    request = GenerationRequest(prompt="wait 0.2", duration=1)
    began = time.monotonic()
    for _ in range(waiting // 10):
        bench.service.submit_batch([request] * 10, "crowd")
    seconds = time.monotonic() - began
    print(f"{waiting} jobs submitted in tens: {waiting / seconds:.0f} a second")
    taken, accepted = [], []
    for _ in range(10):
        time.sleep(0.3)
        began = time.monotonic()
        job = bench.submit(0, "high")
        accepted.append(time.monotonic() - began)
        bench.until(lambda job=job: bench.status(job) != "pending")
        taken.append(time.monotonic() - began)
    shown(f"submit answers, {waiting} waiting", accepted)
    shown(f"high priority to start, {waiting} waiting, 0.2 s jobs (1 s)", taken)


if __name__ == "__main__":
    main()
