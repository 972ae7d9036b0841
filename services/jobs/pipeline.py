"""One job from its row to its file: render, master, write, publish.

The row is the truth. A job is claimed with a fresh token, and only the holder of that token can
publish it; whatever ends the job early leaves no file and a row that says why.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services import storage
from services.errors import (
    CancelledError,
    DGXMusicError,
    EngineError,
    UnknownGenerationError,
)
from services.generation.engine import GenerationParams
from services.library.drafts import StrPath, draft_path, remove_draft
from services.library.input_names import inputs_of
from services.library.inputs import bring_inputs
from services.library.store import clear_quietly
from services.library.takes import Delivery, Order, Take, make_takes
from services.machine.process_identity import is_abandoned, new_token

if TYPE_CHECKING:
    from datetime import datetime

    from services.generation.engine import Engine, Progress, ShouldStop
    from services.library.store import FileStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A job that has a row and waits to be run."""

    generation_id: str
    file_path: str
    """Relative to the output folder."""
    created_at: datetime
    params: GenerationParams
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Field of `params` -> SHA-256 of the audio file that belongs there."""

    def order(self, path: StrPath, store: FileStore) -> Order:
        """What its engine is told; the take goes to `path`, and its inputs come from the store.

        Raises:
            FileGoneError: an input is not there any more.
            OutputError: the store or the disk says no.
        """
        files: dict[str, Any] = {}
        if self.inputs:
            files |= bring_inputs(self.inputs, store, Path(path).parent)
        return Order(
            generation_id=self.generation_id,
            created_at=self.created_at,
            params=replace(self.params, **files),
            path=path,
        )


def task_of(generation: storage.Generation) -> Task:
    """A task from a row, so that a worker can run what another process accepted."""
    metadata = generation.get_metadata()
    sampling = {
        name: metadata[name]
        for name in ("temperature", "top_k", "top_p", "cfg_coef")
        if name in metadata
    }
    return Task(
        generation_id=generation.id,
        file_path=generation.file_path,
        created_at=generation.created_at,
        params=GenerationParams(
            prompt=generation.prompt,
            duration_seconds=generation.duration_seconds,
            seed=metadata["seed"],
            **sampling,
        ),
        inputs=inputs_of(metadata),
    )


def run_job(
    task: Task,
    model: str,
    load: Callable[[], Engine],
    delivery: Delivery,
    store: FileStore,
    progress: Progress,
    should_stop: ShouldStop,
) -> None:
    """Run one pending job to its end; afterwards its row is completed, failed or cancelled.

    An engine that cannot be loaded has failed the job, too.

    Raises:
        CancelledError: it was cancelled, here or by someone else.
        DGXMusicError: it failed; the row has the same message.
    """
    token = new_token()
    with storage.get_session() as session:
        if not storage.claim_generation(session, task.generation_id, token):
            raise UnknownGenerationError(
                f"The generation {task.generation_id} is not waiting to be run."
            )
    try:
        _produce(task, load(), delivery, store, token, progress, should_stop)
    except (CancelledError, KeyboardInterrupt):
        cancel_job(task)
        raise
    except (DGXMusicError, storage.StorageError) as error:
        _fail(task, token, str(error))
        raise
    except Exception as error:
        # The outer edge of a job: whatever an engine raises must not leave a row `processing`.
        message = f"The engine {model} failed: {type(error).__name__}: {error}"
        _fail(task, token, message)
        raise EngineError(message) from error


def _produce(
    task: Task,
    engine: Engine,
    delivery: Delivery,
    store: FileStore,
    token: str,
    progress: Progress,
    should_stop: ShouldStop,
) -> None:
    nonce = uuid.uuid4().hex
    name = store.final_name(task.file_path, nonce)
    path = draft_path(delivery.output_dir / task.file_path, nonce)
    try:
        order = task.order(path, store)
        (take,) = make_takes([order], engine, delivery, progress, should_stop)
        published = _publish(task, take, store, token, name)
    finally:
        remove_draft(path)
    if not published:
        clear_quietly(store, task.file_path)
        raise CancelledError("The generation was cancelled while it was being made.")
    progress("completed", 1.0)


def cancel_job(task: Task) -> None:
    """Mark a job cancelled that is not finished; a database that cannot be written is let be."""
    with suppress(storage.StorageError), storage.get_session() as session:
        storage.cancel_generation(session, task.generation_id)


def fail_abandoned_jobs() -> None:
    """Say of jobs whose process on this machine was killed that they will not be finished."""
    with storage.get_session(read_only=True) as session:
        running = storage.get_generations_by_status(session, storage.GenerationStatus.PROCESSING)
    for row in running:
        if is_abandoned(row.attempt_token):
            message = "The process that made it was killed before it was done. Make it again."
            with storage.get_session() as session:
                storage.fail_generation(session, row.id, str(row.attempt_token), message)


def _fail(task: Task, token: str, message: str) -> None:
    # What went wrong first is what the person should hear of, also when this fails too.
    with suppress(storage.StorageError), storage.get_session() as session:
        storage.fail_generation(session, task.generation_id, token, message)


def _publish(task: Task, take: Take, store: FileStore, token: str, name: str) -> bool:
    """Give the take its name and complete the row; False when the job was lost meanwhile."""
    try:
        store.bring(take.path, name, take.sha256)
        with storage.get_session() as session:
            row = storage.lock_generation(session, task.generation_id)
            if row is None or row.attempt_token != token:
                return False
            store.publish(take.path, name)
            return storage.publish_generation(
                session,
                task.generation_id,
                token,
                generation_time=take.seconds,
                file_size_bytes=take.bytes,
                file_sha256=take.sha256,
                metadata=take.metadata,
                file_path=name,
                model_version=take.metadata.get("engine_version"),
            )
    except BaseException:
        _withdraw(task, store)
        raise


def _withdraw(task: Task, store: FileStore) -> None:
    """Remove the file unless the row says that it is there: a signal may come after the commit."""
    with suppress(storage.StorageError), storage.get_session(read_only=True) as session:
        row = storage.get_generation(session, task.generation_id)
        if row is not None and row.is_complete:
            return
    clear_quietly(store, task.file_path)
