"""Publishing a take: its file gets the final name and its row is completed, in one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services import storage
from services.jobs.failpoints import reach

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from services.jobs.attempt_token import AttemptToken
    from services.library.orders import Order
    from services.library.store import FileStore
    from services.library.takes import Take


def publish_take(order: Order, token: AttemptToken, take: Take, store: FileStore) -> bool:
    """Rename the take's file and complete the row, unless the attempt has lost the job.

    The row is locked during the rename, so that an attempt which lost the job cannot overwrite a
    published file. The file must be in the store already (`upload_take`).

    Returns:
        Whether it was published.

    Raises:
        OutputError: the store refuses; the row is unchanged.
    """
    name = final_name(order, token, store)
    with storage.get_session() as session:
        if lock_held(session, order.generation_id, token) is None:
            return False
        reach("publish-before-rename")
        store.publish(take.path, name)
        reach("publish-after-rename")
        storage.publish_generation(
            session,
            order.generation_id,
            str(token),
            generation_time=take.seconds,
            file_size_bytes=take.bytes,
            file_sha256=take.sha256,
            metadata=take.metadata,
            file_path=name,
            model_version=take.metadata.get("engine_version"),
        )
        measured = storage.Measurements(**take.measurements)
        storage.record_analysis(session, order.generation_id, measured)
        storage.remove_queue_entry(session, order.generation_id)
        reach("publish-before-commit")
    reach("publish-after-commit")
    return True


def upload_take(order: Order, token: AttemptToken, take: Take, store: FileStore) -> None:
    """Copy the file to the store, before `publish_take` locks the row.

    Raises:
        OutputError: the store refuses; it holds no part of the file.
    """
    store.upload(take.path, final_name(order, token, store), take.sha256)


def final_name(order: Order, token: AttemptToken, store: FileStore) -> str:
    return store.final_name(order.file_path, token.nonce)


def lock_held(
    session: Session, generation_id: str, token: AttemptToken
) -> storage.Generation | None:
    """Lock and return the row of the job; None if it is no longer the attempt's."""
    row = storage.lock_generation(session, generation_id)
    held = row is not None and row.is_processing and row.attempt_token == str(token)
    return row if held else None
