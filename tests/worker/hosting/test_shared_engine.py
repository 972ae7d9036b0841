"""One engine process that runs several orders: by itself, and in a worker."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.errors import CancelledError, EngineError
from services.generation.engine import GenerationParams
from services.library.orders import Order
from services.library.takes import Delivery, Take
from services.worker.hosting import host as engine_host
from services.worker.hosting.host import EngineHost, EngineSource, Limits
from services.worker.hosting.pool import HostPool
from tests.conftest import LIMIT_SECONDS, wait_until
from tests.worker.hosting.conftest import SETTINGS

pytestmark = pytest.mark.integration

ENGINES = Path(__file__).parents[1]
LIMITS = Limits(stall=LIMIT_SECONDS, deadline=LIMIT_SECONDS)
SOURCE = EngineSource("queue_engines:registry", SETTINGS)


def never() -> bool:
    return False


class Choir:
    """A shared engine process, and threads that give it orders."""

    def __init__(self, folder: Path, model: str) -> None:
        self.folder = folder
        self.host = EngineHost(model, SOURCE, LIMITS, seats=3)
        self.threads = ThreadPoolExecutor(8)
        self.asked = 0

    def ask(self, prompt: str, should_stop: Callable[[], bool] = never) -> Future[Take]:
        self.asked += 1
        order = Order(
            generation_id=f"an-id-{self.asked}",
            model=self.host.model,
            created_at=datetime(2026, 3, 1, tzinfo=UTC),
            file_path=f"2026/03/01/an-id-{self.asked}.wav",
            params=GenerationParams(prompt=prompt, duration_seconds=1.0, seed=self.asked),
        )
        path = self.folder / f"{self.asked}.part"
        delivery = Delivery(
            output_dir=self.folder, target_lufs=-16.0, true_peak_dbtp=-1.0, bit_depth="PCM_16"
        )
        return self.threads.submit(
            self.host.render, order, path, delivery, lambda _step, _done: None, should_stop
        )

    def said(self, event: str) -> int:
        ledger = self.folder / "ledger"
        return ledger.read_text().split().count(event) if ledger.exists() else 0

    def until(self, event: str, times: int) -> None:
        wait_until(lambda: self.said(event) >= times)

    def release(self) -> None:
        """Let the orders that say "hold" or "deaf" end."""
        (self.folder / "released").touch()


@pytest.fixture(autouse=True)
def _engines_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ENGINES))
    monkeypatch.setenv("DGX_MUSIC_TEST_LEDGER", str(tmp_path / "ledger"))


@pytest.fixture
def start_choir(tmp_path: Path) -> Iterator[Callable[..., Choir]]:
    with ExitStack() as ends:

        def start(model: str = "choir") -> Choir:
            choir = Choir(tmp_path, model)
            ends.callback(choir.threads.shutdown)
            ends.callback(choir.host.kill)
            return choir

        yield start


def test_orders_run_together_and_each_gets_its_own_take(start_choir):
    choir = start_choir()
    asked = [choir.ask("meet 3") for _ in range(3)]
    takes = [one.result() for one in asked]
    assert len({take.path for take in takes}) == 3
    assert [take.metadata["seed"] for take in takes] == [1, 2, 3]
    assert all(take.path.stat().st_size == take.bytes for take in takes)


def test_the_process_gets_the_number_of_its_seats(start_choir):
    command = Path(f"/proc/{start_choir().host.pid}/cmdline")
    wait_until(lambda: b'"worker_concurrency": 3' in command.read_bytes())


def test_one_of_three_orders_is_stopped_and_the_others_run_on(start_choir, monkeypatch):
    monkeypatch.setattr(engine_host, "STOP_GRACE_SECONDS", LIMIT_SECONDS)
    choir = start_choir()
    stop = threading.Event()
    others = [choir.ask("hold"), choir.ask("hold")]
    stopped = choir.ask("hold", stop.is_set)
    choir.until("start", 3)
    stop.set()
    with pytest.raises(CancelledError):
        stopped.result()
    assert choir.said("stopped") == 1
    choir.release()
    assert len({one.result().path for one in others}) == 2
    assert choir.host.takes_orders


def test_an_abandoned_order_that_ends_leaves_the_process_alive(start_choir, monkeypatch):
    monkeypatch.setattr(engine_host, "STOP_GRACE_SECONDS", 0.2)
    monkeypatch.setattr(engine_host, "ABANDONED_SECONDS", LIMIT_SECONDS)
    choir = start_choir()
    stop = threading.Event()
    other = choir.ask("hold")
    deaf = choir.ask("deaf", stop.is_set)
    choir.until("start", 2)
    stop.set()
    with pytest.raises(CancelledError):
        deaf.result()
    assert choir.host.abandoned == 1
    choir.release()
    other.result()
    wait_until(lambda: choir.host.abandoned == 0)
    assert choir.host.takes_orders


def test_an_overdue_order_ends_the_process_after_its_neighbours(start_choir, monkeypatch):
    monkeypatch.setattr(engine_host, "ABANDONED_SECONDS", 1.0)
    choir = start_choir()
    stop = threading.Event()
    other = choir.ask("meet 2")
    deaf = choir.ask("deaf", stop.is_set)
    choir.until("start", 2)
    stop.set()
    with pytest.raises(CancelledError):
        deaf.result()
    wait_until(lambda: not choir.host.takes_orders)
    assert choir.host.alive
    choir.ask("meet 2").result()
    assert other.result().bytes > 0
    wait_until(lambda: not choir.host.alive)


def test_each_order_of_a_killed_process_fails_with_the_cause(start_choir):
    choir = start_choir()
    asked = [choir.ask("hold") for _ in range(3)]
    choir.until("start", 3)
    os.kill(choir.host.pid, signal.SIGKILL)
    for one in asked:
        with pytest.raises(EngineError, match=r"killed by SIGKILL.* 3 jobs were running in it"):
            one.result()
    with pytest.raises(EngineError, match="SIGKILL"):
        choir.ask("sleep 0").result()


def test_a_stalled_order_fails_alone(start_choir):
    choir = start_choir()
    choir.ask("sleep 0").result()
    other = choir.ask("hold")
    choir.until("start", 2)
    choir.host._limits = Limits(stall=2.0, deadline=LIMIT_SECONDS)
    silent = choir.ask("hang 1")
    with pytest.raises(EngineError, match="no progress"):
        silent.result()
    assert not choir.host.takes_orders
    choir.release()
    assert other.result().bytes > 0
    wait_until(lambda: not choir.host.alive)


def test_orders_beside_an_engine_failure_finish(start_choir):
    choir = start_choir()
    other = choir.ask("hold")
    choir.until("start", 1)
    with pytest.raises(EngineError, match="as asked"):
        choir.ask("raise 1").result()
    assert choir.host.alive
    assert not choir.host.takes_orders
    choir.release()
    assert other.result().bytes > 0
    wait_until(lambda: not choir.host.alive)


def test_an_order_that_waits_for_the_engine_to_load_can_be_stopped(start_choir):
    choir = start_choir("slow")
    loader = choir.ask("sleep 0")
    choir.until("loading", 1)
    stop = threading.Event()
    waiter = choir.ask("sleep 0", stop.is_set)
    stop.set()
    with pytest.raises(CancelledError):
        waiter.result()
    assert choir.host.abandoned == 0
    assert loader.result().bytes > 0
    assert choir.said("loading") == 1


def test_the_engine_of_a_cancelled_order_still_loads_for_a_waiting_one(start_choir, monkeypatch):
    monkeypatch.setattr(engine_host, "STOP_GRACE_SECONDS", 0.1)
    monkeypatch.setattr(engine_host, "ABANDONED_SECONDS", 0.1)
    choir = start_choir("slow")
    stop = threading.Event()
    loader = choir.ask("sleep 0", stop.is_set)
    choir.until("loading", 1)
    waiter = choir.ask("sleep 0")
    stop.set()
    with pytest.raises(CancelledError):
        loader.result()
    assert waiter.result().bytes > 0
    assert choir.said("loading") == 1
    wait_until(lambda: choir.host.abandoned == 0)
    assert choir.host.takes_orders


@pytest.fixture
def pool() -> Iterator[HostPool]:
    pool = HostPool(4, SOURCE, LIMITS, idle_seconds=60.0, seats={"choir": 3, "puppet": 1})
    yield pool
    pool.kill_all()


def test_a_shared_engine_has_one_process_and_a_job_that_finds_it_full_waits(pool):
    with ExitStack() as lent:
        hosts = {lent.enter_context(pool.lease("choir")) for _ in range(3)}
        assert len(hosts) == 1
        assert pool.free_seats("choir") == 0
        assert pool.free_seats("puppet") > 0
        with pytest.raises(CancelledError), pool.lease("choir", lambda: True):
            pass
        assert {lent.enter_context(pool.lease("puppet")) for _ in range(1)}.isdisjoint(hosts)
    assert pool.free_seats("choir") == 3
    with pool.lease("choir") as again:
        assert again in hosts


def test_an_engine_has_no_more_seats_than_the_worker_has_slots():
    pool = HostPool(2, SOURCE, LIMITS, idle_seconds=60.0, seats={"choir": 3})
    assert pool.free_seats("choir") == 2


def test_a_job_that_must_be_alone_and_the_others_wait_for_each_other(pool):
    order = []
    begin_alone = threading.Event()

    def be_alone() -> None:
        begin_alone.set()
        with pool.lease("choir", alone=True):
            order.append("alone")
            with pytest.raises(CancelledError), pool.lease("choir", lambda: True):
                pass

    def come_later() -> None:
        with pool.lease("choir"):
            order.append("later")

    with ThreadPoolExecutor(2) as threads:
        with pool.lease("choir"):
            alone = threads.submit(be_alone)
            begin_alone.wait()
            wait_until(lambda: pool.free_seats("choir") == 1)
            later = threads.submit(come_later)
            wait_until(lambda: pool.free_seats("choir") == 0)
            order.append("first")
        alone.result()
        later.result()
    assert order == ["first", "alone", "later"]


def test_a_dead_process_is_replaced(pool):
    with pool.lease("choir") as first:
        first.kill()
    with pool.lease("choir") as second:
        assert second.pid != first.pid
    assert pool.count_models() == {"choir": 1}


def pids(rig, event: str) -> set[str]:
    return {line[3] for line in rig.ledger() if line[1] == event}


def test_a_worker_runs_jobs_together_in_one_process(sqlite_rig):
    sqlite_rig.worker(concurrency=5, models="choir")
    jobs = sqlite_rig.submit(*["meet 3"] * 3, *["sleep 0.1"] * 3, model="choir")
    sqlite_rig.assert_settled(jobs)
    assert [job.status for job in sqlite_rig.finished(jobs)] == ["completed"] * 6
    assert len(pids(sqlite_rig, "rendered")) == 1


def test_a_job_that_crashed_its_neighbours_is_retried_alone(sqlite_rig):
    sqlite_rig.worker(concurrency=3, models="choir")
    neighbours = sqlite_rig.submit("hold", "hold", model="choir")
    for job in neighbours:
        sqlite_rig.started(job)
    (deadly,) = sqlite_rig.submit("kill 2", model="choir")
    sqlite_rig.started(deadly)
    sqlite_rig.release()
    sqlite_rig.assert_settled([*neighbours, deadly])
    starts = [sqlite_rig.count("start", job) for job in [*neighbours, deadly]]
    assert starts == [2, 2, 3]


def test_one_of_three_jobs_is_cancelled_and_the_others_complete(sqlite_rig):
    sqlite_rig.worker(concurrency=3, models="choir")
    wanted = sqlite_rig.submit("hold", "hold", model="choir")
    (unwanted,) = sqlite_rig.submit("hold", model="choir")
    sqlite_rig.started(unwanted)
    sqlite_rig.service.cancel(unwanted)
    sqlite_rig.until(lambda: sqlite_rig.count("stopped", unwanted))
    sqlite_rig.release()
    sqlite_rig.assert_settled([*wanted, unwanted])
    assert [job.status for job in sqlite_rig.finished(wanted)] == ["completed"] * 2
    assert [sqlite_rig.count("start", job) for job in wanted] == [1, 1]
