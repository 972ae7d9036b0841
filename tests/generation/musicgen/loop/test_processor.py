"""Who computes on the CPU."""

from __future__ import annotations

import threading

import pytest

from services.errors import EngineError
from services.generation.musicgen.loop.processor import Processor


def test_all_that_is_asked_for_is_done_in_one_thread_and_its_errors_come_back() -> None:
    processor = Processor()
    try:
        assert processor(threading.get_ident) == processor(threading.get_ident)
        assert processor(threading.get_ident) != threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            processor(lambda: 1 / 0)
        assert processor(lambda: 3) == 3
    finally:
        processor.close()


def test_what_is_asked_of_it_once_it_is_closed_is_an_error_for_people() -> None:
    processor = Processor()
    processor.close()
    with pytest.raises(EngineError, match="shut down"):
        processor(lambda: 3)
