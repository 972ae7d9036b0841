"""Jobs that wait when the database is moved run on the workers of the new one."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from services import storage
from services.errors import StorageError
from services.jobs.attempt_token import AttemptToken
from services.operations.moving import move_database

if TYPE_CHECKING:
    from tests.worker.conftest import Rig

pytestmark = pytest.mark.integration


def silent(_stage: str, _fraction: float) -> None:
    """Ignore the progress."""


@pytest.mark.postgres
def test_jobs_queued_before_a_database_move_run_after_it(
    sqlite_rig: Rig, postgres_url: str, make_rig: Callable[[str], Rig]
) -> None:
    worker = sqlite_rig.worker()
    finished = sqlite_rig.submit("sleep 0.1")
    sqlite_rig.finished(finished)
    running = sqlite_rig.submit("hold")[0]
    sqlite_rig.started(running)
    with pytest.raises(StorageError, match=rf"Workers use .*\(process {worker.pid}\)"):
        move_database(sqlite_rig.service.settings, postgres_url, progress=silent)
    worker.kill()
    worker.wait()
    sqlite_rig.release()
    waiting = sqlite_rig.submit("sleep 0.1", "sleep 0.1", priority="low")
    cancelled, urgent = sqlite_rig.submit("sleep 0.1", "sleep 0.1", priority="high")
    sqlite_rig.service.cancel(cancelled)
    moved = move_database(sqlite_rig.service.settings, postgres_url, progress=silent)
    counted = {table.name: table.rows for table in moved.tables}
    assert (counted["generations"], counted["queue_entries"]) == (6, 4)
    rig = make_rig(postgres_url)
    assert rig.get(running).status == "processing"
    # Were they dispatched only after a part of this time, the test would end before.
    rig.worker(worker_ttl_seconds=3600)
    jobs = rig.finished([running, *waiting, urgent])
    assert {job.status for job in jobs} == {"completed"}
    assert [rig.count("rendered", job.job_id) for job in jobs] == [1] * 4
    assert rig.get(cancelled).status == "cancelled"
    rig.assert_settled([*finished, running, *waiting, urgent, cancelled])


@pytest.mark.postgres
def test_a_move_is_refused_while_a_command_runs_a_job(sqlite_rig: Rig, postgres_url: str) -> None:
    (job,) = sqlite_rig.submit("sleep 0.1")
    with storage.get_session() as session:
        storage.claim_generation(session, job, str(AttemptToken.for_this_process()))
    with pytest.raises(StorageError, match=f"is running the job {job}"):
        move_database(sqlite_rig.service.settings, postgres_url, progress=silent)


@pytest.mark.postgres
def test_a_drained_worker_leaves_a_database_that_can_be_moved(
    sqlite_rig: Rig, postgres_url: str
) -> None:
    worker = sqlite_rig.worker(drain_seconds=0)
    (job,) = sqlite_rig.submit("hold")
    sqlite_rig.started(job)
    worker.send_signal(signal.SIGTERM)
    assert sqlite_rig.ended(worker) == 0
    moved = move_database(sqlite_rig.service.settings, postgres_url, progress=silent)
    assert {table.name: table.rows for table in moved.tables}["queue_entries"] == 1
