"""GET /queue/stats: how much there is to do, and who does it."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from services import storage
from services.api.problems import documented
from services.api.reads import SharedReads
from services.api.state import Api
from services.database import storage_errors
from services.jobs.living import living_in
from services.operations.watching import Kept

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


def _reader_of(api: Api) -> Callable[[list[str]], dict[str, bytes]]:
    # Counted not more often than the size of the database allows.
    finished = Kept(_count_finished, share=COUNTING_SHARE)
    return lambda asked: dict.fromkeys(asked, _read_stats(api, finished.get))


def _count_finished() -> dict[str, int]:
    with storage.get_session(read_only=True) as session:
        return storage.count_statuses(session, only=storage.FINISHED_STATUSES)


@router.get(
    "/queue/stats",
    response_model=QueueStats,
    responses=documented("key-required", "unavailable"),
    summary="Count the jobs, and who makes them",
)
async def get_queue_stats(request: Request, api: Api) -> Response:
    """Count the jobs of everybody by status, and say who works on them."""
    state = request.app.state
    if not hasattr(state, "queue_stats"):
        state.queue_stats = SharedReads(_reader_of(api), lanes=1)
    shared = cast("SharedReads[str, bytes]", state.queue_stats)
    return Response(await shared.read(""), media_type="application/json")


def _read_stats(api: Api, finished: Callable[[], dict[str, int]]) -> bytes:
    with storage_errors():
        with storage.get_session(read_only=True) as session:
            counts = storage.count_statuses(session, only=storage.UNFINISHED_STATUSES)
            _, oldest = storage.count_waiting(session)
            average = storage.average_work_seconds(session)
            living = living_in(session, api.settings.worker_ttl_seconds)
        counts |= finished()
    age = None if oldest is None else max(0.0, (storage.utc_now() - oldest).total_seconds())
    stats = QueueStats(
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
    return stats.model_dump_json().encode()
