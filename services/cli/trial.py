"""`dgx-music benchmark` and `models test`: engines by themselves, without rows and files."""

from __future__ import annotations

import importlib
import math
import platform
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.console import answer, answer_json, answer_table, note
from services.cli.running import progress_bar
from services.errors import (
    EngineError,
    EngineUnavailableError,
    InvalidRequestError,
)

if TYPE_CHECKING:
    from services.config import Settings
    from services.generation.engine import Engine
    from services.generation.registry import EngineEntry
    from services.generation.trial import Measurement

ORACLE = "services.generation.musicgen.oracle"
"""Has `transformers_engine` and `random_engine`; importing it takes seconds."""

LARGEST_BENCHMARK = 256
_MIB = 1 << 20

Model = Annotated[str | None, typer.Option("--model", "-m", help="See `dgx-music models list`.")]
AsJson = Annotated[bool, typer.Option("--json", help="Answer with JSON.")]


def try_model(
    name: Annotated[
        str | None, typer.Argument(help="A model; none: the one of the settings.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Load a model, have it make 2 seconds of music, and look at them; nothing is kept."""
    from services.config import load_settings
    from services.generation.trial import try_engine

    entry = _entry(name, load_settings())
    with progress_bar(shown=not as_json) as progress:
        trial = try_engine(entry, progress)
    facts = entry.facts
    shown = {
        "model": facts.name,
        "licence_of_outputs": facts.output_licence,
        "sample_rate": facts.sample_rate,
        "channels": facts.channels,
        **asdict(trial),
    }
    if as_json:
        answer_json(shown)
    else:
        for key, value in shown.items():
            if value not in {None, ()}:
                text = f"{value:.2f}" if isinstance(value, float) else str(value)
                answer(f"{key.replace('_', ' '):<18}  {text}")
    if trial.problems:
        raise EngineError(
            f"The model {facts.name!r} makes no sound music: {'; '.join(trial.problems)}. Install "
            "it again, and look at what `dgx-music validate-gpu` says."
        )
    note(f"The model {facts.name!r} works.")


def benchmark(
    model: Model = None,
    seconds: Annotated[str, typer.Option(help="Of audio; several joined by commas.")] = "5,30",
    requests: Annotated[
        int, typer.Option(min=1, max=LARGEST_BENCHMARK, help="Rendered together in one call.")
    ] = 1,
    against_transformers: Annotated[
        bool,
        typer.Option("--against-transformers", help="MusicGen: time transformers' own loop too."),
    ] = False,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="MusicGen: measure without its weights.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Time a model on this machine, warm and with no file written.

    RTF is seconds of work for a second of audio: below 1 is faster than it plays.
    """
    from services.config import load_settings
    from services.generation.trial import RTF, measure, warm_up

    lengths = _lengths(seconds)
    settings = load_settings()
    name, engines = _engines(
        model, settings, against_transformers=against_transformers, random_weights=random_weights
    )
    _check_lengths(lengths, engines[name])
    rows: list[Measurement] = []
    for engine in engines.values():
        note("warming up")
        warm_up(engine)
    for length in lengths:
        # In turns, so that what the machine does besides befalls all of them.
        for shown, engine in engines.items():
            note(f"{shown}: {length:g} s")
            rows.append(measure(engine, shown, length, requests))
    if as_json:
        answer_json(
            {
                "machine": f"{platform.machine()}, {_processor()}",
                "random_weights": random_weights,
                "rtf": RTF,
                "measurements": [asdict(row) for row in rows],
            }
        )
        return
    answer_table(
        (
            "model",
            "audio",
            "requests",
            "seconds",
            "RTF",
            "x real time",
            "ms a step",
            "MiB",
            "GPU MiB",
        ),
        [_cells(row) for row in rows],
    )
    note(RTF)


def _engines(
    model: str | None, settings: Settings, *, against_transformers: bool, random_weights: bool
) -> tuple[str, dict[str, Engine]]:
    """Give the name of what is measured, and the engines by what they are shown as."""
    if not (against_transformers or random_weights):
        entry = _entry(model, settings)
        return entry.facts.name, {entry.facts.name: entry.load()}
    name = _entry(model, settings, must_run=not random_weights).facts.name
    oracle = _oracle(name)
    ours = oracle.random_engine(name, settings) if random_weights else _entry(name, settings).load()
    engines: dict[str, Engine] = {name: ours}
    if against_transformers:
        theirs = oracle.transformers_engine(name, settings, random_weights=random_weights)
        engines[f"{name} in transformers"] = theirs
    return name, engines


def _entry(name: str | None, settings: Settings, *, must_run: bool = True) -> EngineEntry:
    from services.generation.registry import default_registry

    registry = default_registry(settings)
    wanted = name or settings.model_name
    if not must_run:
        for entry in registry:
            if entry.facts.name == wanted:
                return entry
    return registry.resolve(wanted)


def _oracle(name: str) -> Any:
    if not name.startswith("musicgen"):
        raise InvalidRequestError(
            f"The model {name!r} has no weights and is not in transformers. Leave out "
            "--random-weights and --against-transformers, or name a MusicGen model."
        )
    try:
        return importlib.import_module(ORACLE)
    except ImportError as error:
        raise EngineUnavailableError(
            f"MusicGen cannot be measured here: {error}. Run `scripts/setup musicgen`."
        ) from error


def _lengths(text: str) -> list[float]:
    try:
        lengths = [float(part) for part in text.split(",")]
    except ValueError:
        lengths = []
    if not lengths or not all(math.isfinite(one) and one > 0 for one in lengths):
        raise InvalidRequestError(f"--seconds: {text!r} is no list of seconds. Write it as 5,30.")
    return lengths


def _check_lengths(lengths: list[float], engine: Engine) -> None:
    facts = engine.facts
    for length in lengths:
        if not facts.shortest_seconds <= length <= facts.longest_seconds:
            raise InvalidRequestError(
                f"--seconds: the model {facts.name!r} makes {facts.shortest_seconds:g} to "
                f"{facts.longest_seconds:g} seconds, not {length:g}."
            )


def _cells(row: Measurement) -> tuple[str, ...]:
    return (
        row.engine,
        f"{row.seconds:g} s",
        str(row.requests),
        f"{row.wall_seconds:.2f}",
        f"{row.rtf:.3f}",
        f"{1.0 / row.rtf:.2f}",
        "-" if row.ms_a_step is None else f"{row.ms_a_step:.2f}",
        f"{row.peak_bytes / _MIB:.0f}",
        "-" if row.peak_gpu_bytes is None else f"{row.peak_gpu_bytes / _MIB:.0f}",
    )


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            models = [
                line.partition(":")[2].strip() for line in lines if line.startswith("model name")
            ]
    except OSError:
        models = []
    return f"{len(models)} x {models[0]}" if models else platform.processor() or "processor unknown"
