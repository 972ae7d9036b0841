"""GET /prompts: the most used prompts."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from services import storage
from services.api.problems import describe_problems
from services.api.state import CurrentCaller
from services.database import storage_errors

router = APIRouter(tags=["prompts"])

MAX_SEARCH_LENGTH = 500


class PromptQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    search: str | None = Field(
        default=None,
        max_length=MAX_SEARCH_LENGTH,
        description="Words the prompt must contain, in any order.",
        examples=["piano"],
    )
    limit: int = Field(20, ge=1, le=100, description="Most prompts on a page.")
    cursor: str | None = Field(
        default=None,
        max_length=500,
        description="`next_cursor` of the previous page; leave it out for the first.",
    )


class PromptItem(BaseModel):
    """A prompt, and how often it was used."""

    text: str = Field(examples=["lo-fi beat with a dusty piano"])
    used_count: int = Field(examples=[12])
    first_used_at: datetime
    last_used_at: datetime


class PromptPage(BaseModel):
    """One page of prompts, most used first, then most recently used."""

    prompts: list[PromptItem]
    next_cursor: str | None = Field(description="`cursor` of the next page; null on the last page.")


@router.get(
    "/prompts",
    responses=describe_problems("key-required", "not-found", "invalid-request", "unavailable"),
    summary="List the most used prompts",
)
def list_prompts(caller: CurrentCaller, query: Annotated[PromptQuery, Query()]) -> PromptPage:
    """List the most used prompts, of the caller's own jobs.

    With the operator's key, or on a server without keys, the list covers everybody's jobs. The
    search covers jobs that were not deleted.
    """
    if not caller.sees_all and caller.owner is None:
        return PromptPage(prompts=[], next_cursor=None)
    with storage_errors(), storage.get_session(read_only=True) as session:
        page = storage.list_prompts(
            session,
            search=query.search or None,
            owner=caller.owner_filter,
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
