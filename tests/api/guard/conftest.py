"""A small application behind the real guard, and requests from any address."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx2 as httpx
import pytest

from services.api.guard import assemble
from services.api.route_names import RouteNames
from services.config import Settings

HERE = Path(__file__).parent
THIS_MACHINE = "127.0.0.1"
ELSEWHERE = "203.0.113.7"


def load_application() -> ModuleType:
    spec = importlib.util.spec_from_file_location("guarded_app", HERE / "guarded_app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Served:
    """A guarded application in one event loop."""

    def __init__(self, settings: Settings, host: str | None = None) -> None:
        self.app, self.bodies = load_application().make()
        self.guarded = assemble(self.app, settings, RouteNames(self.app), host=host)
        self._runner = asyncio.Runner()

    def request(
        self, method: str, path: str, *, address: str = THIS_MACHINE, **options: Any
    ) -> httpx.Response:
        return self.requests(1, method, path, address=address, **options)[0]

    def requests(
        self, count: int, method: str, path: str, *, address: str = THIS_MACHINE, **options: Any
    ) -> list[httpx.Response]:
        """Send the same request several times at once."""
        return self._runner.run(self._send(count, method, path, address, options))

    async def _send(
        self, count: int, method: str, path: str, address: str, options: dict[str, Any]
    ) -> list[httpx.Response]:
        transport = httpx.ASGITransport(
            self.guarded, client=(address, 40000), raise_app_exceptions=False
        )
        base = options.pop("base_url", "http://localhost:8000")
        async with httpx.AsyncClient(transport=transport, base_url=base) as client:
            sent = (client.request(method, f"/api/v1{path}", **options) for _ in range(count))
            return await asyncio.gather(*sent)

    def call(self, scope: dict[str, Any], *messages: dict[str, Any]) -> list[dict[str, Any]]:
        """Send a request that a client library would not let through."""
        waiting = [*messages, {"type": "http.disconnect"}]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return waiting.pop(0) if len(waiting) > 1 else waiting[0]

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        self._runner.run(self.guarded(scope, receive, send))
        return sent

    def close(self) -> None:
        self._runner.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """Guard an application; settings without their prefix."""
    running = []

    def start(host: str | None = None, **settings: Any) -> Served:
        running.append(Served(Settings(_env_file=None, **settings), host))
        return running[-1]

    yield start
    for served in running:
        served.close()


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("services")
    before = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])
