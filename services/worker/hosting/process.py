"""The process an engine runs in: orders come in and takes go out over one socket.

A worker starts it as `python -m services.worker.hosting.process SOCKET LAUNCH`. It ends with its
worker. If an engine crashes it, only the attempts in it are lost. The messages are in
wire.py.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from services.errors import CancelledError, DGXMusicError, EngineError
from services.library.takes import make_take
from services.logs import configure_logging
from services.machine.shortage import find_shortage
from services.worker.hosting.wire import Launch, decode_order, encode_message, encode_take

if TYPE_CHECKING:
    from services.generation.engine import Engine, EngineSettings, ShouldStop
    from services.generation.registry import Registry

STEP_OF_STAGE = {
    "encoding_prompt": "encoding_prompt",
    "mastering": "saving",
    "measuring": "saving",
    "writing": "saving",
}
"""Stage of `make_take` -> step of the job; any other stage is `generating`."""

_FAULT_EXIT_CODE = 70
_POLL_SECONDS = 0.1


def load_registry(source: str, settings: EngineSettings) -> Registry:
    """Return the registry from the function named "module:function", called with the settings."""
    module, _, function = source.partition(":")
    registry: Registry = getattr(importlib.import_module(module), function)(settings)
    return registry


class _Server:
    """Runs up to `seats` orders at once."""

    def __init__(self, channel: socket.socket, registry: Registry, seats: int) -> None:
        self._channel = channel
        self._registry = registry
        self._seats = seats
        self._orders: queue.Queue[dict[str, Any]] = queue.Queue()
        self._stops: dict[int, threading.Event] = {}
        self._engines: dict[str, Engine] = {}
        self._loading = threading.Lock()
        self._sending = threading.Lock()

    def serve(self) -> None:
        threading.Thread(target=self._listen, name="orders", daemon=True).start()
        if self._seats == 1:
            while True:
                self._handle(self._orders.get())
        with ThreadPoolExecutor(self._seats, thread_name_prefix="order") as threads:
            while True:
                threads.submit(self._handle, self._orders.get())

    def _listen(self) -> None:
        try:
            self._take_orders()
        finally:
            # The worker has ended: the results of the running threads are of no use.
            os._exit(0)

    def _take_orders(self) -> None:
        # If the worker left data unread, the end of the connection is an error and not an EOF.
        with suppress(ConnectionError), self._channel.makefile("r", encoding="utf-8") as lines:
            for line in lines:
                message = json.loads(line)
                if message["do"] != "stop":
                    self._stops[message["id"]] = threading.Event()
                    self._orders.put(message)
                elif (stop := self._stops.get(message["id"])) is not None:
                    stop.set()

    def _handle(self, order: dict[str, Any]) -> None:
        try:
            self._run(order, self._load if order["do"] == "load" else self._render)
        except BaseException:  # noqa: BLE001  (an order without a reply would hang its job)
            traceback.print_exc()
            os._exit(_FAULT_EXIT_CODE)

    def _run(self, order: dict[str, Any], do: Callable[..., dict[str, Any]]) -> None:
        number = order["id"]
        try:
            reply = do(order, self._stops[number].is_set)
        except CancelledError:
            reply = {"event": "cancelled"}
        except DGXMusicError as error:
            reply = _describe_failure(error)
        except Exception as error:  # noqa: BLE001  (the outer edge: any engine may raise anything)
            failed = find_shortage(error) or EngineError(
                f"The engine {order['model']} failed: {type(error).__name__}: {error}"
            )
            reply = _describe_failure(failed) | {"broken": True}
        del self._stops[number]
        self._send(id=number, **reply)

    def _load(self, order: dict[str, Any], should_stop: ShouldStop) -> dict[str, Any]:
        self._get_engine(order, should_stop)
        return {"event": "loaded"}

    def _get_engine(self, order: dict[str, Any], should_stop: ShouldStop) -> Engine:
        model = order["model"]
        if model not in self._engines:
            self._send(id=order["id"], event="progress", step="loading_model", fraction=0.0)
            # One order loads the engine; the others wait for it and can be cancelled meanwhile.
            while not self._loading.acquire(timeout=_POLL_SECONDS):
                if should_stop():
                    raise CancelledError("Cancelled.")
            try:
                if model not in self._engines:
                    self._engines[model] = self._registry.resolve(model).load()
            finally:
                self._loading.release()
        return self._engines[model]

    def _render(self, order: dict[str, Any], should_stop: ShouldStop) -> dict[str, Any]:
        engine = self._get_engine(order, should_stop)
        decoded, path, delivery = decode_order(order)

        def progress(stage: str, fraction: float) -> None:
            step = STEP_OF_STAGE.get(stage, "generating")
            self._send(id=order["id"], event="progress", step=step, fraction=round(fraction, 4))

        progress("started", 0.0)
        take = make_take(decoded, path, engine, delivery, progress, should_stop)
        return {"event": "made", "take": encode_take(take)}

    def _send(self, **message: Any) -> None:
        try:
            with self._sending:
                self._channel.sendall(encode_message(message))
        except OSError:
            os._exit(0)


def _describe_failure(error: DGXMusicError) -> dict[str, Any]:
    return {
        "event": "failed",
        "kind": type(error).__name__,
        "message": str(error),
        "broken": isinstance(error, EngineError),
    }


def main() -> None:
    """Serve the worker at the other end of the socket until it closes the connection."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    # Output of an engine belongs in the log.
    os.dup2(2, 1)
    launch = Launch.decode(sys.argv[2])
    configure_logging(launch.log_level, as_json=launch.logs_json)
    registry = load_registry(launch.registry, launch.settings)
    _Server(channel, registry, launch.seats).serve()


if __name__ == "__main__":
    main()
