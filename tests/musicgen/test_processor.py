"""Who computes on the CPU, and on how many of its cores."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from services.generation.musicgen import token_model
from services.generation.musicgen.processor import Processor, on_one_core
from services.generation.musicgen.request import Conditioning, Sampling
from services.generation.musicgen.sequence import Turn
from services.generation.musicgen.token_model import SampledDecoder
from tests.musicgen.oracle import decoder_of
from tests.musicgen.tiny import tiny_model


@pytest.fixture
def two_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


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


@pytest.mark.usefixtures("two_cores")
def test_what_is_done_on_one_core_leaves_the_others_for_what_follows_even_after_an_error() -> None:
    with on_one_core():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    with pytest.raises(ZeroDivisionError), on_one_core():
        1 / 0  # noqa: B018
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_cores")
def test_the_sampler_wakes_no_threads_that_would_keep_the_next_step_from_its_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cores: list[int] = []
    drawn = token_model.draw

    def draw(*given: Any, **named: Any) -> torch.Tensor:
        cores.append(torch.get_num_threads())
        return drawn(*given, **named)

    monkeypatch.setattr(token_model, "draw", draw)
    model = SampledDecoder(decoder_of(tiny_model()))
    nothing = np.zeros((4, 0), dtype=np.int64)
    model.begin(0, Conditioning(torch.zeros(3, 64)), Sampling(seed=1), nothing)
    model.advance([Turn(slot=0, tokens=np.full(4, 1), position=0, step=0)])
    assert cores == [1]
    assert torch.get_num_threads() == 2
