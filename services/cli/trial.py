"""`dgx-music models test` and `benchmark`: engines alone, without database and files."""

from __future__ import annotations

import importlib
import math
import platform
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.console import answer, answer_json, answer_table, note
from services.cli.options import AsJson, Model
from services.cli.running import progress_bar
from services.errors import EngineError, EngineUnavailableError, InvalidRequestError

if TYPE_CHECKING:
    from services.config import Settings
    from services.generation.engine import Engine
    from services.generation.registry import EngineEntry
    from services.generation.trial import Measurement

ORACLE = "services.generation.musicgen.oracle"
"""Has `transformers_engine` and `random_engine`; importing it takes seconds."""

LARGEST_BENCHMARK = 256
_MIB = 1 << 20


def try_model(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="A name from `dgx-music models list`.",
            show_default="from the settings",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Render 2 seconds of music and check them; nothing is saved."""
    from services.config import load_settings
    from services.generation.trial import try_engine

    entry = _find_entry(name, load_settings())
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
            f"The model {facts.name!r} is faulty: {'; '.join(trial.problems)}. Install it again, "
            "and check the GPU: dgx-music validate-gpu"
        )
    note(f"The model {facts.name!r} works.")


def benchmark(
    model: Model = None,
    seconds: Annotated[
        str,
        typer.Option(metavar="SECONDS", help="Lengths of music to render, separated by commas."),
    ] = "5,30",
    requests: Annotated[
        int,
        typer.Option(
            min=1, max=LARGEST_BENCHMARK, metavar="N", help="Requests to render together."
        ),
    ] = 1,
    against_transformers: Annotated[
        bool,
        typer.Option("--against-transformers", help="MusicGen: also time transformers' own loop."),
    ] = False,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="MusicGen: use random weights.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measure how fast a model renders on this machine.

    RTF is seconds of work per second of music: below 1 is faster than real time.
    """
    from services.config import load_settings
    from services.generation.trial import RTF, measure, warm_up

    lengths = _parse_lengths(seconds)
    settings = load_settings()
    name, engines = _load_engines(
        model, settings, against_transformers=against_transformers, random_weights=random_weights
    )
    _check_lengths(lengths, engines[name])
    rows: list[Measurement] = []
    for engine in engines.values():
        note("warming up")
        warm_up(engine)
    for length in lengths:
        # The engines take turns, so that other load on the machine slows all of them.
        for label, engine in engines.items():
            note(f"{label}: {length:g} s")
            rows.append(measure(engine, label, length, requests))
    if as_json:
        answer_json(
            {
                "machine": f"{platform.machine()}, {_describe_processor()}",
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
        [_format_row(row) for row in rows],
    )
    note(RTF)


def _load_engines(
    model: str | None, settings: Settings, *, against_transformers: bool, random_weights: bool
) -> tuple[str, dict[str, Engine]]:
    """Return the model's name, and the engines to measure by their labels."""
    entry = _find_entry(model, settings, must_run=not random_weights)
    name = entry.facts.name
    if not (against_transformers or random_weights):
        return name, {name: entry.load()}
    oracle = _import_oracle(name)
    ours = oracle.random_engine(name, settings) if random_weights else entry.load()
    engines: dict[str, Engine] = {name: ours}
    if against_transformers:
        theirs = oracle.transformers_engine(name, settings, random_weights=random_weights)
        engines[f"{name} in transformers"] = theirs
    return name, engines


def _find_entry(name: str | None, settings: Settings, *, must_run: bool = True) -> EngineEntry:
    from services.generation.registry import default_registry

    registry = default_registry(settings)
    wanted = name or settings.model_name
    if not must_run:
        for entry in registry:
            if entry.facts.name == wanted:
                return entry
    return registry.resolve(wanted)


def _import_oracle(name: str) -> Any:
    if not name.startswith("musicgen"):
        raise InvalidRequestError(
            f"--random-weights and --against-transformers need a MusicGen model, not {name!r}."
        )
    try:
        return importlib.import_module(ORACLE)
    except ImportError as error:
        raise EngineUnavailableError(
            f"MusicGen cannot be measured: {error}. Run scripts/setup musicgen."
        ) from error


def _parse_lengths(text: str) -> list[float]:
    try:
        lengths = [float(part) for part in text.split(",")]
    except ValueError:
        lengths = []
    if not lengths or not all(math.isfinite(one) and one > 0 for one in lengths):
        raise InvalidRequestError(
            f"--seconds: {text!r} is not a list of seconds. Write it as 5,30."
        )
    return lengths


def _check_lengths(lengths: list[float], engine: Engine) -> None:
    facts = engine.facts
    for length in lengths:
        if not facts.shortest_seconds <= length <= facts.longest_seconds:
            raise InvalidRequestError(
                f"--seconds: the model {facts.name!r} renders {facts.shortest_seconds:g} to "
                f"{facts.longest_seconds:g} seconds, not {length:g}."
            )


def _format_row(row: Measurement) -> tuple[str, ...]:
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


def _describe_processor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            models = [
                line.partition(":")[2].strip() for line in lines if line.startswith("model name")
            ]
    except OSError:
        models = []
    return f"{len(models)} x {models[0]}" if models else platform.processor() or "unknown processor"
