"""Random kills, freezes and cancellations at once: no job is lost, doubled or partial."""

from __future__ import annotations

import os
import random
import re
import resource
import select
import signal
import socket
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from services.errors import JobFinishedError
from services.jobs.models import parse_request
from services.library.reconcile import find_orphans
from tests.conftest import disk_of
from tests.worker.conftest import SHORT_TTL

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.jobs.models import Job
    from tests.conftest import BucketServer
    from tests.programs import Program
    from tests.worker.conftest import Rig

pytestmark = pytest.mark.integration

SECONDS = "DGX_MUSIC_TEST_CHAOS_SECONDS"
PROMPTS = ("sleep 0.3", "sleep 0", "die 1", "raise 1", "kill 1", "sleep 0.1")


@dataclass
class Chaos:
    """Two workers, and random damage to them."""

    rig: Rig
    dice: random.Random
    model: str = "puppet"
    """Of most jobs."""
    slots: int = 2
    """Of each worker."""
    prompts: tuple[str, ...] = PROMPTS
    counts: Counter[str] = field(default_factory=Counter)
    submitters: list[Program] = field(default_factory=list)
    workers: list[Program] = field(default_factory=list)

    def run(self, seconds: float) -> None:
        self.workers = [self.begin_worker() for _ in range(2)]
        self.rig.until(lambda: "ready worker" in self.rig.log)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.submit()
            time.sleep(self.dice.uniform(0.2, 0.6))
            harms = self.harms()
            self.dice.choices(list(harms), weights=list(harms.values()))[0]()
        for place in range(2):
            self.replace(place)
        for submitter in self.submitters:
            submitter.wait()

    def harms(self) -> dict[Callable[[], None], int]:
        """Return what may be done, each with its weight."""
        return {
            self.kill_worker: 3,
            self.freeze_worker: 1,
            self.kill_engine: 3,
            self.cancel: 2,
            self.replace_the_gone: 2,
        }

    def settle(self) -> None:
        """Wait until every job is finished; a worker that had to wait for too long gives up."""

        def is_over() -> bool:
            self.replace_the_gone()
            return all(job.is_finished for job in all_jobs(self.rig))

        self.rig.until(is_over)

    def begin_worker(self) -> Program:
        return self.rig.begin_worker(self.slots, self.models, worker_ttl_seconds=SHORT_TTL)

    @property
    def models(self) -> str:
        return ",".join({"puppet": 0, self.model: 0})

    def submit(self) -> None:
        prompts = self.dice.choices(self.prompts, k=3)
        if self.dice.random() < 0.8:
            requests = [
                parse_request(prompt=prompt, duration=1, model=self.model) for prompt in prompts
            ]
            self.rig.service.submit_batch(requests)
            return
        self.submitters.append(self.rig.program("run_submit.py", *prompts))
        if self.dice.random() < 0.5:
            time.sleep(self.dice.uniform(0.7, 1.3))
            self.submitters[-1].kill()
            self.counts["killed submitters"] += 1

    def kill_worker(self) -> None:
        place = self.dice.randrange(2)
        self.workers[place].kill()
        self.counts["killed workers"] += 1
        self.replace(place)

    def freeze_worker(self) -> None:
        """Stop a worker for a while; it may hold a database lock that all others wait for."""
        worker = self.dice.choice(self.workers)
        worker.send_signal(signal.SIGSTOP)
        seconds = self.dice.uniform(0.5, 2.0) * SHORT_TTL
        threading.Timer(seconds, worker.send_signal, [signal.SIGCONT]).start()
        self.counts["frozen workers"] += 1

    def replace_the_gone(self) -> None:
        for place, worker in enumerate(self.workers):
            if worker.poll() is not None:
                self.counts["workers that gave up"] += 1
                self.replace(place)

    def replace(self, place: int) -> None:
        self.workers[place].kill()
        self.workers[place].wait()
        self.workers[place] = self.begin_worker()

    def kill_engine(self) -> None:
        engines = find_children(self.dice.choice(self.workers))
        if engines:
            os.kill(self.dice.choice(engines), signal.SIGKILL)
            self.counts["killed engines"] += 1

    def cancel(self) -> None:
        unfinished = [job for job in all_jobs(self.rig) if not job.is_finished]
        if unfinished:
            try:
                self.rig.service.cancel(self.dice.choice(unfinished).job_id)
                self.counts["cancelled jobs"] += 1
            except JobFinishedError:
                pass


@dataclass
class Outages(Chaos):
    """Two workers, and faults of their place, for which no job is to pay."""

    prompts: tuple[str, ...] = ("sleep 0.3", "sleep 0", "sleep 0.1")
    proxy: Proxy | None = None
    """Before the bucket, if there is one."""
    has_small_disk: bool = False

    def harms(self) -> dict[Callable[[], None], int]:
        place = self.fill_disk if self.has_small_disk else self.block_folder
        harms = {
            place: 3,
            self.cut_power: 3,
            self.take_descriptors: 2,
            self.kill_worker: 1,
            self.cancel: 1,
            self.replace_the_gone: 2,
        }
        return harms if self.proxy is None else {**harms, self.cut_off_bucket: 3}

    def wait(self, fault: str) -> None:
        self.counts[fault] += 1
        time.sleep(self.dice.uniform(0.3, 2.0))

    def fill_disk(self) -> None:
        ballast = self.rig.outputs / "ballast"
        with ballast.open("wb") as file, suppress(OSError):
            while True:
                os.write(file.fileno(), bytes(65_536))
        self.wait("full disks")
        ballast.unlink()

    def block_folder(self) -> None:
        kept = self.rig.folder / "kept"
        self.rig.outputs.rename(kept)
        self.rig.outputs.write_text("in the way")
        self.wait("folders that could not be written")
        self.rig.outputs.unlink()
        kept.rename(self.rig.outputs)

    def take_descriptors(self) -> None:
        worker = self.dice.choice(self.workers)
        with suppress(ProcessLookupError, FileNotFoundError):
            _, hard = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
            opened = sum(1 for _ in Path(f"/proc/{worker.pid}/fd").iterdir())
            resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (opened, hard))
            self.wait("too many open files")
            resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (hard, hard))

    def cut_power(self) -> None:
        """Kill every process at the same time."""
        engines = [engine for worker in self.workers for engine in find_children(worker)]
        for worker in self.workers:
            worker.kill()
        for engine in engines:
            with suppress(ProcessLookupError):
                os.kill(engine, signal.SIGKILL)
        self.counts["power cuts"] += 1
        for place in range(2):
            self.replace(place)

    def cut_off_bucket(self) -> None:
        assert self.proxy is not None
        self.proxy.is_away = True
        self.wait("buckets away")
        self.proxy.is_away = False


class Proxy:
    """Passes connections on to a port of this machine, or refuses and cuts them."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.is_away = False
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        # Ends `accept` in the other thread too.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.is_away:
                    client.close()
                    continue
                threading.Thread(target=self._pass_on, args=[client], daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._target)) as server:
            others = {client: server, server: client}
            with suppress(OSError):
                while not self.is_away:
                    for ready in select.select(list(others), [], [], 0.1)[0]:
                        data = ready.recv(65_536)
                        if not data:
                            return
                        others[ready].sendall(data)


def find_children(worker: Program) -> list[int]:
    tasks = Path(f"/proc/{worker.pid}/task")
    with suppress(FileNotFoundError, ProcessLookupError):
        texts = [path.read_text() for path in tasks.glob("*/children")]
        return [int(child) for text in texts for child in text.split()]
    return []


def all_jobs(rig: Rig) -> list[Job]:
    jobs: list[Job] = []
    cursor = None
    while True:
        page = rig.service.history(limit=1000, cursor=cursor)
        jobs += page.jobs
        cursor = page.next_cursor
        if cursor is None:
            return jobs


def wreak(rig: Rig, seconds: float, seed: int, kind: type[Chaos] = Chaos, **how: Any) -> list[Job]:
    chaos = kind(rig, random.Random(seed), **how)
    chaos.run(seconds)
    began = time.monotonic()
    jobs = all_jobs(rig)
    assert len(jobs) % 3 == 0, "half a batch was accepted"
    chaos.settle()
    settled = time.monotonic() - began
    if rig.service.settings.file_store:
        assert_published_are_whole(rig)
    else:
        rig.assert_settled([job.job_id for job in jobs])
    published = Counter(re.findall(r"completed job=(\S+)", rig.log))
    assert set(published.values()) <= {1}
    jobs = all_jobs(rig)
    statuses = Counter(job.status for job in jobs)
    assert statuses["cancelled"] == chaos.counts["cancelled jobs"]
    for job in jobs:
        if job.status == "failed":
            # Its engine was killed three times, or it failed by itself as well.
            assert job.retry_count >= 2
    starts = sum(line[1] == "start" for line in rig.ledger())
    sys.stdout.write(
        f"\n{rig.url.partition(':')[0]}, seed {seed}: {dict(chaos.counts)}; jobs {dict(statuses)}, "
        f"attempts {starts}, settled within {settled:.1f} s; lost 0, twice 0, partial files 0\n"
    )
    return jobs


def assert_published_are_whole(rig: Rig) -> None:
    """Check the files of a bucket, which may also have uploads of killed workers."""
    store = rig.service.store
    uploads = {file.relative for file in store.list()}
    published = rig.published(all_jobs(rig))
    found = find_orphans(store, deep=True)
    assert published <= uploads
    assert found.orphans == ()
    sys.stdout.write(f"\nuploads {len(uploads)}, of them abandoned {len(uploads - published)}")


def test_a_few_seconds_of_chaos_lose_nothing(rig: Rig) -> None:
    wreak(rig, 4.0, seed=7)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_long_chaos_loses_nothing(rig: Rig, seed: int) -> None:
    wreak(rig, float(os.environ.get(SECONDS, "60")) / 3, seed)


@pytest.mark.nightly
def test_long_chaos_with_a_shared_engine_loses_nothing(rig: Rig) -> None:
    wreak(rig, float(os.environ.get(SECONDS, "60")) / 2, seed=5, model="choir", slots=5)


@pytest.mark.nightly
@pytest.mark.parametrize(
    "kind", ["sqlite_url", pytest.param("postgres_url", marks=pytest.mark.postgres)]
)
def test_long_chaos_with_a_bucket_loses_nothing(
    kind: str,
    request: pytest.FixtureRequest,
    bucket_url: str,
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig(request.getfixturevalue(kind), file_store=bucket_url)
    wreak(rig, float(os.environ.get(SECONDS, "60")) / 2, seed=4)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest) -> str:
    kind = "postgres" if request.param == "postgresql" else "sqlite"
    return str(request.getfixturevalue(f"{kind}_url_with_tables"))


def assert_no_job_paid(jobs: list[Job]) -> None:
    assert {(job.status, job.retry_count) for job in jobs} <= {("completed", 0), ("cancelled", 0)}


@pytest.mark.nightly
@pytest.mark.parametrize("disk", ["small", "large"])
def test_long_faults_of_the_place_fail_no_job(
    disk: str, tmp_path: Path, make_rig: Callable[..., Rig],
    database_url: str,
) -> None:  # fmt: skip
    seconds = float(os.environ.get(SECONDS, "60")) / 2
    with ExitStack() as stack:
        if disk == "small":
            stack.enter_context(disk_of(tmp_path / "outputs", 24))
        rig = make_rig(database_url, disk_floor_bytes="0")
        stack.callback(rig.stop_all)
        how = {"has_small_disk": disk == "small"}
        assert_no_job_paid(wreak(rig, seconds, seed=6, kind=Outages, **how))


@pytest.mark.nightly
def test_long_faults_of_the_bucket_fail_no_job(
    database_url: str, bucket_server: BucketServer, bucket_url: str,
    monkeypatch: pytest.MonkeyPatch, make_rig: Callable[..., Rig],
) -> None:  # fmt: skip
    seconds = float(os.environ.get(SECONDS, "60")) / 2
    with closing(Proxy(bucket_server.port)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        rig = make_rig(database_url, file_store=bucket_url)
        assert_no_job_paid(wreak(rig, seconds, seed=8, kind=Outages, proxy=proxy))
