"""The process that an engine lives in: orders in, takes out, over one socket.

A worker starts it as `python -m services.generation.engine_process SOCKET REGISTRY`. It dies with
its worker, and takes nothing but its own attempt with it when an engine kills it. Every message is
one line of JSON; the fields are those that `_Server` reads and sends.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import socket
import sys
import threading
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.generation.engine import GenerationParams
from services.generation.errors import CancelledError, DGXMusicError
from services.generation.takes import Delivery, Order, make_takes

if TYPE_CHECKING:
    from services.generation.engine import Engine
    from services.generation.registry import Registry

STEP_OF_STAGE = {
    "encoding_prompt": "encoding_prompt",
    "mastering": "saving",
    "measuring": "saving",
    "writing": "saving",
}
"""Stage -> the step that people see; any other stage is the engine's `generating`."""


def load_registry(source: str) -> Registry:
    """Call the function behind "module:function"."""
    module, _, function = source.partition(":")
    registry: Registry = getattr(importlib.import_module(module), function)()
    return registry


class _Server:
    """Takes one order after the other."""

    def __init__(self, channel: socket.socket, registry: Registry) -> None:
        self._channel = channel
        self._registry = registry
        self._orders: queue.Queue[dict[str, Any]] = queue.Queue()
        self._stop = threading.Event()
        self._engines: dict[str, Engine] = {}

    def serve(self) -> None:
        threading.Thread(target=self._listen, name="orders", daemon=True).start()
        while True:
            order = self._orders.get()
            if order["do"] == "load":
                self._answer(order, self._load)
            else:
                self._answer(order, self._render)

    def _listen(self) -> None:
        try:
            self._take_orders()
        finally:
            # The worker is gone. Nobody would take the result, and other threads may be busy for
            # long.
            os._exit(0)

    def _take_orders(self) -> None:
        # Reading fails, and does not end, where the worker left something of ours unread.
        with suppress(ConnectionError), self._channel.makefile("r", encoding="utf-8") as lines:
            for line in lines:
                message = json.loads(line)
                if message["do"] == "stop":
                    self._stop.set()
                else:
                    self._stop.clear()
                    self._orders.put(message)

    def _answer(self, order: dict[str, Any], do: Any) -> None:
        try:
            reply = do(order)
        except CancelledError:
            self._send(event="cancelled")
        except DGXMusicError as error:
            self._send(
                event="failed",
                kind=type(error).__name__,
                message=str(error),
                broken=error.retryable,
            )
        except Exception as error:  # noqa: BLE001  (the outer edge: any engine may raise anything)
            text = f"The engine {order['model']} failed: {type(error).__name__}: {error}"
            self._send(event="failed", kind="EngineError", message=text, broken=True)
        else:
            self._send(**reply)

    def _load(self, order: dict[str, Any]) -> dict[str, Any]:
        self._engine(order["model"])
        return {"event": "loaded"}

    def _engine(self, model: str) -> Engine:
        if model not in self._engines:
            self._send(event="progress", step="loading_model", fraction=0.0)
            self._engines[model] = self._registry.resolve(model).load()
        return self._engines[model]

    def _render(self, order: dict[str, Any]) -> dict[str, Any]:
        engine = self._engine(order["model"])
        delivery = order["delivery"]

        def progress(stage: str, fraction: float) -> None:
            step = STEP_OF_STAGE.get(stage, "generating")
            self._send(event="progress", step=step, fraction=round(fraction, 4))

        progress("started", 0.0)
        takes = make_takes(
            [
                Order(
                    generation_id=job["generation_id"],
                    created_at=datetime.fromisoformat(job["created_at"]),
                    params=GenerationParams(**job["params"]),
                    path=Path(job["path"]),
                )
                for job in order["jobs"]
            ],
            engine,
            Delivery(**delivery | {"output_dir": Path(delivery["output_dir"])}),
            progress,
            self._stop.is_set,
        )
        fields = ("bytes", "sha256", "seconds", "metadata")
        told = [{name: getattr(take, name) for name in fields} for take in takes]
        return {"event": "made", "takes": told}

    def _send(self, **message: Any) -> None:
        try:
            self._channel.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            os._exit(0)


def main() -> None:
    """Serve the worker at the other end of the socket until it hangs up."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    # What an engine prints belongs to the log, not to anybody's answer.
    os.dup2(2, 1)
    _Server(channel, load_registry(sys.argv[2])).serve()


if __name__ == "__main__":
    main()
