"""Running one job in the caller's process: claim, render, master, write, publish.

The row is the truth. Only the holder of the attempt token in it can publish the job. However the
job ends early, no file is left and the row says why.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from services import storage
from services.errors import (
    CancelledError,
    DGXMusicError,
    EngineError,
    UnknownGenerationError,
)
from services.jobs.attempt_token import AttemptToken
from services.jobs.publication import publish_take, upload_take
from services.library.drafts import draft_path, remove_draft
from services.library.inputs import fetch_inputs
from services.library.store import try_remove_leftovers
from services.library.takes import Delivery, make_take
from services.paths import hide_paths

if TYPE_CHECKING:
    from services.generation.engine import Engine, Progress, ShouldStop
    from services.library.orders import Order
    from services.library.store import FileStore


def run_job(
    order: Order,
    load: Callable[[], Engine],
    delivery: Delivery,
    store: FileStore,
    progress: Progress,
    should_stop: ShouldStop,
) -> None:
    """Run a pending job to its end; afterwards its row is completed, failed or cancelled.

    An engine that cannot be loaded fails the job, too.

    Raises:
        CancelledError: the job was cancelled, here or by another process.
        DGXMusicError: the job failed; the row has the same message, without paths.
    """
    token = AttemptToken.for_this_process()
    folders = [(delivery.output_dir, "DGX_MUSIC_OUTPUT_DIR")]
    with storage.get_session() as session:
        if not storage.claim_generation(session, order.generation_id, str(token)):
            raise UnknownGenerationError(
                f"The generation {order.generation_id} is not waiting to be run."
            )
    try:
        _produce(order, load(), delivery, store, token, progress, should_stop)
    except (CancelledError, KeyboardInterrupt):
        cancel_job(order)
        raise
    except (DGXMusicError, storage.StorageError) as error:
        _fail(order, token, hide_paths(str(error), folders))
        raise
    except Exception as error:
        # The outer edge of a job: no error of an engine may leave its row `processing`.
        message = f"The engine {order.model} failed: {type(error).__name__}: {error}"
        _fail(order, token, hide_paths(message, folders))
        raise EngineError(message) from error


def cancel_job(order: Order) -> None:
    """Mark an unfinished job cancelled; a database that cannot be written is ignored."""
    with suppress(storage.StorageError), storage.get_session() as session:
        storage.cancel_generation(session, order.generation_id)


def fail_abandoned_jobs() -> None:
    """Fail the jobs that processes of this machine were running when they were killed."""
    with storage.get_session(read_only=True) as session:
        running = storage.get_generations_by_status(session, storage.GenerationStatus.PROCESSING)
    for row in running:
        token = AttemptToken.parse(row.attempt_token or "")
        if token.process is not None and token.process.has_ended():
            message = "The process that ran this job was killed. Generate the music again."
            with storage.get_session() as session:
                storage.fail_generation(session, row.id, str(token), message)


def _produce(
    order: Order,
    engine: Engine,
    delivery: Delivery,
    store: FileStore,
    token: AttemptToken,
    progress: Progress,
    should_stop: ShouldStop,
) -> None:
    path = draft_path(delivery.output_dir / order.file_path, token.nonce)
    try:
        ready = fetch_inputs(order, path, store)
        take = make_take(ready, path, engine, delivery, progress, should_stop)
        with ExitStack() as undo:
            undo.callback(_remove_unpublished, order, store)
            upload_take(order, token, take, store)
            is_published = publish_take(order, token, take, store)
            undo.pop_all()
    finally:
        remove_draft(path)
    if not is_published:
        try_remove_leftovers(store, order.file_path)
        raise CancelledError("The job was cancelled while it ran.")
    progress("completed", 1.0)


def _fail(order: Order, token: AttemptToken, message: str) -> None:
    # If this fails as well, the caller should still see the first error.
    with suppress(storage.StorageError), storage.get_session() as session:
        storage.fail_generation(session, order.generation_id, str(token), message)


def _remove_unpublished(order: Order, store: FileStore) -> None:
    """Remove the file unless the row is complete: a signal may arrive after the commit."""
    with suppress(storage.StorageError), storage.get_session(read_only=True) as session:
        row = storage.get_generation(session, order.generation_id)
        if row is not None and row.is_complete:
            return
    try_remove_leftovers(store, order.file_path)
