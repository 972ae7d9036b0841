"""One job from its row to its file: render, master, write, publish.

The row is the truth. A job is claimed with a fresh token, and only the holder of that token can
publish it; whatever ends the job early leaves no file and a row that says why.
"""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from services import storage
from services.generation.errors import (
    CancelledError,
    DGXMusicError,
    EngineError,
    OutputError,
    UnknownGenerationError,
)
from services.generation.labels import file_facts, row_metadata
from services.generation.owner import is_abandoned, new_token

if TYPE_CHECKING:
    from datetime import datetime

    from services.audio import Analysis, Mastered, TakeFacts, WrittenFile
    from services.generation.engine import Engine, GenerationParams, Progress, Rendered, ShouldStop

RENDER_SHARE = 0.85
"""Part of the progress that belongs to the engine."""

SPARE_BYTES = 8 * 2**20
"""Free space that a new file must leave for the database and everyone else."""

BYTES_A_SAMPLE = {"PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """How a take is to be delivered."""

    output_dir: Path
    target_lufs: float | None
    true_peak_dbtp: float
    bit_depth: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A job that has a row and waits to be run."""

    generation_id: str
    file_path: str
    """Relative to the output folder."""
    created_at: datetime
    params: GenerationParams


def run_job(
    task: Task, engine: Engine, delivery: Delivery, progress: Progress, should_stop: ShouldStop
) -> None:
    """Run one pending job to its end; afterwards its row is completed, failed or cancelled.

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
        _produce(task, engine, delivery, token, progress, should_stop)
    except (CancelledError, KeyboardInterrupt):
        cancel_job(task)
        raise
    except (DGXMusicError, storage.StorageError) as error:
        _fail(task, token, str(error))
        raise
    except Exception as error:
        # The outer edge of a job: whatever an engine raises must not leave a row `processing`.
        message = f"The engine {engine.facts.name} failed: {type(error).__name__}: {error}"
        _fail(task, token, message)
        raise EngineError(message) from error


def _produce(
    task: Task,
    engine: Engine,
    delivery: Delivery,
    token: str,
    progress: Progress,
    should_stop: ShouldStop,
) -> None:
    started = time.perf_counter()

    def engine_progress(stage: str, fraction: float) -> None:
        progress(stage, RENDER_SHARE * fraction)

    require_space(delivery, task.params.duration_seconds, engine)
    (rendered,) = engine.render([task.params], engine_progress, should_stop)
    _stop_if_asked(should_stop)
    progress("mastering", RENDER_SHARE)
    mastered = _master(rendered, delivery)
    _stop_if_asked(should_stop)
    progress("measuring", 0.92)
    measured = _measure(rendered, mastered)
    _stop_if_asked(should_stop)
    progress("writing", 0.95)
    facts = file_facts(
        generation_id=task.generation_id,
        prompt=task.params.prompt,
        created_at=task.created_at,
        engine=engine.facts,
        rendered=rendered,
        mastered=mastered,
    )
    written = _write(delivery, task.file_path, mastered, rendered.sample_rate, facts)
    try:
        with storage.get_session() as session:
            published = storage.publish_generation(
                session,
                task.generation_id,
                token,
                generation_time=round(time.perf_counter() - started, 3),
                file_size_bytes=written.bytes,
                file_sha256=written.sha256,
                metadata=row_metadata(
                    engine.facts, rendered, mastered, measured, delivery.target_lufs
                ),
            )
    except BaseException:
        _withdraw(task, written)
        raise
    if not published:
        written.path.unlink(missing_ok=True)
        raise CancelledError("The generation was cancelled while it was being made.")
    progress("completed", 1.0)


def require_space(delivery: Delivery, seconds: float, engine: Engine) -> None:
    """Refuse before rendering what the disk could not hold after it.

    Raises:
        OutputError: too little is free, or the folder cannot be made.
    """
    facts = engine.facts
    need = int(seconds * facts.sample_rate) * facts.channels * BYTES_A_SAMPLE[delivery.bit_depth]
    try:
        delivery.output_dir.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(delivery.output_dir).free
    except OSError as error:
        raise OutputError(
            f"The output folder {delivery.output_dir} cannot be used: {error.strerror}. "
            "Give another one in DGX_MUSIC_OUTPUT_DIR."
        ) from error
    if free < need + SPARE_BYTES:
        raise OutputError(
            f"The disk of {delivery.output_dir} has {free / 2**20:.0f} MiB free and this take "
            f"needs {(need + SPARE_BYTES) / 2**20:.0f} MiB. Free some space, or give a folder on "
            "another disk in DGX_MUSIC_OUTPUT_DIR."
        )


def _master(rendered: Rendered, delivery: Delivery) -> Mastered:
    from services.audio import master

    return master(
        rendered.audio,
        rendered.sample_rate,
        target_lufs=delivery.target_lufs,
        true_peak_dbtp=delivery.true_peak_dbtp,
    )


def _measure(rendered: Rendered, mastered: Mastered) -> Analysis:
    """Tempo and key as they can be heard, with the tempo the engine worked to as a hint."""
    from services.audio import analyse

    return analyse(
        mastered.audio,
        rendered.sample_rate,
        hint_bpm=rendered.tempo_bpm,
        loudness=mastered.loudness,
    )


def _write(
    delivery: Delivery,
    relative_path: str,
    mastered: Mastered,
    sample_rate: int,
    facts: TakeFacts,
) -> WrittenFile:
    from services.audio import write_wav

    path = delivery.output_dir / relative_path
    try:
        return write_wav(
            path, mastered.audio, sample_rate, bit_depth=delivery.bit_depth, facts=facts
        )
    except RuntimeError as error:
        raise OutputError(str(error)) from error


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


def _withdraw(task: Task, written: WrittenFile) -> None:
    """Remove the file unless the row says that it is there: a signal may come after the commit."""
    with suppress(storage.StorageError), storage.get_session(read_only=True) as session:
        row = storage.get_generation(session, task.generation_id)
        if row is not None and row.is_complete:
            return
    written.path.unlink(missing_ok=True)


def _stop_if_asked(should_stop: ShouldStop) -> None:
    if should_stop():
        raise CancelledError("Cancelled.")
