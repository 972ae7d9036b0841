"""Unfinished jobs whose dispatch is missing get another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from services import storage
from services.jobs.dispatch import Dispatch
from services.worker import lost_dispatches
from services.worker.lost_dispatches import replace_lost_dispatches

if TYPE_CHECKING:
    from tests.worker.conftest import Rig

pytestmark = pytest.mark.integration


def test_only_lost_dispatches_are_replaced_on_every_page(sqlite_rig: Rig, monkeypatch):
    monkeypatch.setattr(lost_dispatches, "_PAGE", 2)
    jobs = sqlite_rig.submit(*["sleep 0"] * 5)
    queue = sqlite_rig.service.queue
    lost = [Dispatch(job, 1) for job in jobs[::2]]
    queue.cancel(lost)
    assert replace_lost_dispatches(queue) == 3
    assert queue.find_lost([Dispatch(job, 2) for job in jobs]) == [
        Dispatch(job, 2) for job in jobs[1::2]
    ]
    assert replace_lost_dispatches(queue) == 0


def test_the_entry_of_a_finished_job_is_removed(sqlite_rig: Rig):
    (job,) = sqlite_rig.submit("sleep 0")
    queue = sqlite_rig.service.queue
    queue.cancel([Dispatch(job, 1)])
    with storage.get_session() as session:
        assert storage.cancel_generation(session, job)
    assert replace_lost_dispatches(queue) == 0
    with storage.get_session(read_only=True) as session:
        assert storage.list_queue_entries(session) == []


def test_a_job_that_was_dispatched_again_meanwhile_is_left_alone(sqlite_rig: Rig, monkeypatch):
    (job,) = sqlite_rig.submit("sleep 0")
    queue = sqlite_rig.service.queue
    monkeypatch.setattr(queue, "find_lost", lambda _dispatches: [Dispatch(job, 7)])
    assert replace_lost_dispatches(queue) == 0
    with storage.get_session(read_only=True) as session:
        assert storage.get_queue_entry(session, job).attempt == 1


def test_a_running_job_without_a_dispatch_returns_to_the_queue(sqlite_rig: Rig):
    (job,) = sqlite_rig.submit("sleep 0")
    queue = sqlite_rig.service.queue
    queue.cancel([Dispatch(job, 1)])
    with storage.get_session() as session:
        assert storage.claim_generation(session, job, f"{job}:1/gone/1")
    assert replace_lost_dispatches(queue) == 1
    with storage.get_session(read_only=True) as session:
        row = storage.get_generation(session, job)
    assert (row.status, row.attempt_token) == ("pending", None)
