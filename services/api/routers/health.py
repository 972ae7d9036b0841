"""GET /health, /health/ready, /health/live: whether the service works, for people and systems."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from services.api.state import Api
from services.operations.health import HealthReport, Readiness

router = APIRouter(tags=["health"])

NO_STORE = "no-store"
WEDGED_BEATS = 2.0
"""Lives of a worker without a beat after which its process is of no use. After one a worker ends
itself; that this one did not shows that it hangs."""


class Liveness(BaseModel):
    """Whether the process works at all."""

    status: Literal["alive", "wedged"]
    worker_beat_age_seconds: float | None = Field(
        default=None, description="Of the worker within the server; null where there is none."
    )


@router.get(
    "/health",
    summary="Look at everything",
    responses={503: {"model": HealthReport, "description": "Unhealthy; the checks say why."}},
)
def get_health(response: Response, api: Api) -> HealthReport:
    """Look at the database, the GPU, the queue and the disks.

    200 for healthy and degraded, 503 for unhealthy; the answer comes within three seconds.
    """
    report = api.health.report(api.started_at)
    _answer(response, is_good=report.status != "unhealthy")
    return report


@router.get(
    "/health/ready",
    summary="Say whether requests may come here",
    responses={503: {"model": Readiness, "description": "Send requests elsewhere for now."}},
)
def get_readiness(response: Response, api: Api) -> Readiness:
    """Say whether requests should be sent here: 200, else 503.

    The database answers and is at this release's revision, files can be written and there is room
    for them, the queue is not full, and the server is not leaving.
    """
    readiness = api.health.readiness(draining=api.draining)
    _answer(response, is_good=readiness.ready)
    return readiness


@router.get(
    "/health/live",
    summary="Say whether the process works",
    responses={503: {"model": Liveness, "description": "It hangs; start it again."}},
)
async def get_liveness(response: Response, api: Api) -> Liveness:
    """Say whether the process should be started again: 503, else 200. Nothing else is looked at."""
    age = None if api.worker is None else round(api.worker.beat_age, 3)
    wedged = age is not None and age > WEDGED_BEATS * api.settings.worker_ttl_seconds
    _answer(response, is_good=not wedged)
    return Liveness(status="wedged" if wedged else "alive", worker_beat_age_seconds=age)


def _answer(response: Response, *, is_good: bool) -> None:
    response.status_code = 200 if is_good else 503
    response.headers["Cache-Control"] = NO_STORE
