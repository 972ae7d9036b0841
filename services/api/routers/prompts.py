"""GET /prompts: what was asked for most."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from services import storage
from services.api.problems import documented
from services.api.state import Calling
from services.database import storage_errors

router = APIRouter(tags=["prompts"])

LONGEST_SEARCH = 500


class PromptQuery(BaseModel):
    """Which prompts."""

    model_config = ConfigDict(extra="forbid")

    search: str | None = Field(
        default=None,
        max_length=LONGEST_SEARCH,
        description="Only those with every word of it, in any order.",
        examples=["piano"],
    )
    limit: int = Field(20, ge=1, le=100, description="How many at most.")
    cursor: str | None = Field(
        default=None,
        max_length=500,
        description="`next_cursor` of the page before; none for the first.",
    )


class PromptItem(BaseModel):
    """A prompt, and how often it was asked for."""

    text: str = Field(examples=["lo-fi beat with a dusty piano"])
    used_count: int = Field(examples=[12])
    first_used_at: datetime
    last_used_at: datetime


class PromptPage(BaseModel):
    """Some prompts, most used first; of equals, the one used last."""

    prompts: list[PromptItem]
    next_cursor: str | None = Field(description="Null on the last page.")


@router.get(
    "/prompts",
    responses=documented("key-required", "not-found", "invalid-request", "unavailable"),
    summary="List the prompts that were used most",
)
def list_prompts(caller: Calling, query: Annotated[PromptQuery, Query()]) -> PromptPage:
    """List the prompts that were used most.

    A key sees those of its own jobs, and how often these used them; the operator's key, and a
    server that needs none, those of all. The search goes through the jobs that are still there.
    """
    if not caller.sees_all and caller.owner is None:
        return PromptPage(prompts=[], next_cursor=None)
    with storage_errors(), storage.get_session(read_only=True) as session:
        page = storage.list_prompts(
            session,
            search=query.search or None,
            owner=caller.only_owner,
            limit=query.limit,
            cursor=query.cursor,
        )
    items = [
        PromptItem(
            text=one.text,
            used_count=one.used_count,
            first_used_at=one.first_used_at,
            last_used_at=one.last_used_at,
        )
        for one in page.items
    ]
    return PromptPage(prompts=items, next_cursor=page.next_cursor)
