"""The worker's end of an engine's process: starting it, asking it, and killing it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from services.generation import errors
from services.generation.errors import CancelledError, DGXMusicError, EngineError
from services.generation.takes import Delivery, Order, Take

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.generation.engine import ShouldStop

DEFAULT_REGISTRY = "services.generation.registry:default_registry"

STOP_GRACE_SECONDS = 1.0
"""What an engine has to stop by itself before its process is killed."""

_POLL_SECONDS = 0.1
_LONGEST_MESSAGE = 1 << 20

OnProgress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long an engine may take, in seconds."""

    stall: float
    """Without a word."""
    deadline: float
    """For one order."""


class EngineHost:
    """One engine in one process, for one order at a time."""

    def __init__(self, model: str, registry_source: str, limits: Limits) -> None:
        self.model = model
        self.idle_since = time.monotonic()
        self._limits = limits
        ours, theirs = socket.socketpair()
        # Not a fork of this process, whose threads and locks an engine must not inherit; and a
        # session of its own, so that Ctrl-C reaches the worker alone.
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter and a module of ours
            [
                sys.executable,
                "-m",
                "services.generation.engine_process",
                str(theirs.fileno()),
                registry_source,
            ],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        ours.settimeout(_POLL_SECONDS)
        self._channel = ours
        self._received = b""

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process can take another order."""
        return self._process.poll() is None

    def load(self, should_stop: ShouldStop) -> None:
        """Load the engine ahead of the first order; raises as `render`."""
        self._ask({"do": "load", "model": self.model}, lambda _step, _done: None, should_stop)

    def render(
        self,
        orders: Sequence[Order],
        delivery: Delivery,
        on_progress: OnProgress,
        should_stop: ShouldStop,
    ) -> list[Take]:
        """Have the orders made, each a file on the disk under its path.

        Raises:
            CancelledError: `should_stop` said so.
            DGXMusicError: what the engine raised; EngineError where its process died, said nothing
                for too long or talked nonsense. The process is gone then.
        """
        jobs = [
            {
                "generation_id": order.generation_id,
                "created_at": order.created_at.isoformat(),
                "params": asdict(order.params),
                "path": str(order.path),
            }
            for order in orders
        ]
        message = {
            "do": "render",
            "model": self.model,
            "jobs": jobs,
            "delivery": asdict(delivery) | {"output_dir": str(delivery.output_dir)},
        }
        answer = self._ask(message, on_progress, should_stop)
        try:
            return [
                Take(path=order.path, **take)
                for order, take in zip(orders, answer["takes"], strict=True)
            ]
        except (KeyError, TypeError, ValueError) as error:
            self.kill()
            raise EngineError("The engine's process gave an answer that makes no sense.") from error

    def kill(self) -> None:
        """End the process at once, and wait until it is gone."""
        with suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        self._channel.close()
        self.idle_since = time.monotonic()

    def _ask(
        self, message: dict[str, Any], on_progress: OnProgress, should_stop: ShouldStop
    ) -> dict[str, Any]:
        started = heard = time.monotonic()
        asked_to_stop: float | None = None
        try:
            self._send(message)
            while True:
                reply = self._receive()
                now = time.monotonic()
                if reply is not None:
                    heard = now
                    if reply["event"] != "progress":
                        return self._final(reply)
                    on_progress(str(reply["step"]), float(reply["fraction"]))
                if asked_to_stop is None and should_stop():
                    asked_to_stop = now
                    self._send({"do": "stop"})
                if asked_to_stop is not None and now - asked_to_stop > STOP_GRACE_SECONDS:
                    self.kill()
                    raise CancelledError("Cancelled.")
                self._check_time(now - heard, now - started)
        except (KeyError, TypeError, ValueError) as error:
            self.kill()
            raise EngineError("The engine's process said something that makes no sense.") from error
        except OSError as error:
            raise self._died() from error
        finally:
            self.idle_since = time.monotonic()

    def _final(self, reply: dict[str, Any]) -> dict[str, Any]:
        if reply["event"] == "cancelled":
            raise CancelledError("Cancelled.")
        if reply["event"] == "failed":
            if reply["broken"]:
                # Memory, a GPU or a library may be in any state now: the next job starts afresh.
                self.kill()
            kind = getattr(errors, str(reply["kind"]), EngineError)
            known = isinstance(kind, type) and issubclass(kind, DGXMusicError)
            raise (kind if known else EngineError)(str(reply["message"]))
        return reply

    def _check_time(self, silence: float, taken: float) -> None:
        if silence > self._limits.stall:
            self.kill()
            raise EngineError(
                f"The engine {self.model} made no progress for {self._limits.stall:g} s."
            )
        if taken > self._limits.deadline:
            self.kill()
            raise EngineError(f"The engine {self.model} took over {self._limits.deadline:g} s.")

    def _send(self, message: dict[str, Any]) -> None:
        self._channel.sendall(json.dumps(message).encode() + b"\n")

    def _receive(self) -> dict[str, Any] | None:
        """One message; None when none came within a moment."""
        line, newline, rest = self._received.partition(b"\n")
        if newline:
            self._received = rest
            reply = json.loads(line)
            if not isinstance(reply, dict):
                raise TypeError("not an object")
            return reply
        if len(self._received) > _LONGEST_MESSAGE:
            raise ValueError("no end of line")
        try:
            data = self._channel.recv(1 << 16)
        except TimeoutError:
            return None
        if not data:
            raise ConnectionResetError("the process hung up")
        self._received += data
        return None

    def _died(self) -> EngineError:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1.0)
        code = self._process.poll()
        self.kill()
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            memory = " The system may have been out of memory." if name == "SIGKILL" else ""
            return EngineError(f"The engine {self.model} was killed by {name}.{memory}")
        return EngineError(f"The engine {self.model} ended its process with code {code}.")


class HostPool:
    """The engines of a worker, one a slot: loaded once, kept while they are used."""

    def __init__(
        self, size: int, registry_source: str, limits: Limits, idle_seconds: float
    ) -> None:
        self._size = size
        self._source = registry_source
        self._limits = limits
        self._idle_seconds = idle_seconds
        # A signal may come while its own thread has it.
        self._lock = threading.RLock()
        self._idle: list[EngineHost] = []
        self._busy: list[EngineHost] = []

    @contextmanager
    def host(self, model: str) -> Iterator[EngineHost]:
        """Lend a process with that engine; there must be a free slot."""
        host = self._take(model)
        try:
            yield host
        finally:
            with self._lock:
                self._busy.remove(host)
                if host.alive:
                    self._idle.append(host)

    def models(self) -> Counter[str]:
        """Count the processes by engine, those that load it still included."""
        with self._lock:
            return Counter(host.model for host in (*self._idle, *self._busy) if host.alive)

    def unload_idle(self) -> int:
        """End processes that had nothing to do for long; return how many."""
        oldest = time.monotonic() - self._idle_seconds
        with self._lock:
            old = [host for host in self._idle if host.idle_since < oldest or not host.alive]
            self._idle = [host for host in self._idle if host not in old]
        for host in old:
            host.kill()
        return len(old)

    def kill_all(self) -> None:
        """End every process at once, also those at work."""
        with self._lock:
            hosts = [*self._idle, *self._busy]
            self._idle = []
        for host in hosts:
            host.kill()

    def _take(self, model: str) -> EngineHost:
        with self._lock:
            self._idle = [host for host in self._idle if host.alive]
            fitting = next((host for host in self._idle if host.model == model), None)
            if fitting is not None:
                self._idle.remove(fitting)
            elif self._idle and len(self._idle) + len(self._busy) >= self._size:
                # The slot holds another engine, which makes room for this one.
                self._idle.pop(0).kill()
            host = fitting or EngineHost(model, self._source, self._limits)
            self._busy.append(host)
            return host
