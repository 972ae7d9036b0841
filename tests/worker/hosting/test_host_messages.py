"""What the host does with the messages, the silence and the end of an engine process."""

from __future__ import annotations

import json
import signal
import threading

import pytest

from services.errors import CancelledError, EngineError, InvalidRequestError, OutputError
from services.worker.hosting import host as engine_host
from services.worker.hosting.wire import LONGEST_MESSAGE, decode_order
from tests.conftest import wait_until
from tests.worker.hosting.conftest import DELIVERY, TAKE


def test_an_order_is_sent_and_its_take_returned(caller):
    host = caller.start()
    asked = caller.render(host)
    message = caller.peer.receive()
    order, path, delivery = decode_order(message)
    assert (message["do"], message["model"], order.params.seed) == ("render", "tone", 7)
    assert (str(path), delivery) == ("/music/take.part", DELIVERY)
    caller.peer.send(id=message["id"], event="progress", step="generating", fraction=0.5)
    caller.peer.send(id=message["id"], event="made", take=TAKE)
    take = asked.result()
    assert (take.path, take.bytes, take.sha256) == ("/music/take.part", 4, "ab")
    assert caller.progress == [("generating", 0.5)]
    assert host.takes_orders


def test_the_process_is_told_its_seats(caller):
    caller.start(seats=3)
    assert (caller.peer.launch.seats, caller.peer.launch.settings.worker_concurrency) == (3, 3)


def test_orders_have_numbers_of_their_own(caller):
    host = caller.start(seats=2)
    first, one = caller.begin(host)
    second, two = caller.begin(host)
    assert one != two
    caller.peer.send(id=two, event="made", take={**TAKE, "sha256": "two"})
    caller.peer.send(id=one, event="made", take={**TAKE, "sha256": "one"})
    assert (first.result().sha256, second.result().sha256) == ("one", "two")


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\n",
        b"[]\n",
        b'"made"\n',
        b"\xff\xfe\n",
        b'{"event": "made"}\n',
        b'{"id": 1}\n',
        b'{"id": "one", "event": "made"}\n',
        b'{"id": null, "event": "made"}\n',
        b'{"id": 1, "event": "progress", "step": "generating"}\n',
        b'{"id": 1, "event": "progress", "step": "generating", "fraction": "half"}\n',
        b'{"id": 1, "event": "failed"}\n',
        b'{"id": 1, "event": "failed", "kind": "EngineError", "message": "no"}\n',
        b"x" * (LONGEST_MESSAGE + 1),
    ],
)
def test_an_invalid_message_fails_the_order_and_kills_the_process(caller, data):
    host = caller.start()
    asked, _ = caller.begin(host)
    try:
        caller.peer.send_bytes(data)
    except OSError:
        assert len(data) > LONGEST_MESSAGE  # killed while it was still being sent
    with pytest.raises(EngineError, match="sent an invalid message"):
        asked.result()
    wait_until(lambda: not host.alive)
    assert not host.takes_orders


@pytest.mark.parametrize(
    "answer",
    [
        {"event": "made"},
        {"event": "made", "take": None},
        {"event": "made", "take": {**TAKE, "more": 1}},
        {"event": "loaded"},
        {"event": "unheard of"},
    ],
)
def test_an_answer_without_a_take_fails_the_order_and_kills_the_process(caller, answer):
    host = caller.start()
    asked, number = caller.begin(host)
    caller.peer.send(id=number, **answer)
    with pytest.raises(EngineError, match="sent an invalid message"):
        asked.result()
    assert not host.alive


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("InvalidRequestError", InvalidRequestError), ("OutputError", OutputError)],
)
def test_an_error_of_the_engine_keeps_its_kind_and_its_process(caller, kind, expected):
    host = caller.start()
    asked, number = caller.begin(host)
    caller.peer.send(id=number, event="failed", kind=kind, message="It is so.", broken=False)
    with pytest.raises(expected, match=r"It is so\."):
        asked.result()
    assert host.takes_orders


@pytest.mark.parametrize("kind", ["", "SystemExit", "annotations", "__name__", "NoSuchError", "7"])
def test_an_error_of_an_unknown_kind_is_an_engine_error(caller, kind):
    host = caller.start()
    asked, number = caller.begin(host)
    caller.peer.send(id=number, event="failed", kind=kind, message="It is so.", broken=False)
    with pytest.raises(EngineError, match=r"It is so\."):
        asked.result()


def test_a_broken_engine_takes_no_more_orders_and_ends_after_its_neighbour(caller):
    host = caller.start(seats=2)
    broken, one = caller.begin(host)
    other, two = caller.begin(host)
    caller.peer.send(id=one, event="failed", kind="EngineError", message="no GPU", broken=True)
    with pytest.raises(EngineError, match="no GPU"):
        broken.result()
    assert host.alive
    assert not host.takes_orders
    caller.peer.send(id=two, event="made", take=TAKE)
    assert other.result().bytes == 4
    wait_until(lambda: not host.alive)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (3, r"ended its process with code 3\.$"),
        (0, r"ended its process with code 0\.$"),
        (-signal.SIGSEGV, r"killed by SIGSEGV\.$"),
        (-signal.SIGKILL, r"killed by SIGKILL\. The system may have been out of memory\.$"),
    ],
)
def test_the_error_of_an_order_names_the_end_of_its_process(caller, code, said):
    host = caller.start()
    asked, _ = caller.begin(host)
    caller.peer.exit(code)
    with pytest.raises(EngineError, match=said):
        asked.result()
    with pytest.raises(EngineError, match=said):
        caller.render(host).result()


def test_each_order_of_a_dead_process_learns_how_many_there_were(caller):
    host = caller.start(seats=3)
    asked = [caller.begin(host)[0] for _ in range(3)]
    caller.peer.exit(1)
    for one in asked:
        with pytest.raises(EngineError, match=r"code 1\. 3 jobs were running in it"):
            one.result()


def test_messages_about_unknown_orders_are_ignored(caller):
    host = caller.start()
    asked, number = caller.begin(host)
    for event in ("made", "cancelled"):
        caller.peer.send(id=number + 100, event=event, take=TAKE)
    caller.peer.send(id=number + 100, event="progress", step="loading_model", fraction=0.0)
    caller.peer.send(id=number, event="made", take=TAKE)
    assert asked.result().bytes == 4
    assert host.takes_orders


def test_loading_ahead_waits_until_the_engine_is_loaded(caller):
    host = caller.start()
    loading = caller.threads.submit(host.load, lambda: False)
    message = caller.peer.receive()
    assert (message["do"], message["model"]) == ("load", "tone")
    caller.peer.send(id=message["id"], event="loaded")
    assert loading.result() is None


def test_a_stop_is_sent_once_and_the_engine_s_answer_awaited(caller):
    host = caller.start()
    asked, number = caller.begin(host, should_stop=lambda: True)
    assert caller.peer.receive() == {"do": "stop", "id": number}
    caller.peer.send(id=number, event="progress", step="generating", fraction=0.9)
    caller.peer.send(id=number, event="cancelled")
    with pytest.raises(CancelledError):
        asked.result()
    assert host.takes_orders
    assert host.abandoned == 0


def test_a_take_that_is_finished_when_the_stop_arrives_is_returned(caller):
    host = caller.start()
    asked, number = caller.begin(host, should_stop=lambda: True)
    caller.peer.send(id=number, event="made", take=TAKE)
    assert asked.result().bytes == 4


def test_an_order_alone_that_ignores_a_stop_ends_with_its_process(caller, monkeypatch):
    monkeypatch.setattr(engine_host, "STOP_GRACE_SECONDS", 0.05)
    host = caller.start()
    asked, _ = caller.begin(host, should_stop=lambda: True)
    with pytest.raises(CancelledError):
        asked.result()
    assert not host.alive


@pytest.fixture
def abandoned(caller, monkeypatch):
    """A host of two seats with an abandoned order and one that is awaited; their numbers."""
    monkeypatch.setattr(engine_host, "STOP_GRACE_SECONDS", 0.02)
    host = caller.start(seats=3)
    stop = threading.Event()
    ignored, number = caller.begin(host, should_stop=stop.is_set)
    other, awaited = caller.begin(host)
    stop.set()
    with pytest.raises(CancelledError):
        ignored.result()
    assert host.abandoned == 1
    return host, number, other, awaited


def test_an_abandoned_order_that_ends_leaves_the_process_as_it_was(caller, abandoned):
    host, number, other, awaited = abandoned
    caller.peer.send(id=number, event="made", take=TAKE)
    wait_until(lambda: host.abandoned == 0)
    assert host.takes_orders
    caller.peer.send(id=awaited, event="made", take=TAKE)
    assert other.result().bytes == 4
    assert host.alive


def test_an_overdue_order_retires_the_process_and_its_neighbour_finishes(
    caller, abandoned, monkeypatch
):
    host, number, other, awaited = abandoned
    host._abandoned[number] = 0.0
    wait_until(lambda: not host.takes_orders)
    assert host.alive
    caller.peer.send(id=awaited, event="made", take=TAKE)
    assert other.result().bytes == 4
    wait_until(lambda: not host.alive)


def test_an_abandoned_order_that_loads_the_engine_is_overdue_only_after_it(caller, abandoned):
    host, number, _, _ = abandoned
    caller.peer.send(id=number, event="progress", step="loading_model", fraction=0.0)
    wait_until(lambda: number in host._loading)
    host._abandoned[number] = 0.0
    host._kill_if_useless()
    assert host.takes_orders
    caller.peer.send(id=number, event="progress", step="generating", fraction=0.0)
    wait_until(lambda: number not in host._loading)
    assert host._abandoned[number] > 0.0


def test_a_silent_order_fails_and_its_process_is_retired(caller):
    host = caller.start(stall=0.05)
    asked, _ = caller.begin(host)
    with pytest.raises(EngineError, match=r"made no progress for 0\.05 s"):
        asked.result()
    assert not host.alive


def test_an_order_past_its_deadline_fails_although_it_makes_progress(caller):
    host = caller.start(deadline=0.3)
    asked, number = caller.begin(host)
    while not asked.done() and host.alive:
        try:
            caller.peer.send(id=number, event="progress", step="generating", fraction=0.1)
        except OSError:
            break
    with pytest.raises(EngineError, match=r"took over 0\.3 s"):
        asked.result()


def test_an_order_whose_caller_fails_is_stopped(caller):
    def fail(_step: str, _fraction: float) -> None:
        raise ZeroDivisionError("in the caller")

    host = caller.start(seats=2)
    asked, number = caller.begin(host, on_progress=fail)
    caller.peer.send(id=number, event="progress", step="generating", fraction=0.1)
    with pytest.raises(ZeroDivisionError):
        asked.result()
    assert caller.peer.receive() == {"do": "stop", "id": number}
    assert host.abandoned == 1


def test_a_message_may_arrive_byte_by_byte(caller):
    host = caller.start()
    asked, number = caller.begin(host)
    for byte in json.dumps({"id": number, "event": "made", "take": TAKE}).encode() + b"\n":
        caller.peer.send_bytes(bytes([byte]))
    assert asked.result().sha256 == "ab"
