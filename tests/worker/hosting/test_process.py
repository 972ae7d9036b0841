"""An engine process from inside: its orders, its replies and its end."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from services.errors import (
    CancelledError,
    EngineError,
    EngineUnavailableError,
    InvalidRequestError,
)
from services.generation.engine import EngineFacts, GenerationParams, Rendered
from services.generation.registry import EngineEntry, Registry
from services.library.orders import Order
from services.library.takes import Delivery
from services.worker.hosting import process
from services.worker.hosting.process import load_registry
from services.worker.hosting.wire import encode_message, encode_order
from tests.conftest import LIMIT_SECONDS

FACTS = EngineFacts(
    name="tone",
    version="1",
    description="",
    output_licence="CC0-1.0",
    sample_rate=8_000,
    channels=1,
    shortest_seconds=1.0,
    longest_seconds=30.0,
)


class Tone:
    """An engine that acts before it renders a second of noise."""

    facts = FACTS

    def __init__(self, act: Callable[[Callable[[], bool]], object]) -> None:
        self._act = act

    def render(self, params, progress, should_stop):
        progress("encoding_prompt", 0.0)
        self._act(should_stop)
        progress("decoding", 0.5)
        audio = np.random.default_rng(params.seed).uniform(-0.5, 0.5, (1, 8_000))
        return Rendered(audio=audio.astype(np.float32), sample_rate=8_000, seed=params.seed)


class Worker:
    """The worker's end of the socket, and the process in threads of this one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.channel, self._theirs = socket.socketpair()
        self.channel.settimeout(20.0)
        self.lines = self.channel.makefile("r", encoding="utf-8")
        self.loaded = 0
        self.is_serving = False
        self.exit_codes: list[int] = []
        self.has_failed = threading.Event()
        self.has_left = threading.Event()

    def exit(self, code: int) -> None:
        """Record the exit code instead of ending this process."""
        self.exit_codes.append(code)
        (self.has_left if code == 0 else self.has_failed).set()

    def serve(self, act=lambda _should_stop: None, seats: int = 1, load=None) -> None:
        def load_engine() -> Tone:
            self.loaded += 1
            if load is not None:
                load()
            return Tone(act)

        registry = Registry({"tone": EngineEntry(FACTS, load_engine, lambda: None)})
        server = process._Server(self._theirs, registry, seats)
        self.is_serving = True
        threading.Thread(target=server.serve, daemon=True).start()

    def send(self, **message: object) -> None:
        self.channel.sendall(encode_message(message))

    def order(self, number: int, seed: int = 1, model: str = "tone") -> None:
        order = Order(
            generation_id=f"id-{number}",
            model=model,
            created_at=datetime(2026, 3, 1, tzinfo=UTC),
            file_path=f"2026/03/01/id-{number}.wav",
            params=GenerationParams(prompt="a tone", duration_seconds=1.0, seed=seed),
        )
        delivery = Delivery(
            output_dir=self.folder, target_lufs=None, true_peak_dbtp=-1.0, bit_depth="PCM_16"
        )
        fields = encode_order(order, self.folder / f"{number}.part", delivery)
        self.send(do="render", id=number, model=model, **fields)

    def receive(self) -> dict:
        return json.loads(self.lines.readline())

    def answer(self) -> dict:
        """Return the next message that is no progress."""
        while (message := self.receive())["event"] == "progress":
            pass
        return message


@pytest.fixture
def worker(tmp_path, monkeypatch):
    made = Worker(tmp_path)
    monkeypatch.setattr(os, "_exit", made.exit)
    yield made
    made.lines.close()
    made.channel.close()
    if made.is_serving:
        assert made.has_left.wait(LIMIT_SECONDS)
    made._theirs.close()


def test_an_order_is_loaded_rendered_and_answered_with_its_take(worker):
    worker.serve()
    worker.order(7)
    messages = [worker.receive()]
    while messages[-1]["event"] == "progress":
        messages.append(worker.receive())
    assert {message["id"] for message in messages} == {7}
    steps = list(dict.fromkeys(message["step"] for message in messages[:-1]))
    assert steps == ["loading_model", "generating", "encoding_prompt", "saving"]
    take = messages[-1]["take"]
    assert take["bytes"] == (worker.folder / "7.part").stat().st_size
    assert take["metadata"]["seed"] == 1


def test_an_engine_is_loaded_once_and_loading_ahead_makes_nothing(worker):
    worker.serve()
    worker.send(do="load", id=1, model="tone")
    assert worker.answer() == {"id": 1, "event": "loaded"}
    assert list(worker.folder.iterdir()) == []
    worker.order(2)
    assert worker.answer()["event"] == "made"
    assert worker.loaded == 1


def raise_error(error: BaseException) -> Callable[[object], None]:
    def act(_should_stop: object) -> None:
        raise error

    return act


@pytest.mark.parametrize(
    ("error", "kind", "message", "is_broken"),
    [
        (InvalidRequestError("Not so."), "InvalidRequestError", "Not so.", False),
        (EngineError("No memory."), "EngineError", "No memory.", True),
        (
            ValueError("odd"),
            "EngineError",
            "The engine tone failed: ValueError: odd",
            True,
        ),
    ],
)
def test_an_error_is_answered_and_the_next_order_runs(worker, error, kind, message, is_broken):
    errors = [error]

    def act(_should_stop: object) -> None:
        if errors:
            raise errors.pop()

    worker.serve(act)
    worker.order(1)
    assert worker.answer() == {
        "id": 1, "event": "failed", "kind": kind, "message": message, "broken": is_broken,
    }  # fmt: skip
    worker.order(2)
    assert worker.answer()["event"] == "made"


def test_an_engine_that_stops_by_itself_cancels_the_order(worker):
    worker.serve(raise_error(CancelledError("Cancelled.")))
    worker.order(1)
    assert worker.answer() == {"id": 1, "event": "cancelled"}


def test_an_engine_that_cannot_be_loaded_fails_each_order(worker):
    def load() -> None:
        raise EngineUnavailableError("Its weights are damaged.")

    worker.serve(load=load)
    for number in (1, 2):
        worker.order(number)
        answer = worker.answer()
        assert (answer["kind"], answer["message"]) == (
            "EngineUnavailableError",
            "Its weights are damaged.",
        )
    assert worker.loaded == 2


def test_an_unknown_model_fails_its_order(worker):
    worker.serve()
    worker.order(1, model="tune")
    assert worker.answer()["kind"] == "EngineUnavailableError"


def test_a_stop_ends_the_running_order_and_no_other(worker):
    started = threading.Event()

    def wait_for_stop(should_stop: Callable[[], bool]) -> None:
        started.set()
        while not should_stop():
            threading.Event().wait(0.002)
        raise CancelledError("Cancelled.")

    worker.serve(wait_for_stop)
    worker.order(1)
    worker.send(do="stop", id=99)
    started.wait(LIMIT_SECONDS)
    worker.send(do="stop", id=1)
    assert worker.answer() == {"id": 1, "event": "cancelled"}
    worker.send(do="stop", id=1)
    worker.send(do="load", id=2, model="tone")
    assert worker.answer() == {"id": 2, "event": "loaded"}


def test_a_stop_that_arrives_before_its_order_starts_is_kept(worker):
    release = threading.Event()

    def wait(should_stop: Callable[[], bool]) -> None:
        release.wait(LIMIT_SECONDS)
        if should_stop():
            raise CancelledError("Cancelled.")

    worker.serve(wait)
    worker.order(1)
    worker.order(2)
    worker.send(do="stop", id=2)
    worker.send(do="stop", id=98)
    release.set()
    assert [worker.answer()["event"] for _ in range(2)] == ["made", "cancelled"]


def test_orders_run_together_when_there_are_seats(worker):
    together = threading.Barrier(3)
    worker.serve(lambda _should_stop: together.wait(LIMIT_SECONDS), seats=3)
    for number in (1, 2, 3):
        worker.order(number, seed=number)
    answers = {message["id"]: message for message in (worker.answer() for _ in range(3))}
    assert sorted(answers) == [1, 2, 3]
    assert all(answers[n]["take"]["metadata"]["seed"] == n for n in answers)
    assert worker.loaded == 1


def test_an_order_that_waits_for_the_engine_to_load_can_be_stopped(worker):
    loading, release = threading.Event(), threading.Event()

    def load() -> None:
        loading.set()
        release.wait(LIMIT_SECONDS)

    worker.serve(seats=2, load=load)
    worker.order(1)
    assert loading.wait(LIMIT_SECONDS)
    worker.order(2)
    worker.send(do="stop", id=2)
    assert worker.answer() == {"id": 2, "event": "cancelled"}
    release.set()
    assert worker.answer()["id"] == 1


def test_a_fault_that_is_no_error_ends_the_process(worker, capfd):
    class Fault(BaseException):
        pass

    worker.serve(raise_error(Fault("at once")))
    worker.order(1)
    assert worker.has_failed.wait(LIMIT_SECONDS)
    assert worker.exit_codes == [70]
    assert "at once" in capfd.readouterr().err


def test_the_process_ends_when_the_worker_closes_the_connection(worker):
    worker.serve()
    worker.channel.shutdown(socket.SHUT_RDWR)
    assert worker.has_left.wait(LIMIT_SECONDS)
    assert worker.exit_codes == [0]


def test_a_registry_is_loaded_by_its_name():
    registry = load_registry("tests.worker.queue_engines:registry", None)
    assert registry.resolve("choir").facts.concurrent == 3
