"""Route templates of paths, also for requests that are refused before they reach their route."""

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
        self._patterns: list[tuple[re.Pattern[str], str]] | None = None

    def find_template(self, path: str) -> str:
        """Return the template of a path, such as `/api/v1/jobs/{job_id}`, or `UNMATCHED`.

        Args:
            path: path of the request, without the prefix of a proxy.
        """
        # The scope of a request has its route, but without the prefix of the router.
        if self._patterns is None:
            self._patterns = self._read_patterns()
        matches = (template for pattern, template in self._patterns if pattern.match(path))
        return next(matches, UNMATCHED)

    def _read_patterns(self) -> list[tuple[re.Pattern[str], str]]:
        routes: list[Any] = list(iter_route_contexts(self._app.routes))
        return [
            (route.path_regex, route.path_format)
            for route in routes
            if route.path_format is not None
        ]
