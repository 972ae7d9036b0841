"""Jobs whose dispatch is gone, for a reason that nobody thought of, get another one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from services import storage
from services.jobs.dispatch import Dispatch

if TYPE_CHECKING:
    from services.jobs.dbos_queue import QueueManager

log = logging.getLogger(__name__)

_PAGE = 500


def redispatch(queue: QueueManager) -> int:
    """Dispatch again every unfinished job of the queue that nobody will pick up; how many.

    The other way round nothing is needed: a dispatch whose row is finished ends when it is picked
    up, without an attempt.

    Raises:
        StorageError: the database cannot be used.
    """
    mended = 0
    last: storage.QueueEntry | None = None
    while True:
        with storage.get_session(read_only=True) as session:
            entries = storage.list_queue_entries(session, after=last, limit=_PAGE)
        dispatches = [Dispatch(entry.generation_id, entry.attempt) for entry in entries]
        for dispatch in queue.without_workflow(dispatches):
            mended += _dispatch_again(queue, dispatch)
        if len(entries) < _PAGE:
            return mended
        last = entries[-1]


def _dispatch_again(queue: QueueManager, dispatch: Dispatch) -> bool:
    with storage.get_session() as session:
        row = storage.lock_generation(session, dispatch.generation_id)
        entry = storage.get_queue_entry(session, dispatch.generation_id, to_change=True)
        if row is None or entry is None or entry.attempt != dispatch.attempt:
            return False
        if row.is_finished:
            storage.remove_queue_entry(session, row.id)
            return False
        if row.is_processing and row.attempt_token is not None:
            storage.release_generation(session, row.id, row.attempt_token, row.error_message)
        entry.attempt += 1
        entry.worker_id, entry.step, entry.progress = None, "queued", 0.0
        session.flush()
        again = Dispatch(row.id, entry.attempt)
        queue.enqueue(session, again, model=row.model_name, place=entry.place)
    log.warning("dispatched again job=%s attempt=%d", again.generation_id, again.attempt)
    return True
