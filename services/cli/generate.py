"""`dgx-music generate`: one sentence in, one file out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.console import answer, answer_json, note, stdout_errors
from services.cli.running import StopFlag, progress_bar
from services.errors import InvalidRequestError
from services.generation.engine import SEED_LIMIT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from services.jobs.models import Job

DEFAULT = 16.0
"""Seconds; a test holds it equal to the request's own default, whose module is slow to import."""


Prompt = Annotated[str, typer.Argument(help="The music in words: genre, tempo, key, mood, ...")]
Duration = Annotated[
    float | None,
    typer.Option("--duration", "-d", help="Seconds, from 1.", show_default=f"{DEFAULT:g}"),
]
Seed = Annotated[
    int | None,
    typer.Option("--seed", "-s", help=f"0 to {SEED_LIMIT - 1}; the same seed, the same music."),
]
Model = Annotated[str | None, typer.Option("--model", "-m", help="See `dgx-music models list`.")]
Melody = Annotated[
    Path | None, typer.Option("--melody", help="Audio file whose melody the music follows.")
]
ContinueFrom = Annotated[
    Path | None, typer.Option("--continue-from", help="Audio file that the music goes on from.")
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        help="Also write it here: a folder, - (stdout), or .wav, .flac, .mp3, .ogg, .opus.",
    ),
]
Force = Annotated[
    bool, typer.Option("--force", "-f", help="Replace the output file if there is one.")
]
Temperature = Annotated[
    float | None, typer.Option(help="Neural models: 0.1 to 2.", rich_help_panel="Sampling")
]
TopK = Annotated[
    int | None, typer.Option(help="Neural models: 0 to 500.", rich_help_panel="Sampling")
]
TopP = Annotated[
    float | None, typer.Option(help="Neural models: 0 to 1.", rich_help_panel="Sampling")
]
CfgCoef = Annotated[
    float | None, typer.Option(help="Neural models: 1 to 10.", rich_help_panel="Sampling")
]
AsJson = Annotated[bool, typer.Option("--json", help="Answer with JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only the answer.")]


def generate(
    prompt: Prompt,
    *,
    duration: Duration = None,
    seed: Seed = None,
    model: Model = None,
    melody: Melody = None,
    continue_from: ContinueFrom = None,
    output: Output = None,
    force: Force = False,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    cfg_coef: CfgCoef = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make music from a sentence and print the path of the file.

    Example: dgx-music generate "deep house with warm pads at 122 BPM in A minor" -d 30 -o loop.wav
    """
    from services.audio import AudioExporter
    from services.config import load_settings
    from services.generation.registry import default_registry
    from services.jobs.making import JobMaker
    from services.jobs.models import parse_request
    from services.jobs.outfile import STDOUT, Destination
    from services.jobs.service import MusicService

    given = {
        "duration": duration, "seed": seed, "model": model, "temperature": temperature,
        "top_k": top_k, "top_p": top_p, "cfg_coef": cfg_coef,
    }  # fmt: skip
    given = {name: value for name, value in given.items() if value is not None}
    request = parse_request(prompt=prompt, **given)
    if output == STDOUT and as_json:
        raise InvalidRequestError("The WAV file and JSON cannot both go to stdout. Drop one.")
    destination = Destination.check(output, force=force) if output is not None else None
    settings = load_settings()
    service = MusicService(settings, default_registry(settings))
    checked = service.check(request, melody=melody, continue_from=continue_from)
    stop = StopFlag()
    with stop.catching_signals(), progress_bar(shown=not quiet) as progress:
        job = JobMaker(service).make(checked, progress, stop)
    made: str | Path = job.file or ""
    if destination is not None:
        exporter = AudioExporter(settings.target_lufs, settings.true_peak_dbtp)
        with stdout_errors():
            made = destination.deliver(job, service.local_copy(job.job_id), exporter)
    if not quiet:
        for line in facts(job):
            note(line)
        if destination is not None:
            note(f"Also kept as {job.file}")
        if checked.passed_over and not checked.entry.is_installed_apart:
            for reason in _why_composer(checked.passed_over):
                note(reason)
    if output == STDOUT:
        return
    if as_json:
        answer_json(job.model_dump(mode="json") | {"file": str(made)})
    else:
        answer(str(made))


def _why_composer(passed_over: Mapping[str, str]) -> list[str]:
    """Say why `auto` took the composer: which models are damaged, or that none is installed."""
    from services.generation.musicgen.checkpoint.checkpoints import ABSENT, missing_package

    played = "the built-in composer played (./just install-models)."
    if missing_package() is not None:
        return [f"MusicGen is not installed here: {played}"]
    damaged = {
        name: reason for name, reason in passed_over.items() if not reason.startswith(ABSENT)
    }
    if not damaged:
        return [f"No MusicGen weights here: {played}"]
    return [f"{name} was passed over: {reason}" for name, reason in damaged.items()]


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
