"""What the guard reads from a request, notes on it, and answers when it refuses it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import anyio.to_thread
from sqlalchemy.exc import TimeoutError as NoConnectionError

from services import storage
from services.api.problems import RETRY_SECONDS, ProblemError, send_problem

if TYPE_CHECKING:
    from anyio import CapacityLimiter
    from starlette.types import Scope, Send

    from services.api.caller import Caller

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

DATABASE_AWAY = "The database does not answer now; without it no request can be checked."
OPERATOR = "operator"
"""Name of the caller with the key of the settings."""


def state_of(scope: Scope) -> dict[str, Any]:
    """Give what is noted on the request; Starlette shows it as `request.state`."""
    state: dict[str, Any] = scope.setdefault("state", {})
    return state


def headers_of(scope: Scope, name: str) -> list[str]:
    """Give every header of a name, in order."""
    wanted = name.encode()
    return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == wanted]


def header_of(scope: Scope, name: str) -> str | None:
    """Give the header of a name; None when there is none, or more than one."""
    found = headers_of(scope, name)
    return found[0] if len(found) == 1 else None


def request_id_of(scope: Scope) -> str | None:
    """Give the id of the request."""
    found: str | None = state_of(scope).get("request_id")
    return found


def caller_of(scope: Scope) -> Caller | None:
    """Give who sent the request; None when it was refused before that was known."""
    found: Caller | None = state_of(scope).get("caller")
    return found


def has_body(scope: Scope) -> bool:
    """Whether the request says that a body follows."""
    lengths = headers_of(scope, "content-length")
    return bool(headers_of(scope, "transfer-encoding")) or any(
        length.strip() != "0" for length in lengths
    )


async def refuse(scope: Scope, send: Send, error: ProblemError) -> None:
    """Answer with a problem; a connection on which a body is still to come is closed."""
    if has_body(scope):
        error.headers["Connection"] = "close"
    await send_problem(send, error, request_id_of(scope))


async def ask_database(limiter: CapacityLimiter, question: Callable[[], Answer]) -> Answer:
    """Ask the database in a thread.

    Args:
        limiter: how many of the guard's questions are asked at once.
        question: opens its own session.

    Raises:
        ProblemError: `unavailable`, when the database does not answer.
    """
    try:
        return await anyio.to_thread.run_sync(question, limiter=limiter)
    except (storage.StorageError, NoConnectionError) as error:
        log.warning("the database does not answer: %s", error)
        raise ProblemError(
            "unavailable", DATABASE_AWAY, headers={"Retry-After": str(RETRY_SECONDS)}
        ) from error
