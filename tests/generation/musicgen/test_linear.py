"""Packed linear layers on the CPU."""

from __future__ import annotations

import pytest
import torch

from services.generation.musicgen.linear import Linear

KINDS = ["fp32", "int8"]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 2, 48), (3, 2, 48), (2, 2, 5, 48), (1, 48), (4, 48)])
def test_leading_dimensions_are_kept(kind, shape) -> None:
    product = Linear(kind, draw(32, 48))(draw(*shape, seed=1))
    assert product.shape == (*shape[:-1], 32)
    assert product.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_has_bitwise_the_same_product_alone_and_with_others(kind) -> None:
    layer, pairs = Linear(kind, draw(96, 64)), draw(4, 2, 64, seed=1)
    pairs[2] *= 1000  # would change a range that is measured over all pairs
    together = layer(pairs)
    for number in range(4):
        assert torch.equal(layer(pairs[number : number + 1])[0], together[number])


@pytest.mark.parametrize("kind", KINDS)
def test_the_weight_may_be_freed_or_changed_after_packing(kind) -> None:
    weight, rows = draw(32, 48), draw(1, 2, 48, seed=1)
    layer = Linear(kind, weight.clone())
    assert torch.equal(layer(rows), Linear(kind, weight)(rows))


def test_int8_rounds_each_output_with_its_own_scale() -> None:
    weight = draw(8, 64)
    weight[3] *= 1e-4
    rows = draw(1, 2, 64, seed=1)
    exact = rows @ weight.T
    error = (Linear("int8", weight)(rows) - exact).abs().amax((0, 1)) / exact.abs().amax((0, 1))
    assert error[3] < 0.1
