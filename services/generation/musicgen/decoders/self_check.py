"""Measures at load how close a quantised decoder is to its checkpoint, and refuses it if too far.

The quantised decoder draws a few short sequences. The same tokens then go through the checkpoint in
float32, one layer at a time over all positions, so that only one layer is in memory. The guided
distributions are compared, because the sampler draws from them.
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
"""The usual coefficient; it amplifies the quantisation error of the rows' difference."""
STEPS = 24
KL_LIMIT = 0.15
"""Largest accepted KL divergence, in nats."""
ERROR_LIMIT = 0.1
"""Largest accepted relative error of the logits: flat distributions hide it from the divergence.

Measured on random weights in the shape of small: int8 in groups of 128 has an error of 0.043 and a
divergence of 0.001, or of 0.043 with logits scaled to a deviation of 10. 6 bits have errors of 0.09
to 0.13 and divergences of 0.004 to 0.31; 5 bits 0.18 to 0.24 and 0.02 to 0.8.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    kl: float
    """Mean KL divergence of the guided distributions from those of float32, in nats."""
    error: float
    """Root mean square error of the guided logits, relative to their deviation."""
    agreement: float
    """0..1: share of draws in which both have the same likeliest token."""
    seconds: float
    """Duration of the check."""


class QuantisationError(EngineUnavailableError):
    """A quantised decoder is too far from its checkpoint."""

    def __init__(self, message: str, report: CheckReport | None = None) -> None:
        super().__init__(message)
        self.report = report


@torch.inference_mode()
def self_check(
    model: StepModel,
    source: WeightSource,
    conditioning: Sequence[Tensor] | None = None,
) -> CheckReport:
    """Compare a decoder with its checkpoint; slot 0 must be unused.

    Args:
        model: the quantised decoder.
        source: the tensors it was made from.
        conditioning: float32 `[length, hidden]`, one for each sequence; None uses two random ones,
            the same in every call.

    Raises:
        QuantisationError: a limit is exceeded, or the logits are NaN.
        CheckpointError: a tensor is missing or damaged.
    """
    started = time.perf_counter()
    geometry = model.geometry
    random = torch.Generator().manual_seed(0)
    states = conditioning or [torch.randn(8, geometry.hidden, generator=random) for _ in range(2)]
    tokens, quantised = zip(*(_draw(model, each, random) for each in states), strict=True)
    exact = reference_logits(source, geometry, states, tokens)
    lags = torch.from_numpy(DelayPattern.from_geometry(geometry).lags)
    valid = torch.arange(STEPS)[:, None] >= lags
    found = functional.log_softmax(torch.stack([_guided(each)[valid] for each in quantised]), -1)
    wanted = functional.log_softmax(torch.stack([_guided(each)[valid] for each in exact]), -1)
    report = CheckReport(
        kl=float((wanted.exp() * (wanted - found)).sum(-1).mean()),
        error=_relative_error(found, wanted),
        agreement=float((wanted.argmax(-1) == found.argmax(-1)).float().mean()),
        seconds=time.perf_counter() - started,
    )
    # NaN fails both comparisons and is refused too.
    if not (report.kl <= KL_LIMIT and report.error <= ERROR_LIMIT):
        raise QuantisationError(
            f"The quantised decoder is too far from its checkpoint: KL divergence {report.kl:.2g} "
            f"nats (at most {KL_LIMIT:g}), error {report.error:.2g} (at most {ERROR_LIMIT:g}). "
            "Set DGX_MUSIC_CPU_PRECISION=fp32, or install the model again.",
            report,
        )
    return report


def reference_logits(
    source: WeightSource,
    geometry: Geometry,
    states: Sequence[Tensor],
    tokens: Sequence[Tensor],
) -> list[Tensor]:
    """Compute float32 logits of whole sequences with only one layer's weights in memory.

    Args:
        source: the decoder's tensors.
        geometry: the decoder's shape.
        states: the conditioning of each sequence, `[length, hidden]`.
        tokens: the tokens of each sequence, int64 `[codebooks, steps]`.

    Returns:
        `[2, steps, codebooks, codebook_size]` for each sequence: conditional, unconditional.
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
    """Draw tokens `[codebooks, STEPS]`; return them and `[2, STEPS, codebooks, codebook_size]`."""
    geometry = model.geometry
    lags = torch.from_numpy(DelayPattern.from_geometry(geometry).lags)
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
    """Compare `[..., tokens]`; a constant offset over all tokens of a cell does not count."""
    error = found - wanted
    error = error - error.mean(-1, keepdim=True)
    return float(error.square().mean().sqrt() / wanted.std(-1).square().mean().sqrt())


def _guided(logits: Tensor) -> Tensor:
    return logits[1] + GUIDANCE * (logits[0] - logits[1])


def _embed(ends: EndWeights, geometry: Geometry, states: Tensor, tokens: Tensor) -> Tensor:
    """Return `[2, positions, hidden]`, starting with the prefix if there is no cross-attention."""
    offsets = torch.arange(geometry.codebooks)[:, None] * (geometry.codebook_size + 1)
    hidden = ends.embeddings[tokens + offsets].sum(0).expand(2, -1, -1)
    if not geometry.cross_attention:
        prefix = torch.stack([states, torch.zeros_like(states)])
        hidden = torch.cat([prefix, hidden], dim=1)
    return hidden + sinusoids(hidden.shape[1], geometry.hidden)


def _run_layer(layer: LayerWeights, geometry: Geometry, hidden: Tensor, states: Tensor) -> None:
    """Update `[2, positions, hidden]` in place."""
    query, key, value = (normalise(layer.norm, hidden) @ layer.qkv.t()).chunk(3, -1)
    hidden += _attend(geometry, query, key, value, causal=True) @ layer.out.t()
    if layer.cross is not None:
        cross, conditional = layer.cross, hidden[0]
        query = normalise(cross.norm, conditional) @ cross.query.t()
        key, value = states @ cross.key.t(), states @ cross.value.t()
        conditional += _attend(geometry, query, key, value, causal=False) @ cross.out.t()
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
