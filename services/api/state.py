"""What the routes share: the service, the feed of events, and whether the server is leaving."""

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


JOB_LANES = 2
MOST_JOBS = 32
"""Read together; one of them that waits also takes a count of what waits before it."""


@dataclass(slots=True)
class ApiState:
    """Made once for each application."""

    settings: Settings
    service: MusicService
    feed: Feed
    renditions: Renditions
    worker: Worker | None = None
    """The worker inside this process; None when others make the jobs."""
    draining: bool = False
    """Set once the server is told to stop: it takes no more jobs."""
    started_at: float = field(default_factory=time.monotonic)
    """On the monotonic clock."""
    health: Health = field(init=False)
    snapshots: Snapshots = field(init=False)
    jobs: SharedReads[str, Job] = field(init=False)
    """By id."""
    keys: SharedReads[str, bool] = field(init=False)
    """The ids of keys that were not revoked."""

    def __post_init__(self) -> None:
        """Make the checks, the snapshots and the shared reads ready."""
        self.health = Health(self.settings, self.service.registry)
        self.snapshots = Snapshots(self.feed)
        self.keys = SharedReads(_keys_in_use, lanes=1, most=MOST_JOBS)
        self.jobs = SharedReads(self._find_jobs, lanes=JOB_LANES, most=MOST_JOBS)

    def _find_jobs(self, job_ids: list[str]) -> dict[str, Job]:
        return self.service.find_all(job_ids)


def _keys_in_use(key_ids: list[str]) -> dict[str, bool]:
    with storage_errors(), storage.get_session(read_only=True) as session:
        return dict.fromkeys(storage.keys_in_use(session, key_ids), True)


# Asynchronous, though they wait for nothing: a plain function would each time go to a thread.


async def _state(request: Request) -> ApiState:
    state: ApiState = request.app.state.api
    return state


async def _caller(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller


Api = Annotated[ApiState, Depends(_state)]
Calling = Annotated[Caller, Depends(_caller)]
