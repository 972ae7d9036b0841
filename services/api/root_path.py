"""The path under which a proxy offers the server: links begin with it, routes do not."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

PREFIX = "/api/v1"
"""Of all routes but /metrics."""

current_root_path: ContextVar[str] = ContextVar("root_path", default="")
"""Of the server that answers; empty without a proxy's prefix."""


def under_root(path: str) -> str:
    """Return the path of a link as a client of the proxy has to ask for it."""
    return current_root_path.get() + path


class RootPath:
    """Lets the links of answers begin with the prefix, which a proxy may remove or pass on."""

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        current_root_path.set(self._root_path)
        # A root path may itself begin as the routes do.
        if scope["type"] == "http" and not scope["path"].startswith(f"{PREFIX}/"):
            path = scope["path"]
            if self._root_path and path.startswith(f"{self._root_path}/"):
                scope = {**scope, "path": path.removeprefix(self._root_path)}
        await self._app(scope, receive, send)
