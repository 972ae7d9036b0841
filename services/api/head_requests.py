"""HEAD on every route that answers GET: the same answer without its body."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Match

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_MARK = "dgx_music.is_head"


class HeadRequests:
    """Passes a HEAD request on as GET, and sends only the start of the answer.

    Routes that have a HEAD of their own, such as files, get the request as it is.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD" or _is_routed(scope):
            await self._app(scope, receive, send)
            return

        async def send_without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self._app({**scope, "method": "GET", _MARK: True}, receive, send_without_body)


def is_head(request: Request) -> bool:
    """Whether the client sent HEAD; a stream, which would not end by itself, must not begin."""
    return bool(request.scope.get(_MARK))


def _is_routed(scope: Scope) -> bool:
    return any(route.matches(scope)[0] is Match.FULL for route in scope["app"].routes)
