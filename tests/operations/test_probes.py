"""Calls that hang or fail, and cached values."""

import queue
import threading

import pytest

from services.operations.probes import CachedValue, NoAnswerError, Probe


def test_callers_share_a_call_that_hangs():
    go, calls = threading.Event(), []

    def call():
        calls.append(1)
        return go.wait(30)

    probe = Probe("disk", call)
    for _ in range(5):
        with pytest.raises(NoAnswerError, match=r"no answer within 0\.01 s"):
            probe.answer(0.01)
    waiting = probe.begin()
    go.set()
    assert waiting.result(10)
    assert calls == [1]
    assert probe.answer(10)
    assert calls == [1, 1]


def test_failed_call_is_no_answer_and_its_thread_reports_why(monkeypatch):
    def fail():
        raise ZeroDivisionError

    reported: queue.Queue[type[BaseException]] = queue.Queue()
    monkeypatch.setattr(threading, "excepthook", lambda hook: reported.put(hook.exc_type))
    with pytest.raises(NoAnswerError, match="The probe of the disk failed"):
        Probe("disk", fail).answer(10)
    assert reported.get(timeout=10) is ZeroDivisionError


def test_value_is_cached_for_its_time():
    values = iter(range(10))
    always, kept = (
        CachedValue(lambda: next(values)),
        CachedValue(lambda: next(values), seconds=3600),
    )
    assert [always.get(), always.get()] == [0, 1]
    assert [kept.get(), kept.get()] == [2, 2]


def test_slow_read_is_repeated_less_often(monkeypatch):
    clock = iter([0.0, 2.0, 41.9, 42.0, 42.0])
    values = iter(range(10))
    kept = CachedValue(lambda: next(values), share=0.05)
    monkeypatch.setattr("services.operations.probes.time.monotonic", lambda: next(clock))
    assert [kept.get() for _ in range(3)] == [0, 0, 1]
