"""Jobs whose caller waits: on a worker that the test plays, or in this process."""

from __future__ import annotations

from typing import Any

import pytest

from services import storage
from services.config import Settings
from services.errors import CancelledError, EngineError
from services.jobs import making
from services.jobs.making import JobMaker
from services.jobs.models import parse_request
from services.jobs.service import MusicService
from services.machine.process_identity import ProcessIdentity
from tests.worker.conftest import load_engines

pytestmark = pytest.mark.integration


@pytest.fixture
def service(sqlite_url, tmp_path, monkeypatch):
    monkeypatch.setenv("DGX_MUSIC_TEST_LEDGER", str(tmp_path / "ledger"))
    monkeypatch.setattr(making, "POLL_SECONDS", 0.005)
    settings = Settings(
        DATABASE_URL=sqlite_url,
        output_dir=tmp_path / "outputs",
        model_name="puppet",
        worker_ttl_seconds=30.0,
    )
    return MusicService(settings, load_engines().registry())


def register(*, draining: bool = False, models: tuple[str, ...] = ("puppet",)) -> None:
    with storage.get_session() as session:
        storage.register_worker(
            session, worker_id="w", slot="s", process=str(ProcessIdentity.current()), host="h",
            pid=7, models=models, concurrency=1,
        )  # fmt: skip
        storage.record_heartbeat(session, "w", draining=draining)


def make(service, act, should_stop=lambda: False):
    """Make a job; `act` gets its id at each progress report while it is queued."""
    steps: list[str] = []

    def progress(step: str, _fraction: float) -> None:
        steps.append(step)
        (job,) = service.history().jobs
        if not job.is_finished:
            act(job.job_id)

    checked = service.check(parse_request(prompt="sleep 0", duration=1))
    return JobMaker(service).make(checked, progress, should_stop), steps


def end(job_id: str, how: str, *arguments: Any) -> None:
    """End a job as a worker does."""
    with storage.get_session() as session:
        assert storage.claim_generation(session, job_id, "token")
        getattr(storage, how)(session, job_id, "token", *arguments)
        storage.remove_queue_entry(session, job_id)


@pytest.mark.parametrize("worker", [None, {"draining": True}, {"models": ("other",)}])
def test_without_a_worker_for_its_engine_a_job_runs_here(service, worker):
    if worker is not None:
        register(**worker)
    checked = service.check(parse_request(prompt="sleep 0", duration=1))
    job = JobMaker(service).make(checked, lambda _step, _fraction: None, lambda: False)
    assert job.status == "completed"
    with storage.get_session(read_only=True) as session:
        assert storage.list_queue_entries(session) == []


def complete(job_id: str) -> None:
    with storage.get_session() as session:
        row = storage.lock_generation(session, job_id)
        row.mark_completed(1.0)
        storage.remove_queue_entry(session, job_id)


def test_a_job_that_a_worker_completes_is_returned(service):
    register()
    job, steps = make(service, complete)
    assert job.status == "completed"
    assert steps == ["queued", "completed"]


def test_a_job_that_waits_for_the_end_of_an_outage_says_so(service):
    register()
    with storage.get_session() as session:
        storage.record_heartbeat(session, "w", outage="A disk is full.")
    job, steps = make(service, complete)
    assert job.status == "completed"
    assert steps == ["waiting: A disk is full.", "completed"]


def test_a_job_that_fails_on_a_worker_raises_its_message(service):
    register()
    with pytest.raises(EngineError, match=r"^no memory$"):
        make(service, lambda job_id: end(job_id, "fail_generation", "no memory"))


def test_a_job_that_another_process_cancels_raises(service):
    register()
    with pytest.raises(CancelledError, match="while it ran"):
        make(service, service.cancel)


def test_a_caller_that_stops_cancels_its_queued_job(service):
    register()
    asked = iter([False, True])
    with pytest.raises(CancelledError):
        make(service, lambda _job_id: None, lambda: next(asked))
    assert [job.status for job in service.history().jobs] == ["cancelled"]


def test_ctrl_c_cancels_the_queued_job(service):
    def interrupt(_job_id: str) -> None:
        raise KeyboardInterrupt

    register()
    with pytest.raises(KeyboardInterrupt):
        make(service, interrupt)
    assert [job.status for job in service.history().jobs] == ["cancelled"]


def test_ctrl_c_on_a_job_that_is_finished_by_then_returns_it(service):
    def complete_and_interrupt(job_id: str) -> None:
        with storage.get_session() as session:
            storage.lock_generation(session, job_id).mark_completed(1.0)
            storage.remove_queue_entry(session, job_id)
        raise KeyboardInterrupt

    register()
    job, _ = make(service, complete_and_interrupt)
    assert job.status == "completed"


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_job_whose_last_worker_is_gone_runs_here(service, has_begun):
    register()
    service.settings = service.settings.model_copy(update={"worker_ttl_seconds": 0.05})

    def leave_once(job_id: str) -> None:
        with storage.get_session() as session:
            if storage.list_workers(session):
                if has_begun:
                    assert storage.claim_generation(session, job_id, f"{job_id}:1/w/1")
                storage.remove_workers(session, ["w"])

    job, steps = make(service, leave_once)
    assert (job.status, steps[-1]) == ("completed", "completed")
    with storage.get_session(read_only=True) as session:
        assert storage.list_queue_entries(session) == []


def test_an_engine_is_loaded_once_for_several_jobs(service):
    maker = JobMaker(service)
    checked = service.check(parse_request(prompt="sleep 0", duration=1))
    for _ in range(2):
        maker.make(checked, lambda _step, _fraction: None, lambda: False)
    assert len(maker._engines) == 1
