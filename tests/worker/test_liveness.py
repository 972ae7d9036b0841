"""Heartbeats, the takeover of dead workers' jobs, and the stop of lost jobs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from services import storage
from services.jobs.dispatch import Dispatch
from services.machine.process_identity import ProcessIdentity
from services.worker import liveness
from services.worker.liveness import LivenessMonitor, WorkerIdentity
from services.worker.runner import StopReason
from tests.conftest import LIMIT_SECONDS
from tests.worker.conftest import pick_up_as

if TYPE_CHECKING:
    from tests.worker.conftest import Rig

pytestmark = pytest.mark.integration

HERE = str(ProcessIdentity.current())
ENDED = HERE.rpartition("/")[0] + "/1"


class Attempts:
    """The attempts of a worker: which ones it has, and which it was asked to stop."""

    def __init__(self) -> None:
        self.stopping: StopReason | None = None
        self.held: list[str] = []
        self.outage: str | None = None
        self.at_work: set[Dispatch] = set()
        self.stopped: list[tuple[StopReason, list[str]]] = []

    def dispatches(self) -> set[Dispatch]:
        return set(self.at_work)

    def tokens(self) -> list[str]:
        return list(self.held)

    def stop_jobs(self, reason: StopReason, tokens: list[str]) -> None:
        self.stopped.append((reason, tokens))
        self.held = [token for token in self.held if token not in tokens]


class Post:
    """A monitor, and what it did to its worker."""

    def __init__(self, rig: Rig, ttl: float) -> None:
        self.rig = rig
        self.attempts = Attempts()
        self.reasons: list[str] = []
        self.unloads: list[Exception | None] = []
        self.upkeep = threading.Event()
        identity = WorkerIdentity(
            worker_id="me",
            slot="boot:1:2",
            process=HERE,
            host="here",
            pid=1,
            models=("puppet",),
            concurrency=1,
        )
        self.monitor = LivenessMonitor(
            identity,
            rig.service.queue,
            self.attempts,  # type: ignore[arg-type]
            SimpleNamespace(unload_idle=self.unload_idle),  # type: ignore[arg-type]
            ttl=ttl,
            give_up=self.reasons.append,
        )

    def unload_idle(self) -> None:
        self.upkeep.set()
        if self.unloads and (error := self.unloads.pop()) is not None:
            raise error


@pytest.fixture
def post(sqlite_rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Post]]:
    monkeypatch.setattr(liveness, "CANCEL_POLL_SECONDS", 0.01)
    made: list[Post] = []

    def make(ttl: float = 30.0) -> Post:
        made.append(Post(sqlite_rig, ttl))
        return made[-1]

    yield make
    before = threading.enumerate()
    for one in made:
        one.monitor._ended.set()
    for thread in before:
        if thread.name in {"heartbeat", "upkeep", "lost jobs"}:
            thread.join(LIMIT_SECONDS)


def register(worker_id: str, **changed: Any) -> None:
    facts = {
        "slot": "boot:7:8", "process": HERE, "host": "here", "pid": 2,
        "models": ("puppet",), "concurrency": 1,
    }  # fmt: skip
    with storage.get_session() as session:
        storage.register_worker(session, worker_id=worker_id, **facts | changed)


def workers() -> dict[str, storage.WorkerState]:
    with storage.get_session(read_only=True) as session:
        return {state.id: state for state in storage.list_workers(session)}


def age(worker_id: str, seconds: float) -> None:
    with storage.get_session() as session:
        session.execute(
            text("UPDATE workers SET beat_at = beat_at - :seconds WHERE id = :id"),
            {"seconds": seconds, "id": worker_id},
        )


def test_a_monitor_registers_its_worker_and_removes_it_with_its_dispatches(post, sqlite_rig):
    one = post()
    assert workers()["me"].models == ("puppet",)
    sqlite_rig.submit("sleep 0", "sleep 0")
    queue = sqlite_rig.service.queue
    pick_up_as("me", sqlite_rig)
    assert queue.workers_with_dispatches() == {"me"}
    one.monitor.deregister()
    assert queue.workers_with_dispatches() == set()
    assert workers() == {}


def test_a_draining_worker_says_so_in_its_row(post):
    one = post()
    assert not workers()["me"].draining
    one.monitor.announce_draining()
    assert workers()["me"].draining


@pytest.mark.parametrize(
    ("facts", "seconds"),
    [
        ({}, 31.0),
        ({"process": ENDED}, 0.0),
        ({"slot": "boot:1:2"}, 0.0),
    ],
    ids=["no heartbeat", "ended process", "lock file of this worker"],
)
def test_the_dispatches_of_a_dead_worker_are_returned_at_the_start(
    post, sqlite_rig, facts, seconds
):
    register("other", **facts)
    age("other", seconds)
    (job,) = sqlite_rig.submit("sleep 0")
    pick_up_as("other", sqlite_rig)
    post().monitor.start()
    queue = sqlite_rig.service.queue
    assert queue.workers_with_dispatches() == set()
    assert queue.find_lost([Dispatch(job, 1)]) == []
    assert set(workers()) == {"me"}


def test_the_dispatches_of_a_worker_without_a_row_are_returned(post, sqlite_rig):
    sqlite_rig.submit("sleep 0")
    pick_up_as("unknown", sqlite_rig)
    post().monitor.start()
    assert sqlite_rig.service.queue.workers_with_dispatches() == set()


def test_a_worker_that_is_alive_keeps_its_dispatches(post, sqlite_rig):
    register("other")
    age("other", 29.0)
    sqlite_rig.submit("sleep 0")
    pick_up_as("other", sqlite_rig)
    post().monitor.start()
    assert sqlite_rig.service.queue.workers_with_dispatches() == {"other"}
    assert set(workers()) == {"me", "other"}


def test_a_worker_never_counts_itself_as_dead(post, sqlite_rig):
    one = post()
    sqlite_rig.submit("sleep 0")
    pick_up_as("me", sqlite_rig)
    age("me", 1000.0)
    one.monitor.start()
    assert sqlite_rig.service.queue.workers_with_dispatches() == {"me"}


def test_heartbeats_renew_the_row_and_carry_the_drain(post, sqlite_rig):
    one = post(ttl=2.0)
    age("me", 1000.0)
    one.attempts.stopping = StopReason.DRAINED
    one.monitor._send_heartbeat()
    assert workers()["me"].age < 10.0
    assert workers()["me"].draining
    assert one.monitor.heartbeat_age < 10.0
    assert one.reasons == []


def remove_me() -> None:
    with storage.get_session() as session:
        storage.remove_workers(session, ["me"])


def test_a_worker_that_was_taken_for_dead_gives_up(post):
    one = post(ttl=30.0)
    remove_me()
    one.monitor._last_heartbeat -= 31.0
    one.monitor._send_heartbeat()
    assert one.reasons == ["another worker took over its jobs"]


def test_a_worker_that_nobody_can_have_taken_for_dead_registers_again(post, caplog):
    one = post(ttl=30.0)
    remove_me()
    one.monitor._last_heartbeat -= 29.0
    one.monitor._send_heartbeat()
    assert one.reasons == []
    assert set(workers()) == {"me"}
    assert "registered again" in caplog.text


def test_a_worker_that_has_left_does_not_register_again(post):
    one = post(ttl=30.0)
    one.monitor.deregister()
    one.monitor._send_heartbeat()
    assert workers() == {}


def test_heartbeats_carry_an_outage_and_its_end(post):
    one = post()
    for reason in ("A disk is full.", None):
        one.attempts.outage = reason
        one.monitor._send_heartbeat()
        assert workers()["me"].outage == reason


def test_a_dispatch_that_is_not_at_work_here_is_enqueued_anew_at_the_second_look(post, sqlite_rig):
    one = post()
    jobs = sqlite_rig.submit("sleep 0", "sleep 0")
    pick_up_as("me", sqlite_rig)
    held, unheld = (Dispatch(job, 1) for job in jobs)
    with storage.get_session() as session:
        token = f"{unheld.workflow_id}/me/1"
        assert storage.claim_generation(session, unheld.generation_id, token)
    one.attempts.at_work = {held}
    queue = sqlite_rig.service.queue
    again = Dispatch(unheld.generation_id, 2)
    one.monitor._maintain_queue()
    assert queue.dispatches_of("me") == {held, unheld}
    one.monitor._maintain_queue()
    assert queue.dispatches_of("me") == {held}
    assert queue.find_lost([again]) == []
    with storage.get_session(read_only=True) as session:
        row = storage.get_generation(session, unheld.generation_id)
        assert (row.status, row.attempts) == ("pending", 0)


def test_a_draining_worker_leaves_its_returned_dispatches_to_its_end(post, sqlite_rig):
    one = post()
    sqlite_rig.submit("sleep 0")
    pick_up_as("me", sqlite_rig)
    one.attempts.stopping = StopReason.DRAINED
    for _ in range(3):
        one.monitor._maintain_queue()
    assert len(sqlite_rig.service.queue.dispatches_of("me")) == 1


def test_a_worker_that_cannot_write_its_heartbeat_gives_up_after_its_time(post, monkeypatch):
    one = post(ttl=0.1)

    def fail(*_arguments: object, **_named: object) -> None:
        raise storage.StorageError("away")

    monkeypatch.setattr(storage, "record_heartbeat", fail)
    with pytest.raises(storage.StorageError):
        one.monitor._send_heartbeat()
    assert one.reasons == []
    one.monitor.start()
    one.rig.until(lambda: one.reasons)
    assert one.reasons[0] == "no heartbeat was written for 0.1 s"


def test_a_worker_without_a_heartbeat_of_its_own_takes_nothing_over(post, sqlite_rig):
    one = post(ttl=30.0)
    sqlite_rig.submit("sleep 0")
    pick_up_as("unknown", sqlite_rig)
    one.monitor._last_heartbeat -= 16.0
    one.monitor._maintain_queue()
    assert sqlite_rig.service.queue.workers_with_dispatches() == {"unknown"}
    one.monitor._send_heartbeat()
    one.monitor._maintain_queue()
    assert sqlite_rig.service.queue.workers_with_dispatches() == set()


def test_lost_jobs_are_stopped_and_held_ones_are_not(post, sqlite_rig):
    one = post()
    held, cancelled = sqlite_rig.submit("sleep 0", "sleep 0")
    tokens = {job: f"{Dispatch(job, 1).workflow_id}/me/1" for job in (held, cancelled)}
    with storage.get_session() as session:
        for job, token in tokens.items():
            assert storage.claim_generation(session, job, token)
    one.attempts.held = list(tokens.values())
    one.monitor._stop_lost_jobs()
    assert one.attempts.stopped == []
    sqlite_rig.service.cancel(cancelled)
    one.monitor.start()
    sqlite_rig.until(lambda: one.attempts.stopped)
    assert one.attempts.stopped == [(StopReason.LOST, [tokens[cancelled]])]
    assert one.attempts.held == [tokens[held]]


def test_upkeep_replaces_lost_dispatches_at_most_once_in_its_time(post, sqlite_rig):
    one = post()
    (job,) = sqlite_rig.submit("sleep 0")
    queue = sqlite_rig.service.queue
    for attempt in (1, 2):
        queue.cancel([Dispatch(job, attempt)])
        one.monitor._maintain_queue()
    assert queue.find_lost([Dispatch(job, 2)]) == [Dispatch(job, 2)]
    with storage.get_session(read_only=True) as session:
        assert storage.get_queue_entry(session, job).attempt == 2


def test_an_unexpected_error_is_logged_and_the_thread_goes_on(post, caplog):
    one = post(ttl=0.1)
    one.unloads = [None, ZeroDivisionError("odd"), storage.StorageError("away")]
    one.monitor.start()
    one.rig.until(lambda: one.unloads == [])
    one.upkeep.clear()
    assert one.upkeep.wait(LIMIT_SECONDS)
    assert "ZeroDivisionError: odd" in caplog.text
    assert "the database does not answer: away" in caplog.text
