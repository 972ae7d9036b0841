"""The thread in which PyTorch computes on a CPU."""

from __future__ import annotations

import threading

import pytest

from services.errors import EngineError
from services.generation.musicgen.loop.compute_thread import ComputeThread


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
