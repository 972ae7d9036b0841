"""An engine process without a queue."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.errors import CancelledError, EngineError, InvalidRequestError
from services.generation.engine import GenerationParams
from services.library.orders import Order
from services.library.takes import Delivery, Take
from services.worker.hosting import host as engine_host
from services.worker.hosting.host import EngineHost, EngineSource, Limits
from services.worker.hosting.pool import HostPool
from services.worker.hosting.wire import Launch
from tests.conftest import LIMIT_SECONDS, wait_until
from tests.worker.hosting.conftest import SETTINGS

pytestmark = pytest.mark.integration

ENGINES = Path(__file__).parents[1]
LIMITS = Limits(stall=LIMIT_SECONDS, deadline=LIMIT_SECONDS)
SOURCE = EngineSource("queue_engines:registry", SETTINGS)


def never() -> bool:
    return False


@pytest.fixture(autouse=True)
def _engines_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ENGINES))
    monkeypatch.setenv("DGX_MUSIC_TEST_LEDGER", str(tmp_path / "ledger"))


def order_of(prompt: str, seed: int = 0) -> Order:
    return Order(
        generation_id=f"an-id-{seed}",
        model="puppet",
        created_at=datetime(2026, 3, 1, tzinfo=UTC),
        file_path=f"2026/03/01/an-id-{seed}.wav",
        params=GenerationParams(prompt=prompt, duration_seconds=1.0, seed=seed),
    )


def render(
    host: EngineHost, folder: Path, prompt: str, seed: int = 0, should_stop=never, seen=None
) -> Take:
    delivery = Delivery(
        output_dir=folder, target_lufs=-16.0, true_peak_dbtp=-1.0, bit_depth="PCM_16"
    )
    steps = [] if seen is None else seen
    return host.render(
        order_of(prompt, seed),
        folder / f"{seed}.part",
        delivery,
        lambda step, done: steps.append((step, done)),
        should_stop,
    )


def test_one_process_runs_orders_one_after_the_other(tmp_path):
    host = EngineHost("puppet", SOURCE, LIMITS)
    steps: list[tuple[str, float]] = []
    take = render(host, tmp_path, "sleep 0.1", seen=steps)
    assert take.path.stat().st_size == take.bytes
    assert take.metadata["engine"] == "puppet"
    assert take.measurements["peak_amplitude"] > 0
    names = [step for step, _ in steps]
    assert names[0] == "loading_model"
    assert {"generating", "saving"} <= set(names)
    pid = host.pid
    with pytest.raises(InvalidRequestError, match="refuses"):
        render(host, tmp_path, "refuse 1")
    assert host.pid == pid
    assert render(host, tmp_path, "sleep 0", seed=5).metadata["seed"] == 5
    host.kill()
    assert not host.alive


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_process_logs_as_its_worker_does(tmp_path, monkeypatch, caplog, capfd, form):
    caplog.set_level("INFO", "services")
    monkeypatch.setattr(engine_host, "logs_json", lambda: form == "json")
    host = EngineHost("puppet", SOURCE, LIMITS)
    render(host, tmp_path, "log")
    host.kill()
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "is logged" in line]
    if form == "json":
        assert json.loads(line)["seed"] == 0
    else:
        assert line.endswith("INFO seed=0 is logged")


def test_a_stopped_order_leaves_the_process_alive(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_host, "STOP_GRACE_SECONDS", LIMIT_SECONDS)
    host = EngineHost("puppet", SOURCE, LIMITS)
    ledger = tmp_path / "ledger"
    with pytest.raises(CancelledError):
        render(host, tmp_path, "hold", should_stop=ledger.exists)
    assert " stopped " in ledger.read_text()
    assert host.alive
    host.kill()


def test_an_order_past_its_deadline_fails(tmp_path):
    host = EngineHost("puppet", SOURCE, Limits(stall=LIMIT_SECONDS, deadline=1.5))
    with pytest.raises(EngineError, match=r"took over 1\.5 s"):
        render(host, tmp_path, "hold")
    assert not host.alive


@pytest.mark.parametrize(
    ("misdeed", "said"),
    [
        ("die", "ended its process with code 3"),
        ("kill", "killed by SIGKILL. The system may have been out of memory"),
        ("noise", "sent an invalid message"),
    ],
)
def test_the_error_of_a_crash_names_its_cause(tmp_path, misdeed, said):
    host = EngineHost("puppet", SOURCE, LIMITS)
    with pytest.raises(EngineError, match=said):
        render(host, tmp_path, f"{misdeed} 1")
    assert not host.alive


def test_a_process_ends_with_the_worker_that_started_it(tmp_path):
    host = EngineHost("puppet", SOURCE, LIMITS)
    host.load(never)
    host._channel.shutdown(socket.SHUT_RDWR)
    assert host._process.wait(timeout=LIMIT_SECONDS) == 0


def test_a_process_ends_when_its_worker_left_messages_unread(tmp_path):
    ours, theirs = socket.socketpair()
    number = theirs.fileno()
    launch = Launch(
        registry=SOURCE.registry, settings=SETTINGS, seats=1, log_level="INFO", logs_json=False
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "services.worker.hosting.process", str(number), launch.encode()],
        pass_fds=[number],
    )
    theirs.close()
    ours.sendall(b'{"do": "load", "id": 1, "model": "puppet"}\n')
    readable, _, _ = select.select([ours], [], [], LIMIT_SECONDS)
    assert readable
    ours.close()
    assert process.wait(timeout=LIMIT_SECONDS) == 0


def test_a_process_is_reused_replaced_and_ended_when_idle():
    pool = HostPool(1, SOURCE, LIMITS, idle_seconds=0.2)
    with pool.lease("puppet") as host:
        first = host.pid
    with pool.lease("puppet") as host:
        assert host.pid == first
    with pool.lease("other") as host:
        assert host.pid != first
        with pytest.raises(ProcessLookupError):
            os.kill(first, 0)
        assert pool.unload_idle() == 0
    wait_until(lambda: pool.unload_idle() == 1)
    pool.kill_all()
