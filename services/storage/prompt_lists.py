"""Pages of prompts, most used first: of all generations or of one owner's."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, false, func, or_, select

from services.storage.models import Generation, Prompt
from services.storage.paging import Page, clamp_limit, decode_use, encode_use, make_page
from services.storage.search import select_matching_prompts

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True)
class PromptUse:
    """A prompt and its number of uses, in all generations or in one owner's."""

    id: int
    text: str
    used_count: int
    first_used_at: datetime
    last_used_at: datetime


def list_prompts(
    session: Session,
    *,
    search: str | None = None,
    owner: str | None = None,
    limit: int = 100,
    cursor: str | None = None,
) -> Page[PromptUse]:
    """Return one page of prompts, most used first, and then most recently used first.

    A prompt that is used between two pages can appear twice or not at all.

    Args:
        session: an open session.
        search: return only prompts of existing generations that have every word of this text.
        owner: return only prompts of this owner's generations, with the uses in those.
        limit: rows of a page, clamped to 1..1000.
        cursor: `next_cursor` of the previous page; None for the first.

    Raises:
        InvalidCursorError: the cursor does not come from this list.
        InvalidSearchError: the search text is longer than 10,000 characters.
    """
    limit = clamp_limit(limit)
    used: Any = Prompt.__table__ if owner is None else _count_uses_by(owner)
    columns = used.c
    found = select(
        columns.id, Prompt.text, columns.used_count, columns.first_used_at, columns.last_used_at
    )
    if owner is not None:
        found = found.join(used, columns.id == Prompt.id)
    if search is not None:
        wanted = select_matching_prompts(session, search)
        found = found.where(columns.id.in_(wanted) if wanted is not None else false())
    if cursor is not None:
        found = found.where(_start_after(columns, *decode_use(cursor)))
    found = found.order_by(
        columns.used_count.desc(), columns.last_used_at.desc(), columns.id.desc()
    )
    rows = [PromptUse(*row) for row in session.execute(found.limit(limit + 1))]
    return make_page(rows, limit, lambda row: encode_use(row.used_count, row.last_used_at, row.id))


def _count_uses_by(owner: str) -> Any:
    return (
        select(
            Generation.prompt_id.label("id"),
            func.count().label("used_count"),
            func.min(Generation.created_at).label("first_used_at"),
            func.max(Generation.created_at).label("last_used_at"),
        )
        .where(Generation.owner == owner, Generation.prompt_id.is_not(None))
        .group_by(Generation.prompt_id)
        .subquery()
    )


def _start_after(columns: Any, count: int, moment: datetime, number: int) -> Any:
    return or_(
        columns.used_count < count,
        and_(columns.used_count == count, columns.last_used_at < moment),
        and_(columns.used_count == count, columns.last_used_at == moment, columns.id < number),
    )
