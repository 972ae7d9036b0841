"""Attempts: each step is a compare-and-set, so a worker that lost its job changes nothing.

A worker draws a new token for each attempt and claims the row with it. Its later steps take effect
only while the row still holds that token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, or_, select, update

from services.storage.models import Generation
from services.storage.schema import UNFINISHED_STATUSES, GenerationStatus

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


def claim_generation(
    session: Session, generation_id: str, token: str, *, taking_over: str | None = None
) -> bool:
    """Start an attempt at a pending job.

    Args:
        session: a session that can write.
        generation_id: id of the job.
        token: token of the new attempt, never used before.
        taking_over: token of an attempt whose worker is dead; a row that is processing under it
            can be claimed too.

    Returns:
        False, and no change, when the row cannot be claimed or does not exist.
    """
    may_start = Generation.status == GenerationStatus.PENDING.value
    if taking_over is not None:
        abandoned = and_(
            Generation.status == GenerationStatus.PROCESSING.value,
            Generation.attempt_token == taking_over,
        )
        may_start = or_(may_start, abandoned)
    claimed = session.execute(
        update(Generation)
        .where(Generation.id == generation_id, may_start)
        .values(
            status=GenerationStatus.PROCESSING.value,
            attempt_token=token,
            attempts=Generation.attempts + 1,
            completed_at=None,
        )
        .returning(Generation.id)
    )
    return claimed.scalar_one_or_none() is not None


def publish_generation(
    session: Session,
    generation_id: str,
    token: str,
    *,
    generation_time: float,
    file_size_bytes: int,
    file_sha256: str,
    metadata: Mapping[str, Any] | None = None,
    file_path: str | None = None,
    model_version: str | None = None,
) -> bool:
    """Complete the job with the attempt's take.

    Args:
        session: a session that can write.
        generation_id: id of the job.
        token: token of the attempt.
        generation_time: duration of the attempt in seconds.
        file_size_bytes: size of the take's file.
        file_sha256: its SHA-256 in hexadecimal.
        metadata: merged into the row's metadata.
        file_path: name of the file, relative to the store; None keeps the row's.
        model_version: version that rendered it; None keeps the row's.

    Returns:
        False, and no change, when the attempt no longer holds the job.
    """
    generation = _lock_held(session, generation_id, token)
    if generation is None:
        return False
    generation.mark_completed(generation_time)
    generation.attempt_token = None
    generation.file_size_bytes = file_size_bytes
    generation.file_sha256 = file_sha256
    if file_path is not None:
        generation.file_path = file_path
    if model_version is not None:
        generation.model_version = model_version
    generation.merge_metadata(metadata)
    session.flush()
    return True


def fail_generation(session: Session, generation_id: str, token: str, message: str) -> bool:
    """Fail the job; `message` is for the user. Returns as `publish_generation`."""
    generation = _lock_held(session, generation_id, token)
    if generation is None:
        return False
    generation.mark_failed(message)
    generation.attempt_token = None
    session.flush()
    return True


def release_generation(
    session: Session, generation_id: str, token: str, message: str | None = None
) -> bool:
    """Set the job back to pending for another attempt. Returns as `publish_generation`."""
    generation = _lock_held(session, generation_id, token)
    if generation is None:
        return False
    generation.mark_pending()
    generation.attempt_token = None
    generation.error_message = message
    session.flush()
    return True


def cancel_generation(session: Session, generation_id: str) -> bool:
    """Cancel a job; return False when it is finished or unknown."""
    generation = session.scalars(
        _select_for_update().where(
            Generation.id == generation_id, Generation.status.in_(UNFINISHED_STATUSES)
        )
    ).one_or_none()
    if generation is None:
        return False
    generation.mark_cancelled()
    generation.attempt_token = None
    session.flush()
    return True


def list_running_attempts(session: Session) -> dict[str, str]:
    """Return the token of every running attempt, by the id of its job."""
    held = select(Generation.id, Generation.attempt_token).where(
        Generation.status == GenerationStatus.PROCESSING.value,
        Generation.attempt_token.is_not(None),
    )
    return {row.id: str(row.attempt_token) for row in session.execute(held)}


def _lock_held(session: Session, generation_id: str, token: str) -> Generation | None:
    return session.scalars(
        _select_for_update().where(
            Generation.id == generation_id,
            Generation.status == GenerationStatus.PROCESSING.value,
            Generation.attempt_token == token,
        )
    ).one_or_none()


def _select_for_update() -> Any:
    return select(Generation).with_for_update().execution_options(populate_existing=True)
