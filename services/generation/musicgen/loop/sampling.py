"""From logits to tokens: guidance, temperature, top-k, top-p, and reproducible noise.

The token with the greatest logit + Gumbel noise is a draw from the softmax. The noise of a token
depends on (seed, step, codebook, token) only, and not on the slot or on other requests. All of it
is a fixed sequence of tensor operations that never reads a value, as CUDA graphs need it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from services.generation.musicgen.loop.request import Sampling


@dataclass(frozen=True, slots=True)
class SamplingTensors:
    """The fields of n `Sampling`s, a tensor `[n]` each."""

    seed: Tensor
    guidance: Tensor
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    greedy: Tensor

    @classmethod
    def from_samplings(cls, samplings: Sequence[Sampling]) -> SamplingTensors:
        return cls(
            seed=torch.tensor([s.seed for s in samplings]),
            guidance=torch.tensor([float(s.guidance) for s in samplings]),
            temperature=torch.tensor([float(s.temperature) for s in samplings]),
            top_k=torch.tensor([s.top_k for s in samplings]),
            top_p=torch.tensor([s.top_p for s in samplings], dtype=torch.float64),
            greedy=torch.tensor([s.greedy for s in samplings]),
        )


_NOISE_VALUES = 32768
"""Values of noise made at once. PyTorch would split more among threads, which takes longer."""


class TorchSampler:
    """A `Sampler` by PyTorch, for logits on the CPU."""

    def __init__(self) -> None:
        self._samplings: list[Sampling] = []
        self._tensors = SamplingTensors.from_samplings([])
        self._noise_of: dict[tuple[int, int, int, int], Tensor] = {}
        """Noise `[steps, codebooks, vocabulary]` of a run of steps, by everything that determines
        it: seed, number of the run, codebooks, vocabulary."""

    def __call__(
        self, logits: Tensor, samplings: Sequence[Sampling], steps: Sequence[int]
    ) -> NDArray[np.int64]:
        if self._samplings != list(samplings):
            self._samplings = list(samplings)
            self._tensors = SamplingTensors.from_samplings(samplings)
        drawn: NDArray[np.int64] = draw(
            guide(logits, self._tensors.guidance),
            self._tensors,
            self._noise([each.seed for each in samplings], steps, *logits.shape[2:]),
            widest_top_k=max(sampling.top_k for sampling in samplings),
            any_top_p=any(0 < sampling.top_p < 1 for sampling in samplings),
        ).numpy()
        return drawn

    def _noise(
        self, seeds: Sequence[int], steps: Sequence[int], codebooks: int, vocabulary: int
    ) -> Tensor:
        # Noise takes forty operations, and starting them is most of the time: a run shares them.
        length = max(1, _NOISE_VALUES // (codebooks * vocabulary))
        keys = [
            (seed, step // length, codebooks, vocabulary)
            for seed, step in zip(seeds, steps, strict=True)
        ]
        for key in set(keys) - self._noise_of.keys():
            seed, run, *_ = key
            whole_run = torch.arange(run * length, (run + 1) * length)
            same_seed = torch.full((length,), seed)
            self._noise_of[key] = gumbel_noise(same_seed, whole_run, codebooks, vocabulary)
        self._noise_of = {key: self._noise_of[key] for key in keys}
        return torch.stack(
            [self._noise_of[key][step % length] for key, step in zip(keys, steps, strict=True)]
        )


def guide(logits: Tensor, guidance: Tensor) -> Tensor:
    """Apply classifier-free guidance: `[2, n, ...]`, conditional first, and `[n]` -> `[n, ...]`."""
    conditional, unconditional = logits
    scale = guidance.view(-1, *[1] * (conditional.dim() - 1))
    guided: Tensor = unconditional + scale * (conditional - unconditional)
    return guided


def draw(
    logits: Tensor,
    sampling: SamplingTensors,
    noise: Tensor,
    *,
    widest_top_k: int | None = None,
    any_top_p: bool = True,
) -> Tensor:
    """Draw a token for each request and codebook.

    Args:
        logits: float32 `[n, codebooks, vocabulary]`, guided.
        sampling: fields of the n requests.
        noise: `gumbel_noise` in the shape of the logits.
        widest_top_k: upper bound of all top_k; None is the vocabulary. Smaller is faster.
        any_top_p: False promises that no request uses top_p, which saves a sort.

    Returns:
        int64 `[n, codebooks]`.
    """
    scores = logits / sampling.temperature[:, None, None]
    scores = keep_top_k(scores, sampling.top_k, widest_top_k)
    if any_top_p:
        scores = keep_top_p(scores, sampling.top_p)
    noisy = scores + torch.where(sampling.greedy[:, None, None], torch.zeros_like(noise), noise)
    return noisy.argmax(-1)


def keep_top_k(scores: Tensor, top_k: Tensor, widest: int | None = None) -> Tensor:
    """Set scores below the k-th greatest of the last dimension to -inf; k = 0 keeps all.

    Scores equal to the k-th stay, as in transformers: the order of equal scores does not matter.
    """
    vocabulary = scores.shape[-1]
    widest = vocabulary if widest is None else min(widest, vocabulary)
    if widest == 0:
        return scores
    rank = top_k.clamp(1, widest) - 1
    greatest = scores.topk(widest, -1).values
    index = rank[:, None, None].expand(*scores.shape[:-1], 1)
    least = greatest.gather(-1, index).masked_fill((top_k == 0)[:, None, None], -torch.inf)
    return scores.masked_fill(scores < least, -torch.inf)


def keep_top_p(scores: Tensor, top_p: Tensor) -> Tensor:
    """Set scores below the likeliest that together reach the probability p to -inf.

    p = 0 and p = 1 keep all; the likeliest is always kept. As transformers' `TopPLogitsWarper`.
    """
    ascending, order = scores.sort(dim=-1, stable=True)
    below = ascending.softmax(-1).cumsum(-1)
    wanted = torch.where(top_p == 0, torch.ones_like(top_p), top_p)[:, None, None]
    # Rounded after the subtraction, as transformers does.
    unlikely = (below <= (1 - wanted).float()) & (wanted < 1)
    unlikely[..., -1] = False
    return scores.masked_fill(unlikely.scatter(-1, order, unlikely), -torch.inf)


def gumbel_noise(seeds: Tensor, steps: Tensor, codebooks: int, vocabulary: int) -> Tensor:
    """Return standard Gumbel noise for n requests, each at its own step.

    Args:
        seeds: int64 `[n]`.
        steps: int64 `[n]`, 0 or more.
        codebooks: number of codebooks.
        vocabulary: tokens of each codebook.

    Returns:
        float32 `[n, codebooks, vocabulary]`; from -2.8 to 16.6.
    """
    bits = random_bits(seeds, steps, codebooks, vocabulary)
    # 23 bits plus one half stay within (0, 1) in float32, so that both logarithms are finite.
    uniform = ((bits >> 41) & 0x7FFFFF).float().add(0.5).mul(2.0**-23)
    return uniform.log().neg().log().neg()


GOLDEN_GAMMA = 0x9E3779B97F4A7C15 - 2**64


def random_bits(seeds: Tensor, steps: Tensor, codebooks: int, vocabulary: int) -> Tensor:
    """Return 64 random bits per (seed, step, codebook, token), int64 `[n, codebooks, vocabulary]`.

    The finaliser of SplitMix64 (Steele, Lea, Flood, 2014) is applied to each part of the counter
    in turn. Integer arithmetic gives the same bits on every device.
    """
    stream = _mix(_mix(seeds) + steps)[:, None]
    stream = _mix(stream + torch.arange(codebooks, device=seeds.device) * GOLDEN_GAMMA)[..., None]
    return _mix(stream + torch.arange(1, vocabulary + 1, device=seeds.device) * GOLDEN_GAMMA)


def _mix(bits: Tensor) -> Tensor:
    bits = (bits ^ _shift(bits, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    bits = (bits ^ _shift(bits, 27)) * (0x94D049BB133111EB - 2**64)
    return bits ^ _shift(bits, 31)


def _shift(bits: Tensor, by: int) -> Tensor:
    # A logical shift: the sign bit of int64 must not spread.
    return (bits >> by) & ((1 << (64 - by)) - 1)
