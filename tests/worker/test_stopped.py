"""Stopped workers on an SQLite database are killed; others are not."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from services import storage
from services.machine import process_identity
from services.machine.process_identity import ProcessIdentity
from services.worker.stopped import StoppedWorkerKiller
from tests.conftest import LIMIT_SECONDS

pytestmark = pytest.mark.integration

TTL = 0.2


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]


def identity_of(pid: int) -> str:
    host, boot, namespace, _, _ = str(ProcessIdentity.current()).split("/")
    return "/".join((host, boot, namespace, str(pid), process_identity._start_time(pid) or ""))


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["/bin/sleep", "600"]) as process:
        yield process
        process.kill()


def register(process: str) -> None:
    with storage.get_session() as session:
        storage.register_worker(
            session, worker_id="w", slot="s", process=process, host="h", pid=7,
            models=("composer",), concurrency=1,
        )  # fmt: skip


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGSTOP)
    while state_of(process.pid) != "T":
        pass


def test_a_stopped_worker_without_a_heartbeat_is_killed(sqlite_database, sleeper):
    stop(sleeper)
    register(identity_of(sleeper.pid))
    killer = StoppedWorkerKiller(TTL)
    assert sleeper.wait(LIMIT_SECONDS) == -signal.SIGKILL
    killer.end()


@pytest.mark.parametrize("process", ["running", "not an identity", "of another start"])
def test_no_other_process_is_killed(sqlite_database, sleeper, process):
    identity = identity_of(sleeper.pid)
    if process != "running":
        stop(sleeper)
        identity = "x" if process == "not an identity" else identity + "1"
    register(identity)
    killer = StoppedWorkerKiller(TTL)
    with pytest.raises(subprocess.TimeoutExpired):
        sleeper.wait(timeout=2 * TTL)
    killer.end()


def test_a_stopped_worker_with_a_fresh_heartbeat_is_left_alone(sqlite_database, sleeper):
    stop(sleeper)
    register(identity_of(sleeper.pid))
    killer = StoppedWorkerKiller(60.0)
    killer.end()
    assert state_of(sleeper.pid) == "T"
