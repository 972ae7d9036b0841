"""What a caller may see: a foreign job is not there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.errors import UnknownGenerationError

if TYPE_CHECKING:
    from services.api.caller import Caller
    from services.api.state import ApiState
    from services.jobs.models import Job


def visible_job(api: ApiState, caller: Caller, job_id: str) -> Job:
    """Give the job of that id.

    Raises:
        UnknownGenerationError: there is none, or it is another's: which of both is not told.
    """
    return require_visible(api.service.find(job_id), caller, job_id)


def require_visible(job: Job | None, caller: Caller, job_id: str) -> Job:
    """Give the job if there is one that the caller may see; raises as `visible_job`."""
    if job is None or not caller.may_see(job.owner):
        raise UnknownGenerationError(f"There is no job {job_id!r}.")
    return job
