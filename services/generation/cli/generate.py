"""`dgx-music generate`: one sentence in, one file out."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.generation.cli.console import answer, answer_json, is_terminal, note
from services.generation.engine import SEED_LIMIT, Progress
from services.generation.errors import InvalidRequestError

if TYPE_CHECKING:
    from services.generation.models import Job

DEFAULT = 16.0
"""Seconds; a test holds it equal to the request's own default, whose module is slow to import."""


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


def generate(
    prompt: Annotated[str, typer.Argument(help="The music in words: genre, tempo, key, mood, ...")],
    duration: Annotated[
        float | None,
        typer.Option("--duration", "-d", help="Seconds, from 1.", show_default=f"{DEFAULT:g}"),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", "-s", help=f"0 to {SEED_LIMIT - 1}; the same seed, the same music."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="See `dgx-music models list`.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", help="Also write the WAV here: a file, a folder, or - for stdout."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Replace the output file if there is one.")
    ] = False,
    temperature: Annotated[
        float | None, typer.Option(help="Neural models: 0.1 to 2.", rich_help_panel="Sampling")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(help="Neural models: 0 to 500.", rich_help_panel="Sampling")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Neural models: 0 to 1.", rich_help_panel="Sampling")
    ] = None,
    cfg_coef: Annotated[
        float | None, typer.Option(help="Neural models: 1 to 10.", rich_help_panel="Sampling")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Answer with JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the answer.")] = False,
) -> None:
    """Make music from a sentence and print the path of the WAV file.

    Example: dgx-music generate "deep house with warm pads at 122 BPM in A minor" -d 30 -o loop.wav
    """
    from services.generation.config import load_settings
    from services.generation.models import parse_request
    from services.generation.outfile import STDOUT, Destination
    from services.generation.registry import default_registry
    from services.generation.service import MusicService

    given = {
        "duration": duration, "seed": seed, "model": model, "temperature": temperature,
        "top_k": top_k, "top_p": top_p, "cfg_coef": cfg_coef,
    }  # fmt: skip
    given = {name: value for name, value in given.items() if value is not None}
    request = parse_request(prompt=prompt, **given)
    if output == STDOUT and as_json:
        raise InvalidRequestError("The WAV file and JSON cannot both go to stdout. Drop one.")
    destination = Destination.check(output, force=force) if output is not None else None
    service = MusicService(load_settings(), default_registry())
    stop = StopFlag()
    with stop.catching_signals(), progress_bar(shown=not quiet) as progress:
        job = service.make(request, progress, stop)
    made = Path(job.file or "")
    if destination is not None:
        made = destination.deliver(job, made)
    if not quiet:
        for line in facts(job):
            note(line)
    if output == STDOUT:
        return
    if as_json:
        answer_json(job.model_dump(mode="json") | {"file": str(made)})
    else:
        answer(str(made))


def facts(job: Job) -> list[str]:
    """What a producer wants to know of a finished take: two lines, and what was read otherwise."""
    about = job.metadata
    seconds = job.generation_time_seconds or 0.0
    music = [
        *_named_music(about),
        _counted(about.get("bars", 0), "bar"),
        f"{job.duration_seconds:g} s",
        f"{about['integrated_lufs']:.1f} LUFS" if "integrated_lufs" in about else "",
        f"{about['true_peak_dbtp']:.1f} dBTP" if "true_peak_dbtp" in about else "",
    ]
    making = [
        f"seed {job.seed}",
        f"{about.get('engine', job.model)}",
        f"licence {about['licence']}" if "licence" in about else "",
        f"made in {seconds:.1f} s",
        f"id {job.job_id[:8]}",
    ]
    lines = [" · ".join(part for part in line if part) for line in (music, making)]
    return [*lines, *about.get("notes", [])]


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}" if number else ""


def _named_music(about: dict[str, Any]) -> list[str]:
    """Genre, tempo and key, each marked where the prompt did not say it; then moods and sounds."""
    stated = about.get("requested", {})

    def shown(text: str, name: str) -> str:
        return f"{text}{'' if name in stated else ' (assumed)'}" if text else ""

    return [
        shown(str(stated.get("style") or about.get("genre", "")), "genre"),
        shown(f"{about['bpm']:g} BPM" if "bpm" in about else "", "tempo_bpm"),
        shown(str(about.get("key", "")), "key"),
        *stated.get("mood", []),
        ", ".join(stated.get("instruments", [])),
    ]


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
