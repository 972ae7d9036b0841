"""A job in the foreground: its progress bar, and the signals that stop it."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from services.cli.console import is_terminal, note

if TYPE_CHECKING:
    from services.generation.engine import Progress


class StopFlag:
    """True after the first Ctrl-C, SIGTERM or SIGHUP; a second one raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self._is_set = False

    def __call__(self) -> bool:
        return self._is_set

    @contextmanager
    def catch_signals(self) -> Iterator[None]:
        before = {
            number: signal.signal(number, self._handle)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            # Under nohup SIGHUP stays ignored.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._is_set:
            raise KeyboardInterrupt
        self._is_set = True
        if number == signal.SIGINT:
            note("Stopping. Press Ctrl-C again to exit at once.")


@contextmanager
def stops_cleanly() -> Iterator[None]:
    """Exit with 0 where a signal ends a server or a worker while it starts, as it does later."""
    try:
        yield
    except KeyboardInterrupt:
        note("Stopped.")
        leave(0)


def leave(code: int) -> NoReturn:
    """Exit without waiting for other threads: one may still have gigabytes to load."""
    others = (thread for thread in threading.enumerate() if thread != threading.main_thread())
    if not all(thread.daemon for thread in others):
        atexit._run_exitfuncs()
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


@contextmanager
def progress_bar(*, shown: bool) -> Iterator[Progress]:
    """Show a progress bar if stderr is a terminal; yields the function that moves it.

    Without the bar, only the reason why a job waits is written, once.
    """
    if not (shown and is_terminal(sys.stderr)):
        said: set[str] = set()

        def say(stage: str, _fraction: float) -> None:
            if stage.startswith("waiting: ") and stage not in said:
                said.add(stage)
                note(f"The job is {stage}")

        yield say
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as RichProgress

    columns = (TextColumn("{task.description:<22}"), BarColumn(), TaskProgressColumn())
    bar = RichProgress(*columns, console=Console(stderr=True), transient=True)
    row = bar.add_task("starting", total=1.0)

    def show(stage: str, fraction: float) -> None:
        # A closed terminal must not fail the job.
        with suppress(OSError):
            bar.update(row, description=stage, completed=fraction)

    with suppress(OSError):
        bar.start()
    try:
        yield show
    finally:
        with suppress(OSError):
            bar.stop()
