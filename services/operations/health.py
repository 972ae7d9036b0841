"""How the service is: its database, GPU, queue and disks, for `/health` and for `doctor`."""

from __future__ import annotations

import time
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, Field

from services import __version__, storage
from services.errors import DGXMusicError, OutputError
from services.jobs.living import living_in
from services.library.store import open_store
from services.machine.gpu import GpuReport, look_for_gpus
from services.machine.space import places
from services.operations.watching import Kept, NoAnswerError, Probe, Value, answer_of

if TYPE_CHECKING:
    from services.config import Settings
    from services.generation.registry import Registry

Status = Literal["healthy", "degraded", "unhealthy"]

LIMIT_SECONDS = 3.0
"""What all checks together may take."""

GPU_KEPT_SECONDS = 10.0
_ORDER: tuple[Status, ...] = ("healthy", "degraded", "unhealthy")
_GIB = 1 << 30


class Check(BaseModel):
    """One thing that was looked at."""

    status: Status
    detail: str = Field(description="One sentence for people.")


class DatabaseCheck(Check):
    """The database."""

    kind: str | None = Field(default=None, description="sqlite or postgresql.")
    revision: str | None = Field(default=None, description="Of the tables.")
    latency_seconds: float | None = Field(default=None, description="Of the look at it.")


class GpuFacts(BaseModel):
    """One GPU; what the driver does not say is null."""

    name: str
    driver: str | None
    memory_total_bytes: int | None
    memory_used_bytes: int | None


class GpuCheck(Check):
    """The GPUs of the machine that answers."""

    gpus: list[GpuFacts] = []


class QueueCheck(Check):
    """What waits, and who works."""

    waiting_jobs: int | None = None
    oldest_waiting_seconds: float | None = Field(
        default=None, description="Null when nothing waits."
    )
    workers: int | None = Field(default=None, description="Alive, and taking jobs.")
    draining_workers: int | None = Field(default=None, description="Alive, and about to leave.")
    models: list[str] = Field(default=[], description="Engines that workers take jobs for.")
    unserved_models: list[str] = Field(default=[], description="Engines with jobs and no worker.")


class DiskCheck(Check):
    """Free space where audio files and an SQLite database are."""

    output_free_bytes: int | None = None
    database_free_bytes: int | None = Field(
        default=None, description="Null with a database server."
    )


class Checks(BaseModel):
    """Everything that is looked at."""

    database: DatabaseCheck
    gpu: GpuCheck
    queue: QueueCheck
    disk_space: DiskCheck

    @property
    def worst(self) -> Status:
        """The status of the whole."""
        return _worst(self.database, self.gpu, self.queue, self.disk_space)


class HealthReport(BaseModel):
    """How the service is."""

    status: Status = Field(description="The worst of the checks.")
    checks: Checks
    version: str = Field(examples=[__version__])
    uptime_seconds: float
    timestamp: datetime


class ReadyChecks(BaseModel):
    """What must be true of a server that gets requests."""

    server: Check
    database: DatabaseCheck
    queue: QueueCheck
    disk_space: DiskCheck


class Readiness(BaseModel):
    """Whether the server may get requests."""

    ready: bool
    checks: ReadyChecks | None = Field(
        default=None, description="Null while the server is leaving."
    )


class Health:
    """The checks, each with a time after which it is given up."""

    def __init__(
        self, settings: Settings, registry: Registry, *, limit_seconds: float = LIMIT_SECONDS
    ) -> None:
        """Make them ready; nothing is looked at yet.

        Args:
            settings: of the process; the database is open.
            registry: the engines.
            limit_seconds: what all checks together may take.
        """
        self._settings = settings
        self._registry = registry
        self._limit = limit_seconds
        self.gpus = Kept(look_for_gpus, seconds=GPU_KEPT_SECONDS)
        self._database = Probe("database", look_at_database)
        self._queue = Probe("queue", lambda: look_at_queue(settings))
        self._disk = Probe("disks", lambda: look_at_disks(settings))
        self._gpu = Probe("GPU", self._look_at_gpu)

    def report(self, started_at: float) -> HealthReport:
        """Look at everything.

        Args:
            started_at: when the process started, on the monotonic clock.
        """
        deadline = time.monotonic() + self._limit
        looks = self._database.begin(), self._gpu.begin(), self._queue.begin(), self._disk.begin()
        checks = Checks(
            database=_in_time(looks[0], deadline, _no_database()),
            gpu=_in_time(
                looks[1], deadline, GpuCheck(status="degraded", detail="The driver is slow.")
            ),
            queue=_in_time(looks[2], deadline, _no_queue()),
            disk_space=_in_time(looks[3], deadline, _no_disk()),
        )
        return HealthReport(
            status=checks.worst,
            checks=checks,
            version=__version__,
            uptime_seconds=round(time.monotonic() - started_at, 3),
            timestamp=datetime.now(UTC),
        )

    def readiness(self, *, draining: bool) -> Readiness:
        """Look at what a request needs; at nothing while the server is leaving."""
        if draining:
            return Readiness(ready=False)
        deadline = time.monotonic() + self._limit
        looks = self._database.begin(), self._queue.begin(), self._disk.begin()
        checks = ReadyChecks(
            server=Check(status="healthy", detail="It takes requests."),
            database=_in_time(looks[0], deadline, _no_database()),
            queue=self._with_limit(_in_time(looks[1], deadline, _no_queue())),
            disk_space=_in_time(looks[2], deadline, _no_disk()),
        )
        worst = _worst(checks.server, checks.database, checks.queue, checks.disk_space)
        return Readiness(ready=worst != "unhealthy", checks=checks)

    def _with_limit(self, queue: QueueCheck) -> QueueCheck:
        limit = self._settings.queue_limit
        if queue.waiting_jobs is None or queue.waiting_jobs < limit:
            return queue
        detail = f"The queue is full: {queue.waiting_jobs} of {limit} jobs wait."
        return queue.model_copy(update={"status": "unhealthy", "detail": detail})

    def _look_at_gpu(self) -> GpuCheck:
        if not self._settings.use_gpu:
            return GpuCheck(status="healthy", detail="DGX_MUSIC_USE_GPU is off.")
        engines = [e.facts.name for e in self._registry if e.why_unavailable() is None]
        return check_gpus(self.gpus.get(), engines)


def look_at_database() -> DatabaseCheck:
    """Say whether the open database answers, and is at the revision of this release."""
    began = time.monotonic()
    try:
        standing = storage.describe_standing()
    except storage.StorageError:
        return _no_database()
    latency = round(time.monotonic() - began, 6)
    other = "The tables are of another release: run `dgx-music db migrate`, or use that one."
    return DatabaseCheck(
        status="healthy" if standing.is_current else "unhealthy",
        detail="It answers." if standing.is_current else other,
        kind=standing.kind,
        revision=standing.revision,
        latency_seconds=latency,
    )


def look_at_queue(settings: Settings) -> QueueCheck:
    """Say what waits, and whether a living worker takes it."""
    try:
        with storage.get_session(read_only=True) as session:
            waiting = storage.list_waiting(session)
            living = living_in(session, settings.worker_ttl_seconds)
    except storage.StorageError:
        return _no_queue()
    taking = [worker for worker in living if not worker.draining]
    models = sorted({model for worker in taking for model in worker.models})
    unserved = [one.model for one in waiting if one.model not in models]
    oldest = min((one.oldest for one in waiting), default=None)
    age = None if oldest is None else max(0.0, (storage.utc_now() - oldest).total_seconds())
    status, detail = _judge_queue(unserved, age, settings.queue_slow_seconds)
    return QueueCheck(
        status=status,
        detail=detail,
        waiting_jobs=sum(one.jobs for one in waiting),
        oldest_waiting_seconds=age,
        workers=len(taking),
        draining_workers=len(living) - len(taking),
        models=models,
        unserved_models=unserved,
    )


def _judge_queue(unserved: list[str], age: float | None, slow: float) -> tuple[Status, str]:
    if unserved:
        names = ", ".join(unserved)
        return "degraded", f"Jobs wait for {names}, and no worker takes them: dgx-music worker."
    if age is not None and age > slow:
        return "degraded", f"A job has waited for {age:.0f} s; more workers would help."
    return "healthy", "Nothing waits." if age is None else "Workers take what waits."


def look_at_disks(settings: Settings) -> DiskCheck:
    """Say how much is free where files are written, and whether they can be."""
    try:
        found = places(settings)
    except OutputError:
        return _no_disk()
    if settings.file_store is not None:
        try:
            open_store(settings).check()
        except DGXMusicError:
            return DiskCheck(status="unhealthy", detail="The bucket of the files does not answer.")
    free = {place.what: place.free_bytes for place in found}
    facts = {
        "output_free_bytes": free["output folder"],
        "database_free_bytes": free.get("database"),
    }
    tight = min(found, key=lambda place: place.free_bytes)
    left = f"{tight.free_bytes / _GIB:.1f} GiB are free for the {tight.what}"
    unwritable = next((place for place in found if not place.is_writable), None)
    if unwritable is not None:
        detail = f"The {unwritable.what} cannot be written; set {unwritable.variable}."
        return DiskCheck(status="unhealthy", detail=detail, **facts)
    if tight.free_bytes < settings.disk_floor_bytes:
        detail = f"{left}; no new job is taken."
        return DiskCheck(status="unhealthy", detail=detail, **facts)
    if tight.free_bytes < settings.disk_low_bytes:
        return DiskCheck(status="degraded", detail=f"{left}; free some soon.", **facts)
    return DiskCheck(status="healthy", detail=f"{left}.", **facts)


def check_gpus(report: GpuReport, engines: list[str]) -> GpuCheck:
    """Judge what the driver said.

    Args:
        report: what it said.
        engines: those that can run on this machine as it is.
    """
    gpus = [
        GpuFacts(
            name=gpu.name,
            driver=gpu.driver,
            memory_total_bytes=gpu.memory_total_bytes,
            memory_used_bytes=gpu.memory_used_bytes,
        )
        for gpu in report.gpus
    ]
    if gpus:
        summary = "; ".join(gpu.summary for gpu in report.gpus)
        return GpuCheck(status="healthy", detail=f"{summary}.", gpus=gpus)
    reason = report.reason or "There is no GPU."
    if report.is_broken:
        return GpuCheck(status="degraded", detail=reason)
    if not engines:
        return GpuCheck(status="degraded", detail=f"{reason} No engine can run here without one.")
    return GpuCheck(
        status="healthy", detail=f"{reason} What can run here needs none: {', '.join(engines)}."
    )


def _worst(*checks: Check) -> Status:
    return max((check.status for check in checks), key=_ORDER.index)


def _in_time(look: Future[Value], deadline: float, otherwise: Value) -> Value:
    try:
        return answer_of(look, deadline - time.monotonic())
    except NoAnswerError:
        return otherwise


def _no_database() -> DatabaseCheck:
    return DatabaseCheck(status="unhealthy", detail="The database does not answer.")


def _no_queue() -> QueueCheck:
    return QueueCheck(status="unhealthy", detail="The queue is in the database, which is away.")


def _no_disk() -> DiskCheck:
    return DiskCheck(status="unhealthy", detail="The disk does not answer, or not to this user.")
