"""While a job runs in front of a person: the bar they see, and the signals that stop it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

from services.cli.console import is_terminal, note

if TYPE_CHECKING:
    from services.generation.engine import Progress


class StopFlag:
    """Turns the first Ctrl-C, SIGTERM or SIGHUP into a request to stop; a second stops at once."""

    def __init__(self) -> None:
        self._asked = False

    def __call__(self) -> bool:
        """Whether a signal came."""
        return self._asked

    @contextmanager
    def catching_signals(self) -> Iterator[None]:
        """Hold the handlers while the block runs."""
        before = {
            number: signal.signal(number, self._handle)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            # nohup has the hang-up of the terminal ignored.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        if number == signal.SIGINT:
            note("Stopping; press Ctrl-C again to leave at once.")


@contextmanager
def progress_bar(*, shown: bool) -> Iterator[Progress]:
    """A bar with the stage on a terminal; nothing where nobody looks."""
    if not (shown and is_terminal(sys.stderr)):
        yield lambda _stage, _fraction: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as RichProgress

    columns = (TextColumn("{task.description:<22}"), BarColumn(), TaskProgressColumn())
    bar = RichProgress(*columns, console=Console(stderr=True), transient=True)
    row = bar.add_task("starting", total=1.0)

    def show(stage: str, fraction: float) -> None:
        # A terminal that was closed is no reason to fail the job.
        with suppress(OSError):
            bar.update(row, description=stage, completed=fraction)

    with suppress(OSError):
        bar.start()
    try:
        yield show
    finally:
        with suppress(OSError):
            bar.stop()
