"""A lock that is handed on in the order in which it was asked for."""

from __future__ import annotations

import threading
from collections import deque


class Turns:
    """The processor's cores, for one at a time.

    `threading.Lock` goes to whoever is quickest: a loop that takes it for each step would keep
    everyone else waiting for as long as it has steps.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_taken = False
        self._waiting: deque[threading.Lock] = deque()

    def __enter__(self) -> None:
        with self._lock:
            if not self._is_taken:
                self._is_taken = True
                return
            gate = threading.Lock()
            gate.acquire()
            self._waiting.append(gate)
        gate.acquire()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._waiting:
                # It stays taken: nobody comes in between.
                self._waiting.popleft().release()
            else:
                self._is_taken = False
