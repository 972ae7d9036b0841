"""The engines of a worker: which process takes which job, and how many there are."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from services.errors import CancelledError
from services.worker.hosting.host import EngineHost, Limits

if TYPE_CHECKING:
    from services.generation.engine import ShouldStop

_LOOK_SECONDS = 0.1


def _never() -> bool:
    return False


class HostPool:
    """The engines of a worker: loaded once, kept while they are used.

    An engine that takes one order at a time has a process for each job at work. One that takes
    several has one process: a second would need the memory again, and the batch is what makes it
    fast. Who finds it full waits.
    """

    def __init__(
        self,
        size: int,
        registry_source: str,
        limits: Limits,
        idle_seconds: float,
        seats: Mapping[str, int] | None = None,
    ) -> None:
        """Nothing is started yet.

        Args:
            size: jobs at once, and processes at most, but for those about to end.
            registry_source: "module:function", for the processes.
            limits: of each order.
            idle_seconds: for which an engine without an order is kept.
            seats: engine -> the orders that it takes at once; one where it is not named.
        """
        self._size = size
        self._source = registry_source
        self._limits = limits
        self._idle_seconds = idle_seconds
        self._seats = {model: min(most, size) for model, most in (seats or {}).items()}
        # A signal may come while its own thread has it.
        self._changed = threading.Condition(threading.RLock())
        self._leases: dict[EngineHost, int] = {}
        """Process -> jobs that have it now."""
        self._idle_since: dict[EngineHost, float] = {}
        self._waiting: Counter[str] = Counter()
        self._waiting_alone: Counter[str] = Counter()
        self._alone: set[EngineHost] = set()

    @contextmanager
    def host(
        self, model: str, should_stop: ShouldStop = _never, *, alone: bool = False
    ) -> Iterator[EngineHost]:
        """Lend a process with that engine; there must be a free slot.

        Args:
            model: the engine.
            should_stop: asked while it waits for a seat.
            alone: whether nobody else may be in the process meanwhile.

        Raises:
            CancelledError: `should_stop` said so.
        """
        host = self._take(model, should_stop, alone=alone)
        try:
            yield host
        finally:
            with self._changed:
                self._leases[host] -= 1
                self._idle_since[host] = time.monotonic()
                self._alone.discard(host)
                self._forget_dead()
                self._changed.notify_all()

    def free_seats(self, model: str) -> int:
        """How many more jobs for that engine would find a place at once."""
        seats = self._seats.get(model, 1)
        if seats == 1:
            return self._size
        with self._changed:
            taken = sum(
                lent + host.left for host, lent in self._leases.items() if host.model == model
            )
            return seats - taken - self._waiting[model]

    def models(self) -> Counter[str]:
        """Count the processes by engine, those that load it still included."""
        with self._changed:
            return Counter(host.model for host in self._leases if host.alive)

    def unload_idle(self) -> int:
        """End processes that had nothing to do for long; return how many."""
        oldest = time.monotonic() - self._idle_seconds
        return self._end(
            lambda host: (
                not self._leases[host]
                and (self._idle_since[host] < oldest or not host.takes_orders)
            )
        )

    def kill_all(self) -> None:
        """End every process at once, also those at work."""
        self._end(lambda _host: True)

    def _end(self, is_meant: Callable[[EngineHost], bool]) -> int:
        with self._changed:
            meant = [host for host in self._leases if is_meant(host)]
            for host in meant:
                host.kill()
            self._forget_dead()
        return len(meant)

    def _take(self, model: str, should_stop: ShouldStop, *, alone: bool) -> EngineHost:
        with self._changed:
            self._waiting[model] += 1
            self._waiting_alone[model] += alone
            try:
                while (host := self._place_in(model, alone=alone)) is None:
                    if should_stop():
                        raise CancelledError("Cancelled.")
                    self._changed.wait(_LOOK_SECONDS)
            finally:
                self._waiting[model] -= 1
                self._waiting_alone[model] -= alone
            self._leases[host] += 1
            if alone:
                self._alone.add(host)
            return host

    def _place_in(self, model: str, *, alone: bool) -> EngineHost | None:
        """A process with a free seat, started if it must be; None while there is none."""
        self._forget_dead()
        serving = [host for host in self._leases if host.model == model]
        seats = self._seats.get(model, 1)
        if seats == 1:
            free = (host for host in serving if not self._leases[host] and host.takes_orders)
            return next(free, None) or self._start(model, seats)
        if not serving:
            return self._start(model, seats)
        (host,) = serving
        taken = self._leases[host] + host.left
        # Who must be alone would wait for ever where others may always go before.
        is_reserved = host in self._alone or self._waiting_alone[model] > 0
        is_free = taken == 0 if alone else taken < seats and not is_reserved
        return host if is_free and host.takes_orders else None

    def _start(self, model: str, seats: int) -> EngineHost:
        idle = [host for host, lent in self._leases.items() if not lent]
        if idle and len(self._leases) >= self._size:
            # The slot holds another engine, which makes room for this one.
            min(idle, key=self._idle_since.__getitem__).kill()
            self._forget_dead()
        host = EngineHost(model, self._source, self._limits, seats)
        self._leases[host] = 0
        self._idle_since[host] = time.monotonic()
        return host

    def _forget_dead(self) -> None:
        for host in [host for host in self._leases if not host.alive and not self._leases[host]]:
            del self._leases[host], self._idle_since[host]
