"""What the routes share: the service, the feed of events, and whether the server is leaving."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request

from services.generation.api.caller import Caller
from services.generation.api.snapshots import Snapshots
from services.generation.health import Health

if TYPE_CHECKING:
    from services.generation.api.feed import Feed
    from services.generation.config import Settings
    from services.generation.renditions import Renditions
    from services.generation.service import MusicService
    from services.generation.worker import Worker


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

    def __post_init__(self) -> None:
        """Make the checks and the snapshots ready."""
        self.health = Health(self.settings, self.service.registry)
        self.snapshots = Snapshots(self.feed)


# Asynchronous, though they wait for nothing: a plain function would each time go to a thread.


async def _state(request: Request) -> ApiState:
    state: ApiState = request.app.state.api
    return state


async def _caller(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller


Api = Annotated[ApiState, Depends(_state)]
Calling = Annotated[Caller, Depends(_caller)]
