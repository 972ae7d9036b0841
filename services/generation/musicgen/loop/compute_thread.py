"""The only thread in which PyTorch computes on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from services.errors import EngineError
from services.generation.musicgen.loop.loop import SHUT_DOWN

T = TypeVar("T")


class ComputeThread:
    """An `Execute` that runs the actions of all threads one after another in a thread of its own.

    libgomp gives every thread that computes its own team of threads. Once the teams together have
    more threads than the machine has cores, idle ones sleep instead of spinning, and a step of
    hundreds of small parallel regions takes twice as long.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="musicgen-cpu")

    def __call__(self, action: Callable[[], T], /) -> T:
        """Run an action after those that were submitted before, and return its result.

        Raises:
            EngineError: the thread is closed.
            Exception: whatever the action raises.
        """
        try:
            future = self._pool.submit(action)
        except RuntimeError as error:  # the pool is closed
            raise EngineError(SHUT_DOWN) from error
        return future.result()

    def close(self) -> None:
        """End the thread after the actions that were submitted."""
        self._pool.shutdown(wait=False)
