"""GET and DELETE /jobs/{job_id}."""

from __future__ import annotations

from fastapi import APIRouter, Response

from services.api.problems import describe_problems
from services.api.schemas import JobId, JobView, build_response
from services.api.state import Api, CurrentCaller
from services.api.visible import find_visible_job, require_visible

router = APIRouter(prefix="/jobs", tags=["jobs"])

PROBLEMS = ("key-required", "not-found", "host-not-allowed", "unavailable")


@router.get(
    "/{job_id}",
    response_model=JobView,
    responses=describe_problems(*PROBLEMS),
    summary="Get a job",
)
async def get_job(job_id: JobId, api: Api, caller: CurrentCaller) -> Response:
    """Returns the same fields in every state of the job."""
    job = require_visible(await api.jobs.get(job_id), caller, job_id)
    return build_response(JobView.from_job(job))


@router.delete(
    "/{job_id}",
    responses=describe_problems(*PROBLEMS, "cross-site", "job-finished"),
    summary="Cancel a job",
)
def cancel_job(job_id: JobId, api: Api, caller: CurrentCaller) -> JobView:
    """Cancel a waiting or running job; its partial audio is deleted, its record is kept."""
    find_visible_job(api, caller, job_id)
    return JobView.from_job(api.service.cancel(job_id))
