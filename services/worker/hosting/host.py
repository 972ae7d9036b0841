"""The worker's handle on an engine process: starts it, sends it orders, and kills it."""

from __future__ import annotations

import logging
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from services import errors
from services.errors import CancelledError, DGXMusicError, EngineEndedError, EngineError
from services.logs import logs_json
from services.worker.hosting.wire import (
    Launch,
    MessageReader,
    decode_take,
    encode_message,
    encode_order,
)

if TYPE_CHECKING:
    from services.generation.engine import EngineSettings, ShouldStop
    from services.library.drafts import StrPath
    from services.library.orders import Order
    from services.library.takes import Delivery, Take

log = logging.getLogger(__name__)

DEFAULT_REGISTRY = "services.generation.registry:default_registry"

STOP_GRACE_SECONDS = 1.0
"""Time an engine has to stop an order before the order is abandoned."""

ABANDONED_SECONDS = 5.0
"""Time an abandoned order has to end before its process takes no more orders."""

LOADING = "loading_model"
"""The step in which an order cannot be stopped."""

_POLL_SECONDS = 0.1
_CHECK_SECONDS = 0.5
_INVALID_MESSAGE = "The engine process sent an invalid message."

OnProgress = Callable[[str, float], None]
Answers = queue.SimpleQueue[dict[str, Any] | None]
"""Messages about one order; None when the process has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Time limits of an order, in seconds."""

    stall: float
    """Without a message about the order."""
    deadline: float
    """From its start to its end."""


@dataclass(frozen=True, slots=True)
class EngineSource:
    """Where engine processes get their engines, and the settings for them."""

    registry: str
    """"module:function" that returns them."""
    settings: EngineSettings


class EngineHost:
    """One engine in one process, which runs up to `seats` orders at once.

    An order that does not stop when asked is abandoned: its caller stops waiting, and it runs on.
    If it still runs after a while, or a failure may have damaged memory, a GPU or a library, the
    process is retired: it takes no more orders, and is killed when no caller waits for one.
    """

    def __init__(self, model: str, source: EngineSource, limits: Limits, seats: int = 1) -> None:
        self.model = model
        self.seats = seats
        self._limits = limits
        self._lock = threading.RLock()
        self._numbers = count(1)
        self._awaited: dict[int, Answers] = {}
        self._abandoned: dict[int, float] = {}
        """Orders that still run although no caller waits -> time at which they are overdue."""
        self._loading: set[int] = set()
        """Orders for which the engine is being loaded, which cannot be stopped."""
        self._retired = False
        self._ending: Callable[[], EngineEndedError] | None = None
        """Makes the error that says how the process ended; None while it runs."""
        launch = Launch(
            registry=source.registry,
            # The engine sizes its memory by it.
            settings=replace(source.settings, worker_concurrency=seats),
            seats=seats,
            log_level=logging.getLevelName(log.getEffectiveLevel()),
            logs_json=logs_json(),
        )
        with ExitStack() as undo:
            ours, theirs = socket.socketpair()
            undo.callback(ours.close)
            with theirs:
                self._process = _start_process(theirs, launch)
            undo.callback(self.kill)
            ours.settimeout(_CHECK_SECONDS)
            self._channel = ours
            threading.Thread(target=self._listen, name=f"engine {model}", daemon=True).start()
            undo.pop_all()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def takes_orders(self) -> bool:
        return self.alive and not self._retired and self._ending is None

    @property
    def abandoned(self) -> int:
        """Number of orders that still run although no caller waits for them."""
        return len(self._abandoned)

    def load(self, should_stop: ShouldStop) -> None:
        """Load the engine ahead of the first order; raises as `render`."""
        self._run_order({"do": "load"}, lambda _step, _done: None, should_stop)

    def render(
        self,
        order: Order,
        path: StrPath,
        delivery: Delivery,
        on_progress: OnProgress,
        should_stop: ShouldStop,
    ) -> Take:
        """Run an order in the process, and return the take.

        Args:
            order: for this engine.
            path: the process writes the take to it.
            delivery: settings of the take.
            on_progress: called with the step and the fraction done, 0 to 1.
            should_stop: asked about ten times a second.

        Raises:
            CancelledError: `should_stop` returned True.
            DGXMusicError: the engine's error; EngineError when the process died, was silent for too
                long or sent an invalid message.
        """
        message = {"do": "render", **encode_order(order, path, delivery)}
        answer = self._run_order(message, on_progress, should_stop)
        try:
            return decode_take(answer["take"], path)
        except (KeyError, TypeError, ValueError) as error:
            self.kill()
            raise EngineError(_INVALID_MESSAGE) from error

    def kill(self) -> None:
        """Kill the process and wait until it has ended."""
        with suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()

    def _run_order(
        self, message: dict[str, Any], on_progress: OnProgress, should_stop: ShouldStop
    ) -> dict[str, Any]:
        started = last_message = time.monotonic()
        asked_to_stop: float | None = None
        with self._send_order(message) as (number, answers):
            while True:
                reply = self._next_reply(answers)
                now = time.monotonic()
                if reply is not None:
                    last_message = now
                    if reply["event"] != "progress":
                        return self._check_final_reply(reply)
                    on_progress(reply["step"], reply["fraction"])
                if asked_to_stop is None and should_stop():
                    asked_to_stop = now
                    self._send({"do": "stop", "id": number})
                if asked_to_stop is not None and now - asked_to_stop > STOP_GRACE_SECONDS:
                    raise CancelledError("Cancelled.")
                self._check_time(now - last_message, now - started)

    @contextmanager
    def _send_order(self, message: dict[str, Any]) -> Iterator[tuple[int, Answers]]:
        """Send an order; abandon it if it still runs at the end of the block."""
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
                    grace = ABANDONED_SECONDS - STOP_GRACE_SECONDS if self.seats > 1 else 0.0
                    self._abandoned[number] = time.monotonic() + grace
                    self._send({"do": "stop", "id": number})
                self._kill_if_useless()

    def _next_reply(self, answers: Answers) -> dict[str, Any] | None:
        """Return the next message about an order, or None if none came for a moment."""
        try:
            reply = answers.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            return None
        if reply is None:
            raise self._ending() if self._ending else EngineError(_INVALID_MESSAGE)
        return reply

    def _check_final_reply(self, reply: dict[str, Any]) -> dict[str, Any]:
        if reply["event"] == "cancelled":
            raise CancelledError("Cancelled.")
        if reply["event"] == "failed":
            # An engine error may have damaged memory or a GPU: the next order gets a new process.
            self._retired = self._retired or bool(reply["broken"])
            kind = getattr(errors, str(reply["kind"]), EngineError)
            is_known = isinstance(kind, type) and issubclass(kind, DGXMusicError)
            raise (kind if is_known else EngineError)(str(reply["message"]))
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

    def _kill_if_useless(self) -> None:
        """Kill a retired process for whose orders no caller waits."""
        with self._lock:
            now = time.monotonic()
            overdue = {number for number, until in self._abandoned.items() if until <= now}
            if self._awaited:
                # The awaited orders need the engine that an abandoned order is loading.
                overdue -= self._loading
            self._retired = self._retired or bool(overdue)
            if self._retired and not self._awaited:
                self.kill()

    def _send(self, message: dict[str, Any]) -> None:
        # If the process has ended, the listener reports how.
        with suppress(OSError), self._lock:
            self._channel.sendall(encode_message(message))

    def _listen(self) -> None:
        """Pass the messages of the process to its orders, until it ends."""
        try:
            with suppress(ConnectionError):
                self._receive()
            ending = self._describe_end()
        except (KeyError, TypeError, ValueError):
            ending = _INVALID_MESSAGE
        self.kill()
        with self._lock:
            jobs = len(self._awaited)
            if jobs > 1:
                ending += f" {jobs} jobs were running in it."
            self._ending = partial(EngineEndedError, ending, jobs)
            for answers in self._awaited.values():
                answers.put(None)
            self._abandoned.clear()
            self._channel.close()

    def _receive(self) -> None:
        reader = MessageReader()
        last_check = time.monotonic()
        while True:
            data = None
            with suppress(TimeoutError):
                data = self._channel.recv(1 << 16)
            if data == b"":
                return
            for message in reader.feed(data or b""):
                self._deliver(_check_message(message))
            if time.monotonic() - last_check > _CHECK_SECONDS:
                self._kill_if_useless()
                last_check = time.monotonic()

    def _deliver(self, message: dict[str, Any]) -> None:
        number = message["id"]
        is_final = message["event"] != "progress"
        with self._lock:
            if message.get("step") == LOADING:
                self._loading.add(number)
            elif number in self._loading:
                self._loading.remove(number)
                if number in self._abandoned:
                    # It can be stopped only from now on.
                    self._abandoned[number] = time.monotonic() + ABANDONED_SECONDS
            answers = self._awaited.pop(number, None) if is_final else self._awaited.get(number)
            if is_final:
                self._abandoned.pop(number, None)
        if answers is not None:
            answers.put(message)

    def _describe_end(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1.0)
        code = self._process.poll()
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            memory = " The system may have been out of memory." if name == "SIGKILL" else ""
            return f"The engine {self.model} was killed by {name}.{memory}"
        return f"The engine {self.model} ended its process with code {code}."


def _start_process(channel: socket.socket, launch: Launch) -> subprocess.Popen[bytes]:
    # A new interpreter: a fork would inherit threads and locks. A session of its own, so that
    # Ctrl-C reaches only the worker.
    module = "services.worker.hosting.process"
    return subprocess.Popen(  # noqa: S603 - this interpreter and a module of ours
        # -P: whatever lies in the current folder is not imported.
        [sys.executable, "-P", "-m", module, str(channel.fileno()), launch.encode()],
        pass_fds=[channel.fileno()],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


def _check_message(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message that has the fields of its event.

    Raises:
        KeyError, TypeError, ValueError: a field is missing or of the wrong type.
    """
    message = {**message, "id": int(message["id"]), "event": str(message["event"])}
    if message["event"] == "progress":
        return {**message, "step": str(message["step"]), "fraction": float(message["fraction"])}
    if message["event"] == "failed" and not {"kind", "message", "broken"} <= set(message):
        raise KeyError("failed")
    return message
