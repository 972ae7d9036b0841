"""Requests and answers, counted and timed: a pure ASGI middleware."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from services.api.route_names import RouteNames

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "other"
"""Any other method: who asks may invent some, and each would be a series."""

_FAILED = 500


class HttpInstruments:
    """What is counted of requests."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "dgx_music_http_requests",
            "Requests answered.",
            ("method", "route", "status"),
            registry=registry,
        )
        self.seconds = Histogram(
            "dgx_music_http_request_seconds",
            "From the request until the answer begins, so that neither a slow reader nor an event "
            "stream counts as a slow server.",
            ("method", "route"),
            buckets=BUCKETS,
            registry=registry,
        )


class HttpMetrics:
    """Counts what goes through it; it belongs outside of everything that may refuse a request."""

    def __init__(self, app: ASGIApp, instruments: HttpInstruments, names: RouteNames) -> None:
        self._app = app
        self._instruments = instruments
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count a request, and what is answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        method = scope["method"] if scope["method"] in METHODS else OTHER
        route = self._names.name_of(scope["path"].removeprefix(scope.get("root_path", "")))
        answered = False

        def count(status: int) -> None:
            nonlocal answered
            answered = True
            self._instruments.requests.labels(method, route, str(status)).inc()
            self._instruments.seconds.labels(method, route).observe(time.perf_counter() - began)

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                count(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            if not answered:
                # The server answers so where the application says nothing.
                count(_FAILED)
