"""Everything that was ever asked for."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from services.generation.api.problems import documented
from services.generation.api.schemas import History, HistoryQuery, JobView, as_json
from services.generation.api.state import Api, Calling

router = APIRouter(tags=["history"])


@router.get(
    "/history",
    response_model=History,
    responses=documented(
        "key-required", "host-not-allowed", "not-found", "invalid-request", "unavailable"
    ),
    summary="List and search jobs, newest first",
)
def list_history(
    which: Annotated[HistoryQuery, Query()],
    request: Request,
    api: Api,
    caller: Calling,
) -> Response:
    """One page; the next is found by `next_cursor`, which also stands in the header Link."""
    page = 1 if which.cursor else which.page
    found = api.service.history(
        limit=which.page_size,
        offset=(page - 1) * which.page_size,
        search=which.search,
        status=which.status,
        model=which.model,
        owner=caller.only_owner,
        created_after=which.created_after,
        created_before=which.created_before,
        cursor=which.cursor,
        count=True,
    )
    response = as_json(
        History.model_construct(
            generations=[JobView.of(job) for job in found.jobs],
            total=found.total or 0,
            page=None if which.cursor else page,
            page_size=which.page_size,
            next_cursor=found.next_cursor,
        )
    )
    if found.next_cursor is not None:
        url = request.url.remove_query_params("page").include_query_params(cursor=found.next_cursor)
        response.headers["Link"] = f'<{url.path}?{url.query}>; rel="next"'
    return response
