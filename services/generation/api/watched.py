"""What the routes take from the application they are part of."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Protocol

from fastapi import Depends, Request

from services.generation.api.caller import Caller
from services.generation.health import Health

if TYPE_CHECKING:
    from services.generation.config import Settings
    from services.generation.service import MusicService


class EmbeddedWorker(Protocol):
    """A worker in the process of the server."""

    @property
    def beat_age(self) -> float:
        """Seconds since its last beat."""

    @property
    def loaded_models(self) -> Counter[str]:
        """Engine -> how many processes have it."""


class ApiState(Protocol):
    """`app.state.api`."""

    settings: Settings
    service: MusicService
    started_at: float
    """On the monotonic clock."""

    @property
    def draining(self) -> bool:
        """Whether the server is leaving."""

    @property
    def worker(self) -> EmbeddedWorker | None:
        """The worker within; None where the server has none."""


async def api_state(request: Request) -> ApiState:
    """Give the state of the application."""
    state: ApiState = request.app.state.api
    return state


async def caller_of(request: Request) -> Caller:
    """Give who calls."""
    caller: Caller = request.state.caller
    return caller


async def health_of(request: Request) -> Health:
    """Give the application's checks, made at their first use."""
    state = request.app.state
    if not hasattr(state, "health"):
        state.health = Health(state.api.settings, state.api.service.registry)
    health: Health = state.health
    return health


State = Annotated[ApiState, Depends(api_state)]
Calling = Annotated[Caller, Depends(caller_of)]
TheHealth = Annotated[Health, Depends(health_of)]
