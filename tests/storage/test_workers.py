"""Workers and their heartbeats."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from services import storage

if TYPE_CHECKING:
    from services.storage.connection import Database

pytestmark = pytest.mark.integration


def register(worker_id: str, *models: str) -> None:
    with storage.get_session() as session:
        storage.register_worker(
            session, worker_id=worker_id, slot="slot", process="process", host="host", pid=7,
            models=models, concurrency=2,
        )  # fmt: skip


def workers() -> list[storage.WorkerState]:
    with storage.get_session(read_only=True) as session:
        return storage.list_workers(session)


def test_registered_workers_are_listed_by_id(database: Database) -> None:
    register("b", "composer")
    register("a", "composer", "musicgen-small")
    first, second = workers()
    assert (first.id, first.models) == ("a", ("composer", "musicgen-small"))
    assert (second.slot, second.process, second.host, second.pid) == ("slot", "process", "host", 7)
    assert (second.concurrency, second.draining) == (2, False)


def test_heartbeat_resets_the_age_and_stores_draining(database: Database) -> None:
    register("a", "composer")
    with storage.get_session() as session:
        session.execute(text("UPDATE workers SET beat_at = beat_at - 100"))
    assert workers()[0].age >= 100
    for draining in (True, False):
        with storage.get_session() as session:
            assert storage.record_heartbeat(session, "a", draining=draining)
        assert workers()[0].draining is draining
    assert 0 <= workers()[0].age < 100


def test_heartbeat_of_a_removed_worker_is_refused(database: Database) -> None:
    register("a", "composer")
    register("b", "composer")
    with storage.get_session() as session:
        storage.remove_workers(session, ["a", "none"])
        assert not storage.record_heartbeat(session, "a")
        assert storage.record_heartbeat(session, "b")
    assert [worker.id for worker in workers()] == ["b"]


def test_same_worker_cannot_be_registered_twice(sqlite_database: Database) -> None:
    from sqlalchemy.exc import IntegrityError

    register("a", "composer")
    with pytest.raises(IntegrityError):
        register("a", "composer")
