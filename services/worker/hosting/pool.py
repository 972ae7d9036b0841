"""The engine processes of a worker: which one takes which job, and how many there are."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from services.errors import CancelledError
from services.worker.hosting.host import EngineHost, EngineSource, Limits

if TYPE_CHECKING:
    from services.generation.engine import ShouldStop

_POLL_SECONDS = 0.1


def _never() -> bool:
    return False


class HostPool:
    """The engine processes of a worker, kept while they are used.

    An engine that takes one order at a time has a process for each running job. One that takes
    several has one process, because a second would need the same memory again and split the
    batch. A job that finds it full waits.
    """

    def __init__(
        self,
        size: int,
        source: EngineSource,
        limits: Limits,
        idle_seconds: float,
        seats: Mapping[str, int] | None = None,
    ) -> None:
        """Set up the pool without starting a process.

        Args:
            size: jobs at once, and processes at most, not counting those about to end.
            source: of the engines, for the processes.
            limits: of each order.
            idle_seconds: time after which a process without orders is ended.
            seats: engine -> orders it takes at once; 1 if missing.
        """
        self._size = size
        self._source = source
        self._limits = limits
        self._idle_seconds = idle_seconds
        self._seats = {model: min(most, size) for model, most in (seats or {}).items()}
        # Reentrant: a signal handler may call `kill_all` in a thread that holds the lock.
        self._changed = threading.Condition(threading.RLock())
        self._leases: dict[EngineHost, int] = {}
        """Process -> number of jobs that use it."""
        self._idle_since: dict[EngineHost, float] = {}
        self._waiting: Counter[str] = Counter()
        self._waiting_alone: Counter[str] = Counter()
        self._alone: set[EngineHost] = set()

    @contextmanager
    def lease(
        self, model: str, should_stop: ShouldStop = _never, *, alone: bool = False
    ) -> Iterator[EngineHost]:
        """Provide a process with a free seat for the block; the worker must have a free slot.

        Args:
            model: the engine.
            should_stop: asked while waiting for a seat.
            alone: whether to keep other jobs out of the process meanwhile.

        Raises:
            CancelledError: `should_stop` returned True.
        """
        host = self._take(model, should_stop, alone=alone)
        try:
            yield host
        finally:
            with self._changed:
                self._leases[host] -= 1
                self._idle_since[host] = time.monotonic()
                self._alone.discard(host)
                self._drop_dead()
                self._changed.notify_all()

    def free_seats(self, model: str) -> int:
        """Return the number of further jobs for an engine that would get a seat at once."""
        seats = self._seats.get(model, 1)
        if seats == 1:
            return self._size
        with self._changed:
            taken = sum(
                lent + host.abandoned for host, lent in self._leases.items() if host.model == model
            )
            return seats - taken - self._waiting[model]

    def count_models(self) -> Counter[str]:
        """Return engine -> number of processes, including those that are loading it."""
        with self._changed:
            return Counter(host.model for host in self._leases if host.alive)

    def unload_idle(self) -> int:
        """End the processes that were idle too long or are retired; return their number."""
        oldest = time.monotonic() - self._idle_seconds
        return self._kill(
            lambda host: (
                not self._leases[host]
                and (self._idle_since[host] < oldest or not host.takes_orders)
            )
        )

    def kill_all(self) -> None:
        """End every process at once, including those with running jobs."""
        self._kill(lambda _host: True)

    def _kill(self, is_selected: Callable[[EngineHost], bool]) -> int:
        with self._changed:
            selected = [host for host in self._leases if is_selected(host)]
            for host in selected:
                host.kill()
            self._drop_dead()
        return len(selected)

    def _take(self, model: str, should_stop: ShouldStop, *, alone: bool) -> EngineHost:
        with self._changed:
            self._waiting[model] += 1
            self._waiting_alone[model] += alone
            try:
                while (host := self._find_host(model, alone=alone)) is None:
                    if should_stop():
                        raise CancelledError("Cancelled.")
                    self._changed.wait(_POLL_SECONDS)
            finally:
                self._waiting[model] -= 1
                self._waiting_alone[model] -= alone
            self._leases[host] += 1
            if alone:
                self._alone.add(host)
            return host

    def _find_host(self, model: str, *, alone: bool) -> EngineHost | None:
        """Return a process with a free seat, started if needed, or None if all seats are taken."""
        self._drop_dead()
        serving = [host for host in self._leases if host.model == model]
        seats = self._seats.get(model, 1)
        if seats == 1:
            free = (host for host in serving if not self._leases[host] and host.takes_orders)
            return next(free, None) or self._start(model, seats)
        if not serving:
            return self._start(model, seats)
        (host,) = serving
        taken = self._leases[host] + host.abandoned
        # Seats stay free for a job that must be alone, which would otherwise wait for ever.
        is_reserved = host in self._alone or self._waiting_alone[model] > 0
        is_free = taken == 0 if alone else taken < seats and not is_reserved
        return host if is_free and host.takes_orders else None

    def _start(self, model: str, seats: int) -> EngineHost:
        idle = [host for host, lent in self._leases.items() if not lent]
        if idle and len(self._leases) >= self._size:
            # The free slot is occupied by an idle process of another engine.
            min(idle, key=self._idle_since.__getitem__).kill()
            self._drop_dead()
        host = EngineHost(model, self._source, self._limits, seats)
        self._leases[host] = 0
        self._idle_since[host] = time.monotonic()
        return host

    def _drop_dead(self) -> None:
        for host in [host for host in self._leases if not host.alive and not self._leases[host]]:
            del self._leases[host], self._idle_since[host]
