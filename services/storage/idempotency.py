"""Idempotency keys: the jobs that a client's Idempotency-Key created, kept for a day."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import delete

from services.storage.client_models import IdempotencyKey
from services.storage.columns import utc_now

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

KEPT_FOR = timedelta(hours=24)


def find_idempotency_key(session: Session, owner: str, key: str) -> IdempotencyKey | None:
    """Return the row of an owner's key that is at most a day old, and delete all older rows.

    The session must have called `lock_queue_order`: of two simultaneous requests with one key the
    second then finds the row of the first. `owner` is empty without an API key.
    """
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < utc_now() - KEPT_FOR))
    return session.get(IdempotencyKey, (owner, key))


def record_request(
    session: Session, owner: str, key: str, *, fingerprint: str, job_ids: Sequence[str]
) -> None:
    """Store the jobs that a request created, in the transaction that creates them.

    Args:
        session: as for `find_idempotency_key`.
        owner: id of the API key; empty without one.
        key: the Idempotency-Key as the client sent it.
        fingerprint: SHA-256 of route and request, hexadecimal.
        job_ids: ids in the order of the request.
    """
    session.merge(
        IdempotencyKey(
            owner=owner,
            key=key,
            fingerprint=fingerprint,
            job_ids=json.dumps(list(job_ids)),
            created_at=utc_now(),
        )
    )
    session.flush()
