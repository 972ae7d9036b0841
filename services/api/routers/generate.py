"""Requests for music: one job, a batch, or a failed job again."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from typing import TYPE_CHECKING, Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Depends, Header, Request, Response

from services.api.problems import (
    FieldProblem,
    ProblemError,
    convert_error,
    describe_problems,
)
from services.api.root_path import PREFIX, under_root
from services.api.schemas import BatchAccepted, BatchRequest, GenerateRequest, JobId, JobView
from services.api.state import Api, ApiState, CurrentCaller
from services.api.visible import find_visible_job
from services.errors import DGXMusicError, EngineUnavailableError, InvalidRequestError
from services.jobs.resubmission import check_again
from services.jobs.submission import Repeatable

if TYPE_CHECKING:
    from services.api.caller import Caller
    from services.config import Settings
    from services.jobs.models import Job

log = logging.getLogger(__name__)

router = APIRouter(tags=["generate"])

LONGEST_WAIT_SECONDS = 60.0
RETRY_AFTER_SECONDS = "1"

_WAIT = re.compile(r"(?:^|[,;\s])wait=(\d{1,6})(?:$|[,;\s])", re.IGNORECASE)
_KEY_HEADER = "Idempotency-Key"
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_KEY_PATTERN = r'^("[\x21-\x7e]{1,255}"|[\x21-\x7e]{1,255})$'

_PROBLEMS = describe_problems(
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

_KeyHeader = Annotated[
    str | None,
    Header(
        alias=_KEY_HEADER,
        description="A name for this request, for instance a UUID. The same request sent again "
        "with it within 24 hours creates nothing and returns the first job.",
        json_schema_extra={"pattern": _KEY_PATTERN},
    ),
]


def _read_key(request: Request, key: _KeyHeader = None) -> str | None:
    if len(set(request.headers.getlist(_KEY_HEADER))) > 1:
        detail = "The request has two different Idempotency-Keys. Send one."
        problem = FieldProblem(detail=detail, parameter=_KEY_HEADER)
        raise ProblemError("invalid-request", detail, errors=[problem])
    return key


IdempotencyKey = Annotated[str | None, Depends(_read_key)]
Prefer = Annotated[
    str | None,
    Header(
        description="`wait=N` (RFC 7240): hold the answer until the job is finished, which is then "
        f"200, or for N seconds, at most {LONGEST_WAIT_SECONDS:g}."
    ),
]


@router.post(
    "/generate",
    status_code=202,
    response_model=JobView,
    responses={200: {"model": JobView, "description": "Finished within the wait"}, **_PROBLEMS},
    summary="Request a piece of music",
)
async def create_job(
    body: GenerateRequest,
    request: Request,
    response: Response,
    api: Api,
    caller: CurrentCaller,
    idempotency_key: IdempotencyKey,
    prefer: Prefer = None,
) -> JobView:
    """Queue a job; an accepted job survives a crash of the server.

    Poll the URL in Location, follow its events, or hold the answer with `Prefer: wait=N`.
    """
    _require_accepting(api)
    _require_allowed_priority(caller, [body])

    def submit() -> JobView:
        job = api.service.submit(
            body,
            caller.name,
            body.priority,
            owner=caller.owner,
            repeatable=_parse_idempotency_key(idempotency_key, "generate", body.model_dump()),
        )
        _log_accepted(caller, [job])
        return JobView.from_job(api.service.find(job.job_id))

    view = await to_thread.run_sync(submit)
    seconds = _parse_wait(prefer)
    # A preference is optional. The job is accepted already, so a full feed does not refuse it.
    if seconds is not None and api.feed.has_capacity:
        response.headers["Preference-Applied"] = f"wait={seconds:g}"
        view = await api.feed.wait_for_job(view.job_id, seconds, request.is_disconnected)
    response.headers["Location"] = under_root(f"{PREFIX}/jobs/{view.job_id}")
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
    summary="Request several pieces at once",
)
def create_batch(
    body: BatchRequest, api: Api, caller: CurrentCaller, idempotency_key: IdempotencyKey
) -> BatchAccepted:
    """Queue 1 to 10 jobs, all or none."""
    _require_accepting(api)
    _require_allowed_priority(caller, body.requests)
    try:
        jobs = api.service.submit_batch(
            body.requests,
            caller.name,
            [one.priority for one in body.requests],
            owner=caller.owner,
            repeatable=_parse_idempotency_key(idempotency_key, "batch", body.model_dump()),
        )
    except (EngineUnavailableError, InvalidRequestError) as error:
        raise _point_into_batch(error, api.settings) from error
    _log_accepted(caller, jobs)
    ids = [job.job_id for job in jobs]
    last = api.service.find(ids[-1])
    return BatchAccepted(
        job_ids=ids,
        total_jobs=len(ids),
        estimated_total_time_seconds=last.estimated_time_seconds,
    )


@router.post(
    "/jobs/{job_id}/retry",
    status_code=202,
    response_model=JobView,
    responses=_PROBLEMS | describe_problems("not-found", "job-not-failed"),
    summary="Send a failed job again",
)
def retry_job(
    job_id: JobId,
    response: Response,
    api: Api,
    caller: CurrentCaller,
    idempotency_key: IdempotencyKey,
) -> JobView:
    """Queue a new job with the request, seed and audio of one that failed or was cancelled.

    Its metadata names the old job as `parent`.
    """
    _require_accepting(api)
    repeatable = _parse_idempotency_key(idempotency_key, "retry", {"job_id": job_id})
    checked = check_again(api.service, find_visible_job(api, caller, job_id).job_id)
    jobs = api.service.enqueue([checked], caller.name, owner=caller.owner, repeatable=repeatable)
    _log_accepted(caller, jobs)
    response.headers["Location"] = under_root(f"{PREFIX}/jobs/{jobs[0].job_id}")
    response.headers["Retry-After"] = RETRY_AFTER_SECONDS
    return JobView.from_job(api.service.find(jobs[0].job_id))


def _point_into_batch(error: DGXMusicError, settings: Settings) -> ProblemError:
    """Convert an error so that its pointers lead to the request at fault."""
    problem = convert_error(error, settings.hide_paths)
    for one in problem.errors or []:
        one.pointer = f"/requests/{error.place}{one.pointer}"
    return problem


def _require_accepting(api: ApiState) -> None:
    if api.is_draining:
        raise ProblemError(
            "unavailable", "The server is shutting down.", headers={"Retry-After": "30"}
        )


def _require_allowed_priority(caller: Caller, requests: list[GenerateRequest]) -> None:
    if not caller.sees_all and any(one.priority == "high" for one in requests):
        raise ProblemError("operator-only", "The priority `high` needs the operator's key.")


def _log_accepted(caller: Caller, jobs: list[Job]) -> None:
    # Every log line has the request's id, so these connect the request with its jobs.
    for job in jobs:
        log.info("accepted job=%s model=%s key=%s", job.job_id, job.model, caller.owner or "none")


def _parse_idempotency_key(
    header: str | None, route: str, body: dict[str, Any]
) -> Repeatable | None:
    """Parse the header, quoted or bare, and combine it with a digest of route and body."""
    if header is None:
        return None
    key = header[1:-1] if len(header) > 1 and header[0] == header[-1] == '"' else header
    if not _KEY.fullmatch(key):
        detail = "Send an Idempotency-Key of 1 to 255 printable ASCII characters without spaces."
        problem = FieldProblem(detail=detail, parameter=_KEY_HEADER)
        raise ProblemError("invalid-request", detail, errors=[problem])
    canonical = json.dumps([route, body], sort_keys=True)
    return Repeatable(key, hashlib.sha256(canonical.encode()).hexdigest())


def _parse_wait(prefer: str | None) -> float | None:
    found = _WAIT.search(prefer or "")
    return None if found is None else min(float(found[1]), LONGEST_WAIT_SECONDS)
