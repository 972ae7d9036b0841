"""The one thread in which PyTorch computes on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from services.errors import EngineError
from services.generation.musicgen.loop.loop import SHUT_DOWN

T = TypeVar("T")


class Processor:
    """Does what any thread asks for, in turn, in a thread of its own.

    libgomp gives each thread that computes a team of its own. As soon as the teams together have
    more threads than there are cores, none of them waits for its next piece of work any more: they
    all sleep, and a step of hundreds of small pieces takes twice as long. And two that compute at
    once would only take the cores from one another.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="musicgen-cpu")

    def __call__(self, action: Callable[[], T], /) -> T:
        """Have it done after what was asked for before, and give what it gave or raised.

        Raises:
            EngineError: the processor is closed.
        """
        try:
            future = self._pool.submit(action)
        except RuntimeError as error:  # the pool is closed
            raise EngineError(SHUT_DOWN) from error
        return future.result()

    def close(self) -> None:
        """End the thread once nothing is left to do."""
        self._pool.shutdown(wait=False)
