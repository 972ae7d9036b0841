"""Random kills, freezes and cancellations at once: no job is lost, doubled or partial."""

from __future__ import annotations

import os
import random
import re
import signal
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from services.errors import JobFinishedError
from services.jobs.models import parse_request
from services.library.reconcile import find_orphans
from tests.worker.conftest import SHORT_TTL

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.jobs.models import Job
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
            harm = self.dice.choices(
                [
                    self.kill_worker,
                    self.freeze_worker,
                    self.kill_engine,
                    self.cancel,
                    self.replace_the_gone,
                ],
                weights=[3, 1, 3, 2, 2],
            )[0]
            harm()
        for place in range(2):
            self.replace(place)
        for submitter in self.submitters:
            submitter.wait()

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
        prompts = self.dice.choices(PROMPTS, k=3)
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
        worker = self.dice.choice(self.workers)
        children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children")
        engines = [
            int(child)
            for path in children.parent.parent.glob("*/children")
            for child in path.read_text().split()
        ]
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


def all_jobs(rig: Rig) -> list[Job]:
    jobs: list[Job] = []
    cursor = None
    while True:
        page = rig.service.history(limit=1000, cursor=cursor)
        jobs += page.jobs
        cursor = page.next_cursor
        if cursor is None:
            return jobs


def wreak(rig: Rig, seconds: float, seed: int, **how: Any) -> None:
    chaos = Chaos(rig, random.Random(seed), **how)
    chaos.run(seconds)
    began = time.monotonic()
    jobs = all_jobs(rig)
    assert len(jobs) % 3 == 0, "half a batch was accepted"
    chaos.settle()
    settled = time.monotonic() - began
    if rig.settings:
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
