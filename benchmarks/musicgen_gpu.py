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
from typing import Any

import numpy as np
import torch

from services.generation.musicgen.catalogue import MODELS
from services.generation.musicgen.device_decoder import DeviceDecoder
from services.generation.musicgen.geometry import FRAME_RATE, Geometry
from services.generation.musicgen.graphed_decoder import GraphedDecoder
from services.generation.musicgen.memory_plan import slot_bytes, weight_bytes
from services.generation.musicgen.random_weights import RandomWeights
from services.generation.musicgen.request import Conditioning, Sampling
from services.generation.musicgen.sequence import Turn

STATES = 16
POSITIONS = 1536
TINY = Geometry(
    layers=2,
    hidden=64,
    heads=4,
    ffn=256,
    codebooks=4,
    codebook_size=2048,
    channels=1,
    cross_attention=True,
    max_positions=2048,
)


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


def own_step(
    decoder: GraphedDecoder, requests: int, position: int, device: torch.device, rounds: int
) -> float:
    """Milliseconds of a step with its drawing, tokens to the host included."""
    tokens = np.zeros(decoder.geometry.codebooks, dtype=np.int64)
    turns = [Turn(slot, tokens, position, position) for slot in range(requests)]
    states = torch.zeros(STATES, decoder.geometry.hidden)
    for turn in turns:
        decoder.begin(
            turn.slot, Conditioning(states), Sampling(seed=turn.slot), tokens[:, None][:, :0]
        )

    def step() -> None:
        decoder.advance(turns)

    for _ in range(3):
        step()
    return milliseconds(step, device, rounds)


def transformers_model(geometry: Geometry, device: torch.device, dtype: torch.dtype) -> Any:
    from transformers import (
        EncodecConfig,
        MusicgenConfig,
        MusicgenDecoderConfig,
        MusicgenForConditionalGeneration,
        T5Config,
    )

    decoder = MusicgenDecoderConfig(
        hidden_size=geometry.hidden,
        ffn_dim=geometry.ffn,
        num_hidden_layers=geometry.layers,
        num_attention_heads=geometry.heads,
        num_codebooks=geometry.codebooks,
        audio_channels=geometry.channels,
    )
    text = T5Config(d_model=768, d_kv=64, d_ff=3072, num_layers=12, num_heads=12)
    codec = EncodecConfig(
        sampling_rate=32000,
        target_bandwidths=[2.2],
        num_filters=64,
        upsampling_ratios=[8, 5, 4, 4],
        codebook_size=2048,
        use_causal_conv=False,
        use_conv_shortcut=False,
    )
    config = MusicgenConfig(
        text_encoder=text.to_dict(), audio_encoder=codec.to_dict(), decoder=decoder.to_dict()
    )
    with torch.device(device):
        model: Any = MusicgenForConditionalGeneration(config).eval().to(dtype)
    settings = model.generation_config
    settings.do_sample, settings.guidance_scale = True, 3.0
    settings.bos_token_id = settings.pad_token_id = settings.decoder_start_token_id = 2048
    return model


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
        model = transformers_model(geometry, device, dtype)
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
            read = weight_bytes(geometry, dtype.itemsize)
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
