"""Which decoder runs on this machine: a GPU's, the native one, or portable PyTorch.

What is tried first is the fastest. A quantised decoder must pass the check of `self_check` with the
very weights it is to play; what cannot run here is passed over with one line in the log.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from services.errors import EngineUnavailableError
from services.generation.musicgen.decoders.device_decoder import MOST_STATES, DeviceDecoder
from services.generation.musicgen.decoders.graphed_decoder import GraphedDecoder
from services.generation.musicgen.decoders.memory_plan import BUCKETS, DeviceMemory, slots_that_fit
from services.generation.musicgen.decoders.self_check import self_check
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
"""30 s of code frames, and the delay of the last codebook."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A decoder that is ready."""

    model: TokenModel
    label: str
    """What it is, as it stands in a take's metadata: "int8, native avx512vnni"."""
    device: torch.device


def positions_needed(geometry: Geometry) -> int:
    """Room of a slot: a window, and before it the prefix of a melody model."""
    return WINDOW_POSITIONS + (0 if geometry.cross_attention else MOST_STATES)


def choose_backend(
    source: WeightSource,
    geometry: Geometry,
    *,
    slots: int,
    use_gpu: bool,
    cpu_precision: CpuPrecision,
    conditioning: list[Tensor] | None = None,
) -> Backend:
    """Load the decoder on the fastest back end that runs here.

    Args:
        source: the tensors of the checkpoint.
        geometry: their shape.
        slots: requests at once, if the memory holds them.
        use_gpu: whether a GPU may be used.
        cpu_precision: of the CPU's decoder; "auto" is 8 bits where they pass the check.
        conditioning: states of prompts, `[length, hidden]` each, for the check; None draws some.

    Raises:
        CheckpointError: the source lacks a tensor.
        EngineUnavailableError: nothing fits into the memory, or the precision asked for cannot run.
    """
    if use_gpu and torch.cuda.is_available():
        return on_gpu(source, geometry, slots)
    refused: list[str] = []
    for label, make, is_quantised in _of_cpu(source, geometry, slots, cpu_precision):
        model = None  # one that was refused is not in memory beside the next
        try:
            model = make()
            if is_quantised:
                report = self_check(model, source, conditioning)
                log.info("checked %s kl=%.2g agreement=%.3f", label, report.kl, report.agreement)
        except EngineUnavailableError as error:
            refused.append(str(error))  # the error itself holds on to the decoder
            log.warning("passed over %s: %s", label, refused[-1])
            continue
        log.info("MusicGen plays by %s", label)
        sampled = SampledDecoder(model, _sampler())
        return Backend(model=sampled, label=label, device=torch.device("cpu"))
    raise EngineUnavailableError(" ".join(refused))


def on_gpu(source: WeightSource, geometry: Geometry, slots: int) -> Backend:
    """Load the decoder on the current GPU, with fewer slots where they do not fit.

    Raises:
        EngineUnavailableError: not even one slot fits.
    """
    device = torch.device("cuda", torch.cuda.current_device())
    free, _ = torch.cuda.mem_get_info(device)
    properties = torch.cuda.get_device_properties(device)
    planned = slots_that_fit(
        DeviceMemory(free=free, is_shared=bool(properties.is_integrated)),
        geometry,
        positions=positions_needed(geometry),
        states=MOST_STATES,
        most=slots,
    )
    for count in [planned, *(size for size in reversed(BUCKETS) if size < planned)]:
        try:
            decoder = DeviceDecoder(
                source, geometry, count, positions_needed(geometry), device=device
            )
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            log.warning("%d requests at once do not fit into the GPU's memory; trying fewer", count)
            continue
        if count < slots:
            log.warning("the GPU's memory holds %d requests at once, not %d", count, slots)
        label = f"bfloat16, {properties.name}"
        log.info("MusicGen plays by %s", label)
        return Backend(model=GraphedDecoder(decoder), label=label, device=device)
    raise EngineUnavailableError(
        "The GPU's memory does not hold this model. End what else uses it, take a smaller model, "
        "or set DGX_MUSIC_USE_GPU=false."
    )


def _sampler() -> Sampler | None:
    from services.generation.musicgen.decoders.native.library import NativeUnavailableError
    from services.generation.musicgen.decoders.native.sampler import NativeSampler

    try:
        return NativeSampler()
    except NativeUnavailableError:
        return None  # was said of the decoder already


def _of_cpu(
    source: WeightSource, geometry: Geometry, slots: int, precision: CpuPrecision
) -> Iterator[tuple[str, Callable[[], StepModel], bool]]:
    """Label, maker, and whether it is quantised: of each CPU decoder, the fastest first."""
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
