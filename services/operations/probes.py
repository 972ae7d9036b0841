"""Calls that may hang, and cached values, for checks that must answer in time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Generic, TypeVar

Value = TypeVar("Value")


class NoAnswerError(Exception):
    """The call did not return in time, or failed."""


class Probe(Generic[Value]):
    """Runs a call in a thread of its own, one at a time: a call that hangs costs one thread."""

    def __init__(self, name: str, call: Callable[[], Value]) -> None:
        self._name = name
        self._call = call
        self._lock = threading.Lock()
        self._latest: Future[Value] | None = None

    def begin(self) -> Future[Value]:
        """Start the call, or join the one that is running."""
        with self._lock:
            if self._latest is None or self._latest.done():
                self._latest = Future()
                threading.Thread(
                    target=self._run, args=(self._latest,), name=f"probe-{self._name}", daemon=True
                ).start()
            return self._latest

    def answer(self, seconds: float) -> Value:
        """Return the result of the call.

        Raises:
            NoAnswerError: it did not return within that many seconds, or it failed.
        """
        return wait_for(self.begin(), seconds)

    def _run(self, future: Future[Value]) -> None:
        try:
            future.set_result(self._call())
        finally:
            # The thread ends with the exception, which `threading.excepthook` reports.
            if not future.done():
                future.set_exception(NoAnswerError(f"The probe of the {self._name} failed."))


def wait_for(future: Future[Value], seconds: float) -> Value:
    """Return the result of a call that was begun; raises like `Probe.answer`."""
    try:
        return future.result(max(0.0, seconds))
    except FutureTimeout:
        raise NoAnswerError(f"There was no answer within {seconds:g} s.") from None


class CachedValue(Generic[Value]):
    """A value that is read again when it is too old; callers wait while it is read."""

    def __init__(
        self, read: Callable[[], Value], *, seconds: float = 0.0, share: float | None = None
    ) -> None:
        """Create the cache without reading.

        Args:
            read: returns the value.
            seconds: age at which the value is read again.
            share: largest share of the time that may be spent on reading, over 0 to 1; a slow read
                makes the value live longer than `seconds`.
        """
        self._read = read
        self._seconds = seconds
        self._share = share
        self._lock = threading.Lock()
        self._value: Value | None = None
        self._good_until = float("-inf")

    def get(self) -> Value:
        with self._lock:
            began = time.monotonic()
            if self._value is None or began >= self._good_until:
                self._value = self._read()
                ended = time.monotonic()
                rest = 0.0 if self._share is None else (ended - began) / self._share
                self._good_until = ended + max(self._seconds, rest)
            return self._value
