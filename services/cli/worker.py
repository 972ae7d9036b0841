"""`dgx-music worker`: run queued jobs."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.console import note
from services.cli.options import Concurrency, LogJson
from services.cli.running import stops_cleanly

Models = Annotated[
    str | None,
    typer.Option(
        "--models",
        "-m",
        metavar="NAMES",
        help="Run only jobs for these models, separated by commas.",
        show_default="all that can run here",
    ),
]


@stops_cleanly()
def worker(
    concurrency: Concurrency = None, models: Models = None, as_json: LogJson = False
) -> None:
    """Run queued jobs; start as many workers as you like.

    Ctrl-C or SIGTERM stops it: running jobs finish or return to the queue.

    Example: dgx-music worker --concurrency 2
    """
    from services.config import load_settings
    from services.generation.registry import default_registry
    from services.logs import configure_logging, find_level
    from services.machine.memory import collect_as_usual, limit_memory_growth
    from services.machine.open_files import raise_open_files_limit
    from services.worker.worker import Worker, run_worker

    collect_as_usual()
    limit_memory_growth()
    raise_open_files_limit()
    settings = load_settings()
    configure_logging(
        find_level(settings),
        as_json=as_json or settings.log_format == "json",
        hide=settings.hide_paths,
    )
    names = [name.strip() for name in models.split(",")] if models else None
    queue_worker = Worker(
        settings, default_registry(settings), concurrency=concurrency, models=names
    )
    if not as_json:
        note(
            f"Worker {queue_worker.id} runs jobs for {', '.join(queue_worker.models)}. "
            "Press Ctrl-C to stop."
        )
    run_worker(queue_worker, settings.drain_seconds)
