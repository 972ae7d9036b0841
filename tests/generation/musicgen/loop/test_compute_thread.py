"""The thread in which PyTorch computes on a CPU."""

from __future__ import annotations

import threading

import pytest

from services.errors import EngineError
from services.generation.musicgen.loop.compute_thread import ComputeThread
from tests.conftest import LIMIT_SECONDS


def test_all_actions_run_in_one_thread_and_raise_in_the_caller() -> None:
    processor = ComputeThread()
    try:
        assert processor(threading.get_ident) == processor(threading.get_ident)
        assert processor(threading.get_ident) != threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            processor(lambda: 1 / 0)
        assert processor(lambda: 3) == 3
    finally:
        processor.close()


def test_an_action_after_close_is_an_engine_error() -> None:
    processor = ComputeThread()
    processor.close()
    with pytest.raises(EngineError, match="shut down"):
        processor(lambda: 3)


def test_actions_run_one_after_another_in_order_of_submission() -> None:
    compute, order = ComputeThread(), []
    first_runs, release = threading.Event(), threading.Event()

    def first() -> None:
        first_runs.set()
        assert release.wait(LIMIT_SECONDS)
        order.append(1)

    threads = [threading.Thread(target=compute, args=(first,))]
    threads[0].start()
    assert first_runs.wait(LIMIT_SECONDS)
    threads.append(threading.Thread(target=compute, args=(lambda: order.append(2),)))
    threads[1].start()
    assert order == []
    release.set()
    for thread in threads:
        thread.join(LIMIT_SECONDS)
    compute.close()
    assert order == [1, 2]


def test_close_does_not_interrupt_a_running_action() -> None:
    compute, results = ComputeThread(), []
    runs, release = threading.Event(), threading.Event()

    def action() -> int:
        runs.set()
        assert release.wait(LIMIT_SECONDS)
        return 3

    caller = threading.Thread(target=lambda: results.append(compute(action)))
    caller.start()
    assert runs.wait(LIMIT_SECONDS)
    compute.close()
    release.set()
    caller.join(LIMIT_SECONDS)
    assert results == [3]
