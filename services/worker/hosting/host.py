"""The worker's end of an engine's process: starting it, asking it, and killing it."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from services import errors
from services.config import variable_of
from services.errors import CancelledError, DGXMusicError, EngineError
from services.logs import current_format
from services.worker.hosting.wire import Lines, decode_take, encode_message, encode_order

if TYPE_CHECKING:
    from services.generation.engine import ShouldStop
    from services.library.drafts import StrPath
    from services.library.orders import Order
    from services.library.takes import Delivery, Take

DEFAULT_REGISTRY = "services.generation.registry:default_registry"

STOP_GRACE_SECONDS = 1.0
"""What an engine has to stop an order by itself, before the order is left to it."""

LEFT_SECONDS = 5.0
"""What an order that was left has until its process takes no more, where others are at work."""

LOADING = "loading_model"
"""The step in which an engine does not hear."""

_POLL_SECONDS = 0.1
_TIDY_SECONDS = 0.5
_NONSENSE = "The engine's process said something that makes no sense."

OnProgress = Callable[[str, float], None]
Answers = queue.SimpleQueue[dict[str, Any] | None]
"""To one order; None once the process is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long an engine may take, in seconds."""

    stall: float
    """Without a word about an order."""
    deadline: float
    """For one order."""


class EngineHost:
    """One engine in one process, for as many orders at once as it has seats.

    An order that does not end when it is told to is left to the process, which is killed as soon as
    nobody else waits for anything of it. The same happens after a failure that leaves memory, a GPU
    or a library in any state: nothing new begins in the process, and what runs may end.
    """

    def __init__(self, model: str, registry_source: str, limits: Limits, seats: int = 1) -> None:
        self.model = model
        self.seats = seats
        self._limits = limits
        self._lock = threading.RLock()
        self._numbers = count(1)
        self._awaited: dict[int, Answers] = {}
        self._left: dict[int, float] = {}
        """Orders that nobody waits for -> when they are to be over."""
        self._loading: set[int] = set()
        """Orders for which the engine is being loaded, which nothing can stop."""
        self._retired = False
        self._ending: str | None = None
        """Why there is no more to be had from the process."""
        ours, theirs = socket.socketpair()
        # Not a fork of this process, whose threads and locks an engine must not inherit; and a
        # session of its own, so that Ctrl-C reaches the worker alone.
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter and a module of ours
            [
                sys.executable,
                "-m",
                "services.worker.hosting.process",
                str(theirs.fileno()),
                registry_source,
                str(seats),
            ],
            pass_fds=[theirs.fileno()],
            # It makes room for as many as will come, whatever the settings of its folder say.
            env=os.environ
            | {
                variable_of("worker_concurrency"): str(seats),
                variable_of("log_format"): current_format(),
            },
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        ours.settimeout(_TIDY_SECONDS)
        self._channel = ours
        threading.Thread(target=self._listen, name=f"engine {model}", daemon=True).start()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    @property
    def takes_orders(self) -> bool:
        """Whether the process can take another order."""
        return self.alive and not self._retired and self._ending is None

    @property
    def left(self) -> int:
        """Orders at work that nobody waits for."""
        return len(self._left)

    def load(self, should_stop: ShouldStop) -> None:
        """Load the engine ahead of the first order; raises as `render`."""
        self._ask({"do": "load"}, lambda _step, _done: None, should_stop)

    def render(
        self,
        order: Order,
        path: StrPath,
        delivery: Delivery,
        on_progress: OnProgress,
        should_stop: ShouldStop,
    ) -> Take:
        """Have the process make an order and write it to a path.

        Raises:
            CancelledError: `should_stop` returned True.
            DGXMusicError: the engine's error; EngineError when the process died, was silent for too
                long or sent an invalid message.
        """
        message = {"do": "render", **encode_order(order, path, delivery)}
        answer = self._ask(message, on_progress, should_stop)
        try:
            return decode_take(answer["take"], path)
        except (KeyError, TypeError, ValueError) as error:
            self.kill()
            raise EngineError("The engine's process gave an answer that makes no sense.") from error

    def kill(self) -> None:
        """End the process at once, and wait until it is gone."""
        with suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()

    def _ask(
        self, message: dict[str, Any], on_progress: OnProgress, should_stop: ShouldStop
    ) -> dict[str, Any]:
        started = heard = time.monotonic()
        asked_to_stop: float | None = None
        with self._order(message) as (number, answers):
            while True:
                reply = self._next(answers)
                now = time.monotonic()
                if reply is not None:
                    heard = now
                    if reply["event"] != "progress":
                        return self._final(reply)
                    on_progress(reply["step"], reply["fraction"])
                if asked_to_stop is None and should_stop():
                    asked_to_stop = now
                    self._send({"do": "stop", "id": number})
                if asked_to_stop is not None and now - asked_to_stop > STOP_GRACE_SECONDS:
                    raise CancelledError("Cancelled.")
                self._check_time(now - heard, now - started)

    @contextmanager
    def _order(self, message: dict[str, Any]) -> Iterator[tuple[int, Answers]]:
        """Send an order, and leave it to the process when it is not over by the end."""
        answers: Answers = queue.SimpleQueue()
        with self._lock:
            number = next(self._numbers)
            self._awaited[number] = answers
            if self._ending is not None:
                answers.put(None)
        try:
            self._send({**message, "id": number, "model": self.model})
            yield number, answers
        finally:
            with self._lock:
                if self._awaited.pop(number, None) is not None and self._ending is None:
                    grace = LEFT_SECONDS - STOP_GRACE_SECONDS if self.seats > 1 else 0.0
                    self._left[number] = time.monotonic() + grace
                    self._send({"do": "stop", "id": number})
                self._tidy()

    def _next(self, answers: Answers) -> dict[str, Any] | None:
        """One message; None when none came within a moment."""
        try:
            reply = answers.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            return None
        if reply is None:
            raise EngineError(str(self._ending))
        return reply

    def _final(self, reply: dict[str, Any]) -> dict[str, Any]:
        if reply["event"] == "cancelled":
            raise CancelledError("Cancelled.")
        if reply["event"] == "failed":
            # Memory, a GPU or a library may be in any state now: the next job starts afresh.
            self._retired = self._retired or bool(reply["broken"])
            kind = getattr(errors, str(reply["kind"]), EngineError)
            known = isinstance(kind, type) and issubclass(kind, DGXMusicError)
            raise (kind if known else EngineError)(str(reply["message"]))
        return reply

    def _check_time(self, silence: float, taken: float) -> None:
        if silence > self._limits.stall:
            self._retired = True
            raise EngineError(
                f"The engine {self.model} made no progress for {self._limits.stall:g} s."
            )
        if taken > self._limits.deadline:
            self._retired = True
            raise EngineError(f"The engine {self.model} took over {self._limits.deadline:g} s.")

    def _tidy(self) -> None:
        """End the process when it is of no more use, and keep no neighbour from its end."""
        with self._lock:
            now = time.monotonic()
            late = {number for number, until in self._left.items() if until <= now}
            if self._awaited:
                # Who waits needs what is being loaded.
                late -= self._loading
            self._retired = self._retired or bool(late)
            if self._retired and not self._awaited:
                self.kill()

    def _send(self, message: dict[str, Any]) -> None:
        # Of a process that is gone the listener tells, and why.
        with suppress(OSError), self._lock:
            self._channel.sendall(encode_message(message))

    def _listen(self) -> None:
        """Give every order its answers, until the process is gone."""
        try:
            with suppress(ConnectionError):
                self._hear()
            ending = self._how_it_ended()
        except (KeyError, TypeError, ValueError):
            ending = _NONSENSE
        self.kill()
        with self._lock:
            if len(self._awaited) > 1:
                ending += f" {len(self._awaited)} jobs were at work in it."
            self._ending = ending
            for answers in self._awaited.values():
                answers.put(None)
            self._left.clear()
            self._channel.close()

    def _hear(self) -> None:
        lines = Lines()
        tidied = time.monotonic()
        while True:
            data = None
            with suppress(TimeoutError):
                data = self._channel.recv(1 << 16)
            if data == b"":
                return
            for message in lines.add(data or b""):
                self._deliver(_checked(message))
            if time.monotonic() - tidied > _TIDY_SECONDS:
                self._tidy()
                tidied = time.monotonic()

    def _deliver(self, message: dict[str, Any]) -> None:
        number = message["id"]
        over = message["event"] != "progress"
        with self._lock:
            if message.get("step") == LOADING:
                self._loading.add(number)
            elif number in self._loading:
                self._loading.remove(number)
                if number in self._left:
                    # Only now it can hear.
                    self._left[number] = time.monotonic() + LEFT_SECONDS
            answers = self._awaited.pop(number, None) if over else self._awaited.get(number)
            if over:
                self._left.pop(number, None)
        if answers is not None:
            answers.put(message)

    def _how_it_ended(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1.0)
        code = self._process.poll()
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            memory = " The system may have been out of memory." if name == "SIGKILL" else ""
            return f"The engine {self.model} was killed by {name}.{memory}"
        return f"The engine {self.model} ended its process with code {code}."


def _checked(message: dict[str, Any]) -> dict[str, Any]:
    """Give a message that has what its event needs.

    Raises:
        KeyError, TypeError, ValueError: it has not.
    """
    message = {**message, "id": int(message["id"]), "event": str(message["event"])}
    if message["event"] == "progress":
        return {**message, "step": str(message["step"]), "fraction": float(message["fraction"])}
    if message["event"] == "failed" and not {"kind", "message", "broken"} <= set(message):
        raise KeyError("failed")
    return message
