"""The transactions of a worker on the rows of its jobs: claim, publish, retry, give back.

Each is a compare-and-set on the attempt token. A worker that has lost a job, because the job was
cancelled or the worker counted as dead, therefore changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services import storage
from services.errors import DGXMusicError, EngineEndedError, OutputError
from services.jobs.attempt_token import AttemptToken
from services.jobs.dispatch import Dispatch
from services.jobs.failpoints import reach
from services.jobs.publication import (
    final_name,
    list_final_names,
    lock_held,
    publish_take,
    upload_take,
)
from services.library.drafts import draft_path, remove_draft
from services.library.inputs import fetch_inputs
from services.library.orders import Order
from services.library.store import try_remove_leftovers
from services.worker.retry import ENDINGS_ALLOWED, crash_pause, retry_delay

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from services.config import Settings
    from services.jobs.dbos_queue import QueueManager
    from services.library.store import FileStore
    from services.library.takes import Take

log = logging.getLogger(__name__)

MACHINE_FAILED = "The worker's machine could not make or store the take. Its log says why."
"""What a job says of a fault of the machine, whose own message has paths in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try at a job, by this worker."""

    dispatch: Dispatch
    token: AttemptToken
    worker_id: str
    order: Order
    number: int
    """1 for the first; attempts that count nothing against the job are left out."""

    @property
    def generation_id(self) -> str:
        return self.dispatch.generation_id


class Claims:
    """The transactions of one worker."""

    def __init__(
        self, settings: Settings, queue: QueueManager, worker_id: str, store: FileStore
    ) -> None:
        self._settings = settings
        self._output_dir = str(settings.output_dir)
        self._queue = queue
        self._worker_id = worker_id
        self._store = store
        self._uploaded: dict[AttemptToken, list[str]] = {}
        """Attempt -> names of its files, which are in the store but not known to be published."""

    def is_suspect(self, dispatch: Dispatch) -> bool:
        """Whether a process ended while it ran this job, perhaps because of it."""
        with storage.get_session(read_only=True) as session:
            row = storage.get_generation(session, dispatch.generation_id)
            entry = storage.get_queue_entry(session, dispatch.generation_id)
        return row is not None and entry is not None and (row.is_processing or entry.crashes > 0)

    def claim(self, dispatch: Dispatch) -> Attempt | None:
        """Claim the row for a new attempt; None when this dispatch needs none.

        A row that is processing is claimed only when its token is of the same dispatch: the queue
        hands out a dispatch again when its worker is dead. That attempt does not count, but after
        the second such death the job pauses first.
        """
        with storage.get_session() as session:
            attempt, leftover = self._claim_row(session, dispatch)
            if attempt is not None:
                reach("attempt-before-commit")
        if attempt is None:
            return None
        reach("attempt-after-commit")
        if leftover is not None:
            # An attempt that was killed could not clean up after itself.
            try_remove_leftovers(self._store, leftover, lambda: self._lock_job(attempt))
        return attempt

    def _claim_row(self, session: Session, dispatch: Dispatch) -> tuple[Attempt | None, str | None]:
        """Return the new attempt, if one is due, and the file earlier attempts may have left."""
        row = storage.lock_generation(session, dispatch.generation_id)
        entry = storage.get_queue_entry(session, dispatch.generation_id, for_update=True)
        if row is None or entry is None or row.is_finished:
            storage.remove_queue_entry(session, dispatch.generation_id)
            return None, None
        if entry.attempt != dispatch.attempt:
            return None, None
        before = row.attempt_token if row.is_processing else None
        if before is not None:
            if not AttemptToken.parse(before).belongs_to(dispatch):
                return None, None
            entry.crashes += 1
            row.attempts -= 1
            if pause := crash_pause(entry.crashes):
                storage.release_generation(session, row.id, before, row.error_message)
                self._enqueue_again(session, dispatch, row.model_name, pause)
                log.warning("workers died with it=%d, pauses job=%s", entry.crashes, row.id)
                return None, None
        may_have_files = row.attempts > 0 or entry.crashes > 0 or entry.attempt > 1
        leftover = row.file_path if may_have_files else None
        number = row.attempts + 1
        token = AttemptToken.for_dispatch(dispatch, self._worker_id)
        if not storage.claim_generation(session, row.id, str(token), taking_over=before):
            return None, None
        entry.worker_id, entry.step, entry.progress = self._worker_id, "loading_model", 0.0
        attempt = Attempt(
            dispatch=dispatch,
            token=token,
            worker_id=self._worker_id,
            order=Order.of(row),
            number=number,
        )
        return attempt, leftover

    def draft_path(self, attempt: Attempt) -> str:
        """Return the path the attempt writes to; in the output folder, whatever the store is."""
        return draft_path(f"{self._output_dir}/{attempt.order.file_path}", attempt.token.nonce)

    def fetch_inputs(self, attempt: Attempt) -> Order:
        """Return the order with the paths of its inputs, fetched into the attempt's folder.

        Raises:
            FileGoneError: an input is no longer in the store.
            OutputError: the store or the disk refuses.
        """
        return fetch_inputs(attempt.order, self.draft_path(attempt), self._store)

    def upload(self, attempt: Attempt, take: Take) -> None:
        """Copy the file to the store, before `publish` locks the row.

        Raises:
            OutputError: the store refuses; it holds no part of the file.
        """
        names = list_final_names(attempt.order, attempt.token, take, self._store)
        self._uploaded[attempt.token] = names
        upload_take(attempt.order, attempt.token, take, self._store)

    def publish(self, attempt: Attempt, take: Take) -> bool:
        """See `publish_take`."""
        published = publish_take(attempt.order, attempt.token, take, self._store)
        if published:
            self._uploaded.pop(attempt.token, None)
        return published

    def retry_or_fail(self, attempt: Attempt, error: DGXMusicError) -> float | None:
        """Queue the job again or fail it; return the delay in seconds, or None for failed."""
        delay = None
        message = MACHINE_FAILED if error.is_of_machine else self._settings.hide_paths(str(error))
        with storage.get_session() as session:
            row = _lock_held(session, attempt)
            if row is None:
                return None
            if error.retryable:
                delay = retry_delay(
                    row.attempts,
                    max_retries=self._count_retries(error),
                    first_delay=self._settings.retry_delay_seconds,
                )
            if delay is None:
                storage.fail_generation(session, row.id, str(attempt.token), message)
                storage.remove_queue_entry(session, row.id)
            else:
                storage.release_generation(session, row.id, str(attempt.token), message)
                self._enqueue_again(session, attempt.dispatch, attempt.order.model, delay)
            reach("retry-before-commit")
        reach("retry-after-commit")
        return delay

    def _count_retries(self, error: DGXMusicError) -> int:
        most = self._settings.max_retries
        return min(most, ENDINGS_ALLOWED) if isinstance(error, EngineEndedError) else most

    def put_off(self, attempt: Attempt, delay: float, *, is_suspect: bool = False) -> None:
        """Queue the job again, as if this attempt had never started.

        Args:
            attempt: by this worker.
            delay: seconds before the next attempt.
            is_suspect: the process of its engine ended, perhaps because of it: it is to run alone.
        """
        with storage.get_session() as session:
            entry = self._release_uncounted(session, attempt)
            if entry is not None:
                entry.crashes += is_suspect
                self._enqueue_again(session, attempt.dispatch, attempt.order.model, delay)

    def give_back(self, attempt: Attempt) -> None:
        """Leave the job to the next worker that gets this dispatch, as if it had never started."""
        with storage.get_session() as session:
            self._release_uncounted(session, attempt)

    def _release_uncounted(self, session: Session, attempt: Attempt) -> storage.QueueEntry | None:
        """Set the job back to pending; return its entry, or None if the attempt has lost it."""
        row = _lock_held(session, attempt)
        entry = storage.get_queue_entry(session, attempt.generation_id, for_update=True)
        if row is None or entry is None:
            return None
        storage.release_generation(session, row.id, str(attempt.token), row.error_message)
        row.attempts -= 1
        entry.worker_id, entry.step, entry.progress = None, "queued", 0.0
        return entry

    def note_progress(self, attempt: Attempt, step: str, fraction: float) -> None:
        """Record the progress in the queue entry; a failed write is ignored."""
        with suppress(storage.StorageError), storage.get_session() as session:
            storage.record_progress(
                session, attempt.generation_id, attempt.worker_id, step=step, progress=fraction
            )

    def clean_up(self, attempt: Attempt) -> None:
        """Remove the attempt's drafts, and the files that it uploaded and did not publish."""
        remove_draft(self.draft_path(attempt))
        names = self._uploaded.pop(attempt.token, [])
        try:
            if names and self._is_refused(attempt):
                for name in names:
                    self._store.delete_upload(name)
        except (OutputError, storage.StorageError) as error:
            # The next attempt removes it, or `files check --repair`.
            log.warning("files not removed file=%s: %s", names[-1], error)

    def _is_refused(self, attempt: Attempt) -> bool:
        """Whether the attempt can no longer be published.

        The row is read again, because a commit may succeed although its answer is lost.
        """
        with storage.get_session(read_only=True) as session:
            row = storage.get_generation(session, attempt.generation_id)
        if row is None:
            return True
        return str(attempt.token) != row.attempt_token and not (
            row.is_complete and row.file_path == self._final_name(attempt)
        )

    def _enqueue_again(
        self, session: Session, dispatch: Dispatch, model: str, delay: float
    ) -> None:
        entry = storage.get_queue_entry(session, dispatch.generation_id, for_update=True)
        if entry is None:
            return
        entry.attempt += 1
        entry.worker_id, entry.step, entry.progress = None, "queued", 0.0
        session.flush()
        again = Dispatch(dispatch.generation_id, entry.attempt)
        self._queue.enqueue(session, again, model=model, place=entry.place, delay=delay)

    def _final_name(self, attempt: Attempt) -> str:
        return final_name(attempt.order, attempt.token, self._store)

    @contextmanager
    def _lock_job(self, attempt: Attempt) -> Iterator[bool]:
        with storage.get_session() as session:
            yield _lock_held(session, attempt) is not None


def _lock_held(session: Session, attempt: Attempt) -> storage.Generation | None:
    return lock_held(session, attempt.generation_id, attempt.token)
