"""GET /history: all jobs, by page and by search."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, cast

from fastapi import APIRouter, Query, Request, Response

from services.api.problems import describe_problems
from services.api.reads import SharedReads
from services.api.schemas import History, HistoryQuery, JobView
from services.api.state import Api, CurrentCaller

router = APIRouter(tags=["history"])

READS = 4
"""Pages read at once; the reads use the threads of the routes."""

Question = tuple[str | None, HistoryQuery]
"""The owner whose jobs are listed (None: everybody's), and the query."""


@dataclass(frozen=True, slots=True)
class _Page:
    body: bytes
    """JSON."""
    next_cursor: str | None


def _get_pages(request: Request, api: Api) -> SharedReads[Question, _Page]:
    state = request.app.state
    if not hasattr(state, "history"):
        state.history = SharedReads(partial(_read_pages, api), concurrency=READS)
    return cast("SharedReads[Question, _Page]", state.history)


def _read_pages(api: Api, questions: list[Question]) -> dict[Question, _Page]:
    return {question: _read_page(api, *question) for question in questions}


def _read_page(api: Api, owner: str | None, query: HistoryQuery) -> _Page:
    page = 1 if query.cursor else query.page
    found = api.service.history(
        limit=query.page_size,
        offset=(page - 1) * query.page_size,
        search=query.search,
        status=query.status,
        model=query.model,
        owner=owner,
        created_after=query.created_after,
        created_before=query.created_before,
        cursor=query.cursor,
        count=True,
    )
    view = History.model_construct(
        generations=[JobView.from_job(job) for job in found.jobs],
        total=found.total or 0,
        page=None if query.cursor else page,
        page_size=query.page_size,
        next_cursor=found.next_cursor,
    )
    return _Page(view.model_dump_json().encode(), found.next_cursor)


@router.get(
    "/history",
    response_model=History,
    responses=describe_problems(
        "key-required", "host-not-allowed", "not-found", "invalid-request", "unavailable"
    ),
    summary="List and search jobs, newest first",
)
async def list_history(
    query: Annotated[HistoryQuery, Query()],
    request: Request,
    api: Api,
    caller: CurrentCaller,
) -> Response:
    """Return one page; `next_cursor`, and the URL in the Link header, lead to the next."""
    page = await _get_pages(request, api).read((caller.owner_filter, query))
    response = Response(page.body, media_type="application/json")
    if page.next_cursor is not None:
        url = request.url.remove_query_params("page").include_query_params(cursor=page.next_cursor)
        response.headers["Link"] = f'<{url.path}?{url.query}>; rel="next"'
    return response
