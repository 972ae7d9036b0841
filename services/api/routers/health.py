"""GET /health, /health/ready and /health/live, for monitoring, proxies and supervisors."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from services.api.state import Api
from services.operations.health import HealthReport, Readiness

router = APIRouter(tags=["health"])

NO_STORE = "no-store"
WEDGED_TTLS = 2.0
"""Age of a worker's heartbeat, in worker TTLs, at which its process counts as wedged. A worker
ends itself after one TTL; if it has not, it hangs."""


class Liveness(BaseModel):
    """Whether the process works."""

    status: Literal["alive", "wedged"]
    worker_beat_age_seconds: float | None = Field(
        default=None,
        description="Age of the heartbeat of the server's own worker; null without one.",
    )


@router.get(
    "/health",
    summary="Check everything",
    responses={503: {"model": HealthReport, "description": "Unhealthy; the checks say why"}},
)
def get_health(response: Response, api: Api) -> HealthReport:
    """Check the database, the GPU, the queue and the disks, within three seconds.

    Healthy and degraded are 200, unhealthy is 503.
    """
    report = api.health.report(api.started_at)
    _set_status(response, is_good=report.status != "unhealthy")
    return report


@router.get(
    "/health/ready",
    summary="Check readiness",
    responses={503: {"model": Readiness, "description": "Send requests to another server"}},
)
def get_readiness(response: Response, api: Api) -> Readiness:
    """Whether requests should be sent to this server: 200 if so, else 503.

    Requires that the database answers and is at this release's revision, files can be written and
    have enough space, the queue is not full, and the server is not shutting down.
    """
    readiness = api.health.readiness(is_draining=api.is_draining)
    _set_status(response, is_good=readiness.ready)
    return readiness


@router.get(
    "/health/live",
    summary="Check liveness",
    responses={503: {"model": Liveness, "description": "The process hangs; restart it"}},
)
async def get_liveness(response: Response, api: Api) -> Liveness:
    """Whether the process works: 200 if so, 503 if it should be restarted.

    Checks nothing outside the process.
    """
    age = None if api.worker is None else round(api.worker.heartbeat_age, 3)
    is_wedged = age is not None and age > WEDGED_TTLS * api.settings.worker_ttl_seconds
    _set_status(response, is_good=not is_wedged)
    return Liveness(status="wedged" if is_wedged else "alive", worker_beat_age_seconds=age)


def _set_status(response: Response, *, is_good: bool) -> None:
    response.status_code = 200 if is_good else 503
    response.headers["Cache-Control"] = NO_STORE
