"""A step with its drawing as one CUDA graph for each number of slots.

A step is hundreds of small kernels: started one by one they take ten times as long as they run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from services.generation.musicgen.decoders.memory_plan import bucket_of
from services.generation.musicgen.loop.sampling import SamplingTensors, draw, guide, gumbel_noise
from services.generation.musicgen.loop.token_model import SampledDecoder

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from services.generation.musicgen.decoders.device_decoder import DeviceDecoder
    from services.generation.musicgen.loop.request import Sampling
    from services.generation.musicgen.loop.sequence import Turn

_WIDEST_TOP_K = 256
"""Requests that draw among no more than this share a faster step."""

_WARM_UPS = 3
"""Steps before a capture: kernels are compiled and libraries take their work space in them."""

_WHOLE = ("slot", "position", "step", "seed", "top_k", "greedy")
_REAL = ("guidance", "temperature", "top_p")


@dataclass(frozen=True, slots=True)
class _Variant:
    """What a captured step is made for."""

    bucket: int
    widest_top_k: int | None
    any_top_p: bool


class GraphedDecoder(SampledDecoder):
    """A `TokenModel` whose step, with its drawing, runs on the device.

    Where the device is the CPU there are no graphs, and every step runs as it is.
    """

    def __init__(self, decoder: DeviceDecoder) -> None:
        super().__init__(decoder)
        self._decoder = decoder
        rows = bucket_of(decoder.slots)
        codebooks = decoder.geometry.codebooks
        device = decoder.device
        self._on_gpu = device.type == "cuda"
        self._whole = torch.zeros(rows, len(_WHOLE) + codebooks, dtype=torch.int64, device=device)
        self._real = torch.ones(rows, len(_REAL), dtype=torch.float64, device=device)
        self._steps: dict[_Variant, Callable[[], Tensor]] = {}
        self._pool = torch.cuda.graph_pool_handle() if self._on_gpu else None

    @torch.inference_mode()
    def advance(self, turns: Sequence[Turn]) -> NDArray[np.int64]:
        """One step and a draw; see `TokenModel`."""
        sampling = [self._sampling[turn.slot] for turn in turns]
        variant = _Variant(
            bucket=bucket_of(len(turns)),
            widest_top_k=_WIDEST_TOP_K if all(s.top_k <= _WIDEST_TOP_K for s in sampling) else None,
            any_top_p=any(0 < s.top_p < 1 for s in sampling),
        )
        run = self._steps.get(variant) or self._make(variant)
        self._fill(variant.bucket, turns, sampling)
        drawn: NDArray[np.int64] = run()[: len(turns)].cpu().numpy()
        return drawn

    def _fill(self, bucket: int, turns: Sequence[Turn], sampling: Sequence[Sampling]) -> None:
        # The rows that fill up a bucket stand at the start of a slot that nobody has.
        whole = torch.zeros(bucket, self._whole.shape[1], dtype=torch.int64)
        whole[:, 0] = self._decoder.slots
        real = torch.ones(bucket, len(_REAL), dtype=torch.float64)
        heads = [
            (t.slot, self._first[t.slot] + t.position, t.step, s.seed, s.top_k, int(s.greedy))
            for t, s in zip(turns, sampling, strict=True)
        ]
        whole[: len(turns), : len(_WHOLE)] = torch.tensor(heads)
        whole[: len(turns), len(_WHOLE) :] = torch.from_numpy(np.stack([t.tokens for t in turns]))
        real[: len(turns)] = torch.tensor(
            [(s.guidance, s.temperature, s.top_p) for s in sampling], dtype=torch.float64
        )
        self._whole[:bucket].copy_(whole)
        self._real[:bucket].copy_(real)

    def _make(self, variant: _Variant) -> Callable[[], Tensor]:
        def step() -> Tensor:
            return self._step(variant)

        self._steps[variant] = self._capture(step) if self._on_gpu else step
        return self._steps[variant]

    def _step(self, variant: _Variant) -> Tensor:
        whole, real = self._whole[: variant.bucket], self._real[: variant.bucket]
        fields = {name: whole[:, at] for at, name in enumerate(_WHOLE)}
        logits = self._decoder.logits(fields["slot"], whole[:, len(_WHOLE) :], fields["position"])
        sampling = SamplingTensors(
            seed=fields["seed"],
            top_k=fields["top_k"],
            greedy=fields["greedy"].bool(),
            guidance=real[:, 0].float(),
            temperature=real[:, 1].float(),
            top_p=real[:, 2],
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
        # A capture runs nothing, and the warm-ups must write to no slot that is taken.
        self._whole.zero_()
        self._whole[:, 0] = self._decoder.slots
        self._real.fill_(1.0)
        stream: torch.cuda.Stream = torch.cuda.Stream(self._decoder.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._decoder.device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                step()
        torch.cuda.current_stream(self._decoder.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads go on meanwhile, with the codec of other requests.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            drawn = step()

        def replay() -> Tensor:
            graph.replay()
            return drawn

        return replay
