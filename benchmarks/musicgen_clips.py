"""MusicGen from prompt to audio on a CPU: our back ends and transformers, in turns in one run.

Run as `python -m benchmarks.musicgen_clips [--seconds 5,30] [--rounds 1] [--engine NAME]...`, with
small and random weights. transformers keeps its codec in float32 beside a bfloat16 decoder: it is
faster so.

Nothing here imports torch ahead of services.generation.musicgen, which says how long torch's
threads look out for more work, and on what pages tensors lie: the engines run as in a worker, and
transformers as torch comes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

from services.config import Settings
from services.generation.engine import Engine, GenerationParams
from services.generation.musicgen.catalogue import published_model
from services.generation.musicgen.checkpoint.checkpoints import open_checkpoint
from services.generation.musicgen.checkpoint.random_model import write_random_checkpoint
from services.generation.musicgen.decoders.native.library import NativeUnavailableError
from services.generation.musicgen.engine import MusicGenEngine
from services.generation.musicgen.oracle import TransformersEngine

MODEL = "musicgen-small"
WARM_UP_SECONDS = 5.0
PROMPT = "lo-fi beat with a warm piano and brushed drums at 82 BPM"
NATIVE = "services.generation.musicgen.decoders.native"


def ours(folder: Path, precision: str, *, native: bool) -> MusicGenEngine:
    settings = Settings(use_gpu=False, cpu_precision=precision, worker_concurrency=1)
    checkpoint, facts = open_checkpoint(folder), published_model(MODEL).facts
    if native:
        return MusicGenEngine.from_checkpoint(checkpoint, facts, settings)
    missing = NativeUnavailableError("left out here")
    with (
        patch(f"{NATIVE}.decoder.NativeDecoder", side_effect=missing),
        patch(f"{NATIVE}.sampler.NativeSampler", side_effect=missing),
    ):
        return MusicGenEngine.from_checkpoint(checkpoint, facts, settings)


def theirs(folder: Path, dtype: str) -> TransformersEngine:
    import torch

    engine = TransformersEngine(folder, published_model(MODEL).facts, torch.device("cpu"))
    engine.set_dtype(getattr(torch, dtype))
    return engine


MAKERS: dict[str, Callable[[Path], Engine]] = {
    "transformers fp32": lambda folder: theirs(folder, "float32"),
    "transformers bf16": lambda folder: theirs(folder, "bfloat16"),
    "int8, native": lambda folder: ours(folder, "int8", native=True),
    "int8, PyTorch": lambda folder: ours(folder, "int8", native=False),
    "float32, native": lambda folder: ours(folder, "fp32", native=True),
    "float32, PyTorch": lambda folder: ours(folder, "fp32", native=False),
}


WITHOUT_A_COMPILER = {"GOMP_SPINCOUNT": "300000"}
"""libgomp's own default, as our back ends by PyTorch have it where they are needed."""
AS_TORCH_COMES = {**WITHOUT_A_COMPILER, "THP_MEM_ALLOC_ENABLE": "0"}
"""Torch's own as well, for transformers."""
REFERENCE = "transformers fp32"


class Bench:
    """An engine in a process of its own: the thread pools of two engines would compete in one."""

    engine: Engine

    @classmethod
    def load(cls, folder: Path, label: str) -> None:
        """Load and warm up the engine: oneDNN compiles code for every new shape."""
        cls.engine = MAKERS[label](folder)
        cls.seconds_of(WARM_UP_SECONDS)

    @classmethod
    def seconds_of(cls, length: float) -> float:
        """Time one clip."""
        asked = GenerationParams(prompt=PROMPT, duration_seconds=length, seed=1)
        started = time.perf_counter()
        cls.engine.render(asked, lambda *_: None, lambda: False)
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", default="5,30")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(
        "--engine", action="append", choices=list(MAKERS), help="beside transformers fp32; or all"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        write_random_checkpoint(folder, published_model(MODEL).geometry)
        processes = {}
        for label in MAKERS:
            if options.engine and label not in [REFERENCE, *options.engine]:
                continue
            process = ProcessPoolExecutor(
                1, get_context("spawn"), initializer=Bench.load, initargs=(folder, label)
            )
            processes[label] = stack.enter_context(process)
            surroundings = WITHOUT_A_COMPILER if label.endswith("PyTorch") else {}
            if label.startswith("transformers"):
                surroundings = AS_TORCH_COMES
            with patch.dict(os.environ, surroundings):
                process.submit(bool).result()  # is loaded, before the next one is
        for length in map(float, options.seconds.split(",")):
            taken: dict[str, list[float]] = {label: [] for label in processes}
            for _ in range(options.rounds):
                for label, process in processes.items():
                    taken[label].append(process.submit(Bench.seconds_of, length).result())
            medians = {label: statistics.median(each) for label, each in taken.items()}
            exact = medians[REFERENCE]
            best = min(medians[label] for label in medians if label.startswith("transformers"))
            print(f"{length:g} s of audio")
            for label, median in medians.items():
                print(
                    f"  {label:18} {median:7.2f} s  {length / median:5.2f} x real time"
                    f"  {exact / median:5.1f} x fp32  {best / median:5.1f} x best",
                    flush=True,
                )


if __name__ == "__main__":
    main()
