"""What happens to a job's row while a worker has it: begun, published, retried, given back.

Every step is one transaction and a compare-and-set on the attempt's token, so that a worker that
lost its job, because it was cancelled or the worker taken for dead, changes nothing.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from services import storage
from services.errors import DGXMusicError, OutputError
from services.jobs.dispatch import Dispatch
from services.jobs.failpoints import reach
from services.jobs.pipeline import Task, task_of
from services.library.drafts import draft_path, remove_draft
from services.library.store import clear_quietly
from services.worker.retry import is_worker_lost, retry_delay

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from services.config import Settings
    from services.jobs.dbos_queue import QueueManager
    from services.library.store import FileStore
    from services.library.takes import Order, Take

log = logging.getLogger(__name__)

WORKER_LOST = (
    "The worker that made it was lost three times. It may be what ends the worker: try another "
    "prompt or duration, and look at the worker's log."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """An attempt that this worker holds."""

    dispatch: Dispatch
    token: str
    worker_id: str
    model: str
    task: Task

    @property
    def generation_id(self) -> str:
        """Of the row."""
        return self.dispatch.generation_id

    @property
    def nonce(self) -> str:
        """What no other attempt has, for the names of its files."""
        return self.token.rpartition("/")[2]


def new_attempt_token(dispatch: Dispatch, worker_id: str) -> str:
    """A token, never given out before, that says which dispatch and which worker it is of."""
    return f"{dispatch.workflow_id}/{worker_id}/{uuid.uuid4().hex}"


class Claims:
    """The transactions of a worker on its jobs."""

    def __init__(
        self, settings: Settings, queue: QueueManager, worker_id: str, store: FileStore
    ) -> None:
        self._settings = settings
        self._output_dir = str(settings.output_dir)
        self._queue = queue
        self._worker_id = worker_id
        self._store = store
        self._brought: set[str] = set()
        """Tokens of the attempts whose files are in the store, but not known to be published."""

    def is_suspect(self, dispatch: Dispatch) -> bool:
        """Whether a worker died with this job in its hands; perhaps because of it."""
        with storage.get_session(read_only=True) as session:
            row = storage.get_generation(session, dispatch.generation_id)
            entry = storage.get_queue_entry(session, dispatch.generation_id)
        return row is not None and entry is not None and (row.is_processing or entry.crashes > 0)

    def begin(self, dispatch: Dispatch) -> Begun | None:
        """Claim the row for a new attempt; None when there is nothing to do for this dispatch.

        A row that is processing is taken over only under the token of the same dispatch: the queue
        gives a dispatch out again when its worker is gone. That counts as a crash of the job.
        """
        with storage.get_session() as session:
            begun, left = self._claim(session, dispatch)
            if begun is not None:
                reach("attempt-before-commit")
        if begun is None:
            if left is not None:
                clear_quietly(self._store, left)
            return None
        reach("attempt-after-commit")
        if left is not None:
            # An attempt that was killed cannot clear up after itself.
            clear_quietly(self._store, left, lambda: self._holding(begun))
        return begun

    def _claim(self, session: Session, dispatch: Dispatch) -> tuple[Begun | None, str | None]:
        """The attempt, if there is one to make, and the row's file if attempts before left some."""
        token = new_attempt_token(dispatch, self._worker_id)
        row = storage.lock_generation(session, dispatch.generation_id)
        entry = storage.get_queue_entry(session, dispatch.generation_id, to_change=True)
        if row is None or entry is None or row.is_finished:
            storage.remove_queue_entry(session, dispatch.generation_id)
            return None, None
        if entry.attempt != dispatch.attempt:
            return None, None
        before = row.attempt_token if row.is_processing else None
        if before is not None:
            if not before.startswith(f"{dispatch.workflow_id}/"):
                return None, None
            entry.crashes += 1
            if is_worker_lost(entry.crashes):
                storage.fail_generation(session, row.id, before, WORKER_LOST)
                storage.remove_queue_entry(session, row.id)
                return None, row.file_path
        left = row.file_path if row.attempts > 0 else None
        if not storage.claim_generation(session, row.id, token, taking_over=before):
            return None, None
        entry.worker_id, entry.step, entry.progress = self._worker_id, "loading_model", 0.0
        entry.not_before = None
        begun = Begun(
            dispatch=dispatch,
            token=token,
            worker_id=self._worker_id,
            model=row.model_name,
            task=task_of(row),
        )
        return begun, left

    def draft_path(self, begun: Begun) -> str:
        """Where the attempt writes: hidden, its own, in the output folder whatever the store is."""
        return draft_path(f"{self._output_dir}/{begun.task.file_path}", begun.nonce)

    def order(self, begun: Begun) -> Order:
        """What the engine is told; the files that the job names are in the attempt's folder.

        Raises:
            FileGoneError: one of them is gone.
            OutputError: the store or the disk says no.
        """
        return begun.task.order(self.draft_path(begun), self._store)

    def bring(self, begun: Begun, take: Take) -> None:
        """Take the file to the store, before the row is locked for `publish`.

        Raises:
            OutputError: the store says no, and has nothing of it.
        """
        self._brought.add(begun.token)
        self._store.bring(take.path, self._final_name(begun), take.sha256)

    def publish(self, begun: Begun, take: Take) -> bool:
        """Give the take its name and complete the row; False when the job was lost meanwhile.

        The row stays locked while the file gets its name, so that whoever lost the job can never
        put a file over one that was published.

        Raises:
            OutputError: the disk says no; the row is as it was.
        """
        name = self._final_name(begun)
        with storage.get_session() as session:
            if not _holds(session, begun):
                return False
            reach("publish-before-rename")
            self._store.publish(take.path, name)
            reach("publish-after-rename")
            storage.publish_generation(
                session,
                begun.generation_id,
                begun.token,
                generation_time=take.seconds,
                file_size_bytes=take.bytes,
                file_sha256=take.sha256,
                metadata=take.metadata,
                file_path=name,
                model_version=take.metadata.get("engine_version"),
            )
            storage.remove_queue_entry(session, begun.generation_id)
            reach("publish-before-commit")
        reach("publish-after-commit")
        self._brought.discard(begun.token)
        return True

    def retry_or_fail(self, begun: Begun, error: DGXMusicError) -> float | None:
        """Send the job again after a pause, or fail it; give the pause in seconds, or None."""
        delay = None
        with storage.get_session() as session:
            if not _holds(session, begun):
                return None
            row = storage.lock_generation(session, begun.generation_id)
            if row is not None and error.retryable:
                delay = retry_delay(
                    row.attempts,
                    max_retries=self._settings.max_retries,
                    first_delay=self._settings.retry_delay_seconds,
                )
            if delay is None:
                storage.fail_generation(session, begun.generation_id, begun.token, str(error))
                storage.remove_queue_entry(session, begun.generation_id)
            else:
                storage.release_generation(session, begun.generation_id, begun.token, str(error))
                self._send_again(session, begun, delay)
            reach("retry-before-commit")
        reach("retry-after-commit")
        return delay

    def give_back(self, begun: Begun) -> None:
        """Leave the job to another worker as if this one had never begun."""
        with storage.get_session() as session:
            if not _holds(session, begun):
                return
            row = storage.lock_generation(session, begun.generation_id)
            entry = storage.get_queue_entry(session, begun.generation_id, to_change=True)
            if row is not None and entry is not None:
                storage.release_generation(session, row.id, begun.token, row.error_message)
                row.attempts -= 1
                entry.worker_id, entry.step, entry.progress = None, "queued", 0.0

    def note_progress(self, begun: Begun, step: str, fraction: float) -> None:
        """Show people how far it is; what cannot be written now is not worth waiting for."""
        with suppress(storage.StorageError), storage.get_session() as session:
            storage.record_progress(
                session, begun.generation_id, begun.worker_id, step=step, progress=fraction
            )

    def clear_up(self, begun: Begun) -> None:
        """Remove what the attempt wrote, and what it brought and did not publish."""
        remove_draft(self.draft_path(begun))
        if begun.token not in self._brought:
            return
        self._brought.discard(begun.token)
        try:
            if self._is_refused(begun):
                self._store.withdraw(self._final_name(begun))
        except (OutputError, storage.StorageError) as error:
            # Whoever takes the job over clears it up, or `files check` does.
            log.warning("left where it is file=%s: %s", self._final_name(begun), error)

    def _is_refused(self, begun: Begun) -> bool:
        """Whether the attempt can never be published, nor was; a commit's answer may be lost."""
        with storage.get_session(read_only=True) as session:
            row = storage.get_generation(session, begun.generation_id)
        if row is None:
            return True
        return begun.token != row.attempt_token and not (
            row.is_complete and row.file_path == self._final_name(begun)
        )

    def _send_again(self, session: Session, begun: Begun, delay: float) -> None:
        entry = storage.get_queue_entry(session, begun.generation_id, to_change=True)
        if entry is None:
            return
        entry.attempt += 1
        entry.worker_id, entry.step, entry.progress = None, "queued", 0.0
        entry.not_before = storage.utc_now() + timedelta(seconds=delay)
        session.flush()
        again = Dispatch(begun.generation_id, entry.attempt)
        self._queue.enqueue(session, again, model=begun.model, place=entry.place, delay=delay)

    def _final_name(self, begun: Begun) -> str:
        return self._store.final_name(begun.task.file_path, begun.nonce)

    @contextmanager
    def _holding(self, begun: Begun) -> Iterator[bool]:
        with storage.get_session() as session:
            yield _holds(session, begun)


def _holds(session: Session, begun: Begun) -> bool:
    row = storage.lock_generation(session, begun.generation_id)
    return row is not None and row.is_processing and row.attempt_token == begun.token
