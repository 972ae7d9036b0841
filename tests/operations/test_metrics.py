"""GET /metrics: names, figures from the database, and HTTP metrics."""

from __future__ import annotations

import random
import threading
from collections import Counter
from datetime import timedelta
from types import SimpleNamespace

import pytest
from fastapi.responses import StreamingResponse
from prometheus_client.parser import text_string_to_metric_families

from services import storage
from services.api import metrics
from services.api.http_metrics import HttpMetrics
from services.api.route_names import RouteNames
from services.operations.figures import BOUNDS, RECOUNTED, FinishedJobs
from services.storage import Generation
from tests.conftest import LIMIT_SECONDS

NAMES = {
    "dgx_music_build_info", "dgx_music_jobs", "dgx_music_job_queue_seconds",
    "dgx_music_job_run_seconds", "dgx_music_audio_seconds", "dgx_music_realtime_ratio",
    "dgx_music_store_bytes", "dgx_music_http_requests", "dgx_music_http_request_seconds",
    "dgx_music_workers", "dgx_music_oldest_waiting_seconds", "dgx_music_database_up",
}  # fmt: skip


def scrape(rig):
    """Return the samples, (name, *label values) -> value, and the names of the families."""
    answer = rig.ask("GET", "/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = list(text_string_to_metric_families(answer.text))
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }
    return samples, {family.name for family in families}


def test_job_metrics_come_from_the_database(rig, make_rig):
    for seconds in (0.4, 8.0):
        rig.complete(seconds)
    rig.complete(1.0, model="other")
    failed = rig.add()
    with storage.get_session() as session:
        storage.update_generation_status(session, failed, "failed", "No.")
    rig.queue_up()
    rig.start_worker("w", "here")
    samples, names = scrape(rig)
    assert names == NAMES
    expected = {
        ("dgx_music_jobs_total", "here", "completed"): 2,
        ("dgx_music_jobs_total", "other", "completed"): 1,
        ("dgx_music_jobs_total", "here", "failed"): 1,
        ("dgx_music_jobs", "completed"): 3,
        ("dgx_music_jobs", "pending"): 1,
        ("dgx_music_jobs", "processing"): 0,
        ("dgx_music_audio_seconds_total", "here"): 32,
        ("dgx_music_job_run_seconds_count",): 3,
        ("dgx_music_job_run_seconds_bucket", "0.5"): 1,
        ("dgx_music_job_run_seconds_bucket", "1.0"): 2,
        ("dgx_music_job_run_seconds_bucket", "10.0"): 3,
        ("dgx_music_job_queue_seconds_count",): 3,
        ("dgx_music_store_bytes",): 3000,
        ("dgx_music_workers", "taking"): 1,
        ("dgx_music_database_up",): 1,
    }
    assert {name: samples.get(name) for name in expected} == expected
    assert samples["dgx_music_job_run_seconds_sum",] == pytest.approx(9.4)
    assert samples["dgx_music_realtime_ratio", "here"] == pytest.approx(32 / 8.4)
    assert samples["dgx_music_oldest_waiting_seconds",] > 0
    again, _ = scrape(make_rig(rig.url))
    assert {name: again.get(name) for name in expected} == expected
    rig.complete(100.0)
    assert scrape(rig)[0]["dgx_music_jobs_total", "here", "completed"] == 3


def test_totals_count_each_row_once_as_time_passes(sqlite_rig):
    # Some rows appear with a completion time in the past.
    chance = random.Random(4)
    start = storage.utc_now()
    clock = {"now": start}
    finished = FinishedJobs(now=lambda: clock["now"])
    made = Counter()
    for _ in range(30):
        clock["now"] += RECOUNTED * chance.choice([0.01, 0.4, 1.3])
        for _ in range(chance.randrange(4)):
            status = chance.choice(["completed", "failed", "cancelled"])
            late = RECOUNTED * chance.choice([0.0, 0.0, 0.9])
            row = Generation(
                prompt="a tone", model_name="here", duration_seconds=16.0, sample_rate=48_000,
                channels=2, file_path="a.wav", status=status,
                created_at=clock["now"] - late - timedelta(seconds=60),
                completed_at=clock["now"] - late,
                generation_time_seconds=10.0 if status == "completed" else None,
            )  # fmt: skip
            with storage.get_session() as session:
                session.add(row)
            made["here", status] += 1
        if chance.random() < 0.8:
            totals = finished.count()
            assert totals.jobs == made
    completed = made["here", "completed"]
    assert totals.audio_seconds["here"] == 16.0 * completed
    assert totals.worked.counts[BOUNDS.index(10.0)] == completed
    assert totals.queued.counts[BOUNDS.index(60.0)] == completed
    assert totals.queued.seconds == pytest.approx(50.0 * completed, abs=0.01 * completed)


def test_rows_without_completion_time_are_counted(sqlite_rig):
    sqlite_rig.complete()
    with storage.get_session() as session:
        session.connection().exec_driver_sql("UPDATE generations SET completed_at = NULL")
    assert FinishedJobs().count().jobs == {("here", "completed"): 1}


def test_unreachable_database_leaves_the_other_metrics(sqlite_rig):
    sqlite_rig.get("/models")
    storage.close_db()
    samples, _ = scrape(sqlite_rig)
    assert samples["dgx_music_database_up",] == 0
    assert samples["dgx_music_http_requests_total", "GET", "/api/v1/models", "200"] == 1
    assert ("dgx_music_jobs", "pending") not in samples


def test_requests_are_counted_by_route_template(sqlite_rig):
    rig = sqlite_rig

    @rig.framework.get("/faults/{number}")
    def fails(number: str) -> None:
        raise ZeroDivisionError

    @rig.framework.get("/stream")
    def stream() -> StreamingResponse:
        return StreamingResponse(iter(["a", "b", "c"]))

    for path in ("/faults/1", "/faults/2", "/nothing/3", "/nothing/4", "/stream"):
        rig.ask("GET", path)
    rig.ask("POST", "/stream")
    rig.ask("BREW", "/api/v1/models")
    samples, _ = scrape(rig)
    counted = {
        name[1:]: value
        for name, value in samples.items()
        if name[0] == "dgx_music_http_requests_total"
    }
    assert counted == {
        ("GET", "/faults/{number}", "500"): 2,
        ("GET", "unmatched", "404"): 2,
        ("GET", "/stream", "200"): 1,
        ("POST", "/stream", "405"): 1,
        ("other", "/api/v1/models", "405"): 1,
    }
    assert samples["dgx_music_http_request_seconds_count", "GET", "/stream"] == 1


def test_request_refused_by_a_middleware_is_counted_under_its_route(sqlite_rig):
    rig = sqlite_rig

    async def refuse(scope, receive, send):
        await send({"type": "http.response.start", "status": 429, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    metrics = rig.framework.state.metrics
    rig.app = HttpMetrics(refuse, metrics.http, RouteNames(rig.framework))
    rig.ask("GET", "/api/v1/queue/stats")
    route = metrics.http.requests.labels("GET", "/api/v1/queue/stats", "429")
    assert route._value.get() == 1


def test_gpu_and_own_worker_have_metrics(sqlite_url, make_rig, nvidia_smi):
    nvidia_smi("echo 'NVIDIA H200, 143771 MiB, 570.1, 1024 MiB'")
    rig = make_rig(sqlite_url, use_gpu=True)
    rig.state.worker = SimpleNamespace(heartbeat_age=0.0, loaded_models=Counter(composer=2))
    samples, _ = scrape(rig)
    assert samples["dgx_music_gpu_memory_used_bytes", "0"] == 2**30
    assert samples["dgx_music_model_loaded", "composer"] == 2


def test_hanging_database_leaves_the_other_metrics(sqlite_rig, monkeypatch):
    go = threading.Event()
    count = storage.count_statuses

    def wait_and_count(*arguments, **options):
        assert go.wait(LIMIT_SECONDS)
        return count(*arguments, **options)

    monkeypatch.setattr(metrics, "LIMIT_SECONDS", 0.01)
    monkeypatch.setattr(storage, "count_statuses", wait_and_count)
    before = set(threading.enumerate())
    try:
        samples, names = scrape(sqlite_rig)
    finally:
        go.set()
        # Its end would be reported in another test.
        for thread in set(threading.enumerate()) - before:
            if thread.name.startswith("probe-"):
                thread.join(LIMIT_SECONDS)
    assert samples["dgx_music_database_up",] == 0
    assert "dgx_music_build_info" in names


def test_scrape_is_not_cached_and_starts_no_series_for_creation_times(sqlite_rig):
    answer = sqlite_rig.ask("GET", "/metrics")
    assert answer.headers["cache-control"] == "no-store"
    assert "_created" not in answer.text
