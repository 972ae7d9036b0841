"""`dgx-music worker`: make the jobs of the queue until told to stop."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.console import note

Concurrency = Annotated[
    int | None,
    typer.Option("--concurrency", "-c", min=1, help="Jobs at once.", show_default="the setting"),
]
Models = Annotated[
    str | None,
    typer.Option(
        "--models", "-m", help="Names, joined by commas.", show_default="all that can run here"
    ),
]


def worker(concurrency: Concurrency = None, models: Models = None) -> None:
    """Make the jobs of the queue until told to stop (Ctrl-C, SIGTERM); start as many as you like.

    Told to stop, it takes nothing new, finishes what runs, and gives back what takes too long.

    Example: dgx-music worker --concurrency 2
    """
    from services.config import load_settings
    from services.generation.registry import default_registry
    from services.logs import configure_logging
    from services.machine.memory import keep_memory_level
    from services.worker.worker import Worker, run_worker

    keep_memory_level()
    settings = load_settings()
    configure_logging(settings, as_json=settings.log_format == "json")
    names = [name.strip() for name in models.split(",")] if models else None
    made = Worker(settings, default_registry(settings), concurrency=concurrency, models=names)
    note(f"Worker {made.id} makes {', '.join(made.models)}; stop it with Ctrl-C.")
    run_worker(made, settings.drain_seconds)
