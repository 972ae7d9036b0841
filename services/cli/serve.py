"""`dgx-music serve`: the REST API with a worker inside."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from services.cli.console import note
from services.cli.options import Concurrency, LogJson
from services.cli.running import stops_cleanly

Host = Annotated[
    str | None,
    typer.Option(
        "--host",
        metavar="ADDRESS",
        help="Address to listen on.",
        show_default="from the settings",
    ),
]
Port = Annotated[
    int | None,
    typer.Option(
        "--port",
        "-p",
        min=0,
        max=65535,
        metavar="PORT",
        help="Port to listen on; 0 picks a free one.",
        show_default="from the settings",
    ),
]
RootPath = Annotated[
    str | None,
    typer.Option(
        "--root-path",
        metavar="PATH",
        help="Path under which a proxy offers the API, such as /music.",
        show_default="from the settings",
    ),
]
NoWorker = Annotated[
    bool, typer.Option("--no-worker", help="Leave jobs to `dgx-music worker` processes.")
]


@stops_cleanly()
def serve(
    host: Host = None,
    port: Port = None,
    no_worker: NoWorker = False,
    concurrency: Concurrency = None,
    root_path: RootPath = None,
    log_json: LogJson = False,
) -> None:
    """Run the REST API with a worker inside.

    Ctrl-C or SIGTERM stops it: running jobs finish or return to the queue.

    Example: dgx-music serve --port 8000
    """
    from services.api.server import serve as run
    from services.config import load_settings
    from services.generation.registry import default_registry
    from services.logs import configure_logging, find_level, wants_json
    from services.machine.memory import collect_as_usual, limit_memory_growth
    from services.machine.open_files import raise_open_files_limit
    from services.worker.worker import Worker

    collect_as_usual()
    limit_memory_growth()
    raise_open_files_limit()
    given: dict[str, Any] = {} if root_path is None else {"api_root_path": root_path}
    settings = load_settings(**given)
    as_json = log_json or wants_json(settings, sys.stderr)
    configure_logging(find_level(settings), as_json=as_json, hide=settings.hide_paths)
    registry = default_registry(settings)
    worker = None if no_worker else Worker(settings, registry, concurrency=concurrency)
    address = host or settings.api_host
    chosen = settings.api_port if port is None else port

    def announce(url: str) -> None:
        # A JSON log has this event already.
        if not as_json:
            note(f"Serving {url}/api/v1/docs. Press Ctrl-C to stop.")

    run(settings, registry, host=address, port=chosen, worker=worker, announce=announce)
