"""Server latency: 100 and 1,000 clients, bursts, event listeners, and the time until a job starts.

Run as `python -m benchmarks.api [--database-url postgresql://...] [--seconds 10] [PART...]`. The
clients are one process, the server with its worker another, and the engine's a third.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import uvloop

from benchmarks.http_load import (
    Answers,
    Ask,
    Listener,
    burst,
    let_many_files_be_open,
    listeners,
    load,
)
from benchmarks.queue import TTL, registry
from services import storage
from services.config import Settings, load_settings
from services.errors import JobFinishedError
from services.jobs.models import GenerationRequest
from services.jobs.service import MusicService
from services.machine.memory import limit_memory_growth

ROOT = Path(__file__).parents[1]
PATIENCE = 300.0
JOBS_THERE = 200
FINE = {"200", "202", "429", "503"}
"""Status codes the OpenAPI document lists for these routes."""


def serve() -> None:
    """The server's process."""
    import logging

    from services.api.server import serve as run
    from services.worker.worker import Worker

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    let_many_files_be_open()
    limit_memory_growth()
    settings = load_settings(None)
    worker = Worker(settings, registry(settings), registry_source="benchmarks.queue:registry")
    run(settings, registry(settings), host="127.0.0.1", port=0, worker=worker)


class Bench:
    """A server process and its database."""

    def __init__(self, folder: Path, url: str, command: tuple[str, ...] = ("api", "--serve")):
        self.folder = folder
        environment = os.environ | {
            "DATABASE_URL": url,
            "PYTHONPATH": str(ROOT),
            "DGX_MUSIC_OUTPUT_DIR": str(folder / "outputs"),
            "DGX_MUSIC_MODEL_NAME": "idler",
            "DGX_MUSIC_WORKER_TTL_SECONDS": str(TTL),
            "DGX_MUSIC_TEST_STARTS": str(folder / "starts"),
        }
        (folder / "starts").touch()
        settings = Settings(
            DATABASE_URL=url,
            output_dir=folder / "outputs",
            model_name="idler",
            worker_ttl_seconds=TTL,
            queue_limit=1_000_000,
        )
        self.service = MusicService(settings, registry())
        module, *arguments = command
        with (folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", f"benchmarks.{module}", *arguments],
                env=environment | {"DGX_MUSIC_QUEUE_LIMIT": "1000000"},
                stdout=log,
                stderr=log,
            )
        self.until(lambda: "listening url=" in self.log)
        self.port = int(re.findall(r"listening url=\S+:(\d+)", self.log)[-1])

    @property
    def log(self) -> str:
        """The server's log."""
        return (self.folder / "log").read_text(encoding="utf-8")

    def until(self, condition: Callable[[], object]) -> float:
        """Wait for a condition and return the seconds it took."""
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > PATIENCE or self.process.poll() is not None:
                raise TimeoutError(self.log[-3000:])
            time.sleep(0.002)
        return time.monotonic() - began

    def submit(self, count: int, seconds: float = 0.0, priority: str = "normal") -> list[str]:
        """Put jobs into the queue without the server."""
        request = GenerationRequest(prompt=f"wait {seconds:g} s", duration=1)
        ids: list[str] = []
        while len(ids) < count:
            batch = [request] * min(10, count - len(ids))
            ids += [job.job_id for job in self.service.submit_batch(batch, "crowd", priority)]
        return ids

    def status(self, job_id: str) -> str:
        """Return the status in the row."""
        with storage.get_session(read_only=True) as session:
            row = storage.get_generation(session, job_id)
        assert row is not None
        return row.status

    def count(self) -> int:
        """Return the number of rows."""
        with storage.get_session(read_only=True) as session:
            return storage.count_generations(session)

    def unfinished(self) -> int:
        """Return the number of unfinished jobs, up to 1,000."""
        with storage.get_session(read_only=True) as session:
            return len(storage.list_queue_entries(session, limit=1_000))

    def memory(self) -> float:
        """Resident MB of the server."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1e3

    def processor(self) -> float:
        """Return the processor seconds of the server, which other load does not change much."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").split(")")[1]
        ticks = [int(one) for one in fields.split()[11:13]]
        return sum(ticks) / os.sysconf("SC_CLK_TCK")

    def reads(self, ids: list[str]) -> list[Ask]:
        """The reads that a page with a list of jobs makes."""
        asks = [Ask("job", f"/jobs/{job_id}") for job_id in ids[:25]]
        return [one for ask in asks for one in (ask, Ask("history", "/history?page_size=20"))]

    def end(self) -> None:
        """Stop the server."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        storage.close_db()


def part_of(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


def shown(label: str, seconds: list[float], more: str = "") -> None:
    ordered = sorted(seconds)
    p50, p99, worst = (1000 * part_of(ordered, share) for share in (0.5, 0.99, 1.0))
    print(f"{label:52} p50 {p50:7.1f}  p99 {p99:7.1f}  max {worst:7.1f} ms  {more}", flush=True)


def shown_answers(label: str, answers: Answers) -> None:
    rate = len(answers.all_seconds) / answers.took
    statuses = ", ".join(f"{name}: {count}" for name, count in sorted(answers.statuses.items()))
    shown(label, answers.all_seconds, f"{rate:5.0f}/s  {statuses}")
    for name, some in answers.seconds.items():
        shown(f"    {name}", some)
    strange = set(answers.statuses) - FINE
    if strange:
        print(f"    NOT AS DOCUMENTED: {', '.join(sorted(strange))}")


def reads(bench: Bench, ids: list[str], seconds: float) -> None:
    for clients, every in ((100, 0.5), (100, None), (1000, 0.5), (1000, None)):
        before = bench.processor()
        answers = uvloop.run(
            load(bench.port, bench.reads(ids), clients=clients, seconds=seconds, every=every)
        )
        each = 1000 * (bench.processor() - before) / len(answers.all_seconds)
        pace = "twice a second" if every else "without a pause"
        bound = " (50 ms)" if clients == 100 and every else ""
        shown_answers(f"GET, {clients} clients {pace}{bound}", answers)
        print(f"    {each:.2f} ms of the server's processor time an answer", flush=True)


def costs(bench: Bench, ids: list[str], seconds: float) -> None:
    """Processor time for each answer, which varies less on a busy machine than wall time."""
    routes = {
        "/jobs/{id}": [f"/jobs/{job_id}" for job_id in ids[:25]],
        "/history": ["/history?page_size=20"],
        "/queue/stats": ["/queue/stats"],
        "/health": ["/health"],
        "/health/live": ["/health/live"],
    }
    for name, paths in routes.items():
        asks = [Ask(name, path) for path in paths]
        for clients in (1, 16, 100):
            before = bench.processor()
            answers = uvloop.run(
                load(bench.port, asks, clients=clients, seconds=seconds / 5, every=None)
            )
            each = 1000 * (bench.processor() - before) / len(answers.all_seconds)
            print(f"{name:14} {clients:4} clients {each:6.2f} ms an answer", flush=True)


def bursts(bench: Bench, _ids: list[str], _seconds: float) -> None:
    before = bench.count()
    body = json.dumps({"prompt": "wait 0 s", "duration": 1}).encode()
    ask = Ask("POST", "/generate", "POST", body)
    answers, bodies = uvloop.run(burst(bench.port, ask, count=1000, clients=50))
    accepted = {json.loads(one)["job_id"] for one in bodies}
    rows = bench.count() - before
    shown_answers("POST, 1,000 from 50 clients", answers)
    print(f"    accepted {len(bodies)}, ids {len(accepted)}, rows {rows}, lost or twice "
          f"{len(bodies) - rows}", flush=True)  # fmt: skip
    while_there = [job_id for job_id in accepted if bench.status(job_id)]
    assert len(while_there) == rows == len(bodies)
    while bench.unfinished():
        for job in bench.service.list_unfinished():
            # The worker may have finished it by now.
            with suppress(JobFinishedError):
                bench.service.cancel(job.job_id)


def starts(bench: Bench, label: str, rounds: int, **fields: str) -> None:
    body = json.dumps({"prompt": "wait 0 s", "duration": 1} | fields).encode()
    taken, accepted = [], []

    async def post() -> bytes:
        _, bodies = await burst(
            bench.port, Ask("POST", "/generate", "POST", body), count=1, clients=1
        )
        return bodies[0]

    for _ in range(rounds):
        time.sleep(0.4)
        began = time.monotonic()
        job_id = json.loads(asyncio.run(post()))["job_id"]
        accepted.append(time.monotonic() - began)
        bench.until(lambda job_id=job_id: bench.status(job_id) != "pending")
        taken.append(time.monotonic() - began)
        bench.until(lambda job_id=job_id: bench.status(job_id) == "completed")
    shown("POST answers", accepted)
    shown(label, taken)


def idle(bench: Bench, _ids: list[str], _seconds: float) -> None:
    starts(bench, "POST to start, idle (150 ms)", 30)


def busy(bench: Bench, _ids: list[str], _seconds: float, waiting: int = 10_000) -> None:
    began = time.monotonic()
    bench.submit(waiting, 0.2)
    print(f"{waiting} jobs put into the queue in {time.monotonic() - began:.0f} s", flush=True)
    starts(bench, f"POST with high priority to start, {waiting} waiting (1 s)", 10, priority="high")


def streams(bench: Bench, ids: list[str], seconds: float) -> None:
    before = bench.memory()
    asks = bench.reads(ids)

    async def listen() -> None:
        async with listeners(bench.port, 1000):
            opened = bench.memory()
            await asyncio.to_thread(bench.submit, int(seconds * 8))
            Listener.events = 0
            answers = await load(bench.port, asks, clients=10, seconds=seconds, every=0.5)
            print(
                f"1,000 listeners: {Listener.events / answers.took:.0f} events/s delivered, "
                f"{Listener.lost} lost; memory {before:.0f} MB before, {opened:.0f} with them, "
                f"{bench.memory():.0f} after"
            )
            shown_answers("GET, 10 clients twice a second meanwhile", answers)

    uvloop.run(listen())
    bench.until(lambda: not bench.unfinished())


PARTS = {
    "reads": reads,
    "costs": costs,
    "idle": idle,
    "bursts": bursts,
    "streams": streams,
    "busy": busy,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.api", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--database-url")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    let_many_files_be_open()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench = Bench(folder, options.database_url or f"sqlite:///{folder / 'api.db'}")
        try:
            ids = bench.submit(JOBS_THERE // 4)
            bench.until(lambda: not bench.unfinished())
            for part in options.parts or PARTS:
                PARTS[part](bench, ids, options.seconds)
        finally:
            bench.end()


if __name__ == "__main__":
    main()
