"""A step of MusicGen's decoder on the CPU: transformers and every back end, in turns in one run.

Weights are random, of the shape of the small model: speed does not depend on the values. One
request is one CFG pair. The floor is what a step must read (weights, and keys and values up to its
position) at the read bandwidth that the same run sees.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import MusicgenForCausalLM
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from services.generation.musicgen.catalogue import MODELS
from services.generation.musicgen.checkpoint.random_model import decoder_config
from services.generation.musicgen.decoders.native.decoder import NativeDecoder
from services.generation.musicgen.decoders.self_check import self_check
from services.generation.musicgen.decoders.torch_decoder import TorchDecoder
from services.generation.weights.weights import StateDictWeights

if TYPE_CHECKING:
    from services.generation.musicgen.loop.step_model import StepModel

SMALL = MODELS["musicgen-small"].geometry
POSITIONS = (20, 250, 750, 1400)
PROMPT = 16
TARGETS = {"native int8": (12.0, 5.0), "native fp32": (4.0, 0.0), "torch int8": (7.0, 3.0)}
"""Speed relative to transformers' fp32, and to its fastest type."""
BEST = ("transformers fp32", "transformers bf16")


@dataclass(frozen=True)
class Row:
    """Times of one decoder at one position."""

    name: str
    position: int
    milliseconds: float
    of_fp32: float
    """Speed relative to transformers' fp32."""
    of_best: float
    floor: float | None
    """Of the native steps: the share of the time that reading alone takes."""


def published_shape() -> MusicgenForCausalLM:
    torch.manual_seed(0)
    return MusicgenForCausalLM(decoder_config(SMALL)).eval()


def transformers_step(decoder: Any, position: int) -> Callable[[], object]:
    """A step with a cache that is full up to a position, as `generate` takes one."""
    dtype = decoder.dtype
    states = torch.randn(1, PROMPT, SMALL.hidden).to(dtype)
    states = torch.cat([states, torch.zeros_like(states)])
    own = DynamicCache()
    for layer in range(SMALL.layers):
        kept = torch.randn(2, SMALL.heads, position, SMALL.head_size).to(dtype)
        own.update(kept, kept.clone(), layer)
    cache = EncoderDecoderCache(own, DynamicCache())
    ids = torch.randint(0, SMALL.codebook_size, (2 * SMALL.codebooks, 1))

    def step() -> None:
        decoder(input_ids=ids, encoder_hidden_states=states, past_key_values=cache, use_cache=True)
        cache.self_attention_cache.crop(-1)

    return step


def own_step(model: StepModel, position: int) -> Callable[[], object]:
    tokens = torch.randint(0, SMALL.codebook_size, (1, SMALL.codebooks))
    return lambda: model.step([0], tokens, [position])


def floor_bytes(weights: str, position: int) -> float:
    """Return the bytes a step must read, without embeddings and the prompt's keys and values."""
    hidden, int8 = SMALL.hidden, weights == "int8"
    # int8 has the prompt folded into the weights of its attention.
    prompt = 2 * hidden * (SMALL.heads * PROMPT if int8 else hidden)
    per_layer = (3 + 1) * hidden**2 + prompt + 2 * hidden * SMALL.ffn
    numbers = SMALL.layers * per_layer + SMALL.codebooks * SMALL.codebook_size * hidden
    rows = 2 * 2 * SMALL.layers * hidden * (position + 1)
    if int8:
        return numbers * (1 + 2 / 128) + rows * (1 + 4 / SMALL.head_size)
    return (numbers + rows) * 4


def seconds(task: Callable[[], object], repeats: int) -> float:
    task()  # brings sleeping threads up, and the caches to where a loop has them
    start = time.perf_counter()
    for _ in range(repeats):
        task()
    return (time.perf_counter() - start) / repeats


def ready(model: StepModel, positions: int) -> StepModel:
    """Return a model with written keys and values: unwritten pages would all map to one page."""
    model.admit(0, torch.randn(PROMPT, SMALL.hidden))
    model.prefill(0, torch.randint(0, SMALL.codebook_size, (SMALL.codebooks, positions)))
    return model


@torch.inference_mode()
def run(positions: Sequence[int], rounds: int, portable: bool = True) -> tuple[list[Row], float]:
    """Rows, and the read bandwidth in GB/s; medians of rounds in which all take their turn."""
    full = published_shape()
    source = StateDictWeights({f"decoder.{k}": v for k, v in full.state_dict().items()})
    most = max(positions) + 1
    native = {
        f"native {weights}": NativeDecoder(source, SMALL, 1, most, weights)
        for weights in ("int8", "fp32")
    }
    models: dict[str, StepModel] = {**native}
    if portable:
        models |= {
            f"torch {linear}": TorchDecoder(source, SMALL, 1, most, linear)
            for linear in ("int8", "fp32")
        }
    for model in models.values():
        ready(model, most - 1)
    half = copy.deepcopy(full).to(torch.bfloat16)
    rows, bandwidths = [], []
    for position in positions:
        tasks = {
            "transformers fp32": transformers_step(full, position),
            "transformers bf16": transformers_step(half, position),
            **{name: own_step(model, position) for name, model in models.items()},
        }
        times: dict[str, list[float]] = {name: [] for name in [*tasks, "read"]}
        for _ in range(rounds):
            for name, task in tasks.items():
                times[name].append(seconds(task, 8 if name in native else 2))
            probe = native["native fp32"].read_weights
            times["read"].append(seconds(probe, 2) / probe())
        middle = {name: statistics.median(taken) for name, taken in times.items()}
        bandwidths.append(1 / middle["read"] / 1e9)
        for name in tasks:
            floor = None
            if name in native:
                needed = floor_bytes(name.split()[1], position)
                floor = needed * middle["read"] / middle[name]
            rows.append(
                Row(
                    name,
                    position,
                    middle[name] * 1000,
                    middle[BEST[0]] / middle[name],
                    min(middle[best] for best in BEST) / middle[name],
                    floor,
                )
            )
    return rows, statistics.median(bandwidths)


def resident_mb() -> tuple[float, float]:
    """Of this process: its own memory, and what is mapped of files and can be dropped."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) / 1024, int(status["RssFile"].split()[0]) / 1024


def write_checkpoint(path: str) -> None:
    state = published_shape().state_dict()
    save_file({f"decoder.{name}": value.clone() for name, value in state.items()}, path)


class FromFile:
    """Weights from a file, as in production."""

    def __init__(self, path: Path) -> None:
        self._file: Any = safe_open(path, "pt")

    def get(self, name: str) -> torch.Tensor:
        """See `WeightSource.get`."""
        return self._file.get_tensor(name).float()

    def shape(self, name: str) -> tuple[int, ...]:
        """See `WeightSource.shape`."""
        return tuple(self._file.get_slice(name).get_shape())


def memory(positions: int = 1503) -> list[tuple[str, float, float]]:
    """Resident MB of int8 with one slot, and of mapped files, from stage to stage."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        writer = multiprocessing.get_context("spawn").Process(
            target=write_checkpoint, args=[str(path)]
        )
        writer.start()
        writer.join()
        found = [("before", *resident_mb())]
        source = FromFile(path)
        model = NativeDecoder(source, SMALL, 1, positions)
        found.append(("loaded", *resident_mb()))
        report = self_check(model, source)
        found.append((f"checked in {report.seconds:.1f} s", *resident_mb()))
        del source
        ready(model, positions - 1)
        found.append((f"at position {positions}", *resident_mb()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.musicgen_cpu", description=__doc__)
    parser.add_argument("--positions", type=int, nargs="+", default=POSITIONS)
    parser.add_argument("--rounds", type=int, default=5, help="of which the median counts")
    parser.add_argument("--quick", action="store_true", help="two positions, no portable back ends")
    parser.add_argument(
        "--urgent", action="store_true", help="ahead of other processes; needs root"
    )
    parser.add_argument("--memory", action="store_true", help="only the memory of int8")
    options = parser.parse_args()
    if options.urgent:
        # Spinning threads slow down a hundredfold when another process runs.
        os.setsid()
        Path("/proc/self/autogroup").write_text("-20")
    if options.memory:
        for what, own, mapped in memory():
            print(f"{what:24} {own:7.0f} MB, and {mapped:.0f} MB of mapped files")
        return
    positions, rounds = options.positions, options.rounds
    if options.quick:
        positions, rounds = (20, 250), 3
    rows, bandwidth = run(positions, rounds, portable=not options.quick)
    print(f"small, one request, {torch.get_num_threads()} threads, read {bandwidth:.1f} GB/s")
    print(f"{'':20} {'position':>8} {'ms':>7} {'x fp32':>7} {'x best':>7} {'of floor':>9}")
    for row in rows:
        wanted = TARGETS.get(row.name)
        target = f"  at least {wanted[0]:g} and {wanted[1]:g}" if wanted else ""
        floor = "" if row.floor is None else f"{row.floor:.0%}"
        print(
            f"{row.name:20} {row.position:8} {row.milliseconds:7.1f} {row.of_fp32:7.1f} "
            f"{row.of_best:7.1f} {floor:>9}{target}"
        )


if __name__ == "__main__":
    main()
