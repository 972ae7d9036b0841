"""The server process: uvicorn, an optional worker inside, and an orderly shutdown."""

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
from services.api.guard import BoundedConnection, assemble, require_key
from services.api.http_metrics import HttpMetrics
from services.api.root_path import RootPath, current_root_path
from services.api.route_names import RouteNames
from services.api.state import ApiState
from services.database import open_database
from services.errors import SettingsError
from services.jobs.renditions import Renditions
from services.jobs.service import MusicService
from services.machine.space import require_output_folder
from services.worker.worker import SAME_SIGNAL_SECONDS, shutdown_signals

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp

    from services.config import Settings
    from services.generation.registry import Registry
    from services.worker.worker import Worker

log = logging.getLogger(__name__)

CLOSING_SECONDS = 5
"""Time that answers in progress have once the worker has finished."""

KEEP_ALIVE_SECONDS = 30
BACKLOG = 4096


def make_state(settings: Settings, registry: Registry, worker: Worker | None = None) -> ApiState:
    """Open the database and build what the routes share.

    Raises:
        StorageError: the database cannot be used.
    """
    open_database(settings, long_lived=True)
    service = MusicService(settings, registry)
    _ = service.queue  # The queue loads slowly; the first request should not wait for it.
    return ApiState(
        settings=settings,
        service=service,
        feed=Feed(service),
        renditions=Renditions(service),
        worker=worker,
    )


class Server(uvicorn.Server):
    """Serves until SIGTERM, SIGINT or SIGHUP, then drains; a second signal exits at once."""

    def __init__(self, state: ApiState, app: ASGIApp) -> None:
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
        self._drain_task: asyncio.Task[None] | None = None
        self._signalled_at = 0.0

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Replace uvicorn's handlers, which would stop serving before the worker has finished."""
        loop = asyncio.get_running_loop()
        numbers = shutdown_signals()
        for number in numbers:
            loop.add_signal_handler(number, self._handle_signal)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def _handle_signal(self) -> None:
        now = time.monotonic()
        if self._drain_task is not None:
            if now - self._signalled_at < SAME_SIGNAL_SECONDS:
                return
            log.warning("second signal: exiting at once")
            if self._state.worker is not None:
                self._state.worker.give_up("second signal")
            os._exit(1)
        self._signalled_at = now
        self._state.is_draining = True
        self._state.feed.close()
        self._drain_task = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        worker = self._state.worker
        if worker is not None:
            await asyncio.to_thread(worker.drain, self._state.settings.drain_seconds)
        self.should_exit = True


def wrap_app(app: FastAPI, settings: Settings, host: str) -> ASGIApp:
    """Put the guard around the application, and the HTTP metrics around the guard."""
    names = RouteNames(app)
    guarded = assemble(app, settings, names, host=host)
    measured = HttpMetrics(guarded, app.state.metrics.http, names)
    return RootPath(measured, settings.api_root_path)


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket.

    Args:
        host: name or address of this machine.
        port: 0 lets the system choose one.

    Raises:
        SettingsError: the address or the port cannot be used.
    """
    try:
        (family, _, _, _, address), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        return socket.create_server(address, family=family, backlog=BACKLOG)
    except OSError as error:
        raise SettingsError(
            f"Cannot listen on {host}, port {port}: {error.strerror}. Stop the program that uses "
            "it, or choose another --port or --host."
        ) from error


def format_url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
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
    """Serve until a signal ends the process.

    Args:
        settings: of the process.
        registry: the engines.
        host: address to listen on.
        port: 0 lets the system choose one.
        worker: a worker that is not started yet; None leaves the jobs to other processes.
        announce: called with the URL once the server listens.

    Raises:
        SettingsError: the address cannot be used, or needs an API key and none exists.
        StorageError, OutputError: the database or the output folder cannot be used.
    """
    state = make_state(settings, registry, worker)
    require_key(settings, host)
    if worker is None:
        # A worker checks the folders itself.
        require_output_folder(settings)
    listener = listen(host, port)
    app = wrap_app(create_app(state, registry), settings, host)
    if worker is not None:
        worker.start()
    # For answers to what is not HTTP, which the application never sees.
    current_root_path.set(settings.api_root_path)
    log.info("listening url=%s", format_url(listener))
    announce(format_url(listener))
    try:
        Server(state, app).run(sockets=[listener])
    finally:
        storage.close_db()
