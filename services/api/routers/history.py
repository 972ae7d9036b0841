"""Everything that was ever asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, cast

from fastapi import APIRouter, Query, Request, Response

from services.api.problems import documented
from services.api.reads import SharedReads
from services.api.schemas import History, HistoryQuery, JobView
from services.api.state import Api, Calling

router = APIRouter(tags=["history"])

LANES = 4
"""Pages read at once, of the threads that the routes share."""

Asked = tuple[str | None, HistoryQuery]
"""Of which owner, and which jobs."""


@dataclass(frozen=True, slots=True)
class _Answer:
    body: bytes
    """JSON."""
    next_cursor: str | None


def _pages_of(request: Request, api: Api) -> SharedReads[Asked, _Answer]:
    state = request.app.state
    if not hasattr(state, "history"):
        state.history = SharedReads(partial(_read, api), lanes=LANES)
    return cast("SharedReads[Asked, _Answer]", state.history)


def _read(api: Api, asked: list[Asked]) -> dict[Asked, _Answer]:
    return {each: _answer(api, *each) for each in asked}


def _answer(api: Api, owner: str | None, which: HistoryQuery) -> _Answer:
    page = 1 if which.cursor else which.page
    found = api.service.history(
        limit=which.page_size,
        offset=(page - 1) * which.page_size,
        search=which.search,
        status=which.status,
        model=which.model,
        owner=owner,
        created_after=which.created_after,
        created_before=which.created_before,
        cursor=which.cursor,
        count=True,
    )
    view = History.model_construct(
        generations=[JobView.of(job) for job in found.jobs],
        total=found.total or 0,
        page=None if which.cursor else page,
        page_size=which.page_size,
        next_cursor=found.next_cursor,
    )
    return _Answer(view.model_dump_json().encode(), found.next_cursor)


@router.get(
    "/history",
    response_model=History,
    responses=documented(
        "key-required", "host-not-allowed", "not-found", "invalid-request", "unavailable"
    ),
    summary="List and search jobs, newest first",
)
async def list_history(
    which: Annotated[HistoryQuery, Query()],
    request: Request,
    api: Api,
    caller: Calling,
) -> Response:
    """One page; the next is found by `next_cursor`, which also stands in the header Link."""
    found = await _pages_of(request, api).read((caller.only_owner, which))
    response = Response(found.body, media_type="application/json")
    if found.next_cursor is not None:
        url = request.url.remove_query_params("page").include_query_params(cursor=found.next_cursor)
        response.headers["Link"] = f'<{url.path}?{url.query}>; rel="next"'
    return response
