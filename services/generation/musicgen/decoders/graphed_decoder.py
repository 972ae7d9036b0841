"""A step and its sampling as one CUDA graph per bucket of slots.

A step is hundreds of small kernels: launching them one by one takes ten times as long as they run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from services.generation.musicgen.decoders.memory_plan import bucket_for
from services.generation.musicgen.loop.sampling import SamplingTensors, draw, guide, gumbel_noise
from services.generation.musicgen.loop.token_model import SampledDecoder

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from services.generation.musicgen.decoders.device_decoder import DeviceDecoder
    from services.generation.musicgen.loop.request import Sampling
    from services.generation.musicgen.loop.sequence import StepInput

_WIDEST_TOP_K = 256
"""If no request has a larger top_k, the step is faster."""

_WARM_UPS = 3
"""Steps before a capture, in which kernels are compiled and libraries allocate work space."""

_INTEGERS = ("slot", "position", "step", "seed", "top_k", "greedy")
_FLOATS = ("guidance", "temperature", "top_p")


@dataclass(frozen=True, slots=True)
class _Variant:
    """The properties of a batch that need a graph of their own."""

    bucket: int
    widest_top_k: int | None
    any_top_p: bool


class GraphedDecoder(SampledDecoder):
    """A `TokenModel` whose step and sampling run on the device.

    On a CPU there are no graphs.
    """

    def __init__(self, decoder: DeviceDecoder) -> None:
        super().__init__(decoder)
        self._decoder = decoder
        rows = bucket_for(decoder.slots)
        columns = len(_INTEGERS) + decoder.geometry.codebooks
        device = decoder.device
        self._on_gpu = device.type == "cuda"
        # Graphs read their inputs from these: `_INTEGERS` and tokens, and `_FLOATS`, row by row.
        self._integers = torch.zeros(rows, columns, dtype=torch.int64, device=device)
        self._floats = torch.ones(rows, len(_FLOATS), dtype=torch.float64, device=device)
        self._steps: dict[_Variant, Callable[[], Tensor]] = {}
        self._pool = torch.cuda.graph_pool_handle() if self._on_gpu else None

    @torch.inference_mode()
    def step(self, inputs: Sequence[StepInput]) -> NDArray[np.int64]:
        samplings = [self._samplings[each.slot] for each in inputs]
        is_narrow = all(s.top_k <= _WIDEST_TOP_K for s in samplings)
        variant = _Variant(
            bucket=bucket_for(len(inputs)),
            widest_top_k=_WIDEST_TOP_K if is_narrow else None,
            any_top_p=any(0 < s.top_p < 1 for s in samplings),
        )
        run = self._steps.get(variant) or self._make_step(variant)
        self._write_inputs(variant.bucket, inputs, samplings)
        drawn: NDArray[np.int64] = run()[: len(inputs)].cpu().numpy()
        return drawn

    def _write_inputs(
        self, bucket: int, inputs: Sequence[StepInput], samplings: Sequence[Sampling]
    ) -> None:
        # Rows that pad a bucket use position 0 of an extra slot.
        count, first = len(inputs), self._first_positions
        integers = torch.zeros(bucket, self._integers.shape[1], dtype=torch.int64)
        integers[:, 0] = self._decoder.slots
        floats = torch.ones(bucket, len(_FLOATS), dtype=torch.float64)
        fields = [
            (i.slot, first[i.slot] + i.position, i.step, s.seed, s.top_k, int(s.greedy))
            for i, s in zip(inputs, samplings, strict=True)
        ]
        integers[:count, : len(_INTEGERS)] = torch.tensor(fields)
        integers[:count, len(_INTEGERS) :] = torch.from_numpy(np.stack([i.tokens for i in inputs]))
        floats[:count] = torch.tensor(
            [(s.guidance, s.temperature, s.top_p) for s in samplings], dtype=torch.float64
        )
        self._integers[:bucket].copy_(integers)
        self._floats[:bucket].copy_(floats)

    def _make_step(self, variant: _Variant) -> Callable[[], Tensor]:
        def step() -> Tensor:
            return self._compute(variant)

        self._steps[variant] = self._capture(step) if self._on_gpu else step
        return self._steps[variant]

    def _compute(self, variant: _Variant) -> Tensor:
        integers, floats = self._integers[: variant.bucket], self._floats[: variant.bucket]
        fields = {name: integers[:, at] for at, name in enumerate(_INTEGERS)}
        tokens = integers[:, len(_INTEGERS) :]
        logits = self._decoder.logits(fields["slot"], tokens, fields["position"])
        sampling = SamplingTensors(
            seed=fields["seed"],
            top_k=fields["top_k"],
            greedy=fields["greedy"].bool(),
            guidance=floats[:, 0].float(),
            temperature=floats[:, 1].float(),
            top_p=floats[:, 2],
        )
        _, _, codebooks, vocabulary = logits.shape
        return draw(
            guide(logits, sampling.guidance),
            sampling,
            gumbel_noise(sampling.seed, fields["step"], codebooks, vocabulary),
            widest_top_k=variant.widest_top_k,
            any_top_p=variant.any_top_p,
        )

    def _capture(self, step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        # The warm-ups write to the cache, so that they must use the extra slot.
        self._integers.zero_()
        self._integers[:, 0] = self._decoder.slots
        self._floats.fill_(1.0)
        stream: torch.cuda.Stream = torch.cuda.Stream(self._decoder.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._decoder.device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                step()
        torch.cuda.current_stream(self._decoder.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads use the GPU meanwhile: the codec of other requests.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            drawn = step()

        def replay() -> Tensor:
            graph.replay()
            return drawn

        return replay
