"""Asking for music: one job, or a batch of them."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from typing import TYPE_CHECKING, Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Header, Request, Response

from services.api.problems import PREFIX, FieldProblem, ProblemError, documented
from services.api.schemas import BatchAccepted, BatchRequest, GenerateRequest, JobView
from services.api.state import Api, ApiState, Calling
from services.jobs.submission import Repeatable

if TYPE_CHECKING:
    from services.api.caller import Caller
    from services.jobs.models import Job

log = logging.getLogger(__name__)

router = APIRouter(tags=["generate"])

LONGEST_WAIT_SECONDS = 60.0
RETRY_AFTER_SECONDS = "1"

_WAIT = re.compile(r"(?:^|[,;\s])wait=(\d{1,6})(?:$|[,;\s])", re.IGNORECASE)
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_KEY_PATTERN = r'^("[\x21-\x7e]{1,255}"|[\x21-\x7e]{1,255})$'

_PROBLEMS = documented(
    "bad-request",
    "key-required",
    "cross-site",
    "operator-only",
    "too-large",
    "unsupported-media-type",
    "host-not-allowed",
    "invalid-request",
    "idempotency-key-reused",
    "rate-limited",
    "unavailable",
    "queue-full",
    "insufficient-storage",
)

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="A name for this request, for instance a UUID. Sent again with it within 24 "
        "hours, the request makes nothing more, and gets the same job.",
        json_schema_extra={"pattern": _KEY_PATTERN},
    ),
]
Prefer = Annotated[
    str | None,
    Header(
        description="`wait=N`: hold the answer until the job is finished, up to N seconds "
        f"(at most {LONGEST_WAIT_SECONDS:g}); then it is 200 (RFC 7240)."
    ),
]


@router.post(
    "/generate",
    status_code=202,
    response_model=JobView,
    responses={200: {"model": JobView, "description": "Finished within the wait"}, **_PROBLEMS},
    summary="Ask for a piece of music",
)
async def create_job(
    body: GenerateRequest,
    request: Request,
    response: Response,
    api: Api,
    caller: Calling,
    idempotency_key: IdempotencyKey = None,
    prefer: Prefer = None,
) -> JobView:
    """Put a job into the queue; it is kept whatever happens from then on.

    Ask for it under Location, follow its events, or have the answer held with `Prefer: wait=N`.
    """
    _require_open(api)
    _require_rank(caller, [body])

    def submit() -> JobView:
        job = api.service.submit(
            body,
            caller.name,
            body.priority,
            owner=caller.owner,
            repeatable=_repeatable(idempotency_key, "generate", body.model_dump()),
        )
        _log_accepted(caller, [job])
        return JobView.of(api.service.find(job.job_id))

    view = await to_thread.run_sync(submit)
    seconds = _wait_of(prefer)
    # A preference may be left alone; the job is kept, so that there is nothing to refuse.
    if seconds is not None and api.feed.has_room:
        response.headers["Preference-Applied"] = f"wait={seconds:g}"
        view = await api.feed.wait(view.job_id, seconds, request.is_disconnected)
    response.headers["Location"] = f"{PREFIX}/jobs/{view.job_id}"
    if view.completed_at is None:
        response.headers["Retry-After"] = RETRY_AFTER_SECONDS
    else:
        response.status_code = 200
    return view


@router.post(
    "/generate/batch",
    status_code=202,
    response_model=BatchAccepted,
    responses=_PROBLEMS,
    summary="Ask for several pieces at once",
)
def create_batch(
    body: BatchRequest, api: Api, caller: Calling, idempotency_key: IdempotencyKey = None
) -> BatchAccepted:
    """Put 1 to 10 jobs into the queue, all or none."""
    _require_open(api)
    _require_rank(caller, body.requests)
    jobs = api.service.submit_batch(
        body.requests,
        caller.name,
        [one.priority for one in body.requests],
        owner=caller.owner,
        repeatable=_repeatable(idempotency_key, "batch", body.model_dump()),
    )
    _log_accepted(caller, jobs)
    ids = [job.job_id for job in jobs]
    last = api.service.find(ids[-1])
    return BatchAccepted(
        job_ids=ids,
        total_jobs=len(ids),
        estimated_total_time_seconds=last.estimated_time_seconds,
    )


def _require_open(api: ApiState) -> None:
    if api.draining:
        raise ProblemError(
            "unavailable", "The server is about to stop.", headers={"Retry-After": "30"}
        )


def _require_rank(caller: Caller, requests: list[GenerateRequest]) -> None:
    if not caller.sees_all and any(one.priority == "high" for one in requests):
        raise ProblemError("operator-only", "The priority high is for the operator's key.")


def _log_accepted(caller: Caller, jobs: list[Job]) -> None:
    """Tie the request, whose id is on every line, to its jobs."""
    for job in jobs:
        log.info("accepted job=%s model=%s key=%s", job.job_id, job.model, caller.owner or "none")


def _repeatable(header: str | None, route: str, body: dict[str, Any]) -> Repeatable | None:
    """Read the header, a quoted string or bare, and mark what it was sent with."""
    if header is None:
        return None
    key = header[1:-1] if len(header) > 1 and header[0] == header[-1] == '"' else header
    if not _KEY.fullmatch(key):
        detail = "An Idempotency-Key has 1 to 255 printable ASCII characters and no space."
        problem = FieldProblem(detail=detail, pointer="Idempotency-Key")
        raise ProblemError("invalid-request", detail, errors=[problem])
    canonical = json.dumps([route, body], sort_keys=True)
    return Repeatable(key, hashlib.sha256(canonical.encode()).hexdigest())


def _wait_of(prefer: str | None) -> float | None:
    found = _WAIT.search(prefer or "")
    return None if found is None else min(float(found[1]), LONGEST_WAIT_SECONDS)
