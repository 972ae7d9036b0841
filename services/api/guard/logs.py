"""A line in the log for each request, also for those that are refused."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from services.api.guard.scopes import (
    OPERATOR,
    caller_of,
    request_id_of,
    state_of,
)
from services.api.problems import INTERNAL_DETAIL, ProblemError, send_problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from services.api.caller import Caller
    from services.api.guard.addresses import ClientFinder
    from services.api.route_names import RouteNames

log = logging.getLogger("services.api.access")

CLIENT_LEFT = 499
"""Logged as the status where the client went away before there was one."""


class AccessLog:
    """Logs what was asked by whom and what came of it; no path, query or body, so no prompt."""

    def __init__(self, app: ASGIApp, find_client: ClientFinder, names: RouteNames) -> None:
        self._app = app
        self._find_client = find_client
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        state_of(scope)["client"] = self._find_client(scope)
        status, sent = CLIENT_LEFT, 0

        async def counting_send(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, counting_send)
        except Exception:
            if status == CLIENT_LEFT:
                fault = ProblemError("internal-error", INTERNAL_DETAIL)
                await send_problem(counting_send, fault, request_id_of(scope))
            raise
        finally:
            route = self._names.name_of(scope["path"])
            _log(scope, route, status, time.perf_counter() - begun, sent)


def _log(scope: Scope, route: str, status: int, seconds: float, sent: int) -> None:
    log.info(
        "answered method=%s route=%s status=%d seconds=%.4f bytes=%d client=%s key=%s",
        scope["method"],
        route,
        status,
        round(seconds, 4),
        sent,
        state_of(scope)["client"].address,
        _key(caller_of(scope)),
        extra={"request_id": request_id_of(scope)},
    )


def _key(caller: Caller | None) -> str:
    """Which key was sent, by its id; never the key."""
    if caller is None:
        return "none"
    return caller.owner or (OPERATOR if caller.name == OPERATOR else "none")
