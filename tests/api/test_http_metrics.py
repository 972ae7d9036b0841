"""HTTP metrics: one count for each request, whatever the application does with it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from services.api.http_metrics import HttpInstruments, HttpMetrics
from services.api.route_names import RouteNames


async def answer(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 201, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def fail(_scope: Any, _receive: Any, _send: Any) -> None:
    raise ZeroDivisionError


async def fail_late(scope: Any, receive: Any, send: Any) -> None:
    await answer(scope, receive, send)
    raise ZeroDivisionError


async def say_nothing(_scope: Any, _receive: Any, _send: Any) -> None:
    pass


def make_framework() -> FastAPI:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.get("/jobs/{job_id}")(lambda job_id: job_id)
    return app


def count(app: Any, method: str = "GET", path: str = "/jobs/1", root: str = "") -> dict[Any, float]:
    """Send a request; return its samples, (method, route, status) -> count."""
    registry = CollectorRegistry()
    metrics = HttpMetrics(app, HttpInstruments(registry), RouteNames(make_framework()))
    scope = {"type": "http", "method": method, "path": path, "root_path": root}

    async def send(_message: Any) -> None:
        pass

    with suppress(ZeroDivisionError):
        asyncio.run(metrics(scope, None, send))  # type: ignore[arg-type]
    return {
        tuple(sample.labels[name] for name in ("method", "route", "status")): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "dgx_music_http_requests_total"
    }


@pytest.mark.parametrize(
    ("app", "status"), [(answer, "201"), (fail, "500"), (fail_late, "201"), (say_nothing, "500")]
)
def test_request_is_counted_once_with_the_status_the_client_gets(app: Any, status: str) -> None:
    assert count(app) == {("GET", "/jobs/{job_id}", status): 1}


@pytest.mark.parametrize(
    ("method", "path", "root", "expected"),
    [
        ("PATCH", "/jobs/1", "", ("PATCH", "/jobs/{job_id}", "201")),
        ("get", "/jobs/1", "", ("other", "/jobs/{job_id}", "201")),
        ("BREW", "/jobs/1", "", ("other", "/jobs/{job_id}", "201")),
        ("GET", "/jobs/1/2", "", ("GET", "unmatched", "201")),
        ("GET", "/music/jobs/1", "/music", ("GET", "/jobs/{job_id}", "201")),
    ],
)
def test_labels_are_bounded(method: str, path: str, root: str, expected: tuple[str, ...]) -> None:
    assert count(answer, method, path, root) == {expected: 1}


def test_other_protocols_are_not_counted() -> None:
    registry = CollectorRegistry()
    metrics = HttpMetrics(say_nothing, HttpInstruments(registry), RouteNames(make_framework()))
    asyncio.run(metrics({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    assert registry.get_sample_value("dgx_music_http_requests_total") is None
    assert not [s for family in registry.collect() for s in family.samples]
