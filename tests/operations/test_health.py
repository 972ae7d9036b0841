"""GET /health, /health/ready and /health/live."""

from __future__ import annotations

import shutil
import threading
import time
from datetime import datetime
from types import SimpleNamespace

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services import storage
from services.config import Settings
from services.errors import OutputError, StoreAwayError
from services.generation.engine import EngineSettings
from services.jobs.models import parse_request
from services.machine import gpu
from services.machine.gpu import detect_gpus
from services.operations import health
from services.operations.health import (
    Checks,
    DatabaseCheck,
    DiskCheck,
    GpuCheck,
    Health,
    QueueCheck,
    check_disks,
    check_queue,
    judge_gpus,
)
from services.worker.hosting.host import DEFAULT_REGISTRY, EngineSource, Limits
from services.worker.hosting.pool import HostPool
from tests.conftest import LIMIT_SECONDS, wait_until

TOO_MUCH = 2**60


def checks_of(answer):
    return {name: check["status"] for name, check in answer.json()["checks"].items()}


def test_idle_server_is_healthy_and_ready(rig):
    answer = rig.get("/health")
    report = answer.json()
    assert (answer.status_code, report["status"]) == (200, "healthy")
    assert set(report) == {"status", "checks", "version", "uptime_seconds", "timestamp"}
    assert set(report["checks"]) == {"database", "gpu", "queue", "disk_space"}
    assert report["checks"]["database"]["revision"] == storage.HEAD_REVISION
    assert report["uptime_seconds"] >= 0
    assert datetime.fromisoformat(report["timestamp"]).tzinfo is not None
    ready, live = rig.get("/health/ready"), rig.get("/health/live")
    assert (ready.status_code, ready.json()["ready"]) == (200, True)
    assert (live.status_code, live.json()["status"]) == (200, "alive")
    assert {one.headers["cache-control"] for one in (answer, ready, live)} == {"no-store"}


def test_jobs_without_a_worker_degrade_the_queue(rig):
    rig.queue_up("here")
    rig.start_worker("another", "other")
    queue = rig.get("/health").json()["checks"]["queue"]
    assert (queue["status"], queue["unserved_models"]) == ("degraded", ["here"])
    assert rig.get("/health").status_code == 200
    rig.start_worker("w", "here", "other")
    queue = rig.get("/health").json()["checks"]["queue"]
    assert (queue["status"], queue["waiting_jobs"], queue["workers"]) == ("healthy", 1, 2)
    with storage.get_session() as session:
        storage.record_heartbeat(session, "w", draining=True)
    queue = rig.get("/health").json()["checks"]["queue"]
    assert (queue["status"], queue["draining_workers"]) == ("degraded", 1)


def test_long_wait_degrades_the_queue(sqlite_url, make_rig):
    rig = make_rig(sqlite_url, queue_slow_seconds=1e-6)
    rig.start_worker("w", "here")
    rig.queue_up()
    queue = rig.get("/health").json()["checks"]["queue"]
    assert queue["status"] == "degraded"
    assert queue["oldest_waiting_seconds"] > 0


def test_full_queue_is_not_ready(sqlite_url, make_rig):
    rig = make_rig(sqlite_url, queue_limit=2)
    rig.start_worker("w", "here")
    rig.queue_up()
    assert rig.get("/health/ready").status_code == 200
    rig.queue_up()
    answer = rig.get("/health/ready")
    assert (answer.status_code, checks_of(answer)["queue"]) == (503, "unhealthy")
    assert rig.get("/health").status_code == 200


@pytest.mark.parametrize(
    ("setting", "status", "code"),
    [("disk_low_bytes", "degraded", 200), ("disk_floor_bytes", "unhealthy", 503)],
)
def test_low_space_degrades_and_too_little_is_unhealthy(
    sqlite_url, make_rig, setting, status, code
):
    rig = make_rig(sqlite_url, **{setting: TOO_MUCH})
    answer = rig.get("/health")
    assert (answer.status_code, checks_of(answer)["disk_space"]) == (code, status)
    assert rig.get("/health/ready").status_code == code


def test_job_is_refused_below_the_disk_floor(sqlite_url, make_rig):
    rig = make_rig(sqlite_url, disk_floor_bytes=TOO_MUCH)
    with pytest.raises(OutputError, match=r"GiB free, and new jobs need .*DGX_MUSIC_OUTPUT_DIR"):
        rig.state.service.submit(parse_request(prompt="a tone"))
    assert rig.state.service.history().jobs == []


@pytest.mark.parametrize("revision", ["002", "999"])
def test_tables_of_another_release_are_unhealthy(rig, revision):
    with storage.get_session() as session:
        session.connection().exec_driver_sql(f"UPDATE alembic_version SET version_num='{revision}'")
    answer = rig.get("/health")
    database = answer.json()["checks"]["database"]
    assert (answer.status_code, database["status"]) == (503, "unhealthy")
    assert database["revision"] == revision
    assert rig.get("/health/ready").status_code == 503


def test_unreachable_database_is_unhealthy_and_reveals_no_error(rig):
    storage.close_db()
    answer = rig.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (503, "unhealthy")
    assert checks_of(answer) | {"gpu": "", "disk_space": ""} == {
        "database": "unhealthy",
        "gpu": "",
        "queue": "unhealthy",
        "disk_space": "",
    }
    assert "Error" not in answer.text
    assert "init_db" not in answer.text
    assert rig.get("/health/live").status_code == 200


@pytest.mark.postgres
def test_hanging_database_does_not_hang_the_check(postgres_url, make_rig):
    rig = make_rig(postgres_url)
    rig.state.health = Health(rig.state.settings, rig.state.service.registry, limit_seconds=1.0)
    until_healthy(rig)
    with psycopg.connect(postgres_url) as other:
        other.execute("LOCK TABLE alembic_version, workers IN ACCESS EXCLUSIVE MODE")
        answers = [rig.get("/health") for _ in range(3)]
        assert {answer.status_code for answer in answers} == {503}
        assert checks_of(answers[-1])["disk_space"] == "healthy"
        names = [thread.name for thread in threading.enumerate()]
        assert names.count("probe-database") == names.count("probe-queue") == 1
        other.rollback()
    until_healthy(rig)


def until_healthy(rig):
    wait_until(lambda: rig.get("/health").status_code == 200)


def test_draining_server_is_not_ready(rig):
    rig.state.is_draining = True
    storage.close_db()
    answer = rig.get("/health/ready")
    assert (answer.status_code, answer.json()) == (503, {"ready": False, "checks": None})


def test_hanging_worker_of_the_server_is_reported(sqlite_rig):
    ttl = sqlite_rig.state.settings.worker_ttl_seconds
    for age, code, status in ((0.1, 200, "alive"), (ttl * 3, 503, "wedged")):
        sqlite_rig.state.worker = SimpleNamespace(heartbeat_age=age)
        answer = sqlite_rig.get("/health/live")
        assert (answer.status_code, answer.json()["status"]) == (code, status)
        assert answer.json()["worker_beat_age_seconds"] == age


def test_unwritable_output_folder_is_unhealthy(sqlite_url, make_rig, monkeypatch):
    rig = make_rig(sqlite_url)
    monkeypatch.setattr("os.access", lambda *_args, **_options: False)
    answer = rig.get("/health")
    assert checks_of(answer)["disk_space"] == "unhealthy"
    assert "DGX_MUSIC_OUTPUT_DIR" in answer.json()["checks"]["disk_space"]["detail"]


def test_gpus_are_those_the_driver_reports(nvidia_smi):
    nvidia_smi("echo 'NVIDIA H200, 143771 MiB, 570.1, 1024 MiB'; echo 'GB10, [N/A], 580, [N/A]'")
    report = detect_gpus()
    first, second = report.gpus
    assert (first.memory_total_bytes, first.memory_used_bytes) == (143771 * 2**20, 2**30)
    assert (second.name, second.memory_total_bytes, second.summary) == ("GB10", None, "GB10, 580")
    check = judge_gpus(report, [])
    assert (check.status, check.detail) == (
        "healthy",
        "NVIDIA H200, 143771 MiB, 570.1; GB10, 580.",
    )


@pytest.mark.parametrize("script", ["exit 9", "exec sleep 60", "printf '\\377'"])
def test_broken_driver_degrades(nvidia_smi, monkeypatch, script):
    monkeypatch.setattr(gpu, "QUERY_SECONDS", 0.3)
    nvidia_smi(script)
    report = detect_gpus()
    assert report.is_broken
    assert judge_gpus(report, ["here"]).status == "degraded"


def test_missing_gpu_is_healthy_if_a_model_needs_none(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(gpu, "_DRIVER", tmp_path)
    report = detect_gpus()
    assert judge_gpus(report, ["here"]).status == "healthy"
    assert "here" in judge_gpus(report, ["here"]).detail
    assert judge_gpus(report, []).status == "degraded"
    card = tmp_path / "gpus" / "0000:01:00.0" / "information"
    card.parent.mkdir(parents=True)
    card.write_text("Model: \t\t NVIDIA GB10\nIRQ:   0\n")
    assert [one.name for one in detect_gpus().gpus] == ["NVIDIA GB10"]


def test_host_pool_counts_its_loaded_models():
    pool = HostPool(
        1,
        EngineSource(DEFAULT_REGISTRY, EngineSettings.of(Settings(_env_file=None))),
        Limits(stall=LIMIT_SECONDS, deadline=LIMIT_SECONDS),
        idle_seconds=10,
    )
    assert pool.count_models() == {}
    with pool.lease("composer"):
        assert pool.count_models() == {"composer": 1}
    pool.kill_all()
    assert pool.count_models() == {}


STATUSES = st.sampled_from(["healthy", "degraded", "unhealthy"])


@given(st.tuples(STATUSES, STATUSES, STATUSES, STATUSES))
def test_report_has_the_worst_status(statuses):
    kinds = (DatabaseCheck, GpuCheck, QueueCheck, DiskCheck)
    names = ("database", "gpu", "queue", "disk_space")
    parts = {
        name: kind(status=status, detail="x")
        for name, kind, status in zip(names, kinds, statuses, strict=True)
    }
    worst = Checks(**parts).worst
    assert worst in statuses
    if "unhealthy" in statuses:
        assert worst == "unhealthy"
    elif "degraded" in statuses:
        assert worst == "degraded"


def test_checks_that_do_not_answer_in_time_have_a_status(sqlite_rig, monkeypatch):
    settings = sqlite_rig.state.settings.model_copy(update={"use_gpu": True})
    blocked = threading.Event()
    for name in ("check_database", "check_queue", "check_disks", "judge_gpus"):
        monkeypatch.setattr(health, name, lambda *_: blocked.wait(LIMIT_SECONDS))
    checker = Health(settings, sqlite_rig.state.service.registry, limit_seconds=0.01)
    try:
        report = checker.report(time.monotonic())
        ready = checker.readiness(is_draining=False)
    finally:
        blocked.set()
    assert report.status == "unhealthy"
    assert report.checks.gpu.status == "degraded"
    assert {report.checks.database.status, report.checks.queue.status} == {"unhealthy"}
    assert report.checks.disk_space.status == "unhealthy"
    assert not ready.ready
    assert ready.checks.server.status == "healthy"


def test_disk_that_does_not_answer_is_unhealthy(sqlite_rig, monkeypatch):
    def fail(_path):
        raise OSError(5, "Input/output error", "/secret/place")

    monkeypatch.setattr("shutil.disk_usage", fail)
    check = check_disks(sqlite_rig.state.settings)
    assert (check.status, check.output_free_bytes) == ("unhealthy", None)
    assert "secret" not in check.detail


def test_bucket_that_does_not_answer_is_unhealthy(sqlite_url, make_rig, monkeypatch):
    def fail(_settings):
        raise StoreAwayError("s3://secret cannot be listed")

    rig = make_rig(sqlite_url, file_store="s3://music/takes")
    monkeypatch.setattr(health, "open_store", fail)
    check = check_disks(rig.state.settings)
    assert (check.status, "secret" in check.detail) == ("unhealthy", False)


def test_free_space_is_that_of_the_output_folder_and_the_database(sqlite_rig, tmp_path):
    check = check_disks(sqlite_rig.state.settings)
    free = shutil.disk_usage(tmp_path).free
    assert check.output_free_bytes == pytest.approx(free, abs=2**30)
    assert check.database_free_bytes == pytest.approx(free, abs=2**30)


@pytest.mark.postgres
def test_database_on_a_server_has_no_free_space(postgres_url, make_rig):
    assert check_disks(make_rig(postgres_url).state.settings).database_free_bytes is None


def test_unserved_models_are_named_in_the_advice(sqlite_rig):
    sqlite_rig.start_worker("w", "here")
    for model in ("here", "other", "third"):
        sqlite_rig.queue_up(model)
    check = check_queue(sqlite_rig.state.settings)
    assert (check.waiting_jobs, check.models) == (3, ["here"])
    assert sorted(check.unserved_models) == ["other", "third"]
    assert "other" in check.detail
    assert "`dgx-music worker`" in check.detail


def test_empty_queue_has_no_age(sqlite_rig):
    check = check_queue(sqlite_rig.state.settings)
    assert (check.status, check.detail) == ("healthy", "No job waits.")
    assert (check.waiting_jobs, check.oldest_waiting_seconds, check.workers) == (0, None, 0)


def test_gpu_is_not_checked_if_the_setting_is_off(sqlite_rig, nvidia_smi):
    nvidia_smi("exit 9")
    gpu_check = sqlite_rig.get("/health").json()["checks"]["gpu"]
    assert (gpu_check["status"], gpu_check["gpus"]) == ("healthy", [])
    assert "DGX_MUSIC_USE_GPU" in gpu_check["detail"]


def test_driver_is_asked_once_for_several_reports(sqlite_url, make_rig, nvidia_smi, tmp_path):
    log = tmp_path / "log"
    nvidia_smi(f"echo asked >> {log}; echo 'NVIDIA H200, 143771 MiB, 570.1, 1024 MiB'")
    rig = make_rig(sqlite_url, use_gpu=True)
    for _ in range(3):
        (device,) = rig.get("/health").json()["checks"]["gpu"]["gpus"]
    assert device == {
        "name": "NVIDIA H200",
        "driver": "570.1",
        "memory_total_bytes": 143771 * 2**20,
        "memory_used_bytes": 2**30,
    }
    assert log.read_text() == "asked\n"
