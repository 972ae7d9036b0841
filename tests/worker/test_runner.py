"""The attempts of a worker, with real rows and files and an engine in this process."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from services import storage
from services.errors import (
    CancelledError,
    DGXMusicError,
    EngineEndedError,
    EngineError,
    FileGoneError,
    InvalidRequestError,
    OutputError,
    StoreAwayError,
)
from services.jobs.dbos_queue import DispatchReturned
from services.jobs.dispatch import Dispatch
from services.library.takes import Delivery, make_take
from services.worker import runner as runner_module
from services.worker.claims import MACHINE_FAILED, Claims
from services.worker.outage import Outage
from services.worker.runner import AttemptRunner, StopReason
from tests.conftest import LIMIT_SECONDS
from tests.worker.conftest import load_engines

if TYPE_CHECKING:
    from tests.worker.conftest import Rig

pytestmark = pytest.mark.integration


class LocalHosts:
    """Leases an engine that renders in this process, after an action of the test."""

    def __init__(self) -> None:
        self.engine = load_engines().registry().resolve("puppet").load()
        self.act: Callable[[Callable[[], bool]], object] = lambda _should_stop: None
        self.alone: list[bool] = []
        self.seats = 100

    @contextmanager
    def lease(self, _model: str, _should_stop: Any, *, alone: bool) -> Iterator[LocalHosts]:
        self.alone.append(alone)
        yield self

    def free_seats(self, _model: str) -> int:
        return self.seats

    def render(self, order: Any, path: Any, delivery: Any, progress: Any, should_stop: Any) -> Any:
        progress("generating", 0.25)
        self.act(should_stop)
        return make_take(order, path, self.engine, delivery, progress, should_stop)


class Desk:
    """A runner, and threads in which it runs dispatches."""

    def __init__(self, rig: Rig, threads: ThreadPoolExecutor, concurrency: int) -> None:
        service = rig.service
        self.rig, self.threads, self.hosts = rig, threads, LocalHosts()
        self.claims = Claims(service.settings, service.queue, "here.0.1", service.store)
        delivery = Delivery.of(service.settings)
        self.machine = SimpleNamespace(reason=None)
        outage = Outage(lambda _need: self.machine.reason)
        self.runner = AttemptRunner(self.claims, self.hosts, delivery, concurrency, outage)  # type: ignore[arg-type]  # a pool without processes

    def submit(self) -> Dispatch:
        return Dispatch(self.rig.submit("sleep 0")[0], 1)

    def start(self, dispatch: Dispatch) -> Any:
        return self.threads.submit(self.runner.run, dispatch)

    def hold(self) -> tuple[threading.Event, threading.Event]:
        """Let renders wait: the first event says that one has started, the second ends it."""
        started, release = threading.Event(), threading.Event()

        def wait(should_stop: Callable[[], bool]) -> None:
            started.set()
            while not release.wait(0.002):
                if should_stop():
                    raise CancelledError("Cancelled.")

        self.hosts.act = wait
        return started, release


@pytest.fixture
def make_desk(sqlite_rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Desk]]:
    monkeypatch.setattr(runner_module, "_DATABASE_RETRY_SECONDS", 0.001)
    monkeypatch.setattr(runner_module, "SAME_END_SECONDS", 0.0)
    with ThreadPoolExecutor(4) as threads:

        def make(concurrency: int = 1) -> Desk:
            return Desk(sqlite_rig, threads, concurrency)

        yield make


@pytest.fixture
def desk(make_desk: Callable[..., Desk]) -> Desk:
    return make_desk()


def raise_error(error: BaseException) -> Callable[[object], None]:
    def act(_should_stop: object) -> None:
        raise error

    return act


def row_of(dispatch: Dispatch) -> storage.Generation:
    with storage.get_session(read_only=True) as session:
        row = storage.get_generation(session, dispatch.generation_id)
    assert row is not None
    return row


def entry_of(dispatch: Dispatch) -> storage.QueueEntry | None:
    with storage.get_session(read_only=True) as session:
        return storage.get_queue_entry(session, dispatch.generation_id)


def test_a_dispatch_becomes_a_completed_row_with_one_file(desk):
    dispatch = desk.submit()
    desk.runner.run(dispatch)
    row = row_of(dispatch)
    assert (row.status, row.attempts, row.attempt_token) == ("completed", 1, None)
    assert desk.rig.files() == {row.file_path}
    assert entry_of(dispatch) is None
    assert desk.hosts.alone == [False]


def test_progress_is_recorded_while_a_job_runs(desk):
    dispatch = desk.submit()
    seen = []

    def look(_should_stop: object) -> None:
        entry = entry_of(dispatch)
        seen.append((entry.worker_id, entry.step, entry.progress))

    desk.hosts.act = look
    desk.runner.run(dispatch)
    assert seen == [("here.0.1", "generating", 0.25)]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (EngineError("no memory"), "no memory"),
        (EngineError("/srv/models/a.bin is damaged."), ".../a.bin is damaged."),
        (ZeroDivisionError("odd"), "ZeroDivisionError: odd"),
        (
            CancelledError("Cancelled."),
            "The engine stopped by itself.",
        ),
    ],
)
def test_an_attempt_that_may_succeed_next_time_is_queued_again(desk, error, message):
    dispatch = desk.submit()
    desk.hosts.act = raise_error(error)
    desk.runner.run(dispatch)
    row, entry = row_of(dispatch), entry_of(dispatch)
    assert (row.status, row.attempts, row.error_message) == ("pending", 1, message)
    assert (entry.attempt, entry.worker_id, entry.step) == (2, None, "queued")
    second = Dispatch(dispatch.generation_id, 2)
    assert desk.rig.service.queue.find_lost([second]) == []
    assert desk.rig.files() == set()
    desk.hosts.act = lambda _should_stop: None
    desk.runner.run(second)
    assert row_of(dispatch).status == "completed"
    assert desk.hosts.alone == [False, True]


MACHINE_FAULTS = [
    OutputError("/secret/folder cannot be written."),
    StoreAwayError("s3://secret does not respond."),
    OSError(errno.EMFILE, "Too many open files"),
]


@pytest.mark.parametrize("error", MACHINE_FAULTS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("reason", [None, "A disk is full."])
def test_a_fault_of_the_machine_costs_no_attempt(desk, error, reason):
    dispatch = desk.submit()
    desk.hosts.act = raise_error(error)
    desk.machine.reason = reason
    desk.runner.run(dispatch)
    row, entry = row_of(dispatch), entry_of(dispatch)
    assert (row.status, row.attempts, row.error_message) == ("pending", 0, None)
    assert (entry.attempt, entry.worker_id, entry.crashes) == (2, None, 0)
    assert desk.runner.outage == reason
    assert desk.runner.free_slots("puppet") == (0 if reason else 1)
    desk.hosts.act = lambda _should_stop: None
    desk.runner.run(Dispatch(dispatch.generation_id, 2))
    assert row_of(dispatch).status == "completed"
    assert desk.hosts.alone == [False, False]


def test_a_machine_blamed_too_often_for_a_job_is_blamed_no_more(desk, monkeypatch):
    monkeypatch.setattr(runner_module, "outage_pause", lambda outages: 0.0 if outages < 3 else None)
    first = desk.submit()
    desk.hosts.act = raise_error(OutputError("/secret/folder cannot be written."))
    seen = []
    for number in range(1, 7):
        desk.runner.run(Dispatch(first.generation_id, number))
        row = row_of(first)
        seen.append((row.status, row.attempts))
    pending = [("pending", attempts) for attempts in (0, 0, 1, 2, 3)]
    assert seen == [*pending, ("failed", 4)]
    assert row_of(first).error_message == MACHINE_FAILED
    assert "secret" not in MACHINE_FAILED


def test_a_missing_input_is_a_fault_of_the_job(desk):
    dispatch = desk.submit()
    desk.hosts.act = raise_error(FileGoneError("The melody is gone."))
    desk.runner.run(dispatch)
    assert (row_of(dispatch).status, row_of(dispatch).error_message) == (
        "failed",
        "The melody is gone.",
    )


@pytest.mark.parametrize(
    ("jobs", "attempts", "crashes"),
    [(1, 1, 0), (2, 0, 1), (0, 0, 0)],
    ids=["alone", "with a neighbour", "before the job"],
)
def test_the_end_of_an_engine_process_counts_only_against_a_job_alone_in_it(
    desk, jobs, attempts, crashes
):
    dispatch = desk.submit()
    desk.hosts.act = raise_error(EngineEndedError("It was killed by SIGSEGV.", jobs))
    desk.runner.run(dispatch)
    row, entry = row_of(dispatch), entry_of(dispatch)
    assert (row.status, row.attempts) == ("pending", attempts)
    assert (entry.attempt, entry.crashes) == (2, crashes)
    assert desk.claims.is_suspect(Dispatch(dispatch.generation_id, 2)) == bool(crashes)


@pytest.mark.parametrize(
    ("error", "starts"), [(EngineEndedError("It ended."), 3), (EngineError("It failed."), 4)]
)
def test_a_job_that_ends_its_engine_fails_at_the_third_time(
    desk, error: DGXMusicError, starts: int
) -> None:
    first = desk.submit()
    desk.hosts.act = raise_error(error)
    for number in range(1, starts + 1):
        assert row_of(first).status == "pending"
        desk.runner.run(Dispatch(first.generation_id, number))
    assert (row_of(first).status, row_of(first).error_message) == ("failed", str(error))


def test_a_dispatch_that_runs_twice_is_at_work_until_both_runs_have_ended(make_desk):
    desk = make_desk(2)
    started, release = desk.hold()
    dispatch = desk.submit()
    running = desk.start(dispatch)
    assert started.wait(LIMIT_SECONDS)
    # As in a database that was put back: the row is pending again, and is claimed by nobody.
    desk.rig.service.cancel(dispatch.generation_id)
    desk.runner.run(dispatch)
    assert desk.runner.dispatches() == {dispatch}
    release.set()
    running.result(LIMIT_SECONDS)
    assert desk.runner.dispatches() == set()


def test_an_engine_that_ends_with_its_worker_costs_no_attempt(desk):
    dispatch = desk.submit()

    def end(_should_stop: object) -> None:
        desk.runner.stop_taking(StopReason.DRAINED)
        raise EngineEndedError("It was killed by SIGTERM.")

    desk.hosts.act = end
    with pytest.raises(DispatchReturned):
        desk.runner.run(dispatch)
    assert (row_of(dispatch).status, row_of(dispatch).attempts) == ("pending", 0)


@pytest.mark.parametrize("crashes", [1, 2, 70])
def test_the_death_of_workers_pauses_a_job_and_never_fails_it(desk, crashes):
    dispatch = desk.submit()
    with storage.get_session() as session:
        token = f"{dispatch.workflow_id}/gone/1"
        assert storage.claim_generation(session, dispatch.generation_id, token)
        storage.get_queue_entry(session, dispatch.generation_id, for_update=True).crashes = crashes
    desk.runner.run(dispatch)
    row, entry = row_of(dispatch), entry_of(dispatch)
    assert (row.status, row.attempts, row.attempt_token) == ("pending", 0, None)
    assert (entry.attempt, entry.crashes, entry.worker_id) == (2, crashes + 1, None)
    assert desk.hosts.alone == []
    desk.runner.run(Dispatch(dispatch.generation_id, 2))
    assert (row_of(dispatch).status, row_of(dispatch).attempts) == ("completed", 1)


def test_an_attempt_that_cannot_succeed_fails_the_job(desk):
    dispatch = desk.submit()
    desk.hosts.act = raise_error(InvalidRequestError("Too strange."))
    desk.runner.run(dispatch)
    row = row_of(dispatch)
    assert (row.status, row.error_message) == ("failed", "Too strange.")
    assert entry_of(dispatch) is None
    assert desk.rig.files() == set()


def test_a_dispatch_of_a_finished_job_does_nothing(desk):
    dispatch = desk.submit()
    desk.rig.service.cancel(dispatch.generation_id)
    desk.runner.run(dispatch)
    assert desk.hosts.alone == []
    assert row_of(dispatch).attempts == 0


def test_a_job_cancelled_while_it_runs_is_not_published(desk):
    dispatch = desk.submit()
    desk.hosts.act = lambda _stop: desk.rig.service.cancel(dispatch.generation_id)
    desk.runner.run(dispatch)
    assert row_of(dispatch).status == "cancelled"
    assert desk.rig.files() == set()


def test_a_lost_job_is_stopped_and_its_row_left_alone(desk):
    started, _ = desk.hold()
    dispatch = desk.submit()
    running = desk.start(dispatch)
    assert started.wait(LIMIT_SECONDS)
    (token,) = desk.runner.tokens()
    assert token == row_of(dispatch).attempt_token
    desk.runner.stop_jobs(StopReason.LOST, ["another"])
    assert not running.done()
    desk.runner.stop_jobs(StopReason.LOST, [token])
    assert running.result(LIMIT_SECONDS) is None
    assert row_of(dispatch).attempt_token == token
    assert desk.runner.tokens() == []


def test_a_drained_job_is_given_back_without_an_attempt(desk):
    started, _ = desk.hold()
    dispatch = desk.submit()
    running = desk.start(dispatch)
    assert started.wait(LIMIT_SECONDS)
    assert not desk.runner.wait_idle(0.01)
    desk.runner.stop_jobs(StopReason.DRAINED)
    with pytest.raises(DispatchReturned):
        running.result(LIMIT_SECONDS)
    row = row_of(dispatch)
    assert (row.status, row.attempts, entry_of(dispatch).attempt) == ("pending", 0, 1)
    assert desk.runner.wait_idle(0.0)


def test_the_first_reason_to_stop_a_job_counts(desk):
    started, _ = desk.hold()
    dispatch = desk.submit()
    running = desk.start(dispatch)
    assert started.wait(LIMIT_SECONDS)
    desk.runner.stop_jobs(StopReason.ABANDONED)
    desk.runner.stop_jobs(StopReason.LOST)
    with pytest.raises(DispatchReturned):
        running.result(LIMIT_SECONDS)
    assert row_of(dispatch).status == "processing"


def test_a_transaction_is_repeated_while_the_database_is_away(desk, monkeypatch):
    failures = [storage.StorageError("away"), storage.StorageError("away")]
    real = desk.claims.publish

    def publish(*arguments: Any) -> bool:
        if failures:
            raise failures.pop()
        return real(*arguments)

    monkeypatch.setattr(desk.claims, "publish", publish)
    dispatch = desk.submit()
    desk.runner.run(dispatch)
    assert failures == []
    assert row_of(dispatch).status == "completed"


def test_a_worker_that_gave_up_repeats_no_transaction(desk, monkeypatch):
    def fail(_dispatch: Dispatch) -> None:
        desk.runner.stop_taking(StopReason.ABANDONED)
        raise storage.StorageError("away")

    monkeypatch.setattr(desk.claims, "claim", fail)
    with pytest.raises(DispatchReturned):
        desk.runner.run(desk.submit())


@pytest.mark.parametrize(("seats", "free"), [(100, 3), (2, 2), (0, 0)])
def test_a_worker_takes_no_more_than_its_slots_and_the_engine_s_seats(make_desk, seats, free):
    desk = make_desk(3)
    desk.hosts.seats = seats
    assert desk.runner.free_slots("puppet") == free


def test_a_running_job_takes_a_slot_and_a_waiting_one_takes_the_next(desk):
    started, release = desk.hold()
    first, second = desk.submit(), desk.submit()
    running = desk.start(first)
    assert started.wait(LIMIT_SECONDS)
    assert desk.runner.free_slots("puppet") == 0
    waiting = desk.start(second)
    desk.rig.until(lambda: desk.runner.free_slots("puppet") == -1)
    assert row_of(second).status == "pending"
    release.set()
    running.result(LIMIT_SECONDS)
    waiting.result(LIMIT_SECONDS)
    assert [row_of(each).status for each in (first, second)] == ["completed"] * 2
    assert desk.runner.free_slots("puppet") == 1


def test_a_worker_that_takes_nothing_more_returns_waiting_dispatches(desk):
    started, release = desk.hold()
    running = desk.start(desk.submit())
    assert started.wait(LIMIT_SECONDS)
    waiting = desk.start(desk.submit())
    desk.rig.until(lambda: desk.runner.free_slots("puppet") == -1)
    desk.runner.stop_taking(StopReason.DRAINED)
    with pytest.raises(DispatchReturned):
        waiting.result(LIMIT_SECONDS)
    assert desk.runner.free_slots("puppet") == 0
    release.set()
    assert running.result(LIMIT_SECONDS) is None


def test_a_job_whose_worker_died_runs_without_neighbours(make_desk):
    desk = make_desk(3)
    started, release = desk.hold()
    neighbour = desk.start(desk.submit())
    assert started.wait(LIMIT_SECONDS)
    suspect = desk.submit()
    with storage.get_session() as session:
        token = f"{suspect.workflow_id}/gone/1"
        assert storage.claim_generation(session, suspect.generation_id, token)
    waiting = desk.start(suspect)
    desk.rig.until(lambda: desk.runner.free_slots("puppet") == 0)
    late = desk.start(desk.submit())
    assert not waiting.done()
    assert entry_of(suspect).crashes == 0
    release.set()
    for each in (neighbour, waiting, late):
        each.result(LIMIT_SECONDS)
    assert (row_of(suspect).status, row_of(suspect).attempts) == ("completed", 1)
    assert desk.runner.free_slots("puppet") == 3
