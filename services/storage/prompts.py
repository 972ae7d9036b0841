"""Count, find and list prompts."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, cast

from sqlalchemy import bindparam, select

from services.storage.columns import utc_now
from services.storage.models import Prompt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session
    from sqlalchemy.sql.dml import ReturningInsert


class _Upsert(Protocol):
    """The common interface of both dialects' INSERT."""

    excluded: Any

    def values(self, *args: Any, **kwargs: Any) -> _Upsert: ...

    def on_conflict_do_update(
        self, *, index_elements: Any, set_: Any, where: Any = None
    ) -> _Upsert: ...

    def returning(self, *columns: Any) -> ReturningInsert[Any]: ...


def build_upsert(dialect: str, table: Any) -> _Upsert:
    """Build an INSERT that supports ON CONFLICT in the dialect."""
    if dialect == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as postgres_insert

        return cast("_Upsert", postgres_insert(table))
    from sqlalchemy.dialects.sqlite import insert as sqlite_insert

    return cast("_Upsert", sqlite_insert(table))


@cache
def build_count_statement(dialect: str) -> ReturningInsert[Any]:
    """Build the statement that counts a use and returns the prompt's id.

    Its parameters come from `make_count_values`. It is cached, because building it takes longer
    than running it.
    """
    table = Prompt.__table__
    now = bindparam("now", type_=table.c.last_used_at.type)
    new = build_upsert(dialect, table).values(
        text=bindparam("prompt_text"), used_count=1, first_used_at=now, last_used_at=now
    )
    return new.on_conflict_do_update(
        index_elements=[table.c.text],
        set_={"used_count": table.c.used_count + 1, "last_used_at": now},
    ).returning(table.c.id)


def make_count_values(prompt_text: str) -> dict[str, Any]:
    return {"prompt_text": prompt_text, "now": utc_now()}


def count_prompt(session: Session, prompt_text: str) -> int:
    """Count one use of a prompt and return its id.

    This is a single statement, so no concurrent count is lost.
    """
    session.flush()
    connection = session.connection()
    statement = build_count_statement(connection.dialect.name)
    counted: int = connection.execute(statement, make_count_values(prompt_text)).scalar_one()
    return counted


def track_prompt_usage(session: Session, prompt_text: str) -> Prompt:
    """Count one use of a prompt; a new prompt is added."""
    return session.get_one(Prompt, count_prompt(session, prompt_text), populate_existing=True)


def get_prompt(session: Session, prompt_id: int) -> Prompt | None:
    return session.get(Prompt, prompt_id)


def get_prompt_by_text(session: Session, text: str) -> Prompt | None:
    return session.scalars(select(Prompt).where(Prompt.text == text)).one_or_none()


def get_all_prompts(session: Session, limit: int = 100, offset: int = 0) -> list[Prompt]:
    """Return prompts, most used first, and then most recently used first."""
    return list(_list_most_used(session, limit, offset))


def get_most_used_prompts(session: Session, limit: int = 10) -> list[Prompt]:
    """Return the first prompts in the order of `get_all_prompts`."""
    return list(_list_most_used(session, limit, 0))


def _list_most_used(session: Session, limit: int, offset: int) -> Sequence[Prompt]:
    order = (Prompt.used_count.desc(), Prompt.last_used_at.desc(), Prompt.id.desc())
    return session.scalars(select(Prompt).order_by(*order).limit(limit).offset(offset)).all()
