"""MusicGen on a GPU: milliseconds a step and audio seconds a second, beside transformers.

Run as `python -m benchmarks.musicgen_gpu [--sizes small,medium] [--requests 1,8,32,64]`. Speed does
not depend on weights: they are random. `--device cpu --sizes tiny` checks the script itself.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from services.generation.musicgen.catalogue import MODELS
from services.generation.musicgen.checkpoint.random_model import random_model
from services.generation.musicgen.checkpoint.random_weights import RandomWeights
from services.generation.musicgen.decoders.device_decoder import DeviceDecoder
from services.generation.musicgen.decoders.graphed_decoder import GraphedDecoder
from services.generation.musicgen.decoders.memory_plan import slot_bytes, weight_bytes
from services.generation.musicgen.geometry import FRAME_RATE, Geometry
from services.generation.musicgen.loop.request import Conditioning, Sampling
from services.generation.musicgen.loop.sequence import StepInput

STATES = 16
POSITIONS = 1536
SMALL = MODELS["musicgen-small"].geometry
TINY = replace(SMALL, layers=2, hidden=64, heads=4, ffn=256)


def geometry_named(size: str) -> Geometry:
    return TINY if size == "tiny" else MODELS[f"musicgen-{size}"].geometry


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(run: Callable[[], object], device: torch.device, rounds: int) -> float:
    """The median of so many rounds."""
    taken = []
    for _ in range(rounds):
        wait_for(device)
        started = time.perf_counter()
        run()
        wait_for(device)
        taken.append(time.perf_counter() - started)
    return 1000 * statistics.median(taken)


def copy_bandwidth(device: torch.device) -> float:
    """Bytes a second that a copy reads and writes."""
    size = 2**32 if device.type == "cuda" else 2**28
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / milliseconds(lambda: target.copy_(source), device, 10) * 1000


def read_by_a_step(geometry: Geometry, bytes_a_value: int) -> int:
    """Bytes of the weights: those of the prompt's keys and values and the embeddings are not."""
    hidden = geometry.hidden
    unread = geometry.codebooks * geometry.codebook_size * hidden
    unread += 2 * geometry.layers * hidden**2 if geometry.cross_attention else 0
    return weight_bytes(geometry, bytes_a_value) - unread * bytes_a_value


def own_step(
    decoder: GraphedDecoder, requests: int, position: int, device: torch.device, rounds: int
) -> float:
    """Milliseconds of a step with its drawing, tokens to the host included."""
    tokens = np.zeros(decoder.geometry.codebooks, dtype=np.int64)
    inputs = [StepInput(slot, tokens, position, position) for slot in range(requests)]
    states = torch.zeros(STATES, decoder.geometry.hidden)
    for each in inputs:
        decoder.begin_window(
            each.slot, Conditioning(states), Sampling(seed=each.slot), tokens[:, None][:, :0]
        )

    def step() -> None:
        decoder.step(inputs)

    for _ in range(3):
        step()
    return milliseconds(step, device, rounds)


@torch.inference_mode()
def transformers_step(
    model: Any, requests: int, seconds: float, device: torch.device, rounds: int
) -> float:
    """Milliseconds a step of `generate`, text encoder and codec included."""
    ids = torch.randint(3, 32000, (requests, STATES), device=device)
    steps = round(seconds * FRAME_RATE)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    model.generate(**inputs, max_new_tokens=8)
    whole = milliseconds(lambda: model.generate(**inputs, max_new_tokens=steps), device, rounds)
    return whole / steps


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a size and number of requests."""
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    bandwidth = copy_bandwidth(device)
    rows = []
    for size in options.sizes.split(","):
        geometry = geometry_named(size)
        model = random_model(geometry).to(device, dtype)
        theirs = {
            count: transformers_step(model, count, options.seconds, device, 1)
            for count in map(int, options.against.split(","))
        }
        del model
        for count in map(int, options.requests.split(",")):
            decoder = GraphedDecoder(
                DeviceDecoder(
                    RandomWeights(geometry), geometry, count, POSITIONS, device=device, dtype=dtype
                )
            )
            taken = own_step(decoder, count, options.position, device, options.rounds)
            read = read_by_a_step(geometry, dtype.itemsize)
            read += count * slot_bytes(geometry, options.position, STATES, dtype.itemsize)
            rows.append(
                {
                    "size": size,
                    "requests": count,
                    "position": options.position,
                    "ms_a_step": round(taken, 3),
                    "audio_seconds_a_second": round(count * 1000 / FRAME_RATE / taken, 1),
                    "floor_ms": round(1000 * read / bandwidth, 3),
                    "transformers_ms_a_step": round(theirs[count], 2) if count in theirs else None,
                }
            )
            print(json.dumps(rows[-1]), flush=True)
            del decoder
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--sizes", default="small,medium")
    parser.add_argument("--requests", default="1,8,32,64")
    parser.add_argument("--against", default="1,32", help="requests of transformers' batches")
    parser.add_argument("--position", type=int, default=750)
    parser.add_argument("--seconds", type=float, default=4.0, help="of transformers' clips")
    parser.add_argument("--rounds", type=int, default=50)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU that torch can use; `just validate-gpu` says why")
    name = torch.cuda.get_device_name() if options.device == "cuda" else options.device
    print(f"{name}, {options.dtype}, {copy_bandwidth(torch.device(options.device)) / 1e9:.0f} GB/s")
    measure(options)


if __name__ == "__main__":
    main()
