"""Queued jobs and real workers."""

from __future__ import annotations

import itertools
import signal
from typing import TYPE_CHECKING

import pytest

from services import storage
from services.errors import (
    CancelledError,
    EngineError,
    InvalidRequestError,
    JobFinishedError,
)
from services.jobs.models import parse_request
from tests.conftest import LIMIT_SECONDS
from tests.worker.conftest import make

if TYPE_CHECKING:
    from tests.worker.conftest import Rig

pytestmark = pytest.mark.integration


def never() -> bool:
    return False


def silent(_stage: str, _fraction: float) -> None:
    """Ignore the progress."""


def test_queued_jobs_run_once_each(rig: Rig) -> None:
    rig.worker(concurrency=2)
    jobs = rig.submit("sleep 0.1", "sleep 0.2", "sleep 0.1")
    for job in rig.finished(jobs):
        assert job.status == "completed"
        assert (job.current_step, job.progress, job.retry_count) == ("completed", 1.0, 0)
        assert job.metadata["engine"] == "puppet"
        assert rig.count("start", job.job_id) == 1
    rig.assert_settled(jobs)


def test_a_batch_is_accepted_whole_or_not_at_all(sqlite_rig: Rig) -> None:
    service = sqlite_rig.service
    good = parse_request(prompt="sleep 0.1", duration=1)
    with pytest.raises(InvalidRequestError, match="duration"):
        service.submit_batch([good, parse_request(prompt="sleep 0.1", duration=31)])
    for size in (0, 11):
        with pytest.raises(InvalidRequestError, match="1 to 10"):
            service.submit_batch([good] * size)
    with pytest.raises(InvalidRequestError, match="high, normal or low"):
        service.submit(good, priority="urgent")
    assert service.history().jobs == []
    jobs = service.submit_batch([good] * 10, "somebody")
    assert [service.get(job.job_id).queue_position for job in jobs] == list(range(1, 11))


def test_an_engine_crash_costs_one_attempt_and_no_other_job(sqlite_rig: Rig) -> None:
    sqlite_rig.worker(concurrency=3)
    misdeeds = ("die", "kill", "segfault", "raise", "cancel", "noise")
    good, *bad = sqlite_rig.submit("hold", *(f"{misdeed} 1" for misdeed in misdeeds))
    sqlite_rig.finished(bad)
    sqlite_rig.release()
    jobs = sqlite_rig.finished([good, *bad])
    assert {(job.status, job.error_message) for job in jobs} == {("completed", None)}
    assert [job.retry_count for job in jobs] == [0, *[1] * len(misdeeds)]
    assert sqlite_rig.count("start", good) == 1
    for said in (
        "ended its process with code 3",
        "killed by SIGKILL",
        "killed by SIGSEGV",
        "ZeroDivisionError: as asked",
        "stopped by itself",
        "sent an invalid message",
    ):
        assert said in sqlite_rig.log
    sqlite_rig.assert_settled([good, *bad])


def test_a_silent_engine_costs_an_attempt(sqlite_rig: Rig) -> None:
    hasty = sqlite_rig.worker(engine_stall_seconds=1, retry_delay_seconds=3600)
    (job_id,) = sqlite_rig.submit("hang 1")
    sqlite_rig.until(lambda: "no progress for 1 s" in str(sqlite_rig.get(job_id).error_message))
    assert sqlite_rig.get(job_id).status == "pending"
    hasty.kill()
    hasty.wait()


def test_a_failing_job_is_retried_three_times(sqlite_rig: Rig) -> None:
    sqlite_rig.worker()
    (job_id,) = sqlite_rig.submit("raise 9")
    (job,) = sqlite_rig.finished([job_id])
    assert job.status == "failed"
    assert job.error_message == "The engine puppet failed: ZeroDivisionError: as asked"
    assert job.retry_count == 3
    starts = [float(line[0]) for line in sqlite_rig.ledger() if line[1] == "start"]
    assert len(starts) == 4
    pauses = [late - early for early, late in itertools.pairwise(starts)]
    assert all(pause >= least for pause, least in zip(pauses, (0.1, 0.2, 0.4), strict=True))
    sqlite_rig.assert_settled([job_id])


def test_a_retry_holds_no_slot(sqlite_rig: Rig) -> None:
    sqlite_rig.worker(retry_delay_seconds=3600)
    (bad,) = sqlite_rig.submit("raise 1")
    sqlite_rig.until(lambda: sqlite_rig.get(bad).error_message)
    waiting = sqlite_rig.get(bad)
    assert (waiting.status, waiting.current_step) == ("pending", "queued")
    (good,) = sqlite_rig.submit("sleep 0")
    assert sqlite_rig.finished([good])[0].status == "completed"
    assert sqlite_rig.get(bad).status == "pending"


def test_a_job_that_cannot_succeed_is_not_retried(sqlite_rig: Rig) -> None:
    sqlite_rig.worker()
    (job_id,) = sqlite_rig.submit("refuse")
    (job,) = sqlite_rig.finished([job_id])
    assert (job.status, job.error_message) == ("failed", "The puppet refuses.")
    assert sqlite_rig.count("start", job_id) == 1
    sqlite_rig.assert_settled([job_id])


def test_a_waiting_job_that_is_cancelled_never_starts(sqlite_rig: Rig) -> None:
    (cancelled,) = sqlite_rig.submit("sleep 0")
    assert sqlite_rig.service.cancel(cancelled).status == "cancelled"
    with pytest.raises(JobFinishedError, match="cancelled already"):
        sqlite_rig.service.cancel(cancelled)
    sqlite_rig.worker()
    (after,) = sqlite_rig.submit("sleep 0")
    sqlite_rig.finished([after])
    assert sqlite_rig.count("start", cancelled) == 0
    sqlite_rig.assert_settled([cancelled, after])


def check_cancel(rig: Rig, prompt: str) -> None:
    rig.worker()
    (job_id,) = rig.submit(prompt)
    rig.started(job_id)
    assert rig.service.cancel(job_id).status == "cancelled"
    rig.until(lambda: "no longer ours" in rig.log)
    assert "Traceback" not in rig.log
    (after,) = rig.submit("sleep 0")
    assert rig.finished([after])[0].status == "completed"
    rig.assert_settled([job_id, after])


def test_a_running_job_is_cancelled(rig: Rig) -> None:
    check_cancel(rig, "hold")


def test_a_job_of_a_hanging_engine_is_cancelled(sqlite_rig: Rig) -> None:
    check_cancel(sqlite_rig, "hang 9")


def test_progress_and_place_are_shown_while_jobs_wait_and_run(sqlite_rig: Rig) -> None:
    sqlite_rig.worker()
    (done,) = sqlite_rig.submit("sleep 0.3")
    sqlite_rig.finished([done])
    running, second, third = sqlite_rig.submit("hold", "sleep 0", "sleep 0")
    sqlite_rig.until(lambda: sqlite_rig.get(running).current_step == "generating")
    sqlite_rig.until(lambda: sqlite_rig.get(running).progress > 0.4)
    assert sqlite_rig.get(running).queue_position is None
    assert [sqlite_rig.get(job).queue_position for job in (second, third)] == [1, 2]
    estimates = [sqlite_rig.get(job).estimated_time_seconds for job in (running, second, third)]
    assert all(estimates)
    assert estimates[1] < estimates[2]
    assert sqlite_rig.service.wait(third, 0.01).status == "pending"
    sqlite_rig.release()
    assert sqlite_rig.service.wait(third, LIMIT_SECONDS).status == "completed"


def test_a_client_with_many_jobs_delays_another_by_one(rig: Rig) -> None:
    many = rig.submit(*["sleep 0"] * 6, client="many")
    (one,) = rig.submit("sleep 0", client="one")
    (high,) = rig.submit("sleep 0", client="many", priority="high")
    (low,) = rig.submit("sleep 0", client="low", priority="low")
    rig.worker()
    rig.finished([*many, one, high, low])
    order = [line[2] for line in rig.ledger() if line[1] == "start"]
    assert order == [rig.seed(job) for job in (high, many[0], one, *many[1:], low)]


def test_a_worker_takes_only_jobs_of_its_models(sqlite_rig: Rig) -> None:
    sqlite_rig.worker(models="other")
    (theirs,) = sqlite_rig.submit("sleep 0")
    other = sqlite_rig.service.submit(parse_request(prompt="sleep 0", duration=1, model="other"))
    sqlite_rig.finished([other.job_id])
    assert sqlite_rig.get(theirs).status == "pending"
    sqlite_rig.worker(models="puppet,other")
    sqlite_rig.assert_settled([theirs, other.job_id])


def test_a_worker_that_is_alive_runs_the_job_of_a_waiting_caller(sqlite_rig: Rig) -> None:
    sqlite_rig.worker()
    seen: list[str] = []

    def see(stage: str, _fraction: float) -> None:
        seen.append(stage)
        if stage == "generating":
            sqlite_rig.release()

    job = make(sqlite_rig.service, parse_request(prompt="hold", duration=1), see, never)
    assert job.status == "completed"
    assert {"generating", "completed"} <= set(seen)
    assert f"completed job={job.job_id}" in sqlite_rig.log
    with pytest.raises(EngineError, match="as asked"):
        make(sqlite_rig.service, parse_request(prompt="raise 9", duration=1), silent, never)
    with pytest.raises(CancelledError):
        make(
            sqlite_rig.service,
            parse_request(prompt="sleep 30", duration=1),
            silent,
            lambda: "generating" in seen,
        )
    assert sqlite_rig.service.history(status="cancelled").jobs[0].prompt == "sleep 30"


def test_a_waiting_caller_runs_its_job_when_the_last_worker_dies(sqlite_rig: Rig) -> None:
    worker = sqlite_rig.worker()

    def kill_once(_stage: str, _fraction: float) -> None:
        if worker.poll() is None and sqlite_rig.ledger():
            worker.kill()
            worker.wait()
            sqlite_rig.release()
            # How long to wait for another worker.
            patient = sqlite_rig.service.settings
            sqlite_rig.service.settings = patient.model_copy(update={"worker_ttl_seconds": 0.1})

    job = make(sqlite_rig.service, parse_request(prompt="hold", duration=1), kill_once, never)
    assert job.status == "completed"
    assert "completed job" not in sqlite_rig.log
    sqlite_rig.assert_settled([job.job_id])


def test_a_draining_worker_finishes_its_running_job(sqlite_rig: Rig) -> None:
    worker = sqlite_rig.worker()
    running, waiting = sqlite_rig.submit("hold", "sleep 0")
    sqlite_rig.started(running)
    worker.send_signal(signal.SIGTERM)
    sqlite_rig.until(lambda: "draining" in sqlite_rig.log)
    sqlite_rig.release()
    assert sqlite_rig.ended(worker) == 0
    assert sqlite_rig.get(running).status == "completed"
    assert sqlite_rig.get(waiting).status == "pending"
    with storage.get_session(read_only=True) as session:
        assert storage.list_workers(session) == []
    sqlite_rig.worker()
    sqlite_rig.assert_settled([running, waiting])


def test_a_job_given_back_at_the_drain_deadline_loses_no_attempt(rig: Rig) -> None:
    worker = rig.worker(drain_seconds=0.2)
    (job_id,) = rig.submit("hold")
    rig.started(job_id)
    worker.send_signal(signal.SIGINT)
    assert rig.ended(worker) == 0
    job = rig.get(job_id)
    assert (job.status, job.current_step, job.retry_count) == ("pending", "queued", 0)
    assert rig.files() == set()
    rig.release()
    rig.worker()
    assert rig.finished([job_id])[0].retry_count == 0
    assert rig.count("start", job_id) == 2
    rig.assert_settled([job_id])


def test_a_second_signal_ends_a_worker_at_once(sqlite_rig: Rig) -> None:
    worker = sqlite_rig.worker(drain_seconds=3600)
    (job_id,) = sqlite_rig.submit("hold")
    sqlite_rig.started(job_id)
    worker.send_signal(signal.SIGTERM)
    sqlite_rig.until(lambda: "draining" in sqlite_rig.log)
    assert sqlite_rig.signal_again(worker) == 6
    assert sqlite_rig.get(job_id).status == "processing"
