"""An engine process played by the test, at the other end of the real socket."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from services.generation.engine import EngineSettings, GenerationParams
from services.library.orders import Order
from services.library.takes import Delivery, Take
from services.worker.hosting import host as engine_host
from services.worker.hosting.host import EngineHost, EngineSource, Limits
from services.worker.hosting.wire import Launch
from tests.conftest import LIMIT_SECONDS

SETTINGS = EngineSettings(
    models_dir=Path("/models"), worker_concurrency=1, use_gpu=False, cpu_precision="fp32"
)
TAKE = {"bytes": 4, "sha256": "ab", "seconds": 0.5, "metadata": {}, "measurements": {}}
DELIVERY = Delivery(
    output_dir=Path("/music"), target_lufs=None, true_peak_dbtp=-1.0, bit_depth="PCM_16"
)


class Peer:
    """Takes the place of `subprocess.Popen`, and reads and sends what a test says."""

    def __init__(self, command: list[str], *, pass_fds: list[int], **_options: Any) -> None:
        self.launch = Launch.decode(command[-1])
        self.channel = socket.socket(fileno=os.dup(pass_fds[0]))
        self.channel.settimeout(LIMIT_SECONDS)
        self.lines = self.channel.makefile("r", encoding="utf-8")
        self.pid = 0
        self.code: int | None = None
        self.has_ended = threading.Event()

    def poll(self) -> int | None:
        return self.code

    def wait(self, timeout: float | None = None) -> int | None:
        if not self.has_ended.wait(timeout):
            raise subprocess.TimeoutExpired("peer", timeout or 0.0)
        return self.code

    def kill(self) -> None:
        self.exit(-signal.SIGKILL)

    def exit(self, code: int) -> None:
        if self.code is None:
            self.code = code
            self.channel.shutdown(socket.SHUT_RDWR)
            self.channel.close()
            self.has_ended.set()

    def receive(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.lines.readline())
        return message

    def send(self, **message: Any) -> None:
        self.send_bytes(json.dumps(message).encode() + b"\n")

    def send_bytes(self, data: bytes) -> None:
        self.channel.sendall(data)


class Caller:
    """Gives orders to hosts, each from a thread of its own."""

    def __init__(self, threads: ThreadPoolExecutor, peers: list[Peer]) -> None:
        self.threads, self.peers = threads, peers
        self.hosts: list[EngineHost] = []
        self.progress: list[tuple[str, float]] = []

    @property
    def peer(self) -> Peer:
        return self.peers[-1]

    def start(self, seats: int = 1, stall: float = 30.0, deadline: float = 60.0) -> EngineHost:
        host = EngineHost(
            "tone", EngineSource("a:b", SETTINGS), Limits(stall=stall, deadline=deadline), seats
        )
        self.hosts.append(host)
        return host

    def render(
        self,
        host: EngineHost,
        should_stop: Callable[[], bool] = lambda: False,
        on_progress: Callable[[str, float], None] | None = None,
    ) -> Future[Take]:
        def report(step: str, fraction: float) -> None:
            self.progress.append((step, fraction))

        order = Order(
            generation_id="an-id",
            model="tone",
            created_at=datetime(2026, 3, 1, tzinfo=UTC),
            file_path="2026/03/01/an-id.wav",
            params=GenerationParams(prompt="a tone", duration_seconds=1.0, seed=7),
        )
        return self.threads.submit(
            host.render, order, "/music/take.part", DELIVERY, on_progress or report, should_stop
        )

    def begin(self, host: EngineHost, **how: Any) -> tuple[Future[Take], int]:
        """Give an order, and wait until the peer has it; return its number too."""
        asked = self.render(host, **how)
        return asked, self.peer.receive()["id"]


@pytest.fixture
def caller(monkeypatch: pytest.MonkeyPatch) -> Iterator[Caller]:
    peers: list[Peer] = []

    def start(*arguments: Any, **options: Any) -> Peer:
        peers.append(Peer(*arguments, **options))
        return peers[-1]

    fake = SimpleNamespace(
        Popen=start, DEVNULL=subprocess.DEVNULL, TimeoutExpired=subprocess.TimeoutExpired
    )
    monkeypatch.setattr(engine_host, "subprocess", fake)
    monkeypatch.setattr(engine_host, "_CHECK_SECONDS", 0.02)
    with ThreadPoolExecutor(8) as threads:
        yield Caller(threads, peers)
        for peer in peers:
            peer.kill()
            peer.lines.close()
