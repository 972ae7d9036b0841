"""Chooses the decoder for this machine: a GPU's, the native one, or portable PyTorch.

The fastest is tried first. A quantised decoder must pass `self_check` with its own weights; a
decoder that cannot run is skipped with one line in the log.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from services.errors import EngineUnavailableError
from services.generation.musicgen.decoders.device_decoder import MAX_STATES, DeviceDecoder
from services.generation.musicgen.decoders.graphed_decoder import GraphedDecoder
from services.generation.musicgen.decoders.memory_plan import BUCKETS, DeviceMemory, plan_slots
from services.generation.musicgen.decoders.self_check import self_check
from services.generation.musicgen.gpu_probe import read_device_memory
from services.generation.musicgen.loop.token_model import SampledDecoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from services.config import CpuPrecision
    from services.generation.musicgen.geometry import Geometry
    from services.generation.musicgen.loop.step_model import StepModel
    from services.generation.musicgen.loop.token_model import Sampler, TokenModel
    from services.generation.weights.weights import WeightSource

log = logging.getLogger(__name__)

WINDOW_POSITIONS = 1504
"""30 s of code frames and the lag of the last codebook."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A loaded decoder."""

    model: TokenModel
    label: str
    """Precision and kind, as in a take's metadata: "int8, native"."""
    device: torch.device


def positions_needed(geometry: Geometry) -> int:
    """Return the positions of a slot: a window, and the prefix of a melody model before it."""
    return WINDOW_POSITIONS + (0 if geometry.cross_attention else MAX_STATES)


def choose_backend(
    source: WeightSource,
    geometry: Geometry,
    *,
    slots: int,
    use_gpu: bool,
    cpu_precision: CpuPrecision,
    conditioning: list[Tensor] | None = None,
) -> Backend:
    """Load the decoder on the fastest back end that runs on this machine.

    Args:
        source: the tensors of the checkpoint.
        geometry: the decoder's shape.
        slots: requests that may run at once, if they fit into memory.
        use_gpu: whether a GPU may be used.
        cpu_precision: precision on a CPU; "auto" is int8 if it passes the check.
        conditioning: encoded prompts `[length, hidden]` for the check; None uses random ones.

    Raises:
        CheckpointError: the source lacks a tensor.
        EngineUnavailableError: no decoder fits into memory, or none has this precision.
    """
    if use_gpu and torch.cuda.is_available():
        return load_on_gpu(source, geometry, slots)
    refused: list[str] = []
    for label, make, is_quantised in _cpu_decoders(source, geometry, slots, cpu_precision):
        model = None  # frees a refused decoder before the next one is loaded
        try:
            model = make()
            if is_quantised:
                report = self_check(model, source, conditioning)
                log.info("checked %s kl=%.2g agreement=%.3f", label, report.kl, report.agreement)
        except EngineUnavailableError as error:
            refused.append(str(error))  # not the error: its traceback would keep the decoder
            log.warning("skipped %s: %s", label, refused[-1])
            continue
        log.info("MusicGen runs on %s", label)
        sampled = SampledDecoder(model, _make_sampler())
        return Backend(model=sampled, label=label, device=torch.device("cpu"))
    raise EngineUnavailableError(" ".join(refused))


def load_on_gpu(source: WeightSource, geometry: Geometry, slots: int) -> Backend:
    """Load the decoder on the current GPU, with fewer slots if not all fit.

    Raises:
        EngineUnavailableError: not even one slot fits.
    """
    device = torch.device("cuda", torch.cuda.current_device())
    free, _, is_shared = read_device_memory(device)
    properties = torch.cuda.get_device_properties(device)
    planned = plan_slots(
        DeviceMemory(free=free, is_shared=is_shared),
        geometry,
        positions=positions_needed(geometry),
        states=MAX_STATES,
        most=slots,
    )
    for count in [planned, *(size for size in reversed(BUCKETS) if size < planned)]:
        try:
            decoder = DeviceDecoder(
                source, geometry, count, positions_needed(geometry), device=device
            )
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            log.warning(
                "the GPU's memory is too small for %d requests at once; trying fewer", count
            )
            continue
        if count < slots:
            log.warning("the GPU's memory holds %d requests at once, not %d", count, slots)
        label = f"bfloat16, {properties.name}"
        log.info("MusicGen runs on %s", label)
        return Backend(model=GraphedDecoder(decoder), label=label, device=device)
    raise EngineUnavailableError(
        "The model does not fit into the GPU's memory. Close other programs that use the GPU, use "
        "a smaller model, or set DGX_MUSIC_USE_GPU=false."
    )


def _make_sampler() -> Sampler | None:
    from services.generation.musicgen.decoders.native.library import NativeUnavailableError
    from services.generation.musicgen.decoders.native.sampler import NativeSampler

    try:
        return NativeSampler()
    except NativeUnavailableError:
        return None  # the log already has the reason, from the native decoder


def _cpu_decoders(
    source: WeightSource, geometry: Geometry, slots: int, precision: CpuPrecision
) -> Iterator[tuple[str, Callable[[], StepModel], bool]]:
    """Yield label, loader and whether it is quantised for each CPU decoder, the fastest first."""
    from services.generation.musicgen.decoders.native.decoder import NativeDecoder
    from services.generation.musicgen.decoders.torch_decoder import TorchDecoder

    positions = positions_needed(geometry)
    if precision in ("auto", "int8"):
        yield (
            "int8, native",
            lambda: NativeDecoder(source, geometry, slots, positions, "int8"),
            True,
        )
        yield (
            "int8, PyTorch",
            lambda: TorchDecoder(source, geometry, slots, positions, "int8"),
            True,
        )
    if precision in ("auto", "fp32"):
        yield (
            "float32, native",
            lambda: NativeDecoder(source, geometry, slots, positions, "fp32"),
            False,
        )
        yield (
            "float32, PyTorch",
            lambda: TorchDecoder(source, geometry, slots, positions, "fp32"),
            False,
        )
