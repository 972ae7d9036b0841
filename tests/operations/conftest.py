"""Fixtures: the API over real databases, with two models and without a worker or a guard."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2 as httpx
import pytest

from services import storage
from services.api.application import create_app
from services.api.caller import Caller
from services.api.feed import Feed
from services.api.http_metrics import HttpMetrics
from services.api.root_path import PREFIX
from services.api.route_names import RouteNames
from services.api.state import ApiState
from services.config import Settings
from services.generation.composer.engine import FACTS
from services.generation.registry import EngineEntry, Registry
from services.jobs.renditions import Renditions
from services.jobs.service import MusicService
from services.machine.process_identity import ProcessIdentity

if TYPE_CHECKING:
    from fastapi import FastAPI

OPERATOR = Caller(owner=None, sees_all=True, name="operator")


def never_loaded() -> Any:
    raise AssertionError("nothing is rendered here")


@dataclass
class ServerState(ApiState):
    caller: Caller = OPERATOR


@dataclass
class Rig:
    """An application that is called through ASGI."""

    app: Any
    framework: FastAPI
    state: ServerState
    url: str

    def get(self, path: str, **parameters: object) -> Any:
        return self.ask("GET", f"{PREFIX}{path}", params=parameters)

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send one request on an event loop of its own."""

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://music") as client:
                return await client.request(method, path, **options)

        return asyncio.run(send())

    def add(self, prompt: str = "a tone", model: str = "here", **values: Any) -> str:
        """Add a pending row that is not queued; return its id."""
        with storage.get_session() as session:
            return storage.create_generation(
                session,
                prompt=prompt,
                model_name=model,
                duration_seconds=16.0,
                sample_rate=48_000,
                channels=2,
                file_path="a.wav",
                **values,
            ).id

    def complete(self, seconds: float = 2.0, **values: Any) -> str:
        """Add a completed row; return its id."""
        row_id = self.add(**values)
        with storage.get_session() as session:
            storage.complete_generation(session, row_id, seconds, 1000)
        return row_id

    def queue_up(self, model: str = "here") -> str:
        """Add a row with an entry in the queue, without a dispatch; return its id."""
        row_id = self.add(model=model)
        with storage.get_session() as session:
            row = storage.get_generation(session, row_id)
            assert row is not None
            storage.add_queue_entry(session, row, client="", priority=storage.Priority.NORMAL)
        return row_id

    def start_worker(self, name: str, *models: str) -> None:
        with storage.get_session() as session:
            storage.register_worker(
                session,
                worker_id=name,
                slot=name,
                process=str(ProcessIdentity.current()),
                host="here",
                pid=1,
                models=models,
                concurrency=2,
            )


def registry() -> Registry:
    here = replace(FACTS, name="here")
    away = replace(FACTS, name="away", channels=1)
    return Registry(
        {
            "away": EngineEntry(away, never_loaded, lambda: "Its weights are not here."),
            "here": EngineEntry(here, never_loaded, lambda: None),
        }
    )


class AsTheCaller:
    def __init__(self, app: Any, state: ServerState) -> None:
        self.app = app
        self.state = state

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        scope.setdefault("state", {})["caller"] = self.state.caller
        await self.app(scope, receive, send)


@pytest.fixture
def make_rig(tmp_path: Path) -> Callable[..., Rig]:
    def make(url: str, **values: Any) -> Rig:
        settings = Settings(
            DATABASE_URL=url, output_dir=tmp_path / "outputs", use_gpu=False, disk_low_bytes=0
        )
        # An update is not validated, so tests may set values outside the limits.
        settings = settings.model_copy(update=values)
        service = MusicService(settings, registry())
        state = ServerState(settings, service, Feed(service), Renditions(service))
        framework = create_app(state, service.registry)
        caller = AsTheCaller(framework, state)
        counted = HttpMetrics(caller, framework.state.metrics.http, RouteNames(framework))
        return Rig(counted, framework, state, url)

    return make


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def any_url(request: pytest.FixtureRequest) -> str:
    kind = "postgres" if request.param == "postgresql" else "sqlite"
    url: str = request.getfixturevalue(f"{kind}_url_with_tables")
    return url


@pytest.fixture
def rig(any_url: str, make_rig: Callable[..., Rig]) -> Rig:
    """On each kind of database."""
    return make_rig(any_url)


@pytest.fixture
def sqlite_rig(sqlite_url_with_tables: str, make_rig: Callable[..., Rig]) -> Rig:
    return make_rig(sqlite_url_with_tables)


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put an `nvidia-smi` that runs a shell script first on PATH."""

    def put(script: str) -> None:
        tool = tmp_path / "bin" / "nvidia-smi"
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")

    return put
