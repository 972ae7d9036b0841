"""The server process: uvicorn, a worker inside unless told not to, and an orderly end."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn

from services import storage
from services.api.application import create_app
from services.api.feed import Feed
from services.api.guard import BoundedConnection, assemble, require_guarded
from services.api.http_metrics import HttpMetrics
from services.api.route_names import RouteNames
from services.api.state import ApiState
from services.database import open_database
from services.errors import SettingsError
from services.jobs.renditions import Renditions
from services.jobs.service import MusicService
from services.machine.space import require_usable
from services.worker.worker import SAME_WISH_SECONDS, ending_signals

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp

    from services.config import Settings
    from services.generation.registry import Registry
    from services.worker.worker import Worker

log = logging.getLogger(__name__)

CLOSING_SECONDS = 5
"""What answers that are on their way have once the worker is done."""

KEEP_ALIVE_SECONDS = 30
BACKLOG = 4096


def make_state(settings: Settings, registry: Registry, worker: Worker | None = None) -> ApiState:
    """Open the service behind the routes.

    Raises:
        StorageError: the database cannot be used.
    """
    open_database(settings, for_long=True)
    service = MusicService(settings, registry)
    _ = service.queue  # Slow to load, and the first client should not wait for it.
    return ApiState(
        settings=settings,
        service=service,
        feed=Feed(service),
        renditions=Renditions(service),
        worker=worker,
    )


class Server(uvicorn.Server):
    """Serves until SIGTERM, SIGINT or SIGHUP, then drains; a second signal ends it at once."""

    def __init__(self, state: ApiState, app: ASGIApp) -> None:
        """Prepare to serve the application of the state with its guard around it."""
        super().__init__(
            uvicorn.Config(
                app,
                http=BoundedConnection,
                ws="none",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=CLOSING_SECONDS,
                backlog=BACKLOG,
            )
        )
        self._state = state
        self._ending: asyncio.Task[None] | None = None
        self._asked_at = 0.0

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals ourselves: uvicorn would close the door before the worker is done."""
        loop = asyncio.get_running_loop()
        numbers = ending_signals()
        for number in numbers:
            loop.add_signal_handler(number, self._ask_to_end)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def _ask_to_end(self) -> None:
        now = time.monotonic()
        if self._ending is not None:
            if now - self._asked_at < SAME_WISH_SECONDS:
                return
            log.warning("told so twice: ending at once")
            if self._state.worker is not None:
                self._state.worker.give_up("told so twice")
            os._exit(1)
        self._asked_at = now
        self._state.draining = True
        self._state.feed.close()
        self._ending = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        worker = self._state.worker
        if worker is not None:
            await asyncio.to_thread(worker.drain, self._state.settings.drain_seconds)
        self.should_exit = True


def guarded(app: FastAPI, settings: Settings, host: str) -> ASGIApp:
    """Put the guard around the application, and the count of requests around the guard."""
    names = RouteNames(app)
    return HttpMetrics(assemble(app, settings, names, host=host), app.state.metrics.http, names)


def listen(host: str, port: int) -> socket.socket:
    """Take the address.

    Args:
        host: name or address of this machine.
        port: of it; 0 lets the system choose.

    Raises:
        SettingsError: it cannot be had.
    """
    try:
        (family, _, _, _, address), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        return socket.create_server(address, family=family, backlog=BACKLOG)
    except OSError as error:
        raise SettingsError(
            f"Cannot listen on {host}, port {port}: {error.strerror}. Stop what uses it, or give "
            "another --port or --host."
        ) from error


def url_of(listening: socket.socket) -> str:
    """Where a client on this machine finds it."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(
    settings: Settings,
    registry: Registry,
    *,
    host: str,
    port: int,
    worker: Worker | None,
    announce: Callable[[str], None] = lambda _url: None,
) -> None:
    """Serve until told to stop.

    Args:
        settings: of the process.
        registry: the engines.
        host: address to listen on.
        port: of it.
        worker: made, not started; None leaves the jobs to others.
        announce: is told where the server is, once it listens.

    Raises:
        SettingsError: the address cannot be had, or needs a key, and there is none.
        StorageError, OutputError: the database or the output folder cannot be used.
    """
    state = make_state(settings, registry, worker)
    require_guarded(settings, host)
    if worker is None:
        # A worker looks for itself.
        require_usable(settings)
    listening = listen(host, port)
    app = guarded(create_app(state, registry), settings, host)
    if worker is not None:
        worker.start()
    log.info("listening url=%s", url_of(listening))
    announce(url_of(listening))
    try:
        Server(state, app).run(sockets=[listening])
    finally:
        storage.close_db()
