"""Looking at things that may take long, or hang, without the one who asks doing so too."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswer
from typing import Generic, TypeVar

Value = TypeVar("Value")


class NoAnswerError(Exception):
    """What was looked at gave no answer in time, or none at all."""


class Probe(Generic[Value]):
    """One look at a time, in a thread of its own: what hangs holds up nobody, and one thread."""

    def __init__(self, name: str, look: Callable[[], Value]) -> None:
        self._name = name
        self._look = look
        self._lock = threading.Lock()
        self._latest: Future[Value] | None = None

    def begin(self) -> Future[Value]:
        """Look, or join the look that somebody has begun."""
        with self._lock:
            if self._latest is None or self._latest.done():
                self._latest = Future()
                threading.Thread(
                    target=self._run, args=(self._latest,), name=f"look-{self._name}", daemon=True
                ).start()
            return self._latest

    def answer(self, seconds: float) -> Value:
        """Give what is seen.

        Raises:
            NoAnswerError: nothing was, within so many seconds.
        """
        return answer_of(self.begin(), seconds)

    def _run(self, future: Future[Value]) -> None:
        try:
            future.set_result(self._look())
        finally:
            # The thread's end says what went wrong; who waits only has to hear that it did.
            if not future.done():
                future.set_exception(NoAnswerError(f"The look at the {self._name} failed."))


def answer_of(future: Future[Value], seconds: float) -> Value:
    """Give what a look that has begun sees; raises as `Probe.answer`."""
    try:
        return future.result(max(0.0, seconds))
    except NoAnswer:
        raise NoAnswerError(f"There was no answer within {seconds:g} s.") from None


class Kept(Generic[Value]):
    """A value that is looked at again once it is old; those who come meanwhile wait for it."""

    def __init__(
        self, look: Callable[[], Value], *, seconds: float = 0.0, share: float | None = None
    ) -> None:
        """Keep what `look` gives.

        Args:
            look: gives the value.
            seconds: how old it may be at least.
            share: of the time that may go into looking, 0 to 1: a look that took long is repeated
                less often.
        """
        self._look = look
        self._seconds = seconds
        self._share = share
        self._lock = threading.Lock()
        self._value: Value | None = None
        self._good_until = float("-inf")

    def get(self) -> Value:
        """Give the value, fresh enough."""
        with self._lock:
            began = time.monotonic()
            if self._value is None or began >= self._good_until:
                self._value = self._look()
                ended = time.monotonic()
                rest = 0.0 if self._share is None else (ended - began) / self._share
                self._good_until = ended + max(self._seconds, rest)
            return self._value
