"""Weights of a model in memory, and tensors of a required shape."""

from __future__ import annotations

import pytest
import torch

from services.errors import CheckpointError
from services.generation.weights.weights import StateDictWeights, read_tensor

NAME = "decoder.lm_heads.0.weight"


def test_a_tensor_is_read_as_float32_without_gradient() -> None:
    parameter = torch.nn.Parameter(torch.ones(2, 3, dtype=torch.bfloat16))
    read = StateDictWeights({NAME: parameter}).get(NAME)
    assert (read.dtype, read.requires_grad, tuple(read.shape)) == (torch.float32, False, (2, 3))


def test_a_missing_tensor_is_named() -> None:
    weights = StateDictWeights({})
    for call in (weights.get, weights.shape):
        with pytest.raises(CheckpointError, match=rf"no tensor {NAME}"):
            call(NAME)


def test_a_tensor_of_the_required_shape_is_returned() -> None:
    tensor = torch.arange(6.0).view(2, 3)
    assert torch.equal(read_tensor(StateDictWeights({NAME: tensor}), NAME, 2, 3), tensor)


@pytest.mark.parametrize("shape", [(3, 2), (6,), (2, 3, 1), ()])
def test_a_tensor_of_another_shape_is_not_read(shape: tuple[int, ...]) -> None:
    class ShapeOnly(StateDictWeights):
        def get(self, name: str) -> torch.Tensor:
            raise AssertionError(f"{name} was read")

    with pytest.raises(CheckpointError, match=r"the shape \[2, 3\]; the configuration says \["):
        read_tensor(ShapeOnly({NAME: torch.zeros(2, 3)}), NAME, *shape)
