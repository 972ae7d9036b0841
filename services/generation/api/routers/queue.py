"""GET /queue/stats: how much there is to do, and who does it."""

from __future__ import annotations

from typing import cast

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from services import storage
from services.generation.api.problems import documented
from services.generation.api.state import Api
from services.generation.database import storage_errors
from services.generation.liveness import living_workers
from services.generation.watching import Kept

router = APIRouter(tags=["queue"])

COUNTING_SHARE = 0.05
"""Of the time that may go into counting finished rows: of a million they may be a second old."""


class WorkerStats(BaseModel):
    """One living worker."""

    model_config = ConfigDict(protected_namespaces=())

    models: list[str] = Field(description="Engines it takes jobs for.")
    concurrency: int = Field(description="Jobs at once.")
    draining: bool = Field(description="It takes nothing new.")


class QueueStats(BaseModel):
    """The queue in figures, of everybody's jobs."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "pending_jobs": 3,
                    "processing_jobs": 1,
                    "completed_jobs": 1204,
                    "failed_jobs": 2,
                    "cancelled_jobs": 5,
                    "oldest_pending_job_age_seconds": 4.2,
                    "average_processing_time_seconds": 2.1,
                    "workers_alive": 1,
                    "workers": [{"models": ["composer"], "concurrency": 1, "draining": False}],
                }
            ]
        }
    )

    pending_jobs: int
    processing_jobs: int
    completed_jobs: int
    failed_jobs: int
    cancelled_jobs: int
    oldest_pending_job_age_seconds: float | None = Field(description="Null when nothing waits.")
    average_processing_time_seconds: float | None = Field(
        description="Of the last 100 completed jobs; null when there is none."
    )
    workers_alive: int
    workers: list[WorkerStats]


def finished_of(request: Request) -> dict[str, int]:
    """Count finished jobs by status, not more often than the size of the database allows."""
    state = request.app.state
    if not hasattr(state, "status_counts"):
        state.status_counts = Kept(_count, share=COUNTING_SHARE)
    return cast("Kept[dict[str, int]]", state.status_counts).get()


def _count() -> dict[str, int]:
    with storage.get_session(read_only=True) as session:
        return storage.count_statuses(session, only=storage.FINISHED_STATUSES)


@router.get(
    "/queue/stats",
    responses=documented("key-required", "unavailable"),
    summary="Count the jobs, and who makes them",
)
def get_queue_stats(request: Request, api: Api) -> QueueStats:
    """Count the jobs of everybody by status, and say who works on them."""
    with storage_errors():
        with storage.get_session(read_only=True) as session:
            counts = storage.count_statuses(session, only=storage.UNFINISHED_STATUSES)
            _, oldest = storage.count_waiting(session)
            average = storage.average_work_seconds(session)
        counts |= finished_of(request)
        living = living_workers(api.settings.worker_ttl_seconds)
    age = None if oldest is None else max(0.0, (storage.utc_now() - oldest).total_seconds())
    return QueueStats(
        pending_jobs=counts.get("pending", 0),
        processing_jobs=counts.get("processing", 0),
        completed_jobs=counts.get("completed", 0),
        failed_jobs=counts.get("failed", 0),
        cancelled_jobs=counts.get("cancelled", 0),
        oldest_pending_job_age_seconds=age,
        average_processing_time_seconds=average,
        workers_alive=len(living),
        workers=[
            WorkerStats(models=list(one.models), concurrency=one.concurrency, draining=one.draining)
            for one in living
        ],
    )
