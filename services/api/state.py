"""State that the routes share: service, event feed, health checks and shared reads."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request

from services import storage
from services.api.caller import Caller
from services.api.reads import SharedReads
from services.api.snapshots import Snapshots
from services.database import storage_errors
from services.operations.health import Health

if TYPE_CHECKING:
    from services.api.feed import Feed
    from services.config import Settings
    from services.jobs.models import Job
    from services.jobs.renditions import Renditions
    from services.jobs.service import MusicService
    from services.worker.worker import Worker


JOB_READS = 2
MAX_JOBS = 32
"""Jobs in one read. The bound is low because a waiting job also costs a count of the queue."""


@dataclass(slots=True)
class ApiState:
    """The shared state of one application."""

    settings: Settings
    service: MusicService
    feed: Feed
    renditions: Renditions
    worker: Worker | None = None
    """The worker inside this process; None if other processes run the jobs."""
    is_draining: bool = False
    """True after a signal: the server accepts no more jobs."""
    started_at: float = field(default_factory=time.monotonic)
    """Monotonic clock, seconds."""
    health: Health = field(init=False)
    snapshots: Snapshots = field(init=False)
    jobs: SharedReads[str, Job] = field(init=False)
    """Jobs by id."""
    keys: SharedReads[str, bool] = field(init=False)
    """True for the ids of keys that are not revoked; other ids have no value."""

    def __post_init__(self) -> None:
        self.health = Health(self.settings, self.service.registry)
        self.snapshots = Snapshots(self.feed)
        self.keys = SharedReads(_find_keys_in_use, concurrency=1, max_keys=MAX_JOBS)
        self.jobs = SharedReads(self._find_jobs, concurrency=JOB_READS, max_keys=MAX_JOBS)

    def _find_jobs(self, job_ids: list[str]) -> dict[str, Job]:
        return self.service.find_all(job_ids)


def _find_keys_in_use(key_ids: list[str]) -> dict[str, bool]:
    with storage_errors(), storage.get_session(read_only=True) as session:
        return dict.fromkeys(storage.find_active_keys(session, key_ids), True)


# These are asynchronous because FastAPI runs a plain dependency in a thread, at each request.


async def _get_state(request: Request) -> ApiState:
    state: ApiState = request.app.state.api
    return state


async def _get_caller(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller


Api = Annotated[ApiState, Depends(_get_state)]
CurrentCaller = Annotated[Caller, Depends(_get_caller)]
