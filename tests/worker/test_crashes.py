"""Killed and frozen workers lose no job, publish none twice, and leave no partial file."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from services import storage
from services.jobs import failpoints
from services.jobs.attachments import list_attached, local_attachment
from services.jobs.dispatch import Dispatch
from services.jobs.failpoints import NAMES, VARIABLE
from services.jobs.making import JobMaker
from services.jobs.models import parse_request
from services.worker.lost_dispatches import replace_lost_dispatches
from tests.worker.conftest import SHORT_TTL, pick_up_as

if TYPE_CHECKING:
    from tests.programs import Program
    from tests.worker.conftest import Rig

pytestmark = pytest.mark.integration

# Where a worker is killed -> what the row, the attempts and the folder are then.
KILLED_AT = {
    "job-claimed": ("pending", 0, "nothing"),
    "attempt-before-commit": ("pending", 0, "nothing"),
    "attempt-after-commit": ("processing", 1, "nothing"),
    "take-made": ("processing", 1, "draft"),
    "upload-done": ("processing", 1, "draft"),
    "publish-before-rename": ("processing", 1, "draft"),
    "publish-after-rename": ("processing", 1, "take"),
    "publish-before-commit": ("processing", 1, "take"),
    "publish-after-commit": ("completed", 1, "take"),
    "retry-before-commit": ("processing", 1, "nothing"),
    "retry-after-commit": ("pending", 1, "nothing"),
}


RENAMED = "publish-after-rename"


def state_of(pid: int) -> str:
    status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    return status.rpartition(")")[2].split()[0]


def contents(rig: Rig) -> str:
    kinds = {"draft" if "/.dgx-" in name else "take" for name in rig.files()}
    return kinds.pop() if len(kinds) == 1 else " and ".join(sorted(kinds)) or "nothing"


@pytest.mark.parametrize("point", KILLED_AT)
def test_a_worker_killed_at_any_point_loses_nothing(sqlite_rig: Rig, point: str) -> None:
    status, attempts, files = KILLED_AT[point]
    dead = sqlite_rig.fail_at(point)
    (job_id,) = sqlite_rig.submit("raise 1" if point.startswith("retry") else "sleep 0")
    assert sqlite_rig.ended(dead) == failpoints.EXIT_CODE
    with storage.get_session(read_only=True) as session:
        row = storage.get_generation(session, job_id)
        assert row is not None
        assert (row.status, row.attempts) == (status, attempts)
    assert contents(sqlite_rig) == files
    sqlite_rig.worker()
    assert sqlite_rig.finished([job_id])[0].status == "completed"
    sqlite_rig.assert_settled([job_id])


def test_a_worker_killed_after_its_renames_leaves_a_whole_set_and_one_take(sqlite_rig: Rig) -> None:
    dead = sqlite_rig.worker(models="choir", **{VARIABLE.removeprefix("DGX_MUSIC_"): RENAMED})
    (job_id,) = sqlite_rig.submit("sleep 0", model="choir", stems=True, midi=True)
    assert sqlite_rig.ended(dead) == failpoints.EXIT_CODE
    assert len(sqlite_rig.files()) == 4
    assert list_attached(sqlite_rig.service, job_id) == []
    sqlite_rig.worker(models="choir")
    assert sqlite_rig.finished([job_id])[0].status == "completed"
    sqlite_rig.assert_settled([job_id])
    attached = list_attached(sqlite_rig.service, job_id)
    assert [one.name for one in attached] == ["high", "low", "score"]
    for one in attached:
        local_attachment(sqlite_rig.service, one)


@pytest.mark.parametrize(
    ("point", "accepted"), [("submit-before-commit", 0), ("submit-after-commit", 3)]
)
def test_a_killed_submitter_leaves_all_of_a_batch_or_nothing(
    rig: Rig, point: str, accepted: int
) -> None:
    ran = rig.program(
        "run_submit.py", *["sleep 0"] * 3, **{VARIABLE.removeprefix("DGX_MUSIC_"): point}
    )
    assert rig.ended(ran) == failpoints.EXIT_CODE
    jobs = [job.job_id for job in rig.service.history().jobs]
    assert len(jobs) == accepted
    with storage.get_session(read_only=True) as session:
        assert len(storage.list_queue_entries(session)) == accepted
        prompts = storage.get_all_prompts(session)
        assert sum(prompt.used_count for prompt in prompts) == accepted
    dispatches = [Dispatch(job, 1) for job in jobs]
    assert rig.service.queue.find_lost(dispatches) == []
    if accepted:
        rig.worker()
        rig.assert_settled(jobs)


def test_a_canceller_killed_after_its_commit_leaves_a_cancelled_job(
    sqlite_rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    def die(name: str) -> None:
        if name == "cancel-after-commit":
            raise KilledError

    (job_id,) = sqlite_rig.submit("sleep 0")
    monkeypatch.setattr("services.jobs.service.reach", die)
    with pytest.raises(KilledError):
        sqlite_rig.service.cancel(job_id)
    sqlite_rig.worker()
    sqlite_rig.until(lambda: f"nothing to do job={job_id}" in sqlite_rig.log)
    assert sqlite_rig.count("start", job_id) == 0
    sqlite_rig.assert_settled([job_id])


def test_every_failpoint_is_tested() -> None:
    others = {"submit-before-commit", "submit-after-commit", "cancel-after-commit"}
    assert set(NAMES) == set(KILLED_AT) | others


def test_a_restarted_worker_resumes_its_jobs_at_once(sqlite_rig: Rig) -> None:
    # Its silence alone would be noticed too late.
    worker = sqlite_rig.worker(concurrency=2, worker_ttl_seconds=3600)
    jobs = sqlite_rig.submit("hold", "hold", "sleep 0")
    for job in jobs[:2]:
        sqlite_rig.started(job)
    worker.kill()
    worker.wait()
    sqlite_rig.worker(concurrency=2, worker_ttl_seconds=3600)
    # One alone, as either may have ended the worker.
    sqlite_rig.until(lambda: any(sqlite_rig.count("start", job) == 2 for job in jobs[:2]))
    sqlite_rig.release()
    for job in sqlite_rig.finished(jobs):
        assert job.status == "completed"
    sqlite_rig.assert_settled(jobs)


def test_a_frozen_worker_loses_its_job_and_its_result_is_refused(rig: Rig) -> None:
    frozen = rig.worker(worker_ttl_seconds=SHORT_TTL)
    (job_id,) = rig.submit("hold")
    rig.started(job_id)
    frozen.send_signal(signal.SIGSTOP)
    rig.release()
    rig.until(rig.files)
    rig.worker(worker_ttl_seconds=SHORT_TTL)
    (job,) = rig.finished([job_id])
    assert rig.count("start", job_id) == 2
    digest = job.metadata
    frozen.send_signal(signal.SIGCONT)
    # With SQLite the other worker kills stopped ones, unless it takes over this one's jobs first.
    ended = rig.ended(frozen)
    assert ended == 6 or (rig.is_sqlite and ended == -signal.SIGKILL)
    assert ("giving up" if ended == 6 else "killed worker") in rig.log
    assert (job.status, job.retry_count) == ("completed", 0)
    assert rig.get(job_id).metadata == digest
    rig.assert_settled([job_id])


def test_a_worker_frozen_within_a_transaction_blocks_no_other(rig: Rig) -> None:
    frozen = rig.fail_at("publish-before-commit:freeze", worker_ttl_seconds=SHORT_TTL)
    (job_id,) = rig.submit("sleep 0")
    rig.until(lambda: state_of(frozen.pid) == "T")
    rig.worker(worker_ttl_seconds=SHORT_TTL)
    (other,) = rig.submit("sleep 0")
    rig.started(job_id, times=2)
    assert {job.status for job in rig.finished([job_id, other])} == {"completed"}
    frozen.send_signal(signal.SIGCONT)
    # PostgreSQL ends the transaction. SQLite has no server: another worker kills the process.
    assert rig.ended(frozen) == (-signal.SIGKILL if rig.is_sqlite else 6)
    rig.assert_settled([job_id, other])


def test_an_attempt_whose_token_was_replaced_publishes_nothing(sqlite_rig: Rig) -> None:
    first = sqlite_rig.worker()
    (job_id,) = sqlite_rig.submit("hold")
    sqlite_rig.started(job_id)
    held = token_of(job_id)
    with storage.get_session() as session:
        row = storage.lock_generation(session, job_id)
        assert row is not None
        row.attempt_token = held.rpartition("/")[0] + "/another"
    sqlite_rig.until(lambda: "no longer ours" in sqlite_rig.log)
    assert first.poll() is None
    assert sqlite_rig.files() == set()
    assert sqlite_rig.get(job_id).status == "processing"


def token_of(job_id: str) -> str:
    with storage.get_session(read_only=True) as session:
        row = storage.get_generation(session, job_id)
        assert row is not None
        return str(row.attempt_token)


def test_a_job_that_kills_its_engine_fails_and_its_neighbours_do_not(sqlite_rig: Rig) -> None:
    rig = sqlite_rig
    rig.worker(concurrency=2)
    deadly, good = rig.submit("die 9", "sleep 2")
    bad, neighbour = rig.finished([deadly, good])
    assert (bad.status, rig.count("start", deadly)) == ("failed", 3)
    assert "ended its process with code 3" in str(bad.error_message)
    assert (neighbour.status, rig.count("start", good)) == ("completed", 1)
    rig.assert_settled([deadly, good])


def test_a_job_whose_workers_die_pauses_and_is_made_in_the_end(sqlite_rig: Rig) -> None:
    rig = sqlite_rig
    rig.worker(concurrency=2)
    poison, good = rig.submit("poison 2", "sleep 0.2")
    while not rig.get(poison).is_finished:
        rig.until(lambda: rig.workers[-1].poll() is not None or rig.get(poison).is_finished)
        if rig.workers[-1].poll() is not None:
            rig.worker(concurrency=2)
    jobs = rig.finished([poison, good])
    assert {(job.status, job.retry_count) for job in jobs} == {("completed", 0)}
    assert rig.count("start", poison) == 3
    assert rig.count("start", good) <= 2
    assert "pauses job=" in rig.log
    rig.assert_settled([poison, good])


def end_everything(worker: Program) -> None:
    """Kill a worker and its engines together, as a power cut does."""
    for path in Path(f"/proc/{worker.pid}/task").glob("*/children"):
        for child in path.read_text(encoding="ascii").split():
            os.kill(int(child), signal.SIGKILL)
    worker.kill()
    worker.wait()


def wait_for_start(rig: Rig, lines: int) -> None:
    rig.until(lambda: len(rig.ledger()) > lines)


def test_power_cuts_fail_no_job(rig: Rig) -> None:
    jobs = rig.submit(*["sleep 0.3"] * 12)
    for _ in range(5):
        worker = rig.worker(concurrency=2)
        wait_for_start(rig, len(rig.ledger()))
        end_everything(worker)
    rig.worker(concurrency=4)
    finished = rig.finished(jobs)
    assert {(job.status, job.retry_count) for job in finished} == {("completed", 0)}
    rig.assert_settled(jobs)


def test_a_database_put_back_in_time_heals(sqlite_rig: Rig) -> None:
    rig = sqlite_rig
    rig.worker(concurrency=2, worker_ttl_seconds=SHORT_TTL)
    running, waiting = rig.submit("hold", "hold")
    rig.started(running)
    rig.started(waiting)
    backup = rig.folder / "backup.db"
    storage.backup_database(backup)
    rig.release()
    rig.finished([running, waiting])
    (late,) = rig.submit("sleep 0")
    rig.finished([late])
    storage.close_db()
    storage.restore_database(backup, force=True, database_url=rig.url)
    storage.init_db(rig.url)
    assert {rig.get(job).status for job in (running, waiting)} == {"processing"}
    jobs = rig.finished([running, waiting])
    assert {(job.status, job.retry_count) for job in jobs} == {("completed", 0)}
    assert rig.workers[-1].poll() is None
    assert rig.count("start", running) == 2


def test_a_worker_outlives_a_database_from_before_its_start(sqlite_rig: Rig) -> None:
    rig = sqlite_rig
    waiting = rig.submit("sleep 0", "sleep 0")
    backup = rig.folder / "backup.db"
    storage.backup_database(backup)
    worker = rig.worker(worker_ttl_seconds=SHORT_TTL)
    rig.finished(waiting)
    storage.close_db()
    storage.restore_database(backup, force=True, database_url=rig.url)
    storage.init_db(rig.url)
    assert {job.status for job in rig.finished(waiting)} == {"completed"}
    rig.until(lambda: "registered again" in rig.log)
    assert worker.poll() is None


def test_simultaneous_takeovers_return_each_job_once(rig: Rig) -> None:
    jobs = rig.submit(*["sleep 0"] * 5)
    queue = rig.service.queue
    pick_up_as("gone", rig)
    assert queue.workers_with_dispatches() == {"gone"}
    returned: list[int] = []
    start = threading.Barrier(4)

    def reap() -> None:
        start.wait()
        returned.append(queue.give_back(["gone"]))

    threads = [threading.Thread(target=reap) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(returned) == 5
    assert queue.workers_with_dispatches() == set()
    rig.worker()
    rig.assert_settled(jobs)
    assert [rig.count("start", job) for job in jobs] == [1] * 5


def test_a_job_whose_dispatch_is_lost_gets_another(rig: Rig) -> None:
    waiting, running = rig.submit("sleep 0", "sleep 0")
    with storage.get_session() as session:
        dispatch = Dispatch(running, 1)
        assert storage.claim_generation(session, running, f"{dispatch.workflow_id}/gone/1")
    queue = rig.service.queue
    queue.cancel([Dispatch(waiting, 1), dispatch])
    assert replace_lost_dispatches(queue) == 2
    assert replace_lost_dispatches(queue) == 0
    rig.worker()
    rig.assert_settled([waiting, running])


def test_records_of_finished_dispatches_are_deleted(sqlite_rig: Rig) -> None:
    sqlite_rig.worker()
    jobs = sqlite_rig.submit("sleep 0", "sleep 0")
    sqlite_rig.finished(jobs)
    queue = sqlite_rig.service.queue
    sqlite_rig.until(lambda: not queue.workers_with_dispatches())
    assert queue.delete_finished(older_than_seconds=3600) == 0
    assert queue.delete_finished(older_than_seconds=-5) == 2
    assert queue.delete_finished(older_than_seconds=-5) == 0


def test_a_job_that_is_not_queued_is_run_by_no_worker(sqlite_rig: Rig) -> None:
    service = sqlite_rig.service
    checked = service.check(parse_request(prompt="sleep 0", duration=1))
    order = JobMaker(service).prepare(checked)
    sqlite_rig.worker()
    (queued,) = sqlite_rig.submit("sleep 0")
    sqlite_rig.finished([queued])
    assert replace_lost_dispatches(sqlite_rig.service.queue) == 0
    assert sqlite_rig.get(order.generation_id).status == "pending"
    assert sqlite_rig.count("start", order.generation_id) == 0
