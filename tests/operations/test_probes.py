"""Looks that hang or fail, and values that are kept."""

import queue
import threading

import pytest

from services.operations.watching import Kept, NoAnswerError, Probe


def test_those_who_ask_while_a_look_hangs_share_it():
    go, looks = threading.Event(), []

    def look():
        looks.append(1)
        return go.wait(30)

    probe = Probe("door", look)
    for _ in range(5):
        with pytest.raises(NoAnswerError, match=r"no answer within 0\.01 s"):
            probe.answer(0.01)
    waiting = probe.begin()
    go.set()
    assert waiting.result(10)
    assert looks == [1]
    assert probe.answer(10)
    assert looks == [1, 1]


def test_a_look_that_fails_is_no_answer_and_its_thread_says_why(monkeypatch):
    def fail():
        raise ZeroDivisionError

    told: queue.Queue[type[BaseException]] = queue.Queue()
    monkeypatch.setattr(threading, "excepthook", lambda said: told.put(said.exc_type))
    with pytest.raises(NoAnswerError, match="The look at the door failed"):
        Probe("door", fail).answer(10)
    assert told.get(timeout=10) is ZeroDivisionError


def test_a_value_is_kept_as_long_as_it_may_be():
    values = iter(range(10))
    always, kept = Kept(lambda: next(values)), Kept(lambda: next(values), seconds=3600)
    assert [always.get(), always.get()] == [0, 1]
    assert [kept.get(), kept.get()] == [2, 2]


def test_a_look_that_took_long_is_repeated_less_often(monkeypatch):
    clock = iter([0.0, 2.0, 41.9, 42.0, 42.0])
    values = iter(range(10))
    kept = Kept(lambda: next(values), share=0.05)
    monkeypatch.setattr("services.operations.watching.time.monotonic", lambda: next(clock))
    assert [kept.get() for _ in range(3)] == [0, 0, 1]
