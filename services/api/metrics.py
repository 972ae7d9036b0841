"""GET /metrics, for Prometheus: HTTP of this process, and jobs and workers of the database."""

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
from services.api.state import Api, CurrentCaller
from services.operations.figures import JobFigures, make_figures_reader
from services.operations.probes import NoAnswerError, Probe, Value, wait_for

if TYPE_CHECKING:
    from concurrent.futures import Future

    from services.api.state import ApiState
    from services.machine.gpu import GpuReport
    from services.storage import Histogram, JobTotals
    from services.worker.worker import Worker

LIMIT_SECONDS = 6.0
"""Time-out of the database and of the GPU driver; Prometheus gives up after 10 s by default."""

router = APIRouter(include_in_schema=False)


class Metrics:
    """The metrics of one application, in a registry of its own."""

    def __init__(self) -> None:
        # A creation time for each series would double the number of series.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.http = HttpInstruments(self.registry)
        self._lock = threading.Lock()
        self._collector: _ServiceCollector | None = None

    def encode(self, api: ApiState, gpus: Callable[[], GpuReport]) -> bytes:
        """Return every metric in Prometheus's text format.

        Args:
            api: the state of the application; the first call fixes it.
            gpus: asks the driver; may hang.
        """
        with self._lock:
            if self._collector is None:
                self._collector = _ServiceCollector(api, gpus)
                self.registry.register(self._collector)
        return generate_latest(self.registry)


class _ServiceCollector(Collector):
    """Reads the database and the GPU driver once a scrape."""

    def __init__(self, api: ApiState, gpus: Callable[[], GpuReport]) -> None:
        self._api = api
        self._gpus = Probe("GPU", gpus)
        self._read_figures = make_figures_reader(api.settings)
        self._read = Probe("database", self._read_database)

    def describe(self) -> list[Metric]:
        # The registry would otherwise call `collect` when the collector is registered.
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics; those of a database or driver that does not answer are left out."""
        deadline = time.monotonic() + LIMIT_SECONDS
        database = self._read.begin()
        driver = self._gpus.begin() if self._api.settings.use_gpu else None
        yield _collect_build_info(self._api)
        figures = _wait_until(deadline, database)
        yield _collect_database_up(figures is not None)
        if figures is not None:
            yield from _collect_jobs(figures)
        report = None if driver is None else _wait_until(deadline, driver)
        if report is not None:
            yield _collect_gpu_memory(report)
        if self._api.worker is not None:
            yield _collect_loaded_models(self._api.worker)

    def _read_database(self) -> JobFigures | None:
        try:
            return self._read_figures()
        except storage.StorageError:
            return None


class _Outage(Collector):
    """What a caller is told whose key cannot be checked, because the database does not answer."""

    def collect(self) -> Iterator[Metric]:
        yield _collect_database_up(False)


@router.get("/metrics")
def get_metrics(request: Request, api: Api, caller: CurrentCaller) -> Response:
    if caller.is_unknown:
        outage = CollectorRegistry()
        outage.register(_Outage())
        text = generate_latest(outage)
    else:
        metrics: Metrics = request.app.state.metrics
        text = metrics.encode(api, api.health.gpus.get)
    headers = {"Cache-Control": "no-store"}
    return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4, headers=headers)


def _collect_database_up(answered: bool) -> Metric:
    return GaugeMetricFamily(
        "dgx_music_database_up",
        "Whether the database answered this scrape.",
        value=float(answered),
    )


def _collect_build_info(api: ApiState) -> Metric:
    family = GaugeMetricFamily(
        "dgx_music_build_info",
        "Always 1; labels: release, database revision, default model.",
        labels=["version", "revision", "model"],
    )
    family.add_metric([__version__, storage.HEAD_REVISION, api.settings.model_name], 1)
    return family


def _collect_loaded_models(worker: Worker) -> Metric:
    family = GaugeMetricFamily(
        "dgx_music_model_loaded",
        "Engine processes of this server's worker that have the model loaded.",
        labels=["model"],
    )
    for model, processes in worker.loaded_models.items():
        family.add_metric([model], processes)
    return family


def _wait_until(deadline: float, answer: Future[Value]) -> Value | None:
    try:
        return wait_for(answer, deadline - time.monotonic())
    except NoAnswerError:
        return None


def _collect_gpu_memory(report: GpuReport) -> Metric:
    family = GaugeMetricFamily(
        "dgx_music_gpu_memory_used_bytes",
        "Memory in use on a GPU of this machine, by all processes.",
        labels=["gpu"],
    )
    for number, gpu in enumerate(report.gpus):
        if gpu.memory_used_bytes is not None:
            family.add_metric([str(number)], gpu.memory_used_bytes)
    return family


def _collect_jobs(figures: JobFigures) -> Iterator[Metric]:
    if figures.totals is not None:
        yield from _collect_finished(figures.totals)
    text = "Jobs in the database, by status."
    yield _make_gauge("dgx_music_jobs", text, "status", figures.statuses)
    yield _make_gauge(
        "dgx_music_realtime_ratio",
        "Seconds of music per second of run time, over the last 20 completed jobs.",
        "model",
        figures.realtime,
    )
    yield GaugeMetricFamily(
        "dgx_music_store_bytes",
        "Size of the finished files according to their rows; up to 5 minutes old.",
        value=figures.store_bytes,
    )
    yield _make_gauge("dgx_music_workers", "Workers alive.", "state", figures.workers)
    yield GaugeMetricFamily(
        "dgx_music_oldest_waiting_seconds",
        "Age of the oldest waiting job; 0 when none waits.",
        value=figures.oldest_waiting_seconds,
    )


def _collect_finished(totals: JobTotals) -> Iterator[Metric]:
    jobs = CounterMetricFamily(
        "dgx_music_jobs", "Finished jobs, by outcome.", labels=["model", "outcome"]
    )
    for (model, outcome), number in sorted(totals.jobs.items()):
        jobs.add_metric([model, outcome], number)
    yield jobs
    yield _make_histogram(
        "dgx_music_job_queue_seconds",
        "Completed jobs: time from the request to the start of the successful attempt.",
        totals,
        totals.queued,
    )
    yield _make_histogram(
        "dgx_music_job_run_seconds",
        "Completed jobs: duration of the successful attempt.",
        totals,
        totals.worked,
    )
    audio = CounterMetricFamily(
        "dgx_music_audio_seconds", "Seconds of music of completed jobs.", labels=["model"]
    )
    for model, seconds in sorted(totals.audio_seconds.items()):
        audio.add_metric([model], seconds)
    yield audio


def _make_gauge(name: str, text: str, label: str, values: dict[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, number in sorted(values.items()):
        family.add_metric([value], number)
    return family


def _make_histogram(name: str, text: str, totals: JobTotals, spread: Histogram) -> Metric:
    family = HistogramMetricFamily(name, text)
    bounds = [*(str(float(bound)) for bound in totals.bounds), "+Inf"]
    below = 0
    buckets = []
    for bound, number in zip(bounds, spread.counts, strict=True):
        below += number
        buckets.append((bound, below))
    family.add_metric([], buckets, spread.seconds)
    return family
