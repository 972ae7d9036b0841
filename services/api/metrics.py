"""GET /metrics, for Prometheus: what this process answered, and what the database holds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response
from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    CollectorRegistry,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from services import __version__, storage
from services.api.http_metrics import HttpInstruments
from services.api.state import Api
from services.operations.figures import JobFigures, read_figures
from services.operations.watching import NoAnswerError, Probe, Value, answer_of

if TYPE_CHECKING:
    from concurrent.futures import Future

    from services.api.state import ApiState
    from services.machine.gpu import GpuReport
    from services.storage import Spread, Totals
    from services.worker.worker import Worker

LIMIT_SECONDS = 6.0
"""What the database and the driver have to answer; Prometheus waits for 10 s unless told else."""

router = APIRouter(include_in_schema=False)


class Metrics:
    """Every metric of one application, in a registry of its own."""

    def __init__(self) -> None:
        """Make the instruments; the first scrape looks at `app.state.api`."""
        # The time at which each series began would be as many series again.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.http = HttpInstruments(self.registry)
        self._lock = threading.Lock()
        self._watched: _Watched | None = None

    def text(self, api: ApiState, gpus: Callable[[], GpuReport]) -> bytes:
        """Write every metric as Prometheus reads it.

        Args:
            api: of the application.
            gpus: gives what the driver says.
        """
        with self._lock:
            if self._watched is None:
                self._watched = _Watched(api, gpus)
                self.registry.register(self._watched)
        return generate_latest(self.registry)


class _Watched(Collector):
    """Reads the database once a scrape."""

    def __init__(self, api: ApiState, gpus: Callable[[], GpuReport]) -> None:
        self._api = api
        self._gpus = Probe("GPU", gpus)
        self._read_figures = read_figures(api.settings)
        self._read = Probe("database", self._read_database)

    def describe(self) -> list[Metric]:
        """Nothing: registering must not read the database."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Give the metrics; those of a database that does not answer are left out."""
        deadline = time.monotonic() + LIMIT_SECONDS
        database = self._read.begin()
        driver = self._gpus.begin() if self._api.settings.use_gpu else None
        yield _build_info(self._api)
        figures = _in_time(database, deadline)
        yield GaugeMetricFamily(
            "dgx_music_database_up",
            "Whether the database answered this scrape.",
            value=float(figures is not None),
        )
        if figures is not None:
            yield from _of_jobs(figures)
        report = None if driver is None else _in_time(driver, deadline)
        if report is not None:
            yield _of_gpus(report)
        if self._api.worker is not None:
            yield _loaded(self._api.worker)

    def _read_database(self) -> JobFigures | None:
        try:
            return self._read_figures()
        except storage.StorageError:
            return None


@router.get("/metrics")
def get_metrics(request: Request, api: Api) -> Response:
    """Give every metric as Prometheus reads it."""
    metrics: Metrics = request.app.state.metrics
    text = metrics.text(api, api.health.gpus.get)
    headers = {"Cache-Control": "no-store"}
    return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4, headers=headers)


def _build_info(api: ApiState) -> Metric:
    family = GaugeMetricFamily(
        "dgx_music_build_info",
        "Always 1: the release, the revision of its tables, and the engine of the settings.",
        labels=["version", "revision", "model"],
    )
    family.add_metric([__version__, storage.HEAD_REVISION, api.settings.model_name], 1)
    return family


def _loaded(worker: Worker) -> Metric:
    family = GaugeMetricFamily(
        "dgx_music_model_loaded",
        "Processes of this server's own worker that have the engine.",
        labels=["model"],
    )
    for model, processes in worker.loaded_models.items():
        family.add_metric([model], processes)
    return family


def _in_time(look: Future[Value], deadline: float) -> Value | None:
    try:
        return answer_of(look, deadline - time.monotonic())
    except NoAnswerError:
        return None


def _of_gpus(report: GpuReport) -> Metric:
    family = GaugeMetricFamily(
        "dgx_music_gpu_memory_used_bytes",
        "Memory in use on a GPU of this machine, by whomever.",
        labels=["gpu"],
    )
    for number, gpu in enumerate(report.gpus):
        if gpu.memory_used_bytes is not None:
            family.add_metric([str(number)], gpu.memory_used_bytes)
    return family


def _of_jobs(figures: JobFigures) -> Iterator[Metric]:
    if figures.totals is not None:
        yield from _of_finished(figures.totals)
    yield _gauge("dgx_music_jobs", "Jobs in the database, by status.", "status", figures.statuses)
    yield _gauge(
        "dgx_music_realtime_ratio",
        "Seconds of music that a second of work makes, over the last 20 completed jobs.",
        "model",
        figures.realtime,
    )
    yield GaugeMetricFamily(
        "dgx_music_store_bytes",
        "Bytes of finished files, as the rows have them; up to 5 minutes old.",
        value=figures.store_bytes,
    )
    yield _gauge("dgx_music_workers", "Living workers.", "state", figures.workers)
    yield GaugeMetricFamily(
        "dgx_music_oldest_waiting_seconds",
        "Since the job that waits longest was asked for; 0 when none waits.",
        value=figures.oldest_waiting_seconds,
    )


def _of_finished(totals: Totals) -> Iterator[Metric]:
    jobs = CounterMetricFamily(
        "dgx_music_jobs", "Jobs that finished, by how.", labels=["model", "outcome"]
    )
    for (model, outcome), number in sorted(totals.jobs.items()):
        jobs.add_metric([model, outcome], number)
    yield jobs
    yield _histogram(
        "dgx_music_job_queue_seconds",
        "Completed jobs: from the request until the attempt that made it began.",
        totals,
        totals.queued,
    )
    yield _histogram(
        "dgx_music_job_run_seconds",
        "Completed jobs: what the attempt that made it took.",
        totals,
        totals.worked,
    )
    audio = CounterMetricFamily(
        "dgx_music_audio_seconds", "Seconds of music of completed jobs.", labels=["model"]
    )
    for model, seconds in sorted(totals.audio_seconds.items()):
        audio.add_metric([model], seconds)
    yield audio


def _gauge(name: str, text: str, label: str, values: dict[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, number in sorted(values.items()):
        family.add_metric([value], number)
    return family


def _histogram(name: str, text: str, totals: Totals, spread: Spread) -> Metric:
    family = HistogramMetricFamily(name, text)
    bounds = [*(str(float(bound)) for bound in totals.bounds), "+Inf"]
    below = 0
    buckets = []
    for bound, number in zip(bounds, spread.counts, strict=True):
        below += number
        buckets.append((bound, below))
    family.add_metric([], buckets, spread.seconds)
    return family
