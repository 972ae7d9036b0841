"""Requests that may be sent again: what a client's Idempotency-Key made, kept for a day."""

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
    """Give what a key was used for within the last day; what is older is forgotten here.

    Args:
        session: an open session that may write, after `lock_queue_order`: of two requests at once with
            one key the second then finds what the first made.
        owner: whose key it is.
        key: as the client sent it.
    """
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < utc_now() - KEPT_FOR))
    return session.get(IdempotencyKey, (owner, key))


def record_request(
    session: Session, owner: str, key: str, *, fingerprint: str, job_ids: Sequence[str]
) -> None:
    """Note what a request with a key made, in the transaction that makes it.

    Args:
        session: as for `find_idempotency_key`.
        owner: whose key it is.
        key: as the client sent it.
        fingerprint: SHA-256 of the request, hexadecimal.
        job_ids: what it made, in the order of the requests.
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
