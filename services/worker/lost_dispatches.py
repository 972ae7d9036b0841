"""Unfinished jobs whose dispatch no worker will run get another one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from services import storage
from services.jobs.dispatch import Dispatch

if TYPE_CHECKING:
    from services.jobs.dbos_queue import QueueManager

log = logging.getLogger(__name__)

_PAGE = 500


def replace_lost_dispatches(queue: QueueManager) -> int:
    """Dispatch again each unfinished job that no worker will pick up; return their number.

    No transaction loses a dispatch; this is a safety net. A dispatch of a finished job needs no
    repair: it ends without an attempt when it is picked up.

    Raises:
        StorageError: the database cannot be used.
    """
    replaced = 0
    last: storage.QueueEntry | None = None
    while True:
        with storage.get_session(read_only=True) as session:
            entries = storage.list_queue_entries(session, after=last, limit=_PAGE)
        dispatches = [Dispatch(entry.generation_id, entry.attempt) for entry in entries]
        for dispatch in queue.find_lost(dispatches):
            replaced += dispatch_again(queue, dispatch)
        if len(entries) < _PAGE:
            return replaced
        last = entries[-1]


def dispatch_again(queue: QueueManager, dispatch: Dispatch) -> bool:
    """Enqueue the job of a dispatch anew; return False if it no longer needs that.

    Raises:
        StorageError: the database cannot be used.
    """
    with storage.get_session() as session:
        row = storage.lock_generation(session, dispatch.generation_id)
        entry = storage.get_queue_entry(session, dispatch.generation_id, for_update=True)
        if row is None or entry is None or entry.attempt != dispatch.attempt:
            return False
        if row.is_finished:
            storage.remove_queue_entry(session, row.id)
            return False
        if row.is_processing and row.attempt_token is not None:
            storage.release_generation(session, row.id, row.attempt_token, row.error_message)
            row.attempts -= 1
        entry.attempt += 1
        entry.worker_id, entry.step, entry.progress = None, "queued", 0.0
        session.flush()
        again = Dispatch(row.id, entry.attempt)
        queue.enqueue(session, again, model=row.model_name, place=entry.place)
    log.warning("dispatched again job=%s attempt=%d", again.generation_id, again.attempt)
    return True
