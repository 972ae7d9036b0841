"""Stopped workers on an SQLite database are killed; others are not."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from services import storage
from services.machine import process_identity
from services.machine.process_identity import ProcessIdentity
from services.worker import stopped
from services.worker.stopped import StoppedWorkerKiller
from tests.conftest import LIMIT_SECONDS, wait_until

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

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
    wait_until(lambda: state_of(process.pid) == "T")


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The age of the worker's heartbeat, in seconds, at each check."""
    seen: list[float] = []
    read = storage.list_workers

    def list_workers(session: Session) -> list[storage.WorkerState]:
        states = read(session)
        seen.append(states[0].age)
        return states

    monkeypatch.setattr(storage, "list_workers", list_workers)
    return seen


def test_a_stopped_worker_without_a_heartbeat_is_killed(sqlite_database, sleeper):
    stop(sleeper)
    register(identity_of(sleeper.pid))
    killer = StoppedWorkerKiller(TTL)
    assert sleeper.wait(LIMIT_SECONDS) == -signal.SIGKILL
    killer.end()


@pytest.mark.parametrize("process", ["running", "not an identity", "of another start"])
def test_no_other_process_is_killed(sqlite_database, sleeper, process, checks):
    identity = identity_of(sleeper.pid)
    if process != "running":
        stop(sleeper)
        identity = "x" if process == "not an identity" else identity + "1"
    register(identity)
    killer = StoppedWorkerKiller(TTL)
    # Two checks after the worker counts as dead: the first may have been under way.
    wait_until(lambda: sum(age > TTL for age in checks) > 1)
    killer.end()
    assert sleeper.poll() is None


def test_a_stopped_worker_with_a_fresh_heartbeat_is_left_alone(
    sqlite_database, sleeper, checks, monkeypatch
):
    stop(sleeper)
    register(identity_of(sleeper.pid))
    monkeypatch.setattr(stopped, "CHECKS_PER_TTL", 6000)
    killer = StoppedWorkerKiller(60.0)
    wait_until(lambda: len(checks) > 2)
    killer.end()
    assert state_of(sleeper.pid) == "T"
