"""ASGI middleware that counts and times requests."""

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
"""Label of any other method: a client could invent methods, and each would be a new series."""

_FAILED = 500


class HttpInstruments:
    """The HTTP metrics of one application."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "dgx_music_http_requests",
            "Requests answered.",
            ("method", "route", "status"),
            registry=registry,
        )
        self.seconds = Histogram(
            "dgx_music_http_request_seconds",
            "Time from the request to the start of the answer; excludes sending the body, so that "
            "slow readers and event streams do not count as slow.",
            ("method", "route"),
            buckets=BUCKETS,
            registry=registry,
        )


class HttpMetrics:
    """Counts every request, so it must be outside of every layer that can refuse one."""

    def __init__(self, app: ASGIApp, instruments: HttpInstruments, names: RouteNames) -> None:
        self._app = app
        self._instruments = instruments
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        method = scope["method"] if scope["method"] in METHODS else OTHER
        route = self._names.find_template(scope["path"].removeprefix(scope.get("root_path", "")))
        is_answered = False

        def count(status: int) -> None:
            nonlocal is_answered
            is_answered = True
            self._instruments.requests.labels(method, route, str(status)).inc()
            self._instruments.seconds.labels(method, route).observe(time.perf_counter() - began)

        async def send_and_count(message: Message) -> None:
            if message["type"] == "http.response.start":
                count(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, send_and_count)
        finally:
            if not is_answered:
                # uvicorn answers 500 when the application sends nothing.
                count(_FAILED)
