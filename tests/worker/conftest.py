"""Real worker processes on real databases, with an engine that does what its prompt says."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from services import storage
from services.config import Settings
from services.jobs.failpoints import VARIABLE
from services.jobs.making import JobMaker
from services.jobs.models import GenerationRequest, Job, parse_request
from services.jobs.service import MusicService
from tests.conftest import wait_until
from tests.programs import Program

if TYPE_CHECKING:
    from services.generation.engine import Progress, ShouldStop

HERE = Path(__file__).parent
TTL = 60.0
"""Seconds: so long that a busy machine does not make a live worker look dead."""
SHORT_TTL = 2.0
"""Seconds, for a worker that is frozen and the worker that is to notice it, and for no other."""


def load_engines() -> ModuleType:
    spec = importlib.util.spec_from_file_location("queue_engines", HERE / "queue_engines.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make(
    service: MusicService,
    request: GenerationRequest,
    progress: Progress = lambda _step, _fraction: None,
    should_stop: ShouldStop = lambda: False,
    **files: Path,
) -> Job:
    """Run a job as the command does: on a worker if one is alive, else in this process."""
    checked = service.check(request, **files)
    return JobMaker(service).make(checked, progress, should_stop)


@dataclass
class Rig:
    """One database, one output folder, and the processes on them."""

    folder: Path
    url: str
    service: MusicService
    workers: list[Program] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        ours = {name: value for name, value in os.environ.items() if name[:4] != "DGX_"}
        return ours | {
            "DATABASE_URL": self.url,
            "PYTHONPATH": str(HERE),
            "DGX_MUSIC_HOME": str(self.folder),
            "DGX_MUSIC_OUTPUT_DIR": str(self.outputs),
            "DGX_MUSIC_MODEL_NAME": "puppet",
            "DGX_MUSIC_WORKER_TTL_SECONDS": str(TTL),
            "DGX_MUSIC_RETRY_DELAY_SECONDS": "0.1",
            "DGX_MUSIC_TEST_LEDGER": str(self.folder / "ledger"),
            **{f"DGX_MUSIC_{name.upper()}": value for name, value in self.settings.items()},
        }

    @property
    def outputs(self) -> Path:
        return self.folder / "outputs"

    @property
    def is_sqlite(self) -> bool:
        return self.url.startswith("sqlite")

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8")

    def program(self, name: str, *arguments: str, **settings: object) -> Program:
        """Start a program of this folder, with settings named without their prefix."""
        given = {f"DGX_MUSIC_{key.upper()}": str(value) for key, value in settings.items()}
        environment = self.environment | given
        log = self.folder / "log"
        return Program(HERE / name, *arguments, env=environment, cwd=self.folder, log=log)

    def worker(self, concurrency: int = 1, models: str = "puppet", **settings: object) -> Program:
        """Start a worker and wait until it is ready."""
        ready = self.log.count("ready worker") if (self.folder / "log").exists() else 0
        process = self.begin_worker(concurrency, models, **settings)
        self.until(lambda: self.log.count("ready worker") > ready or process.poll() is not None)
        return process

    def begin_worker(
        self, concurrency: int = 1, models: str = "puppet", **settings: object
    ) -> Program:
        """Start a worker without waiting until it is ready."""
        process = self.program("run_worker.py", str(concurrency), models, **settings)
        self.workers.append(process)
        return process

    def fail_at(self, point: str, **settings: object) -> Program:
        return self.worker(**{VARIABLE.removeprefix("DGX_MUSIC_"): point}, **settings)

    def submit(
        self,
        *prompts: str,
        client: str | None = None,
        priority: str = "normal",
        model: str | None = None,
        **fields: object,
    ) -> list[str]:
        jobs = [
            self.service.submit(
                parse_request(prompt=prompt, duration=1, model=model, **fields), client, priority
            )
            for prompt in prompts
        ]
        return [job.job_id for job in jobs]

    def get(self, job_id: str) -> Job:
        return self.service.get(job_id)

    def seed(self, job_id: str) -> str:
        return str(self.get(job_id).seed)

    def ledger(self) -> list[list[str]]:
        path = self.folder / "ledger"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def count(self, event: str, job_id: str) -> int:
        return Counter((line[1], line[2]) for line in self.ledger())[event, self.seed(job_id)]

    def until(self, condition: Callable[[], object]) -> None:
        wait_until(condition, lambda: f"the log:\n{self.log[-4000:]}")

    def ended(self, process: Program) -> int:
        """The exit code of a process, once it has ended."""
        self.until(lambda: process.poll() is not None)
        return process.returncode

    def finished(self, job_ids: list[str]) -> list[Job]:
        self.until(lambda: all(self.get(one).is_finished for one in job_ids))
        return [self.get(one) for one in job_ids]

    def started(self, job_id: str, times: int = 1) -> None:
        self.until(lambda: self.count("start", job_id) >= times)

    def release(self) -> None:
        """Let the jobs that say "hold" end, now and from now on."""
        (self.folder / "released").touch()

    def files(self) -> set[str]:
        """Return all files below the output folder, hidden ones too, but not the workers' locks."""
        return {
            str(path.relative_to(self.outputs))
            for path in self.outputs.rglob("*")
            if path.is_file() and not path.name.startswith(".dgx-worker")
        }

    def assert_settled(self, job_ids: list[str]) -> None:
        """Check that no job is lost, no file is partial, and the queue is empty."""
        jobs = self.finished(job_ids)
        self.until(lambda: self.files() == self.published(jobs))
        with storage.get_session(read_only=True) as session:
            assert storage.list_queue_entries(session) == []
            counted = storage.get_database_stats(session)
        assert counted["pending_generations"] == counted["processing_generations"] == 0

    def published(self, jobs: list[Job]) -> set[str]:
        location = f"{self.service.store.location}/"
        ids = [job.job_id for job in jobs]
        with storage.get_session(read_only=True) as session:
            attached = storage.get_attachments(session, ids).values()
            names = {one.file_path for files in attached for one in files}
        return names | {job.file.removeprefix(location) for job in jobs if job.file}

    def signal_again(self, process: Program) -> int | None:
        """Send SIGTERM to a draining process until it ends; return its exit code."""

        def send_signal() -> bool:
            process.send_signal(signal.SIGTERM)
            return process.poll() is not None

        self.until(send_signal)
        return process.returncode

    def stop_all(self) -> None:
        for process in self.workers:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()


def pick_up_as(worker: str, rig: Rig) -> None:
    """Mark all waiting dispatches as picked up, as DBOS does."""
    table = "workflow_status" if rig.url.startswith("sqlite") else "dbos.workflow_status"
    with storage.get_session() as session:
        session.execute(
            text(f"UPDATE {table} SET status = 'PENDING', executor_id = :id"), {"id": worker}
        )


@pytest.fixture
def make_rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(url: str, **more: str) -> Rig:
        settings = Settings(
            DATABASE_URL=url,
            output_dir=tmp_path / "outputs",
            model_name="puppet",
            worker_ttl_seconds=TTL,
            retry_delay_seconds=0.1,
            **more,
        )
        monkeypatch.setenv("DGX_MUSIC_TEST_LEDGER", str(tmp_path / "ledger"))
        service = MusicService(settings, load_engines().registry())
        rig = Rig(tmp_path, url, service, settings=more)
        made.append(rig)
        return rig

    yield make
    for rig in made:
        rig.stop_all()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def rig(request: pytest.FixtureRequest, make_rig: Callable[[str], Rig]) -> Rig:
    """A rig on each kind of database."""
    kind = "postgres" if request.param == "postgresql" else "sqlite"
    return make_rig(request.getfixturevalue(f"{kind}_url_with_tables"))


@pytest.fixture
def sqlite_rig(sqlite_url_with_tables: str, make_rig: Callable[[str], Rig]) -> Rig:
    return make_rig(sqlite_url_with_tables)
