"""What happens to a job's row while a worker has it: begun, published, retried, given back.

Every step is one transaction and a compare-and-set on the attempt's token, so that a worker that
lost its job, because it was cancelled or the worker taken for dead, changes nothing.
"""

from __future__ import annotations

import shutil
import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from services import storage
from services.generation.dispatch import Dispatch
from services.generation.drafts import clear_files, draft_path, give_name
from services.generation.errors import DGXMusicError, OutputError
from services.generation.failpoints import reach
from services.generation.pipeline import Task, task_of
from services.generation.retry import is_worker_lost, retry_delay

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from services.generation.config import Settings
    from services.generation.queue_manager import QueueManager
    from services.generation.takes import Take

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


def new_attempt_token(dispatch: Dispatch, worker_id: str) -> str:
    """A token, never given out before, that says which dispatch and which worker it is of."""
    return f"{dispatch.workflow_id}/{worker_id}/{uuid.uuid4().hex}"


class Claims:
    """The transactions of a worker on its jobs."""

    def __init__(self, settings: Settings, queue: QueueManager, worker_id: str) -> None:
        self._settings = settings
        self._queue = queue
        self._worker_id = worker_id

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
        token = new_attempt_token(dispatch, self._worker_id)
        with storage.get_session() as session:
            row = storage.lock_generation(session, dispatch.generation_id)
            entry = storage.get_queue_entry(session, dispatch.generation_id, to_change=True)
            if row is None or entry is None or row.is_finished:
                storage.remove_queue_entry(session, dispatch.generation_id)
                return None
            if entry.attempt != dispatch.attempt:
                return None
            before = row.attempt_token if row.is_processing else None
            if before is not None:
                if not before.startswith(f"{dispatch.workflow_id}/"):
                    return None
                entry.crashes += 1
                if is_worker_lost(entry.crashes):
                    storage.fail_generation(session, row.id, before, WORKER_LOST)
                    storage.remove_queue_entry(session, row.id)
                    self._clear(row.file_path)
                    return None
            begun_before = row.attempts > 0
            if not storage.claim_generation(session, row.id, token, taking_over=before):
                return None
            entry.worker_id, entry.step, entry.progress = self._worker_id, "loading_model", 0.0
            entry.not_before = None
            begun = Begun(
                dispatch=dispatch,
                token=token,
                worker_id=self._worker_id,
                model=row.model_name,
                task=task_of(row),
            )
            reach("attempt-before-commit")
        reach("attempt-after-commit")
        if begun_before:
            # An attempt that was killed cannot clear up after itself.
            self._clear(begun.task.file_path)
        return begun

    def draft_path(self, begun: Begun) -> Path:
        """Where the attempt writes: hidden, its own, and in the folder where the take will be."""
        return draft_path(self._final(begun.task.file_path), begun.token.rpartition("/")[2])

    def publish(self, begun: Begun, take: Take) -> bool:
        """Give the take its name and complete the row; False when the job was lost meanwhile.

        The row stays locked while the file gets its name, so that whoever lost the job can never
        put a file over one that was published.

        Raises:
            OutputError: the disk says no; the row is as it was.
        """
        final = self._final(begun.task.file_path)
        with storage.get_session() as session:
            if not _holds(session, begun):
                return False
            reach("publish-before-rename")
            try:
                give_name(take.path, final)
            except OSError as error:
                raise OutputError(f"Could not write {final}: {error.strerror}.") from error
            reach("publish-after-rename")
            storage.publish_generation(
                session,
                begun.generation_id,
                begun.token,
                generation_time=take.seconds,
                file_size_bytes=take.bytes,
                file_sha256=take.sha256,
                metadata=take.metadata,
            )
            storage.remove_queue_entry(session, begun.generation_id)
            reach("publish-before-commit")
        reach("publish-after-commit")
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

    def clear_drafts(self, begun: Begun) -> None:
        """Remove what the attempt wrote and did not publish."""
        shutil.rmtree(self.draft_path(begun).parent, ignore_errors=True)

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

    def _clear(self, file_path: str) -> None:
        clear_files(self._final(file_path))

    def _final(self, file_path: str) -> Path:
        return self._settings.output_dir / file_path


def _holds(session: Session, begun: Begun) -> bool:
    row = storage.lock_generation(session, begun.generation_id)
    return row is not None and row.is_processing and row.attempt_token == begun.token
