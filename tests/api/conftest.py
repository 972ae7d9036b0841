"""Fixtures: the API in this process on real databases, and as a process with a worker inside."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2 as httpx
import pytest

from services import storage
from services.api.application import create_app
from services.api.caller import Caller
from services.api.feed import Feed
from services.api.server import make_state
from services.api.state import ApiState
from services.config import Settings
from services.database import open_database
from services.generation.registry import default_registry
from services.jobs.renditions import Renditions
from services.jobs.service import MusicService
from tests.conftest import LIMIT_SECONDS
from tests.programs import Program
from tests.worker.conftest import Rig, load_engines, make_rig  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from starlette.testclient import TestClient

HERE = Path(__file__).parent
EVERYBODY = Caller(owner=None, sees_all=True, name="local", is_exempt=True)


@dataclass
class Callers:
    """Sets the caller of the requests of the in-process client."""

    app: Any
    caller: Caller = EVERYBODY

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        scope.setdefault("state", {})["caller"] = self.caller
        await self.app(scope, receive, send)


@dataclass
class Api:
    """The application without a worker, so that jobs wait."""

    state: ApiState
    callers: Callers
    client: TestClient

    def ask(self, prompt: str = "sleep 0", **fields: Any) -> str:
        answer = self.client.post("/api/v1/generate", json={"prompt": prompt, **fields})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["job_id"])


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def api_url(request: pytest.FixtureRequest) -> str:
    kind = "postgres" if request.param == "postgresql" else "sqlite"
    return str(request.getfixturevalue(f"{kind}_url_with_tables"))


@pytest.fixture
def make_api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Api]]:
    from starlette.testclient import TestClient

    opened: list[TestClient] = []
    monkeypatch.setenv("DGX_MUSIC_TEST_LEDGER", str(tmp_path / "ledger"))

    def make(url: str, **settings: Any) -> Api:
        chosen = {"output_dir": tmp_path / "outputs", "model_name": "puppet"} | settings
        registry = load_engines().registry()
        state = make_state(Settings(DATABASE_URL=url, **chosen), registry)
        callers = Callers(create_app(state, registry))
        client = TestClient(callers, raise_server_exceptions=False)
        opened.append(client.__enter__())
        return Api(state, callers, client)

    yield make
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def api(api_url: str, make_api: Callable[..., Api]) -> Api:
    """On each kind of database."""
    return make_api(api_url)


@pytest.fixture
def sqlite_api(sqlite_url_with_tables: str, make_api: Callable[..., Api]) -> Api:
    return make_api(sqlite_url_with_tables)


@dataclass
class Served:
    """A server process, and its address."""

    rig: Rig
    process: Program
    client: httpx.Client
    others: list[Any] = field(default_factory=list)

    def ask(self, prompt: str, **fields: Any) -> dict[str, Any]:
        answer = self.client.post("/generate", json={"prompt": prompt, "duration": 1} | fields)
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    def job(self, job_id: str) -> dict[str, Any]:
        return dict(self.client.get(f"/jobs/{job_id}").json())

    def until_status(self, job_id: str, status: str) -> dict[str, Any]:
        self.rig.until(lambda: self.job(job_id)["status"] == status)
        return self.job(job_id)


@pytest.fixture
def serve(make_rig: Callable[[str], Rig]) -> Iterator[Callable[..., Served]]:  # noqa: F811
    """Start a server process on a database, by default with a worker inside."""
    started: list[Served] = []

    def start(url: str, *, worker: bool = True, **settings: object) -> Served:
        rig = make_rig(url)
        given = {f"DGX_MUSIC_{key.upper()}": str(value) for key, value in settings.items()}
        log = rig.folder / "log"
        before = rig.log.count("listening url=") if log.exists() else 0
        process = Program(
            HERE / "run_server.py",
            "worker" if worker else "",
            env=rig.environment | given,
            cwd=rig.folder,
            log=log,
        )
        rig.workers.append(process)
        rig.until(lambda: rig.log.count("listening url=") > before or process.poll() is not None)
        address = re.findall(r"listening url=(\S+)", rig.log)
        assert address, rig.log
        client = httpx.Client(base_url=f"{address[-1]}/api/v1", timeout=LIMIT_SECONDS)
        started.append(Served(rig, process, client))
        return started[-1]

    yield start
    for one in started:
        one.client.close()
        if one.process.poll() is None:
            one.process.send_signal(signal.SIGCONT)
            one.process.kill()
        one.process.wait()


@pytest.fixture
def served(api_url: str, serve: Callable[..., Served]) -> Served:
    return serve(api_url)


@pytest.fixture
def sqlite_served(sqlite_url_with_tables: str, serve: Callable[..., Served]) -> Served:
    return serve(sqlite_url_with_tables)


@pytest.fixture
def state(sqlite_url: str, tmp_path: Path) -> ApiState:
    """The state of the routes on SQLite, without loading the queue."""
    settings = Settings(DATABASE_URL=sqlite_url, output_dir=tmp_path / "outputs")
    open_database(settings)
    service = MusicService(settings, default_registry(settings))
    return ApiState(settings, service, Feed(service), Renditions(service))


def add_job(owner: str | None = None) -> str:
    """Add a pending row that is not queued; return its id."""
    with storage.get_session() as session:
        return storage.create_generation(
            session,
            prompt="a beat",
            model_name="composer",
            duration_seconds=1.0,
            sample_rate=48_000,
            channels=2,
            file_path="a.wav",
            owner=owner,
        ).id


def set_status(job_id: str, status: str) -> None:
    with storage.get_session() as session:
        storage.update_generation_status(session, job_id, status)
