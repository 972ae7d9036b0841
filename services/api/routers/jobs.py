"""One job: how it stands, and stopping it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response

from services.api.problems import documented
from services.api.schemas import JOB_ID, JobView, as_json
from services.api.state import Api, Calling
from services.api.visible import require_visible, visible_job

router = APIRouter(prefix="/jobs", tags=["jobs"])

JobId = Annotated[str, Path(examples=[JOB_ID], description="As the answer to /generate has it.")]
PROBLEMS = ("key-required", "not-found", "host-not-allowed", "unavailable")


@router.get(
    "/{job_id}",
    response_model=JobView,
    responses=documented(*PROBLEMS),
    summary="Ask how a job stands",
)
async def get_job(job_id: JobId, api: Api, caller: Calling) -> Response:
    """The same form while it waits, while it is made, and ever after."""
    job = require_visible(await api.jobs.get(job_id), caller, job_id)
    return as_json(JobView.of(job))


@router.delete(
    "/{job_id}",
    responses=documented(*PROBLEMS, "cross-site", "job-finished"),
    summary="Cancel a job",
)
def cancel_job(job_id: JobId, api: Api, caller: Calling) -> JobView:
    """Stop a job that waits or runs; what it made so far is removed, the record is kept."""
    visible_job(api, caller, job_id)
    return JobView.of(api.service.cancel(job_id))
