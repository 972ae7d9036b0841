"""Health checks of the database, the GPUs, the queue and the disks."""

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
from services.machine.gpu import GpuReport, detect_gpus
from services.machine.space import write_folders
from services.operations.probes import CachedValue, NoAnswerError, Probe, Value, wait_for

if TYPE_CHECKING:
    from services.config import Settings
    from services.generation.registry import Registry

Status = Literal["healthy", "degraded", "unhealthy"]

LIMIT_SECONDS = 3.0
"""Time-out of all checks together."""

GPU_MAX_AGE_SECONDS = 10.0
_ORDER: tuple[Status, ...] = ("healthy", "degraded", "unhealthy")
_GIB = 1 << 30


class Check(BaseModel):
    """The result of one check."""

    status: Status
    detail: str = Field(description="The result in one sentence.")


class DatabaseCheck(Check):
    """Whether the database answers and has the tables of this release."""

    kind: str | None = Field(default=None, description="`sqlite` or `postgresql`.")
    revision: str | None = Field(default=None, description="Revision of the tables.")
    latency_seconds: float | None = Field(default=None, description="Duration of the check.")


class GpuDevice(BaseModel):
    """One GPU; what the driver does not report is null."""

    name: str
    driver: str | None
    memory_total_bytes: int | None
    memory_used_bytes: int | None


class GpuCheck(Check):
    """The GPUs of the machine this server runs on."""

    gpus: list[GpuDevice] = []


class QueueCheck(Check):
    """Waiting jobs, and workers that are alive."""

    waiting_jobs: int | None = None
    oldest_waiting_seconds: float | None = Field(default=None, description="Null if no job waits.")
    workers: int | None = Field(default=None, description="Workers that take jobs.")
    draining_workers: int | None = Field(
        default=None, description="Workers that are shutting down and take no new jobs."
    )
    outages: list[str] = Field(
        default=[], description="Why workers take no jobs for now: what their machines lack."
    )
    models: list[str] = Field(default=[], description="Models that a worker takes jobs for.")
    unserved_models: list[str] = Field(
        default=[], description="Models with waiting jobs and no worker."
    )


class DiskCheck(Check):
    """Free space for audio files and for an SQLite database."""

    output_free_bytes: int | None = None
    database_free_bytes: int | None = Field(default=None, description="Null with PostgreSQL.")


class Checks(BaseModel):
    """The results of all checks."""

    database: DatabaseCheck
    gpu: GpuCheck
    queue: QueueCheck
    disk_space: DiskCheck

    @property
    def worst(self) -> Status:
        return _find_worst(self.database, self.gpu, self.queue, self.disk_space)


class HealthReport(BaseModel):
    """The health of the service."""

    status: Status = Field(description="The worst of the checks.")
    checks: Checks
    version: str = Field(examples=[__version__])
    uptime_seconds: float
    timestamp: datetime


class ReadyChecks(BaseModel):
    """The checks that decide whether a server is ready."""

    server: Check
    database: DatabaseCheck
    queue: QueueCheck
    disk_space: DiskCheck


class Readiness(BaseModel):
    """Whether requests should be sent to the server."""

    ready: bool
    checks: ReadyChecks | None = Field(
        default=None, description="Null while the server is shutting down."
    )


class Health:
    """The health checks of one process, with a time-out."""

    def __init__(
        self, settings: Settings, registry: Registry, *, limit_seconds: float = LIMIT_SECONDS
    ) -> None:
        """Prepare the checks; none runs yet.

        Args:
            settings: of the process.
            registry: the engines.
            limit_seconds: time-out of all checks together.
        """
        self._settings = settings
        self._registry = registry
        self._limit = limit_seconds
        self.gpus = CachedValue(detect_gpus, seconds=GPU_MAX_AGE_SECONDS)
        self._database = Probe("database", check_database)
        self._queue = Probe("queue", lambda: check_queue(settings))
        self._disk = Probe("disks", lambda: check_disks(settings))
        self._gpu = Probe("GPU", self._check_gpu)

    def report(self, started_at: float) -> HealthReport:
        """Run every check at once.

        Args:
            started_at: start of the process on the monotonic clock, seconds.
        """
        deadline = time.monotonic() + self._limit
        database, gpu = self._database.begin(), self._gpu.begin()
        queue, disk = self._queue.begin(), self._disk.begin()
        checks = Checks(
            database=_wait_until(deadline, database, _fail_database()),
            gpu=_wait_until(
                deadline,
                gpu,
                GpuCheck(status="degraded", detail="The GPU driver does not answer in time."),
            ),
            queue=_wait_until(deadline, queue, _fail_queue()),
            disk_space=_wait_until(deadline, disk, _fail_disks()),
        )
        return HealthReport(
            status=checks.worst,
            checks=checks,
            version=__version__,
            uptime_seconds=round(time.monotonic() - started_at, 3),
            timestamp=datetime.now(UTC),
        )

    def readiness(self, *, is_draining: bool) -> Readiness:
        """Run the checks that requests depend on; none while the server is shutting down."""
        if is_draining:
            return Readiness(ready=False)
        deadline = time.monotonic() + self._limit
        database, queue, disk = self._database.begin(), self._queue.begin(), self._disk.begin()
        checks = ReadyChecks(
            server=Check(status="healthy", detail="The server accepts requests."),
            database=_wait_until(deadline, database, _fail_database()),
            queue=self._apply_limit(_wait_until(deadline, queue, _fail_queue())),
            disk_space=_wait_until(deadline, disk, _fail_disks()),
        )
        worst = _find_worst(checks.server, checks.database, checks.queue, checks.disk_space)
        return Readiness(ready=worst != "unhealthy", checks=checks)

    def _apply_limit(self, queue: QueueCheck) -> QueueCheck:
        limit = self._settings.queue_limit
        if queue.waiting_jobs is None or queue.waiting_jobs < limit:
            return queue
        detail = f"The queue is full: {queue.waiting_jobs} of {limit} jobs wait."
        return queue.model_copy(update={"status": "unhealthy", "detail": detail})

    def _check_gpu(self) -> GpuCheck:
        if not self._settings.use_gpu:
            return GpuCheck(status="healthy", detail="DGX_MUSIC_USE_GPU is off.")
        models = [e.facts.name for e in self._registry if e.why_unavailable() is None]
        return judge_gpus(self.gpus.get(), models)


def check_database() -> DatabaseCheck:
    """Check that the open database answers and is at the revision of this release."""
    began = time.monotonic()
    try:
        standing = storage.read_database_status()
    except storage.StorageError:
        return _fail_database()
    latency = round(time.monotonic() - began, 6)
    other = "The tables belong to another release: run `dgx-music db migrate`, or use that release."
    return DatabaseCheck(
        status="healthy" if standing.is_current else "unhealthy",
        detail="The database answers." if standing.is_current else other,
        kind=standing.kind,
        revision=standing.revision,
        latency_seconds=latency,
    )


def check_queue(settings: Settings) -> QueueCheck:
    """Check that a worker which is alive takes the waiting jobs, and how long they have waited."""
    try:
        with storage.get_session(read_only=True) as session:
            waiting = storage.list_waiting(session)
            living = living_in(session, settings.worker_ttl_seconds)
    except storage.StorageError:
        return _fail_queue()
    draining = [worker for worker in living if worker.draining]
    outages = sorted({worker.outage for worker in living if worker.outage is not None})
    taking = [worker for worker in living if not worker.draining and worker.outage is None]
    models = sorted({model for worker in taking for model in worker.models})
    unserved = [one.model for one in waiting if one.model not in models]
    oldest = min((one.oldest for one in waiting), default=None)
    age = None if oldest is None else max(0.0, (storage.utc_now() - oldest).total_seconds())
    status, detail = _judge_queue(unserved, outages, age, settings.queue_slow_seconds)
    return QueueCheck(
        status=status,
        detail=detail,
        waiting_jobs=sum(one.jobs for one in waiting),
        oldest_waiting_seconds=age,
        workers=len(taking),
        draining_workers=len(draining),
        outages=outages,
        models=models,
        unserved_models=unserved,
    )


def _judge_queue(
    unserved: list[str], outages: list[str], age: float | None, slow: float
) -> tuple[Status, str]:
    if outages:
        reasons = " ".join(outages)
        return "degraded", f"A worker takes no jobs until this is over: {reasons}"
    if unserved:
        names = ", ".join(unserved)
        return "degraded", f"No worker runs the waiting jobs for {names}: start `dgx-music worker`."
    if age is not None and age > slow:
        return "degraded", f"A job has waited for {age:.0f} s; start more workers."
    return "healthy", "No job waits." if age is None else "Workers run the waiting jobs."


def check_disks(settings: Settings) -> DiskCheck:
    """Check that files can be written, and that there is enough free space for them."""
    try:
        found = write_folders(settings)
    except OutputError:
        return _fail_disks()
    if settings.file_store is not None:
        try:
            open_store(settings).check()
        except DGXMusicError:
            return DiskCheck(status="unhealthy", detail="The bucket for the files does not answer.")
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
        detail = f"{left}; new jobs are refused."
        return DiskCheck(status="unhealthy", detail=detail, **facts)
    if tight.free_bytes < settings.disk_low_bytes:
        return DiskCheck(status="degraded", detail=f"{left}; free some space soon.", **facts)
    return DiskCheck(status="healthy", detail=f"{left}.", **facts)


def judge_gpus(report: GpuReport, models: list[str]) -> GpuCheck:
    """Judge what the driver reports.

    Args:
        report: of the driver.
        models: models that are available on this machine; without a GPU, one is enough.
    """
    gpus = [
        GpuDevice(
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
    if not models:
        return GpuCheck(status="degraded", detail=f"{reason} No model can run here without one.")
    return GpuCheck(
        status="healthy", detail=f"{reason} These models run without one: {', '.join(models)}."
    )


def _find_worst(*checks: Check) -> Status:
    return max((check.status for check in checks), key=_ORDER.index)


def _wait_until(deadline: float, answer: Future[Value], fallback: Value) -> Value:
    try:
        return wait_for(answer, deadline - time.monotonic())
    except NoAnswerError:
        return fallback


def _fail_database() -> DatabaseCheck:
    return DatabaseCheck(status="unhealthy", detail="The database does not answer.")


def _fail_queue() -> QueueCheck:
    detail = "The queue cannot be read: the database does not answer."
    return QueueCheck(status="unhealthy", detail=detail)


def _fail_disks() -> DiskCheck:
    detail = "The disk does not answer, or this user may not read its folders."
    return DiskCheck(status="unhealthy", detail=detail)
