"""Idempotency keys are kept for a day, for each owner apart."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from services import storage
from services.storage import idempotency
from services.storage.idempotency import KEPT_FOR

if TYPE_CHECKING:
    from services.storage.connection import Database

pytestmark = pytest.mark.integration

FINGERPRINT = "ab" * 32


def record(owner: str, key: str, *job_ids: str, fingerprint: str = FINGERPRINT) -> None:
    with storage.get_session() as session:
        storage.record_request(session, owner, key, fingerprint=fingerprint, job_ids=job_ids)


def find(owner: str, key: str) -> storage.IdempotencyKey | None:
    with storage.get_session() as session:
        return storage.find_idempotency_key(session, owner, key)


def test_recorded_request_is_found_with_its_jobs_in_order(database: Database) -> None:
    record("key", "once", "b", "a")
    found = find("key", "once")
    assert found is not None
    assert (json.loads(found.job_ids), found.fingerprint) == (["b", "a"], FINGERPRINT)


def test_owners_and_keys_are_kept_apart(sqlite_database: Database) -> None:
    record("", "once", "open")
    record("key", "once", "owned")
    owned = find("key", "once")
    assert owned is not None
    assert json.loads(owned.job_ids) == ["owned"]
    assert find("other", "once") is None
    assert find("key", "Once") is None


def test_same_key_recorded_again_replaces_the_row(database: Database) -> None:
    record("key", "once", "first")
    record("key", "once", "second", fingerprint="cd" * 32)
    found = find("key", "once")
    assert found is not None
    assert (json.loads(found.job_ids), found.fingerprint) == (["second"], "cd" * 32)


@pytest.mark.parametrize(("age", "is_kept"), [(-1, True), (1, False)])
def test_key_is_found_for_a_day_and_then_deleted(
    database: Database, monkeypatch: pytest.MonkeyPatch, age: int, is_kept: bool
) -> None:
    record("key", "once", "job")
    later = storage.utc_now() + KEPT_FOR + timedelta(minutes=age)
    monkeypatch.setattr(idempotency, "utc_now", lambda: later)
    assert (find("key", "once") is not None) == is_kept
    with storage.get_session(read_only=True) as session:
        rows = session.query(storage.IdempotencyKey).count()
    assert rows == is_kept


def test_request_that_is_rolled_back_leaves_no_key(database: Database) -> None:
    with storage.get_session() as session:
        storage.record_request(session, "key", "once", fingerprint=FINGERPRINT, job_ids=["job"])
        session.rollback()
    assert find("key", "once") is None
