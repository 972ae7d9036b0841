"""MusicGen from prompt to audio on a CPU: our back ends and transformers, in turns in one run.

Run as `python -m benchmarks.musicgen_clips [--seconds 5,30] [--rounds 1]`, with small and random
weights. transformers keeps its codec in float32 beside a bfloat16 decoder: it is faster so.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch

from services.generation.config import Settings
from services.generation.engine import Engine, GenerationParams
from services.generation.musicgen.catalogue import published_model
from services.generation.musicgen.checkpoints import open_checkpoint
from services.generation.musicgen.engine import MusicGenEngine
from services.generation.musicgen.native.library import NativeUnavailableError
from services.generation.musicgen.oracle import TransformersEngine
from services.generation.musicgen.random_model import write_random_checkpoint

MODEL = "musicgen-small"
PROMPT = "lo-fi beat with a warm piano and brushed drums at 82 BPM"
NATIVE = "services.generation.musicgen.native.decoder.NativeDecoder"


def ours(folder: Path, precision: str, *, native: bool) -> MusicGenEngine:
    settings = Settings(use_gpu=False, cpu_precision=precision, worker_concurrency=1)
    checkpoint, facts = open_checkpoint(folder), published_model(MODEL).facts
    if native:
        return MusicGenEngine.of_checkpoint(checkpoint, facts, settings)
    with patch(NATIVE, side_effect=NativeUnavailableError("left out here")):
        return MusicGenEngine.of_checkpoint(checkpoint, facts, settings)


def theirs(folder: Path, dtype: torch.dtype) -> TransformersEngine:
    engine = TransformersEngine(folder, published_model(MODEL).facts, torch.device("cpu"))
    engine.use_decoder_of(dtype)
    return engine


def seconds_of(engine: Engine, length: float) -> float:
    asked = GenerationParams(prompt=PROMPT, duration_seconds=length, seed=1)
    started = time.perf_counter()
    engine.render([asked], lambda *_: None, lambda: False)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", default="5,30")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_random_checkpoint(folder, published_model(MODEL).geometry)
        makers: dict[str, Callable[[], Engine]] = {
            "transformers fp32": lambda: theirs(folder, torch.float32),
            "transformers bf16": lambda: theirs(folder, torch.bfloat16),
            "int8, native": lambda: ours(folder, "int8", native=True),
            "int8, PyTorch": lambda: ours(folder, "int8", native=False),
            "float32, native": lambda: ours(folder, "fp32", native=True),
            "float32, PyTorch": lambda: ours(folder, "fp32", native=False),
        }
        engines = {label: make() for label, make in makers.items()}
        for engine in engines.values():
            seconds_of(engine, 1.0)
        for length in map(float, options.seconds.split(",")):
            taken: dict[str, list[float]] = {label: [] for label in engines}
            for _ in range(options.rounds):
                for label, engine in engines.items():
                    taken[label].append(seconds_of(engine, length))
            medians = {label: statistics.median(each) for label, each in taken.items()}
            exact, best = medians["transformers fp32"], medians["transformers bf16"]
            print(f"{length:g} s of audio")
            for label, median in medians.items():
                print(
                    f"  {label:18} {median:7.2f} s  {length / median:5.2f} x real time"
                    f"  {exact / median:5.1f} x fp32  {best / median:5.1f} x best",
                    flush=True,
                )


if __name__ == "__main__":
    main()
