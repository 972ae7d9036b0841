"""What the routes share: the service, the feed of events, and whether the server is leaving."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request

from services.generation.api.caller import Caller

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


def _state(request: Request) -> ApiState:
    state: ApiState = request.app.state.api
    return state


def _caller(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller


Api = Annotated[ApiState, Depends(_state)]
Calling = Annotated[Caller, Depends(_caller)]
