"""The template behind a path, also of a request that was refused before it got to its route."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi.routing import iter_route_contexts

if TYPE_CHECKING:
    import re

    from fastapi import FastAPI

UNMATCHED = "unmatched"


class RouteNames:
    """The templates of an application's routes."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._known: list[tuple[re.Pattern[str], str]] | None = None

    def name_of(self, path: str) -> str:
        """Give the template, as `/api/v1/jobs/{job_id}`, or `UNMATCHED`.

        The scope of a request would tell the route, but not the prefix of its router.

        Args:
            path: as the request has it, without what a proxy put before it.
        """
        if self._known is None:
            self._known = list(self._patterns())
        return next((name for shape, name in self._known if shape.match(path)), UNMATCHED)

    def _patterns(self) -> list[tuple[re.Pattern[str], str]]:
        routes: list[Any] = list(iter_route_contexts(self._app.routes))
        return [
            (route.path_regex, route.path_format)
            for route in routes
            if route.path_format is not None
        ]
