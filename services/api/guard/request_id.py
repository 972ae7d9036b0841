"""The id of a request: in its answer, in its problem, and on its log lines."""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING

from services.api.guard.scopes import get_header, get_state
from services.logs import current_request_id

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "x-request-id"
NAME = HEADER.encode()

_VALID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestId:
    """Adopts a valid X-Request-ID of the client, or creates an id, and sends it back."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = get_header(scope, HEADER)
        request_id = sent if sent and _VALID.fullmatch(sent) else uuid.uuid4().hex
        get_state(scope)["request_id"] = request_id
        # Not reset at the end: uvicorn logs an exception of the application afterwards, in this
        # task.
        current_request_id.set(request_id)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                others = [pair for pair in message.get("headers", []) if pair[0].lower() != NAME]
                message["headers"] = [*others, (NAME, request_id.encode())]
            await send(message)

        await self._app(scope, receive, send_with_id)
