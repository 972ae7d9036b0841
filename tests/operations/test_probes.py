"""Calls that hang or fail, and cached values."""

import queue
import threading
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.operations import probes
from services.operations.probes import CachedValue, NoAnswerError, Probe, wait_for
from tests.conftest import LIMIT_SECONDS


def test_callers_share_a_call_that_hangs():
    go, calls = threading.Event(), []

    def call():
        calls.append(1)
        return go.wait(LIMIT_SECONDS)

    probe = Probe("disk", call)
    for _ in range(5):
        with pytest.raises(NoAnswerError, match=r"no answer within 0\.01 s"):
            probe.answer(0.01)
    waiting = probe.begin()
    go.set()
    assert waiting.result(LIMIT_SECONDS)
    assert calls == [1]
    assert probe.answer(LIMIT_SECONDS)
    assert calls == [1, 1]


def test_failed_call_is_no_answer_and_its_thread_reports_why(monkeypatch):
    def fail():
        raise ZeroDivisionError

    reported: queue.Queue[type[BaseException]] = queue.Queue()
    monkeypatch.setattr(threading, "excepthook", lambda hook: reported.put(hook.exc_type))
    with pytest.raises(NoAnswerError, match="The probe of the disk failed"):
        Probe("disk", fail).answer(LIMIT_SECONDS)
    assert reported.get(timeout=LIMIT_SECONDS) is ZeroDivisionError


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


def test_result_of_a_call_is_not_cached():
    values = iter(range(10))
    probe = Probe("disk", lambda: next(values))
    assert [probe.answer(LIMIT_SECONDS), probe.answer(LIMIT_SECONDS)] == [0, 1]


def test_expired_deadline_still_returns_a_finished_call():
    future = Probe("disk", lambda: 7).begin()
    assert future.result(LIMIT_SECONDS) == 7
    assert wait_for(future, -1.0) == 7


def test_failed_read_is_repeated():
    answers = iter([OSError("away"), 7])

    def read():
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    cached = CachedValue(read, seconds=3600)
    with pytest.raises(OSError, match="away"):
        cached.get()
    assert [cached.get(), cached.get()] == [7, 7]


def test_concurrent_callers_share_a_read():
    reads, go, got = [], threading.Event(), []

    def read():
        reads.append(1)
        assert go.wait(LIMIT_SECONDS)
        return len(reads)

    cached = CachedValue(read, seconds=3600)
    threads = [threading.Thread(target=lambda: got.append(cached.get())) for _ in range(8)]
    for thread in threads:
        thread.start()
    go.set()
    for thread in threads:
        thread.join()
    assert got == [1] * 8


@given(
    st.floats(0.001, 1.0),
    st.floats(0.0, 100.0),
    st.lists(st.tuples(st.floats(0.0, 50.0), st.floats(0.0, 200.0)), max_size=20),
)
def test_reads_take_no_more_than_their_share_of_the_time(share, seconds, calls):
    now, reads = [0.0], []
    durations = iter([duration for duration, _ in calls])

    def read():
        reads.append((now[0], next(durations)))
        now[0] += reads[-1][1]
        return 0

    cached = CachedValue(read, seconds=seconds, share=share)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probes, "time", SimpleNamespace(monotonic=lambda: now[0]))
        for _, pause in calls:
            cached.get()
            now[0] += pause
    for (began, took), (next_began, _) in pairwise(reads):
        rest = next_began - (began + took)
        assert rest >= max(seconds, took / share) * (1 - 1e-9) - 1e-9
