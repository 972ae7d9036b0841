"""Access to jobs: another owner's job is answered like one that does not exist."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.errors import UnknownGenerationError

if TYPE_CHECKING:
    from services.api.caller import Caller
    from services.api.state import ApiState
    from services.jobs.models import Job


def find_visible_job(api: ApiState, caller: Caller, job_id: str) -> Job:
    """Find a job.

    Raises:
        UnknownGenerationError: the job does not exist or has another owner; the message is the
            same for both.
    """
    return require_visible(api.service.find(job_id), caller, job_id)


def require_visible(job: Job | None, caller: Caller, job_id: str) -> Job:
    """Return the job if the caller can see it; raises like `find_visible_job`."""
    if job is None or not caller.can_see(job.owner):
        raise UnknownGenerationError(f"There is no job {job_id!r}.")
    return job
