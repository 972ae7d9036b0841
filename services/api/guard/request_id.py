"""One id for each request: in the answer, in what is logged, and in the problems."""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING

from services.api.guard.scopes import header_of, state_of
from services.logs import request_id_of_context

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "x-request-id"
NAME = HEADER.encode()

_SANE = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestId:
    """Takes the client's X-Request-ID where it is one, else makes an id, and sends it back."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = header_of(scope, HEADER)
        request_id = sent if sent and _SANE.fullmatch(sent) else uuid.uuid4().hex
        state_of(scope)["request_id"] = request_id
        # Not reset at the end: the server logs a fault of the application after it, in this task.
        request_id_of_context.set(request_id)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                others = [pair for pair in message.get("headers", []) if pair[0].lower() != NAME]
                message["headers"] = [*others, (NAME, request_id.encode())]
            await send(message)

        await self._app(scope, receive, send_with_id)
