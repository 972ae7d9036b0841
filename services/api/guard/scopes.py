"""Shared by the layers of the guard: request scope, refusals and database queries."""

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

DATABASE_AWAY = "The database does not answer, and requests cannot be checked without it."
OPERATOR = "operator"
"""Name of the caller with the key of the settings."""


def get_state(scope: Scope) -> dict[str, Any]:
    """Return the dictionary behind `request.state`."""
    state: dict[str, Any] = scope.setdefault("state", {})
    return state


def get_headers(scope: Scope, name: str) -> list[str]:
    """Return the values of every header of a name (in lower case), in order."""
    wanted = name.encode()
    return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == wanted]


def get_header(scope: Scope, name: str) -> str | None:
    """Return the value of a header, or None if it is missing or sent more than once."""
    found = get_headers(scope, name)
    return found[0] if len(found) == 1 else None


def get_request_id(scope: Scope) -> str | None:
    found: str | None = get_state(scope).get("request_id")
    return found


def get_caller(scope: Scope) -> Caller | None:
    """Return the caller, or None if the request was refused before authentication."""
    found: Caller | None = get_state(scope).get("caller")
    return found


def has_body(scope: Scope) -> bool:
    """Whether the headers announce a body."""
    lengths = get_headers(scope, "content-length")
    return bool(get_headers(scope, "transfer-encoding")) or any(
        length.strip() != "0" for length in lengths
    )


async def refuse(scope: Scope, send: Send, error: ProblemError) -> None:
    """Answer with a problem; a request with a body, which was not read, ends the connection."""
    if has_body(scope):
        error.headers["Connection"] = "close"
    await send_problem(send, error, get_request_id(scope))


async def query_database(limiter: CapacityLimiter, query: Callable[[], Answer]) -> Answer:
    """Run a database query in a thread.

    Args:
        limiter: bounds the queries of the guard at once.
        query: opens its own session.

    Raises:
        ProblemError: `unavailable`; the database does not answer.
    """
    try:
        return await anyio.to_thread.run_sync(query, limiter=limiter)
    except (storage.StorageError, NoConnectionError) as error:
        log.warning("the database does not answer: %s", error)
        raise ProblemError(
            "unavailable", DATABASE_AWAY, headers={"Retry-After": str(RETRY_SECONDS)}
        ) from error
