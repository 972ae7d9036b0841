"""From a request to a row: the checks, the row's fields, and repeated submissions."""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from services import storage
from services.errors import (
    InvalidRequestError,
    QueueFullError,
    RequestMismatchError,
)
from services.generation.engine import SEED_LIMIT
from services.generation.length import Length
from services.jobs.models import GenerationRequest
from services.library.input_names import FIELDS

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from services.generation.registry import EngineEntry, Registry

LARGEST_BATCH = 10

KEPT_FIELDS = ("temperature", "top_k", "top_p", "cfg_coef", "stems", "midi")
"""Fields of a request that a row keeps in its metadata if they are not the default."""

_ABILITIES = (
    ("melody", "takes_melody", "follow a melody"),
    ("continue_from", "takes_continuation", "continue other music"),
    ("stems", "has_parts", "keep stems: its audio has no separate parts"),
    ("midi", "has_parts", "keep MIDI: it makes audio without notes"),
)
"""Field of a request, the fact that its engine needs, and the ability in words."""


@dataclass(frozen=True, slots=True)
class Repeatable:
    """Identifies a submission that its client may send again without queueing it twice."""

    key: str
    """Chosen by the client: its Idempotency-Key."""
    fingerprint: str
    """SHA-256 of the requests, hexadecimal."""


@dataclass(frozen=True, slots=True)
class CheckedRequest:
    """A request that its engine can render here."""

    request: GenerationRequest
    entry: EngineEntry
    passed_over: Mapping[str, str]
    """Engines that `auto` prefers and that cannot run here -> why."""
    parent: str | None = None
    """The id of the failed job that is sent again."""
    parent_owner: str | None = None
    """The owner of that job, who gets the new one too, whoever sends it again."""
    remarks: tuple[str, ...] = ()
    """How its audio files are read where that is not as they are: a sentence each."""

    def choose_owner(self, caller: str | None) -> str | None:
        """Return the owner of the job, if its caller has this key."""
        return caller if self.parent is None else self.parent_owner


def check_batch(jobs: int, priority: str | Sequence[str]) -> list[storage.Priority]:
    """Return the priority of each job of a batch.

    Raises:
        InvalidRequestError: the batch is empty or too large, or a priority is unknown.
    """
    if not 1 <= jobs <= LARGEST_BATCH:
        raise InvalidRequestError(f"A batch has 1 to {LARGEST_BATCH} requests.")
    priorities = [priority] * jobs if isinstance(priority, str) else priority
    for each in priorities:
        if each not in list(storage.Priority):
            raise InvalidRequestError(f"The priority is high, normal or low, not {each!r}.")
    return [storage.Priority(each) for each in priorities]


def settle_length(
    request: GenerationRequest, entry: EngineEntry, registry: Registry
) -> GenerationRequest:
    """Return the request with its duration, its bars and whether it is a loop decided.

    Raises:
        InvalidRequestError: the engine cannot make this length, or bars or loops at all.
    """
    if entry.settle_length is None:
        if request.bars is not None:
            raise _refuse(entry, registry, "counts_bars", "make an exact number of bars")
        if request.loop:
            raise _refuse(entry, registry, "counts_bars", "make loops")
        return request
    states_duration = "duration" in request.model_fields_set
    settled = entry.settle_length(
        request.prompt,
        Length(
            duration_seconds=request.duration if states_duration else None,
            bars=request.bars,
            loop=request.loop,
        ),
        entry.facts,
        usual_seconds=request.duration,
    )
    update = {"duration": settled.duration_seconds, "bars": settled.bars, "loop": settled.loop}
    return request.model_copy(update=update)


def check_duration(request: GenerationRequest, entry: EngineEntry) -> None:
    """Check the duration against the limits of the engine.

    Raises:
        InvalidRequestError: it is too short or too long.
    """
    facts = entry.facts
    if not facts.shortest_seconds <= request.duration <= facts.longest_seconds:
        raise InvalidRequestError(
            f"The duration must be from {facts.shortest_seconds:g} to {facts.longest_seconds:g} "
            f"seconds with the model {facts.name!r}, not {request.duration}."
        )


def audio_references(request: GenerationRequest) -> dict[str, str]:
    """Return field -> id of the inputs and jobs whose audio the request names."""
    named = {field: getattr(request, field) for field in FIELDS}
    return {field: reference for field, reference in named.items() if reference is not None}


def list_demands(request: GenerationRequest) -> set[str]:
    """Return the fields of the request that not every engine can satisfy."""
    return {field for field, _, _ in _ABILITIES if getattr(request, field)}


def check_abilities(fields: Collection[str], entry: EngineEntry, registry: Registry) -> None:
    """Check that an engine can satisfy these fields of a request.

    Raises:
        InvalidRequestError: it cannot; the message names an engine that can.
    """
    for field, fact, ability in _ABILITIES:
        if field not in fields or getattr(entry.facts, fact):
            continue
        raise _refuse(entry, registry, fact, ability)


def _refuse(entry: EngineEntry, registry: Registry, fact: str, ability: str) -> InvalidRequestError:
    """Return the error that an engine lacks an ability, with one that has it."""
    able = [other for other in registry if getattr(other.facts, fact)]
    able.sort(key=lambda other: other.why_unavailable() is not None)
    advice = "No model of this release can."
    if able:
        reason = able[0].why_unavailable()
        rest = "." if reason is None else f", but not here: {reason}"
        advice = f"The model {able[0].facts.name!r} can{rest}"
    return InvalidRequestError(f"The model {entry.facts.name!r} cannot {ability}. {advice}")


def require_queue_space(session: Session, jobs: int, limit: int) -> None:
    """Check that the queue has space for that many more jobs.

    Raises:
        QueueFullError: it has not.
    """
    waiting = storage.count_waiting_up_to(session, limit + 1)
    if waiting + jobs > limit:
        raise QueueFullError(
            f"The queue is full: {waiting} of {limit} jobs wait. Try again later, or raise "
            "DGX_MUSIC_QUEUE_LIMIT."
        )


def add_row(
    session: Session, checked: CheckedRequest, owner: str | None, inputs: Mapping[str, Any]
) -> storage.Generation:
    """Write the row of a job; a seed is drawn unless the request has one."""
    parent = {} if checked.parent is None else {"parent": checked.parent}
    request, entry = checked.request, checked.entry
    seed = secrets.randbelow(SEED_LIMIT) if request.seed is None else request.seed
    generation_id = str(uuid.uuid4())
    if checked.parent is not None:
        storage.record_successor(session, checked.parent, generation_id)
    return storage.create_generation(
        session,
        prompt=request.prompt,
        model_name=entry.facts.name,
        model_version=entry.facts.version,
        duration_seconds=request.duration,
        sample_rate=entry.facts.sample_rate,
        channels=entry.facts.channels,
        file_path=f"{datetime.now(UTC):%Y/%m/%d}/{generation_id}.wav",
        metadata={
            "seed": seed,
            **_list_kept_fields(request),
            **_length(request),
            **inputs,
            **parent,
        },
        generation_id=generation_id,
        owner=owner,
    )


def find_repeated(
    session: Session, owner: str | None, repeatable: Repeatable
) -> list[storage.Generation]:
    """Return the rows of an earlier submission with the same key; empty for a new key.

    Raises:
        RequestMismatchError: the key was used for another request.
    """
    before = storage.find_idempotency_key(session, owner or "", repeatable.key)
    if before is None:
        return []
    if before.fingerprint != repeatable.fingerprint:
        raise RequestMismatchError(
            f"The Idempotency-Key {repeatable.key!r} was used for another request. Send a new key "
            "with each new request."
        )
    rows = [storage.get_generation(session, job_id) for job_id in json.loads(before.job_ids)]
    # If a job was deleted since, the submission counts as new.
    return [row for row in rows if row is not None] if all(rows) else []


def _length(request: GenerationRequest) -> dict[str, Any]:
    """Return the settled bars and whether it is a loop, as far as they are known."""
    fields = request.model_dump(include={"bars", "loop"})
    return {name: value for name, value in fields.items() if value is not None}


def _list_kept_fields(request: GenerationRequest) -> dict[str, Any]:
    fields = request.model_dump(include=set(KEPT_FIELDS))
    return {
        name: value
        for name, value in fields.items()
        if value != GenerationRequest.model_fields[name].default
    }
