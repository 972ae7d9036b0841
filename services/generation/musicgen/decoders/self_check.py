"""Whether a quantised decoder still says what its checkpoint says: measured at load, or refused.

The quantised decoder draws a few short sequences, its own way; the same tokens then go through the
checkpoint in float32, one layer at a time over all positions, so that the float32 weights are never
all in memory. Compared are the guided distributions, which are what the sampler draws from.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from services.errors import EngineUnavailableError
from services.generation.musicgen.decoders.layer_weights import (
    EndWeights,
    LayerWeights,
    read_ends,
    read_layer,
    sinusoids,
)
from services.generation.musicgen.decoders.layers import normalise
from services.generation.musicgen.loop.pattern import DelayPattern

if TYPE_CHECKING:
    from torch import Tensor

    from services.generation.musicgen.geometry import Geometry
    from services.generation.musicgen.loop.step_model import StepModel
    from services.generation.weights.weights import WeightSource

GUIDANCE = 3.0
"""The usual coefficient; it widens what quantisation did to the difference of the two rows."""
STEPS = 24
KL_LIMIT = 0.15
"""Nats: how much the distributions may differ, however flat or wide they are."""
ERROR_LIMIT = 0.1
"""Of the logits, relative: what a flat distribution would hide from the divergence.

On random weights of the shape of small, int8 in groups of 128 has an error of 0.043 and a
divergence of 0.001, or 0.043 where the logits are widened to a deviation of 10. 6 bits have 0.09
to 0.13 and 0.004 to 0.31, 5 bits 0.18 to 0.24 and 0.02 to 0.8.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """How far a quantised decoder is from its checkpoint."""

    kl: float
    """Mean KL divergence of the guided distributions from those of float32, in nats."""
    error: float
    """Of the guided logits: root mean square, relative to their deviation."""
    agreement: float
    """0..1: how often both find the same token most likely."""
    seconds: float
    """What the check took."""


class QuantisationError(EngineUnavailableError):
    """A quantised decoder is too far from its checkpoint to be used."""

    def __init__(self, message: str, report: CheckReport | None = None) -> None:
        super().__init__(message)
        self.report = report


@torch.inference_mode()
def self_check(
    model: StepModel,
    source: WeightSource,
    conditioning: Sequence[Tensor] | None = None,
) -> CheckReport:
    """Compare a decoder that holds no sequence yet with its checkpoint; slot 0 is used.

    Args:
        model: the quantised decoder.
        source: what it was made of.
        conditioning: float32 `[length, hidden]` each, a sequence for each; by default two that are
            drawn at random, and the same each time.

    Raises:
        QuantisationError: KL_LIMIT or ERROR_LIMIT is passed, or there are no numbers to compare.
        CheckpointError: as the source raises it.
    """
    begin = time.perf_counter()
    geometry = model.geometry
    random = torch.Generator().manual_seed(0)
    states = conditioning or [torch.randn(8, geometry.hidden, generator=random) for _ in range(2)]
    tokens, quantised = zip(*(_draw(model, each, random) for each in states), strict=True)
    exact = reference_logits(source, geometry, states, tokens)
    lags = torch.from_numpy(DelayPattern.of(geometry).lags)
    valid = torch.arange(STEPS)[:, None] >= lags
    found = functional.log_softmax(torch.stack([_guided(each)[valid] for each in quantised]), -1)
    wanted = functional.log_softmax(torch.stack([_guided(each)[valid] for each in exact]), -1)
    report = CheckReport(
        kl=float((wanted.exp() * (wanted - found)).sum(-1).mean()),
        error=_relative_error(found, wanted),
        agreement=float((wanted.argmax(-1) == found.argmax(-1)).float().mean()),
        seconds=time.perf_counter() - begin,
    )
    # Written so that NaN is refused.
    if not (report.kl <= KL_LIMIT and report.error <= ERROR_LIMIT):
        raise QuantisationError(
            f"The quantised decoder is too far from its checkpoint: KL divergence {report.kl:.2g} "
            f"nats (at most {KL_LIMIT:g}), error {report.error:.2g} (at most {ERROR_LIMIT:g}). "
            "Use float32, or install the model again.",
            report,
        )
    return report


def reference_logits(
    source: WeightSource,
    geometry: Geometry,
    states: Sequence[Tensor],
    tokens: Sequence[Tensor],
) -> list[Tensor]:
    """float32 logits of whole sequences, with the weights of one layer in memory at a time.

    Args:
        source: the decoder's tensors.
        geometry: their shape.
        states: the conditioning of each sequence, `[length, hidden]`.
        tokens: int64 `[codebooks, steps]` each.

    Returns:
        `[2, steps, codebooks, codebook_size]` each: conditional, unconditional.
    """
    ends = read_ends(source, geometry)
    sequences = [
        _embed(ends, geometry, state, token) for state, token in zip(states, tokens, strict=True)
    ]
    for index in range(geometry.layers):
        layer = read_layer(source, geometry, index)
        for hidden, state in zip(sequences, states, strict=True):
            _run_layer(layer, geometry, hidden, state)
    logits = []
    for hidden, token in zip(sequences, tokens, strict=True):
        steps = token.shape[1]
        flat = normalise(ends.norm, hidden[:, -steps:]) @ ends.heads.t()
        logits.append(flat.view(2, steps, geometry.codebooks, geometry.codebook_size))
    return logits


def _draw(model: StepModel, states: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tokens `[codebooks, STEPS]`, and the logits `[2, STEPS, codebooks, codebook_size]` there."""
    geometry = model.geometry
    lags = torch.from_numpy(DelayPattern.of(geometry).lags)
    first = model.admit(0, states)
    token = torch.full((geometry.codebooks,), geometry.pad_token)
    tokens, logits = [], []
    for step in range(STEPS):
        tokens.append(token)
        logits.append(model.step([0], token[None], [first + step])[:, 0])
        shape = (geometry.codebooks, geometry.codebook_size)
        noise = -torch.empty(shape).exponential_(generator=random).log()
        drawn = (_guided(logits[-1]) + noise).argmax(-1)
        token = torch.where(step >= lags, drawn, geometry.pad_token)
    return torch.stack(tokens, 1), torch.stack(logits, 1)


def _relative_error(found: Tensor, wanted: Tensor) -> float:
    """Of `[..., tokens]` each; a constant added to all tokens of a cell changes no distribution."""
    apart = found - wanted
    apart = apart - apart.mean(-1, keepdim=True)
    return float(apart.square().mean().sqrt() / wanted.std(-1).square().mean().sqrt())


def _guided(logits: Tensor) -> Tensor:
    return logits[1] + GUIDANCE * (logits[0] - logits[1])


def _embed(ends: EndWeights, geometry: Geometry, states: Tensor, tokens: Tensor) -> Tensor:
    """`[2, positions, hidden]`, a prefix included where there is no cross-attention."""
    offsets = torch.arange(geometry.codebooks)[:, None] * (geometry.codebook_size + 1)
    hidden = ends.embeddings[tokens + offsets].sum(0).expand(2, -1, -1)
    if not geometry.cross_attention:
        prefix = torch.stack([states, torch.zeros_like(states)])
        hidden = torch.cat([prefix, hidden], dim=1)
    return hidden + sinusoids(hidden.shape[1], geometry.hidden)


def _run_layer(layer: LayerWeights, geometry: Geometry, hidden: Tensor, states: Tensor) -> None:
    """Add what a layer says to `[2, positions, hidden]`."""
    query, key, value = (normalise(layer.norm, hidden) @ layer.qkv.t()).chunk(3, -1)
    hidden += _attend(geometry, query, key, value, causal=True) @ layer.out.t()
    if layer.cross is not None:
        cross, guided = layer.cross, hidden[0]
        query = normalise(cross.norm, guided) @ cross.query.t()
        key, value = states @ cross.key.t(), states @ cross.value.t()
        guided += _attend(geometry, query, key, value, causal=False) @ cross.out.t()
    inner = functional.gelu(normalise(layer.ffn_norm, hidden) @ layer.fc1.t())
    hidden += inner @ layer.fc2.t()


def _attend(
    geometry: Geometry, query: Tensor, key: Tensor, value: Tensor, *, causal: bool
) -> Tensor:
    query, key, value = (
        each.reshape(*each.shape[:-1], geometry.heads, geometry.head_size).transpose(-2, -3)
        for each in (query, key, value)
    )
    mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=causal)
    return mixed.transpose(-2, -3).flatten(-2)
