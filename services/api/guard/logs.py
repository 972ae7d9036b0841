"""The access log: one line per request, including refused ones."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from services.api.guard.scopes import (
    OPERATOR,
    get_caller,
    get_request_id,
    get_state,
)
from services.api.problems import INTERNAL_DETAIL, ProblemError, send_problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from services.api.caller import Caller
    from services.api.guard.addresses import ClientFinder
    from services.api.route_names import RouteNames

log = logging.getLogger("services.api.access")

CLIENT_LEFT = 499
"""Status in the log if the client disconnected before it got one."""


class AccessLog:
    """Logs caller, route and outcome; never path, query or body, which may contain a prompt."""

    def __init__(self, app: ASGIApp, find_client: ClientFinder, names: RouteNames) -> None:
        self._app = app
        self._find_client = find_client
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        get_state(scope)["client"] = self._find_client(scope)
        status, sent = CLIENT_LEFT, 0

        async def send_and_count(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, send_and_count)
        except Exception:
            if status == CLIENT_LEFT:
                fault = ProblemError("internal-error", INTERNAL_DETAIL)
                await send_problem(send_and_count, fault, get_request_id(scope))
            raise
        finally:
            route = self._names.find_template(scope["path"])
            _log(scope, route, status, time.perf_counter() - began, sent)


def log_refusal(status: int, size: int, client: tuple[str, int] | None, request_id: str) -> None:
    """Log the answer to what is no request, or to one that there is no room for.

    Args:
        status: of the answer.
        size: of its body, bytes.
        client: address and port of the other end of the connection, which may be a proxy.
        request_id: of the answer.
    """
    address = "unknown" if client is None else client[0]
    _write_line("none", "none", status, 0.0, size, address, "none", request_id)


def _log(scope: Scope, route: str, status: int, seconds: float, sent: int) -> None:
    client = get_state(scope)["client"].address
    key = _get_key_id(get_caller(scope))
    _write_line(scope["method"], route, status, seconds, sent, client, key, get_request_id(scope))


def _write_line(
    method: str,
    route: str,
    status: int,
    seconds: float,
    sent: int,
    client: str,
    key: str,
    request_id: str | None,
) -> None:
    log.info(
        "answered method=%s route=%s status=%d seconds=%.4f bytes=%d client=%s key=%s",
        method,
        route,
        status,
        round(seconds, 4),
        sent,
        client,
        key,
        extra={"request_id": request_id},
    )


def _get_key_id(caller: Caller | None) -> str:
    if caller is None:
        return "none"
    return caller.owner or (OPERATOR if caller.name == OPERATOR else "none")
