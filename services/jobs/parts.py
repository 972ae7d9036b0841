"""Stems and notes of takes that were made without them: the music is rendered again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from services import storage
from services.database import storage_errors
from services.errors import EngineError, UnknownGenerationError
from services.jobs.attempt_token import AttemptToken
from services.jobs.publication import publish_attachments
from services.library.drafts import draft_path, remove_draft
from services.library.orders import Order
from services.library.takes import Delivery, make_take

if TYPE_CHECKING:
    from services.generation.engine import Progress, ShouldStop
    from services.generation.score import Score
    from services.jobs.models import Job
    from services.jobs.service import MusicService


def explain_no_parts(service: MusicService, job: Job) -> str | None:
    """Return why the parts of a take cannot be made again, as a sentence; None if they can."""
    from services.generation.composer.engine import FACTS

    if job.model != FACTS.name:
        return f"The model {job.model} makes audio without parts."
    made_by = job.metadata.get("engine_version")
    if made_by != FACTS.version:
        return (
            f"The take is of version {made_by} of {job.model}, which this installation does not "
            f"have (it has {FACTS.version})."
        )
    return service.registry.resolve(job.model).why_unavailable()


def read_score(job: Job) -> Score:
    """Return the notes of a take whose parts can be made again (`explain_no_parts`)."""
    from services.generation.composer.engine import write_score

    return write_score(_order_of(job.job_id).params)


def add_parts(service: MusicService, job: Job, progress: Progress, should_stop: ShouldStop) -> None:
    """Render a take again with its stems and notes, and keep these with it.

    They are kept only if the mix is the same file, byte for byte: then the stems sum to the take.

    Args:
        service: of the library.
        job: completed, with parts that can be made again (`explain_no_parts`).
        progress: called as the rendering advances.
        should_stop: asked often; True stops the rendering.

    Raises:
        CancelledError: `should_stop` returned True.
        EngineError: the mix differs, because the settings for loudness or bit depth have changed.
        UnknownGenerationError: the job has been deleted meanwhile.
        OutputError: there is no space, or the disk refuses.
    """
    order = _order_of(job.job_id)
    order = replace(order, params=replace(order.params, stems=True), midi=True)
    delivery, store = Delivery.of(service.settings), service.store
    engine = service.registry.resolve(job.model).load()
    token = AttemptToken.for_this_process()
    path = draft_path(delivery.output_dir / order.file_path, token.nonce)
    try:
        take = make_take(order, path, engine, delivery, progress, should_stop)
        if take.sha256 != job.file_sha256:
            raise EngineError(
                f"The take {job.job_id} was made with other settings (loudness, ceiling, bit "
                "depth) or by another release: rendered again, its mix is not the same."
            )
        with storage_errors():
            publish_attachments(job.job_id, take.attachments, store)
    finally:
        remove_draft(path)


def _order_of(job_id: str) -> Order:
    with storage_errors(), storage.get_session(read_only=True) as session:
        row = storage.get_generation(session, job_id)
        if row is None:
            raise UnknownGenerationError(f"The generation {job_id} has been deleted.")
        return Order.of(row)
