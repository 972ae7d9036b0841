"""Create, find and change rows of `generations`."""

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
    """Conditions on generations besides the status. All must hold; None sets no condition."""

    model_name: str | None
    owner: str | None
    created_after: datetime | None
    """Created at this moment or later."""
    created_before: datetime | None
    """Created before this moment."""


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
    """Add a pending generation and count its prompt.

    Args:
        session: a session that can write.
        prompt: the user's sentence.
        model_name: name of the model that the request asks for.
        duration_seconds: requested duration, above 0.
        sample_rate: Hz, above 0.
        channels: 1 or 2.
        file_path: future name of the file, relative to the output folder.
        model_version: version or checkpoint of the model.
        metadata: values that have a JSON form.
        generation_id: None draws a UUID4.
        owner: id of the API key that owns it; None makes it visible to every user.

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
    """Insert a new row, count its prompt, and attach the object to the session.

    This avoids SQLAlchemy's unit of work, which is a fifth of an insert's time.
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
        # SQLAlchemy would read an attribute that was never set after the session is closed.
        set_committed_value(generation, name, None)
    make_transient_to_detached(generation)
    session.add(generation)


@cache
def _build_counting_insert() -> ReturningInsert[int]:
    """Build the statement that writes both tables on PostgreSQL, to save a round trip.

    The parameters are named new_<column>, because both tables have an id.
    """
    counted = build_count_statement("postgresql").cte("counted")
    new: dict[str, Any] = {column: bindparam(f"new_{column}") for column in _map_columns().values()}
    new["prompt_id"] = select(counted.c.id).scalar_subquery()
    return insert(GENERATIONS).values(new).returning(GENERATIONS.c.prompt_id)


@cache
def _map_columns() -> dict[str, str]:
    """Return attribute -> column. This configures the mappers, so it must not run at import."""
    return {item.key: item.columns[0].name for item in Generation.__mapper__.column_attrs}


def get_generation(session: Session, generation_id: str) -> Generation | None:
    return session.get(Generation, generation_id)


def find_generations_by_prefix(
    session: Session, id_prefix: str, limit: int = 2
) -> list[Generation]:
    """Return generations whose id starts with `id_prefix`, by id; none for an empty prefix.

    The default limit of 2 is enough to detect an ambiguous prefix.
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
    """Return generations, newest first.

    Raises:
        ValueError: the status is unknown.
    """
    found = _filter_status(select(Generation), status=status).order_by(*_NEWEST_FIRST)
    return list(session.scalars(found.limit(limit).offset(offset)))


def get_generations_by_status(session: Session, status: str, limit: int = 100) -> list[Generation]:
    """Return generations of a status, newest first; raises as `get_all_generations`."""
    return get_all_generations(session, limit=limit, status=status)


def get_pending_generations(session: Session, limit: int = 100) -> list[Generation]:
    """Return pending generations, oldest first."""
    found = _filter_status(select(Generation), status=GenerationStatus.PENDING)
    return list(session.scalars(found.order_by(Generation.created_at, Generation.id).limit(limit)))


def list_generations(
    session: Session,
    *,
    status: str | None = None,
    limit: int = 100,
    offset: int = 0,
    cursor: str | None = None,
    **filters: Unpack[GenerationFilters],
) -> Page[Generation]:
    """Return one page of generations, newest first.

    Successive pages hold each row once, even when rows are inserted between them.

    Args:
        session: an open session.
        status: return only generations of this status.
        limit: rows of a page, clamped to 1..1000.
        offset: rows to skip; slow when large, unlike a cursor.
        cursor: `next_cursor` of the previous page; None for the first.
        filters: further conditions.

    Raises:
        ValueError: the status is unknown.
        InvalidCursorError: the cursor does not come from this list.
    """
    limit = clamp_limit(limit)
    found = _filter_status(select(Generation), status=status).where(
        *_build_conditions(session, filters)
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
    session: Session, status: str | None = None, **filters: Unpack[GenerationFilters]
) -> int:
    """Count the generations that `list_generations` would return; raises as that."""
    counted = select(func.count()).select_from(Generation)
    if status is not None:
        counted = counted.where(Generation.status == require_status(status))
    counted = counted.where(*_build_conditions(session, filters))
    return session.execute(counted).scalar_one()


def update_generation_status(
    session: Session, generation_id: str, status: str, error_message: str | None = None
) -> Generation | None:
    """Set the status; return None for an unknown id.

    A finished status sets `completed_at`, any other clears it.

    Raises:
        ValueError: the status is unknown.
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
    """Set the status to completed and merge the metadata; return None for an unknown id.

    Workers use `publish_generation` instead, which checks the attempt token.
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
    """Delete a row and its analysis, not its file; return False for an unknown id."""
    deleted = session.execute(
        delete(Generation).where(Generation.id == generation_id).returning(Generation.id)
    )
    return deleted.scalar_one_or_none() is not None


def lock_generation(session: Session, generation_id: str) -> Generation | None:
    """Read a row again and lock it until the transaction ends."""
    return session.get(Generation, generation_id, with_for_update=True, populate_existing=True)


def record_successor(session: Session, generation_id: str, successor: str) -> None:
    """Record in the metadata of a failed job which job it was sent again as."""
    generation = lock_generation(session, generation_id)
    if generation is not None:
        generation.merge_metadata({"sent_again_as": successor})


def list_failed_without_successor(session: Session) -> list[str]:
    """Return the ids of failed jobs that have no successor, or a cancelled one; oldest first."""
    failed = (
        select(Generation)
        .where(*match_status(GenerationStatus.FAILED))
        .order_by(Generation.created_at, Generation.id)
    )
    successors = {
        row.id: row.get_metadata().get("sent_again_as") for row in session.scalars(failed)
    }
    kept = select(Generation.id).where(
        Generation.id.in_([one for one in successors.values() if one is not None]),
        Generation.status != GenerationStatus.CANCELLED.value,
    )
    alive = set(session.scalars(kept))
    return [failed_id for failed_id, successor in successors.items() if successor not in alive]


def _filter_status(query: Select[Any], *, status: str | None = None) -> Select[Any]:
    return query if status is None else query.where(*match_status(require_status(status)))


def _build_conditions(session: Session, filters: GenerationFilters) -> list[ColumnElement[bool]]:
    conditions = match_creation_time(filters)
    if (owner := filters.get("owner")) is not None:
        conditions.append(Generation.owner == owner)
    if (model_name := filters.get("model_name")) is not None:
        conditions += _match_model(model_name, session.get_bind().dialect.name)
    return conditions


def match_creation_time(filters: GenerationFilters) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if (after := filters.get("created_after")) is not None:
        conditions.append(Generation.created_at >= after)
    if (before := filters.get("created_before")) is not None:
        conditions.append(Generation.created_at < before)
    return conditions


def _match_model(model_name: str, dialect: str) -> list[ColumnElement[bool]]:
    """Build the condition on the model in the form that PostgreSQL's index has."""
    conditions = [Generation.model_name == model_name]
    if dialect == "postgresql":
        conditions.append(func.hashtext(Generation.model_name) == func.hashtext(model_name))
    return conditions


def match_status(status: str) -> tuple[ColumnElement[bool], ...]:
    """Build the condition on the status in the form that makes SQLite use the right index.

    Most rows are completed: reading them along the index of times is faster than collecting them
    by status and sorting. The other statuses have a partial index, whose condition the query must
    repeat.
    """
    if status == GenerationStatus.COMPLETED:
        return (literal_column("generations.status || ''") == status,)
    return (Generation.status == status, literal_column("generations.status <> 'completed'"))
