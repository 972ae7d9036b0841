"""Sending failed jobs again: a new job with the same request, seed and inputs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from services import storage
from services.database import storage_errors
from services.errors import JobNotFailedError
from services.jobs.models import GenerationRequest, parse_request
from services.jobs.submission import KEPT_FIELDS
from services.library.input_names import input_hashes

if TYPE_CHECKING:
    from services.jobs.models import Job
    from services.jobs.service import MusicService
    from services.jobs.submission import CheckedRequest


def check_again(service: MusicService, id_or_prefix: str) -> CheckedRequest:
    """Check the request of a job that failed or was cancelled; it makes the same take.

    Raises:
        UnknownGenerationError: no job has this id, or several ids start with it.
        JobNotFailedError: the job has not failed, nor was it cancelled.
        DGXMusicError: as `MusicService.submit`.
    """
    job = service.get(id_or_prefix)
    if job.status not in {storage.GenerationStatus.FAILED, storage.GenerationStatus.CANCELLED}:
        raise JobNotFailedError(
            f"The job {job.job_id} is {job.status}. Only a job that failed or was cancelled can "
            "be sent again."
        )
    checked = service.check(_request_of(job))
    return replace(checked, parent=job.job_id, parent_owner=job.owner)


def list_failed() -> list[str]:
    """Return the ids of the failed jobs that are still to be sent again, oldest first.

    One that was sent again counts as such unless the new job was cancelled.
    """
    with storage_errors(), storage.get_session(read_only=True) as session:
        return storage.list_failed_without_successor(session)


def _request_of(job: Job) -> GenerationRequest:
    names = (*KEPT_FIELDS, "seed", "bars", "loop")
    return parse_request(
        prompt=job.prompt,
        duration=job.duration_seconds,
        model=job.model,
        **{name: job.metadata[name] for name in names if name in job.metadata},
        **input_hashes(job.metadata),
    )
