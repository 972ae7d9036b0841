"""`dgx-music generate`: one sentence in, one file out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.console import answer, answer_json, note, stdout_errors
from services.cli.options import AsJson, Model
from services.cli.running import StopFlag, progress_bar
from services.errors import InvalidRequestError, StorageError
from services.generation.engine import SEED_LIMIT
from services.generation.length import MOST_BARS
from services.installation import name_install_command
from services.library.attachments import MIDI, STEM

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from services.jobs.attachments import AttachedFile
    from services.jobs.models import Job
    from services.jobs.service import MusicService

DEFAULTS = {"duration": 16.0, "temperature": 1.0, "top_k": 250, "top_p": 0.0, "cfg_coef": 3.0}
"""As in the request, whose module is slow to import; a test compares them."""


def _sampling_option(name: str, text: str) -> Any:
    return typer.Option(
        f"--{name.replace('_', '-')}",
        metavar="X",
        help=text,
        show_default=f"{DEFAULTS[name]:g}",
        rich_help_panel="Sampling, for neural models",
    )


Prompt = Annotated[
    str,
    typer.Argument(
        metavar="PROMPT", help="The music in your words: genre, tempo, key, mood, instruments."
    ),
]
Duration = Annotated[
    float | None,
    typer.Option(
        "--duration",
        "-d",
        metavar="SECONDS",
        help="Length of the music, from 1 second.",
        show_default=f"{DEFAULTS['duration']:g}",
    ),
]
Bars = Annotated[
    int | None,
    typer.Option(
        "--bars",
        metavar="N",
        help=f"Length in whole bars instead of seconds, 1 to {MOST_BARS}. Not with MusicGen.",
        show_default=False,
    ),
]
Loop = Annotated[
    bool,
    typer.Option(
        "--loop",
        help="Make a seamless loop. Beats of up to 30 s are loops of 4, 8 or 16 bars anyway.",
    ),
]
NoLoop = Annotated[bool, typer.Option("--no-loop", help="Make an intro and an ending instead.")]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed",
        "-s",
        metavar="N",
        help=f"0 to {SEED_LIMIT - 1}. The same seed makes the same music.",
        show_default="random",
    ),
]
Melody = Annotated[
    Path | None,
    typer.Option("--melody", metavar="FILE", help="Audio file with the melody to follow."),
]
ContinueFrom = Annotated[
    Path | None, typer.Option("--continue-from", metavar="FILE", help="Audio file to continue.")
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="PATH",
        help="Also write the music to this .wav, .flac, .mp3, .ogg or .opus file, to this folder, "
        "or to stdout (-).",
    ),
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace the output file if it exists.")]
Stems = Annotated[bool, typer.Option("--stems", help="Also keep each instrument as a WAV file.")]
Midi = Annotated[bool, typer.Option("--midi", help="Also keep the notes as a MIDI file.")]
Temperature = Annotated[
    float | None, _sampling_option("temperature", "0.1 (predictable) to 2 (random).")
]
TopK = Annotated[
    int | None, _sampling_option("top_k", "Sample from the X likeliest tokens, 0 (off) to 500.")
]
TopP = Annotated[
    float | None,
    _sampling_option(
        "top_p", "Sample from the likeliest tokens up to probability X, 0 (off) to 1."
    ),
]
CfgCoef = Annotated[
    float | None, _sampling_option("cfg_coef", "1 (free) to 10 (close to the prompt).")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only the path, or the JSON.")]


def generate(
    prompt: Prompt,
    *,
    duration: Duration = None,
    bars: Bars = None,
    loop: Loop = False,
    no_loop: NoLoop = False,
    seed: Seed = None,
    model: Model = None,
    melody: Melody = None,
    continue_from: ContinueFrom = None,
    output: Output = None,
    force: Force = False,
    stems: Stems = False,
    midi: Midi = False,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    cfg_coef: CfgCoef = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make music from a sentence and print the path of the file.

    Example: dgx-music generate "deep house at 122 BPM in A minor" -d 30 -o loop.wav
    """
    from services.audio import AudioExporter
    from services.config import load_settings
    from services.generation.registry import default_registry
    from services.jobs.attachments import list_attached, local_attachment
    from services.jobs.making import JobMaker
    from services.jobs.models import parse_request
    from services.jobs.outfile import STDOUT, Destination
    from services.jobs.service import MusicService

    given = {
        "duration": duration, "bars": bars, "loop": _read_loop(loop=loop, no_loop=no_loop),
        "seed": seed, "model": model, "temperature": temperature,
        "top_k": top_k, "top_p": top_p, "cfg_coef": cfg_coef,
    }  # fmt: skip
    given = {name: value for name, value in given.items() if value is not None}
    request = parse_request(prompt=prompt, stems=stems, midi=midi, **given)
    if output == STDOUT and as_json:
        raise InvalidRequestError(
            "Music and JSON cannot both go to stdout. Leave out --json or -o -."
        )
    destination = None
    if output is not None:
        destination = Destination.parse(output, force=force, stems=stems, midi=midi)
    settings = load_settings()
    service = MusicService(settings, default_registry(settings))
    checked = service.check(request, melody=melody, continue_from=continue_from)
    stop = StopFlag()
    with stop.catch_signals(), progress_bar(shown=not quiet) as progress:
        job = JobMaker(service).make(checked, progress, stop)
    written: str | Path = job.file or ""
    attached = list_attached(service, job.job_id) if stems or midi else []
    files = [(one, one.file) for one in attached]
    if destination is not None:
        exporter = AudioExporter(settings.target_lufs, settings.true_peak_dbtp)
        sources = [(one, local_attachment(service, one)) for one in attached]
        with stdout_errors():
            written = destination.deliver(job, service.local_copy(job.job_id), exporter)
            copies = destination.deliver_attached(job, written, sources)
        files = [(one, str(path)) for one, path in copies] or files
    if not quiet:
        for line in (*describe_take(job), *describe_attached(files)):
            note(line)
        if destination is not None:
            note(f"Also kept as {job.file}")
        for remark in checked.remarks:
            note(remark)
        if checked.passed_over and not checked.entry.is_installed_apart:
            for reason in _explain_composer(checked.passed_over, lambda: _is_first(service)):
                note(reason)
    if output == STDOUT:
        return
    if as_json:
        answer_json(job.model_dump(mode="json") | {"file": str(written)} | list_paths(files))
    else:
        answer(str(written))


def _read_loop(*, loop: bool, no_loop: bool) -> bool | None:
    """Return whether a loop is wanted; None if nothing is said about it."""
    if loop and no_loop:
        raise InvalidRequestError("--loop and --no-loop contradict each other. Leave out one.")
    return loop if loop or no_loop else None


def _is_first(service: MusicService) -> bool:
    """Whether the library has one take; False where the database does not say so any more."""
    try:
        return len(service.history(limit=2, status="completed").jobs) == 1
    except StorageError:
        return False


def _explain_composer(passed_over: Mapping[str, str], is_first: Callable[[], bool]) -> list[str]:
    """Return why `auto` chose the composer: which models are damaged, or that none is installed.

    That none is installed may be meant so: it is said after the first take of a library only.
    """
    from services.generation.musicgen.checkpoint.checkpoints import ABSENT, missing_package

    damaged = {
        name: reason for name, reason in passed_over.items() if not reason.startswith(ABSENT)
    }
    lacks_packages = missing_package() is not None
    if lacks_packages or not damaged:
        command = name_install_command(needs_packages=lacks_packages)
        hint = "No MusicGen model is installed, so the built-in composer played. To install it: "
        return [hint + command] if is_first() else []
    return [f"{name} was not used: {reason}" for name, reason in damaged.items()]


def describe_take(job: Job) -> list[str]:
    """Return a line about the music, a line about how it was made, and the engine's notes."""
    about = job.metadata
    seconds = job.generation_time_seconds or 0.0
    music = [
        *_describe_music(about),
        _describe_bars(about),
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


def describe_attached(files: Sequence[tuple[AttachedFile, str]]) -> list[str]:
    """Return a line with the names and the folder of the stems, and one with the MIDI file."""
    stems = [(one.name, path) for one, path in files if one.kind == STEM]
    lines = []
    if stems:
        folder = stems[0][1].rpartition("/")[0]
        lines.append(f"{_count(len(stems), 'stem')} in {folder}: {', '.join(n for n, _ in stems)}")
    return lines + [f"MIDI in {path}" for one, path in files if one.kind == MIDI]


def list_paths(files: Sequence[tuple[AttachedFile, str]]) -> dict[str, Any]:
    """Return the paths of stems, by name, and of the MIDI file, as `--json` shows them."""
    stems = {one.name: path for one, path in files if one.kind == STEM}
    midi = [path for one, path in files if one.kind == MIDI]
    return {"stems": stems, "midi": midi[0] if midi else None}


def _describe_bars(about: dict[str, Any]) -> str:
    bars = about.get("bars", 0)
    return f"{bars}-bar loop" if bars and about.get("loop") else _count(bars, "bar")


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}" if number else ""


def _describe_music(about: dict[str, Any]) -> list[str]:
    stated = about.get("requested", {})

    def mark_assumed(text: str, name: str) -> str:
        return f"{text}{'' if name in stated else ' (assumed)'}" if text else ""

    return [
        mark_assumed(str(stated.get("style") or about.get("genre", "")), "genre"),
        mark_assumed(f"{about['bpm']:g} BPM" if "bpm" in about else "", "tempo_bpm"),
        mark_assumed(str(about.get("key", "")), "key"),
        *stated.get("mood", []),
        ", ".join(stated.get("instruments", [])),
    ]
