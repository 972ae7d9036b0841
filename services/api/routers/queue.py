"""GET /queue/stats: jobs by status, and the workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from services import storage
from services.api.problems import describe_problems
from services.api.reads import SharedReads
from services.api.state import Api
from services.database import storage_errors
from services.jobs.living import living_in
from services.operations.probes import CachedValue

router = APIRouter(tags=["queue"])

COUNTING_SHARE = 0.05
"""Share of the time that may be spent on counting finished rows. The count of a million rows takes
tens of milliseconds, so it may be a second old."""


class WorkerStats(BaseModel):
    """A worker that is alive."""

    model_config = ConfigDict(protected_namespaces=())

    models: list[str] = Field(description="Models whose jobs it runs.")
    concurrency: int = Field(description="Jobs it runs at once.")
    draining: bool = Field(description="Whether it is shutting down and takes no new jobs.")
    outage: str | None = Field(
        description="Why it takes no jobs for now: what its machine lacks. Null while it does."
    )


class QueueStats(BaseModel):
    """Everybody's jobs by status, and the workers."""

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
                    "workers": [
                        {
                            "models": ["composer"],
                            "concurrency": 1,
                            "draining": False,
                            "outage": None,
                        }
                    ],
                }
            ]
        }
    )

    pending_jobs: int
    processing_jobs: int
    completed_jobs: int
    failed_jobs: int
    cancelled_jobs: int
    oldest_pending_job_age_seconds: float | None = Field(description="Null if no job waits.")
    average_processing_time_seconds: float | None = Field(
        description="Over the last 100 completed jobs; null if there is none."
    )
    workers_alive: int
    workers: list[WorkerStats]


def _make_reader(api: Api) -> Callable[[list[str]], dict[str, bytes]]:
    finished = CachedValue(_count_finished, share=COUNTING_SHARE)
    return lambda keys: dict.fromkeys(keys, _read_stats(api, finished.get))


def _count_finished() -> dict[str, int]:
    with storage.get_session(read_only=True) as session:
        return storage.count_statuses(session, only=storage.FINISHED_STATUSES)


@router.get(
    "/queue/stats",
    response_model=QueueStats,
    responses=describe_problems("key-required", "unavailable"),
    summary="Get queue statistics",
)
async def get_queue_stats(request: Request, api: Api) -> Response:
    """Count everybody's jobs by status, and list the workers that are alive."""
    state = request.app.state
    if not hasattr(state, "queue_stats"):
        state.queue_stats = SharedReads(_make_reader(api), concurrency=1)
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
            WorkerStats(
                models=list(one.models),
                concurrency=one.concurrency,
                draining=one.draining,
                outage=one.outage,
            )
            for one in living
        ],
    )
    return stats.model_dump_json().encode()
