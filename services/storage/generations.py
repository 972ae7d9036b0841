"""Generations: making, finding and changing their rows."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from sqlalchemy import and_, bindparam, delete, func, insert, inspect, literal_column, or_, select
from sqlalchemy.orm import make_transient_to_detached
from sqlalchemy.orm.attributes import set_committed_value

from services.storage.models import GENERATIONS, Generation
from services.storage.paging import Page, clamp_limit, decode_moment, encode_moment, make_page
from services.storage.prompts import build_count_statement, count_prompt, make_count_values
from services.storage.schema import GenerationStatus, require_status

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session
    from sqlalchemy.sql import Select
    from sqlalchemy.sql.dml import ReturningInsert


class GenerationFilters(TypedDict, total=False):
    """Which generations, besides those of a status; every condition holds, None is none."""

    model_name: str | None
    """From this engine."""
    owner: str | None
    """Of this one."""
    created_after: datetime | None
    """Asked for at this moment or later."""
    created_before: datetime | None
    """Asked for earlier than this moment."""


_NEWEST_FIRST = (Generation.created_at.desc(), Generation.id.desc())
_LAST_CHARACTER = "\U0010ffff"


def create_generation(
    session: Session,
    prompt: str,
    model_name: str,
    duration_seconds: float,
    sample_rate: int,
    channels: int,
    file_path: str,
    model_version: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    *,
    generation_id: str | None = None,
    owner: str | None = None,
) -> Generation:
    """Add a pending generation, and count its prompt.

    Args:
        session: an open session that may write.
        prompt: the person's sentence.
        model_name: the engine.
        duration_seconds: seconds asked for, above 0.
        sample_rate: Hz, above 0.
        channels: 1 or 2.
        file_path: where the file will be, relative to the output folder.
        model_version: the engine's version or checkpoint.
        metadata: anything that has a JSON form.
        generation_id: None draws a UUID4.
        owner: whose it is, the id of an API key; None: of everybody who may use the database.

    Raises:
        sqlalchemy.exc.IntegrityError: the database refuses a value.
    """
    generation = Generation(
        id=generation_id,
        prompt=prompt,
        model_name=model_name,
        duration_seconds=duration_seconds,
        sample_rate=sample_rate,
        channels=channels,
        file_path=file_path,
        model_version=model_version,
        metadata=metadata,
        owner=owner,
    )
    _insert(session, generation)
    return generation


def _insert(session: Session, generation: Generation) -> None:
    """Write a new row and its prompt's count at once; make the object one of the session's.

    Without the unit of work that a flush sets up: a fifth of an insert's time.
    """
    session.flush()
    connection = session.connection()
    names = _map_columns()
    row = {column: getattr(generation, name) for name, column in names.items()}
    if connection.dialect.name == "postgresql":
        values = {f"new_{column}": value for column, value in row.items()}
        values |= make_count_values(generation.prompt)
        generation.prompt_id = connection.execute(_build_counting_insert(), values).scalar_one()
    else:
        generation.prompt_id = count_prompt(session, generation.prompt)
        connection.execute(insert(GENERATIONS), row | {"prompt_id": generation.prompt_id})
    for name in inspect(generation).unloaded:
        # What was never set would be read from the database, which is closed by then.
        set_committed_value(generation, name, None)
    make_transient_to_detached(generation)
    session.add(generation)


@cache
def _build_counting_insert() -> ReturningInsert[int]:
    """Build PostgreSQL's one statement for both tables: it saves a round trip.

    Each column's value is named new_..., as both tables have an id.
    """
    counted = build_count_statement("postgresql").cte("counted")
    new: dict[str, Any] = {column: bindparam(f"new_{column}") for column in _map_columns().values()}
    new["prompt_id"] = select(counted.c.id).scalar_subquery()
    return insert(GENERATIONS).values(new).returning(GENERATIONS.c.prompt_id)


@cache
def _map_columns() -> dict[str, str]:
    """Attribute -> column; asking for it configures the mappers, so not at import."""
    return {item.key: item.columns[0].name for item in Generation.__mapper__.column_attrs}


def get_generation(session: Session, generation_id: str) -> Generation | None:
    """Give the generation with this id."""
    return session.get(Generation, generation_id)


def find_generations_by_prefix(
    session: Session, id_prefix: str, limit: int = 2
) -> list[Generation]:
    """Give generations whose id starts with `id_prefix`, by id; none for an empty prefix.

    Two rows are enough to know that a prefix is ambiguous.
    """
    if not id_prefix:
        return []
    found = (
        select(Generation)
        .where(Generation.id >= id_prefix, Generation.id < id_prefix + _LAST_CHARACTER)
        .order_by(Generation.id)
        .limit(limit)
    )
    return list(session.scalars(found))


def get_all_generations(
    session: Session, limit: int = 100, offset: int = 0, status: str | None = None
) -> list[Generation]:
    """Give generations, newest first.

    Raises:
        ValueError: there is no such status.
    """
    found = _filter_status(select(Generation), status=status).order_by(*_NEWEST_FIRST)
    return list(session.scalars(found.limit(limit).offset(offset)))


def get_generations_by_status(session: Session, status: str, limit: int = 100) -> list[Generation]:
    """Give the generations that stand so, newest first; raises as `get_all_generations`."""
    return get_all_generations(session, limit=limit, status=status)


def get_pending_generations(session: Session, limit: int = 100) -> list[Generation]:
    """Give the generations that wait, the one that waits longest first."""
    found = _filter_status(select(Generation), status=GenerationStatus.PENDING)
    return list(session.scalars(found.order_by(Generation.created_at, Generation.id).limit(limit)))


def list_generations(
    session: Session,
    *,
    status: str | None = None,
    limit: int = 100,
    offset: int = 0,
    cursor: str | None = None,
    **narrowed: Unpack[GenerationFilters],
) -> Page[Generation]:
    """Give one page of generations, newest first, each row once however many are inserted.

    Args:
        session: an open session.
        status: only these.
        limit: rows a page, brought into 1..1000.
        offset: rows to leave out; the further, the slower. Cursors are not.
        cursor: `next_cursor` of the page before; None for the first.
        narrowed: further conditions.

    Raises:
        ValueError: there is no such status.
        InvalidCursorError: the cursor is not one of these.
    """
    limit = clamp_limit(limit)
    found = _filter_status(select(Generation), status=status).where(
        *_build_conditions(session, narrowed)
    )
    if cursor is not None:
        moment, last_id = decode_moment(cursor)
        found = found.where(
            Generation.created_at <= moment,
            or_(
                Generation.created_at < moment,
                and_(Generation.created_at == moment, Generation.id < last_id),
            ),
        )
    found = found.order_by(*_NEWEST_FIRST).limit(limit + 1)
    rows = session.scalars(found.offset(offset) if offset else found).all()
    return make_page(rows, limit, lambda row: encode_moment(row.created_at, row.id))


def count_generations(
    session: Session, status: str | None = None, **narrowed: Unpack[GenerationFilters]
) -> int:
    """Count generations, all or those that `list_generations` gives; raises as that."""
    counted = select(func.count()).select_from(Generation)
    if status is not None:
        counted = counted.where(Generation.status == require_status(status))
    counted = counted.where(*_build_conditions(session, narrowed))
    return session.execute(counted).scalar_one()


def update_generation_status(
    session: Session, generation_id: str, status: str, error_message: str | None = None
) -> Generation | None:
    """Set where a generation stands; None for an unknown id.

    A finished status sets `completed_at`, any other clears it.

    Raises:
        ValueError: there is no such status.
    """
    status = require_status(status)
    generation = lock_generation(session, generation_id)
    if generation is None:
        return None
    generation.set_status(status, error_message)
    session.flush()
    return generation


def complete_generation(
    session: Session,
    generation_id: str,
    generation_time: float,
    file_size_bytes: int,
    metadata: Mapping[str, Any] | None = None,
) -> Generation | None:
    """Say that the file is there, and add to the metadata; None for an unknown id.

    Whoever works beside other workers uses `publish_generation`, which checks the attempt.
    """
    generation = lock_generation(session, generation_id)
    if generation is None:
        return None
    generation.mark_completed(generation_time)
    generation.file_size_bytes = file_size_bytes
    generation.merge_metadata(metadata)
    session.flush()
    return generation


def delete_generation(session: Session, generation_id: str) -> bool:
    """Delete a row and its analysis, not its file; False for an unknown id."""
    deleted = session.execute(
        delete(Generation).where(Generation.id == generation_id).returning(Generation.id)
    )
    return deleted.scalar_one_or_none() is not None


def lock_generation(session: Session, generation_id: str) -> Generation | None:
    """Read a row afresh and keep others from changing it until the transaction ends."""
    return session.get(Generation, generation_id, with_for_update=True, populate_existing=True)


def _filter_status(query: Select[Any], *, status: str | None = None) -> Select[Any]:
    return query if status is None else query.where(*match_status(require_status(status)))


def _build_conditions(session: Session, narrowed: GenerationFilters) -> list[ColumnElement[bool]]:
    conditions = match_creation_time(narrowed)
    if (owner := narrowed.get("owner")) is not None:
        conditions.append(Generation.owner == owner)
    if (model_name := narrowed.get("model_name")) is not None:
        conditions += _match_model(model_name, session.get_bind().dialect.name)
    return conditions


def match_creation_time(narrowed: GenerationFilters) -> list[ColumnElement[bool]]:
    """Give the conditions for the moment of the request."""
    conditions: list[ColumnElement[bool]] = []
    if (after := narrowed.get("created_after")) is not None:
        conditions.append(Generation.created_at >= after)
    if (before := narrowed.get("created_before")) is not None:
        conditions.append(Generation.created_at < before)
    return conditions


def _match_model(model_name: str, dialect: str) -> list[ColumnElement[bool]]:
    """Give the conditions for an engine in the form that leads PostgreSQL to its index."""
    conditions = [Generation.model_name == model_name]
    if dialect == "postgresql":
        conditions.append(func.hashtext(Generation.model_name) == func.hashtext(model_name))
    return conditions


def match_status(status: str) -> tuple[ColumnElement[bool], ...]:
    """Give the conditions for a status in the form that leads SQLite to the right index.

    Most rows are completed: they are read along the index of times, not gathered by status and
    then sorted. The others have an index of their own, whose condition the query must repeat.
    """
    if status == GenerationStatus.COMPLETED:
        return (literal_column("generations.status || ''") == status,)
    return (Generation.status == status, literal_column("generations.status <> 'completed'"))
